import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

/** Random numbers that a seed repeats. */
export type Random = (below: number) => number;

/** mulberry32: enough for tests. Returns whole numbers from 0 to below − 1. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

function header(first: number, length: number, maskBit: 0 | 0x80): Buffer {
  if (length < 126) return Buffer.from([first, maskBit | length]);
  if (length < 65536) return Buffer.from([first, maskBit | 126, length >> 8, length & 255]);
  const long = Buffer.alloc(10);
  long[0] = first;
  long[1] = maskBit | 127;
  long.writeBigUInt64BE(BigInt(length), 2);
  return long;
}

/** A frame as a relay sends it: `first` is its first byte (FIN, RSV, opcode). */
export function serverFrame(first: number, payload: Uint8Array): Buffer {
  return Buffer.concat([header(first, payload.length, 0), payload]);
}

/** The same frame as a half sends it. */
export function clientFrame(first: number, payload: Uint8Array, mask: Uint8Array): Buffer {
  const masked = Buffer.from(payload.map((byte, i) => byte ^ mask[i & 3]!));
  return Buffer.concat([header(first, payload.length, 0x80), mask, masked]);
}

/** The key of RFC 6455, 1.3, and its answer. */
const key = 'dGhlIHNhbXBsZSBub25jZQ==';
export const knownAccept = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=';

export function upgradeRequest(path: string): Buffer {
  return Buffer.from(
    `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
  );
}

export async function connectRaw(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.setNoDelay(true);
  await once(socket, 'connect');
  return socket;
}

/** Writes and waits until the kernel has taken it, so that the next write is a segment of its own. */
export function write(socket: Socket, data: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => socket.write(data, (error) => (error ? reject(error) : resolve())));
}
