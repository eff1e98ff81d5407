import { readFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type WebSocket, WebSocketServer } from 'ws';
import { NaiveRecording } from './naive-recording.ts';

// The smallest correct relay on the `ws` library: no authentication, no limits, flow control by pause and resume. Where
// RECORDING_DIR is in the environment, it records all pairs there; where TLS_CERT_FILE and TLS_KEY_FILE are, it speaks TLS.

const highWaterBytes = 1024 * 1024;
const lowWaterBytes = 256 * 1024;
const waiting = new Map<string, WebSocket>();
const recordingDir = process.env.RECORDING_DIR;

/** Forwards one direction. The sender is not read while too much is buffered for the receiver, or to be recorded. */
function forward(from: WebSocket, to: WebSocket, recording: NaiveRecording | undefined, fromUser: boolean): void {
  const buffered = (): number => Math.max(to.bufferedAmount, recording?.pendingBytes ?? 0);
  const written = (): void => {
    if (from.isPaused && buffered() <= lowWaterBytes) from.resume();
  };
  from.on('message', (data: Buffer, binary) => {
    to.send(data, { binary }, written);
    recording?.append(data, binary, fromUser, written);
    if (buffered() > highWaterBytes) from.pause();
  });
  from.on('close', () => {
    recording?.end();
    to.close(1000);
    to.resume(); // its answer to the close frame must be read, whatever was paused
  });
}

const { TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile } = process.env;
const http =
  certFile === undefined || keyFile === undefined
    ? createHttpServer()
    : createHttpsServer({ cert: readFileSync(certFile), key: readFileSync(keyFile) });
const server = new WebSocketServer({ server: http, perMessageDeflate: false });
server.on('connection', (half, request) => {
  const query = new URL(request.url ?? '/', 'ws://relay').searchParams;
  const id = query.get('id') ?? '';
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
  const recording = recordingDir === undefined ? undefined : new NaiveRecording(join(recordingDir, `${id}.mcrec`));
  const isUser = query.get('browser') === '1';
  for (const [one, other, fromUser] of [
    [half, mate, isUser],
    [mate, half, !isUser],
  ] as const) {
    forward(one, other, recording, fromUser);
    one.send('c');
  }
  mate.resume();
});
http.listen(0, '127.0.0.1', () => {
  const { port } = http.address() as AddressInfo;
  process.stdout.write(`${JSON.stringify({ msg: 'listening', address: `127.0.0.1:${port}` })}\n`);
});
// Where it records, it ends when all is written, which the process then does by itself.
if (recordingDir !== undefined) {
  process.once('SIGTERM', () => {
    http.close();
    for (const half of server.clients) half.terminate();
  });
}
