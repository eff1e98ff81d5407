import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type VerifyClientCallbackAsync, type WebSocket, WebSocketServer } from 'ws';
import { makeCertificate } from '../support/relay.ts';

/** How a program of the load generator ended. `result`: what it printed; absent where it printed nothing. */
export interface Run<Result> {
  readonly status: number | null;
  readonly stderr: string;
  readonly result: Result | undefined;
}

/** Runs a program of the load generator against the relay at `port`. */
export function runGenerator<Result>(
  program: string,
  port: number,
  options: Readonly<Record<string, string | number | true>>,
): Promise<Run<Result>> {
  const paths = { 'user-path': '/relay?id={pair}&browser=1', 'device-path': '/relay?id={pair}' };
  const parameters = Object.entries({ port, ...paths, ...options }).flatMap(
    ([name, value]: [string, string | number | true]) =>
      value === true ? [`--${name}`] : [`--${name}`, String(value)],
  );
  const child = spawn(program, parameters, { stdio: ['ignore', 'pipe', 'pipe'], timeout: 30_000 });
  const output = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      output[stream] += text;
    });
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => {
      const result = output.stdout === '' ? undefined : (JSON.parse(output.stdout) as Result);
      resolve({ status, stderr: output.stderr, result });
    });
  });
}

/** The result of a run without any fault. */
export function faultless<Result extends { readonly errors: object }>(run: Run<Result>): Result {
  assert.equal(run.stderr, '');
  assert.ok(run.result !== undefined);
  for (const [name, count] of Object.entries(run.result.errors)) assert.equal(count, 0, name);
  assert.equal(run.status, 0);
  return run.result;
}

function readCertificate(): { readonly key: Buffer; readonly cert: Buffer } {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-bench-'));
  try {
    const { keyFile, certFile } = makeCertificate(folder);
    return { key: readFileSync(keyFile), cert: readFileSync(certFile) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What a test's relay does otherwise than a good one; by default it is one. */
export interface Misdeeds {
  readonly tls?: boolean;
  readonly verifyClient?: VerifyClientCallbackAsync;
  /** Called for the n-th pair, n from 1, in place of the greeting. */
  readonly onPair?: (user: WebSocket, device: WebSocket, n: number, greet: () => void) => void;
  /** What the n-th message becomes, n from 1; [] loses it. */
  readonly tamper?: (message: Buffer, n: number, from: WebSocket) => readonly Buffer[];
  /** Called where a half has ended, in place of closing its mate. */
  readonly onEnd?: (mate: WebSocket) => void;
}

/** A relay in this process, on the `ws` library. `upgrades`: all requests, in their order. */
export async function startTestRelay(misdeeds: Misdeeds = {}) {
  const http = misdeeds.tls === true ? createSecureServer(readCertificate()) : createServer();
  const { verifyClient } = misdeeds;
  const server = new WebSocketServer({
    server: http,
    perMessageDeflate: false,
    ...(verifyClient !== undefined && { verifyClient }),
  });
  const waiting = new Map<string, { readonly half: WebSocket; readonly isUser: boolean }>();
  const upgrades: { readonly url: string; readonly address: string }[] = [];
  const texts: string[] = [];
  let messages = 0;
  let pairs = 0;

  const forward = (from: WebSocket, to: WebSocket): void => {
    from.on('message', (data: Buffer, binary) => {
      if (!binary) {
        texts.push(data.toString());
        to.send(data, { binary });
        return;
      }
      for (const message of misdeeds.tamper?.(data, ++messages, from) ?? [data]) to.send(message);
    });
    from.on('close', () => (misdeeds.onEnd === undefined ? to.close(1000) : misdeeds.onEnd(to)));
  };

  server.on('connection', (half: WebSocket, request: IncomingMessage) => {
    const url = request.url ?? '';
    upgrades.push({ url, address: request.socket.remoteAddress ?? '' });
    half.on('error', () => half.terminate());
    const query = new URL(url, 'ws://relay').searchParams;
    const id = query.get('id') ?? '';
    const isUser = query.get('browser') === '1';
    const mate = waiting.get(id);
    if (mate === undefined) {
      waiting.set(id, { half, isUser });
      return;
    }
    waiting.delete(id);
    forward(half, mate.half);
    forward(mate.half, half);
    const [user, device] = isUser ? [half, mate.half] : [mate.half, half];
    const greet = (): void => {
      for (const one of [user, device]) one.send('c');
    };
    pairs++;
    if (misdeeds.onPair === undefined) greet();
    else misdeeds.onPair(user, device, pairs, greet);
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  return {
    port: (http.address() as AddressInfo).port,
    upgrades,
    texts,
    clients: server.clients,
    close: async () => {
      for (const half of server.clients) half.terminate();
      server.close();
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    },
  };
}

/** Runs `work` against a test's relay and ends it afterwards. */
export async function withTestRelay<T>(
  misdeeds: Misdeeds,
  work: (relay: Awaited<ReturnType<typeof startTestRelay>>) => Promise<T>,
): Promise<T> {
  const relay = await startTestRelay(misdeeds);
  try {
    return await work(relay);
  } finally {
    await relay.close();
  }
}
