import type { AddressInfo } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';

// The smallest correct relay on the `ws` library: no authentication, no limits, flow control by pause and resume.

const highWaterBytes = 1024 * 1024;
const lowWaterBytes = 256 * 1024;
const waiting = new Map<string, WebSocket>();

/** Forwards one direction. The sender is not read while too much is buffered for the receiver. */
function forward(from: WebSocket, to: WebSocket): void {
  const written = (): void => {
    if (from.isPaused && to.bufferedAmount <= lowWaterBytes) from.resume();
  };
  from.on('message', (data: Buffer, binary) => {
    to.send(data, { binary }, written);
    if (to.bufferedAmount > highWaterBytes) from.pause();
  });
  from.on('close', () => {
    to.close(1000);
    to.resume(); // its answer to the close frame must be read, whatever was paused
  });
}

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false });
server.on('connection', (half, request) => {
  const id = new URL(request.url ?? '/', 'ws://relay').searchParams.get('id') ?? '';
  half.on('error', () => half.terminate());
  const mate = waiting.get(id);
  if (mate === undefined) {
    half.pause(); // what it sends while it waits stays in the network
    waiting.set(id, half);
    half.on('close', () => {
      if (waiting.get(id) === half) waiting.delete(id);
    });
    return;
  }
  waiting.delete(id);
  for (const [one, other] of [
    [half, mate],
    [mate, half],
  ] as const) {
    forward(one, other);
    one.send('c');
  }
  mate.resume();
});
server.on('listening', () => {
  const { port } = server.address() as AddressInfo;
  process.stdout.write(`${JSON.stringify({ msg: 'listening', address: `127.0.0.1:${port}` })}\n`);
});
