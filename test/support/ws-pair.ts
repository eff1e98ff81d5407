import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';

/** Past this much buffered for a half its mate is not read. */
const highWaterBytes = 1024 * 1024;

export interface TestRelayOptions {
  /** The first text of a session; `''`: none is sent. */
  readonly greeting?: string;
  /** An HTTP status instead of the upgrade. */
  readonly refuse?: (query: URLSearchParams) => number | undefined;
  readonly tls?: { readonly key: string; readonly cert: string };
}

/** A relay for clients' tests: pairs two halves by id, forwards with back-pressure, passes on the end. Loopback only. */
export interface TestRelay {
  /** `ws://127.0.0.1:PORT/relay` (or `wss`). */
  readonly url: string;
  /** Requests so far, as they came: request target and headers. */
  readonly requests: { readonly target: string; readonly headers: NodeJS.Dict<string | string[]> }[];
  /** The relay's socket of each half, in order of arrival. */
  readonly halves: WebSocket[];
  close(): Promise<void>;
}

export async function startTestRelay(options: TestRelayOptions = {}): Promise<TestRelay> {
  const { greeting = 'c', refuse, tls } = options;
  const server: Server = tls ? createTlsServer(tls) : createServer();
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: true });
  const relay = { requests: [] as TestRelay['requests'], halves: [] as WebSocket[] };
  const waiting = new Map<string, WebSocket>();

  server.on('upgrade', (request, socket, head) => {
    const target = request.url ?? '';
    relay.requests.push({ target, headers: request.headers });
    const query = new URL(target, 'ws://relay').searchParams;
    const status = refuse?.(query);
    if (status !== undefined) {
      socket.end(`HTTP/1.1 ${status} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      return;
    }
    sockets.handleUpgrade(request, socket as Socket, head, (half) => {
      relay.halves.push(half);
      half.on('error', () => undefined); // what breaks a half shows in its close code
      const id = query.get('id') ?? '';
      const mate = waiting.get(id);
      half.pause();
      if (mate === undefined) {
        waiting.set(id, half);
        half.on('close', () => waiting.get(id) === half && waiting.delete(id));
        return;
      }
      waiting.delete(id);
      for (const [from, to] of [
        [half, mate],
        [mate, half],
      ] as const) {
        forward(from, to);
        if (greeting) to.send(greeting);
      }
      half.resume();
      mate.resume();
    });
  });

  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    ...relay,
    url: `${tls ? 'wss' : 'ws'}://127.0.0.1:${port}/relay`,
    close: async () => {
      for (const half of relay.halves) half.terminate();
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

function forward(from: WebSocket, to: WebSocket): void {
  from.on('message', (data, binary) => {
    if (to.readyState !== to.OPEN) return;
    to.send(data, { binary }, () => {
      if (from.isPaused && to.bufferedAmount <= highWaterBytes / 2) from.resume();
    });
    if (to.bufferedAmount > highWaterBytes) from.pause();
  });
  from.on('close', (code) => {
    to.close(code === 1000 || code === 1005 ? 1000 : 4502, 'mate left');
    to.resume(); // or its answer to the close frame would not be read
  });
}

/** Waits until a counter has stood still for half a second: what is not held back goes on counting meanwhile. */
export async function untilQuiet(counter: () => number): Promise<void> {
  for (let seen = -1, looks = 0; looks < 10; looks = seen === counter() ? looks + 1 : 0) {
    seen = counter();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
