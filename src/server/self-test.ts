import type { WebSocket as UwsWebSocket } from 'uWebSockets.js';
import { once } from 'node:events';
import { WebSocket } from 'ws';
import { figures, type NativeAddon, newFigures } from '../native/binding.ts';
import { Listener, type TlsFiles } from './app.ts';

/** Sent at once, again and again until both sockets' kernel buffers and the backlog up to the mark are full. */
const batch = 8;
const messageBytes = 65_536;
const highWaterBytes = 262_144;
/** A read of µSockets' may come on top of the mark, and one message. */
const mostBuffered = highWaterBytes + 524_288 + messageBytes + 16;
const deadlineMs = 5000;

/**
 * Proves on a loopback pair that the addon holds, forwards, pauses and goes on, and that nothing is lost or reordered.
 * Resolves with an empty string, or with the reason why the native forwarder is not to be used. Takes some ten
 * milliseconds; once plain, and once with `tls` where TLS is on.
 */
export async function selfTest(addon: NativeAddon, tls: TlsFiles | undefined): Promise<string> {
  const held: number[] = [];
  const owner = addon.owner();
  let pairId = 0;
  let paired: () => void = () => {};
  const isPaired = new Promise<void>((resolve) => {
    paired = resolve;
  });
  const listener = new Listener({
    host: '127.0.0.1',
    port: 0,
    tls,
    register: (app, ssl) =>
      app.ws<object>('/*', {
        compression: 0,
        idleTimeout: 0,
        maxBackpressure: 0,
        sendPingsAutomatically: false,
        open: (ws: UwsWebSocket<object>) => {
          held.push(addon.hold(ws, ssl));
          if (held.length !== 2) return;
          pairId = addon.pair(
            held[0]!,
            held[1]!,
            'c',
            highWaterBytes,
            65_536,
            0,
            0,
            10_000,
            10_000,
            0,
            false,
            0,
            '',
            0,
            owner,
            0,
            false,
          );
          paired();
        },
      }),
  });
  const sockets: WebSocket[] = [];
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`it took longer than ${deadlineMs} ms`)), deadlineMs);
  });
  try {
    listener.listen();
    const url = `${tls === undefined ? 'ws' : 'wss'}://127.0.0.1:${listener.port}/`;
    for (let i = 0; i < 2; i++)
      sockets.push(new WebSocket(url, { perMessageDeflate: false, rejectUnauthorized: false }));
    const [sender, reader] = sockets as [WebSocket, WebSocket];
    await Promise.race([prove(addon, owner, sender, reader, isPaired, () => pairId), late]);
    return '';
  } catch (error) {
    return (error as Error).message.split('\n')[0] ?? 'unknown error';
  } finally {
    clearTimeout(timer);
    for (const socket of sockets) socket.terminate();
    listener.close();
  }
}

async function prove(
  addon: NativeAddon,
  owner: number,
  sender: WebSocket,
  reader: WebSocket,
  isPaired: Promise<void>,
  pairId: () => number,
): Promise<void> {
  for (const socket of [sender, reader]) socket.on('error', () => {});
  const greeted = Promise.all([sender, reader].map((socket) => once(socket, 'message')));
  // Where a socket does not even open, that is what is told; this one's rejection must not go uncaught meanwhile.
  greeted.catch(() => {});
  await Promise.all([sender, reader].map((socket) => opened(socket)));
  await Promise.all([isPaired, greeted]);
  if (pairId() === 0) throw new Error('two held sockets could not be paired');

  reader.pause();
  let sent = 0;
  const now = newFigures();
  const pair = newFigures();
  do {
    if (sender.bufferedAmount === 0) {
      for (let i = 0; i < batch; i++) sender.send(Buffer.alloc(messageBytes, sent++ & 0xff));
    }
    await new Promise((resolve) => setImmediate(resolve));
    addon.totals(owner, now);
    if (!addon.statistics(pairId(), pair)) throw new Error('the pair broke');
    const buffered = pair[figures.bufferedBytes]!;
    if (buffered > mostBuffered) throw new Error(`${buffered} bytes were buffered for a reader that stood still`);
  } while (now[figures.flowPauses] === 0);

  let received = 0;
  const all = new Promise<void>((resolve, reject) => {
    reader.on('message', (data: Buffer) => {
      const right = data.length === messageBytes && data[0] === (received & 0xff) && data[messageBytes - 1] === data[0];
      if (!right) reject(new Error(`message ${received} arrived changed`));
      if (++received === sent) resolve();
    });
    reader.on('close', () => reject(new Error('the pair broke')));
  });
  reader.resume();
  await all;
}

async function opened(socket: WebSocket): Promise<void> {
  if (socket.readyState === socket.OPEN) return;
  await new Promise<void>((resolve, reject) => {
    socket.once('open', () => resolve());
    socket.once('error', reject);
  });
}
