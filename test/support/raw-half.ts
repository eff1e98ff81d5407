import { once } from 'node:events';
import { connect as connectTcp, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { connect as connectTls } from 'node:tls';

export interface RawFrame {
  readonly fin: boolean;
  readonly opcode: number;
  readonly payload: Buffer;
}

export interface FrameOptions {
  readonly fin?: boolean;
  readonly rsv?: number;
  readonly masked?: boolean;
  /** Length to declare, where it is to differ from the payload's. */
  readonly declared?: bigint;
}

/** A client frame as bytes, with whatever is to be wrong about it. */
export function clientFrame(opcode: number, payload: Buffer | string, options: FrameOptions = {}): Buffer {
  const body = Buffer.from(payload);
  const { fin = true, rsv = 0, masked = true } = options;
  const length = options.declared ?? BigInt(body.length);
  const first = (fin ? 0x80 : 0) | (rsv << 4) | opcode;
  const bit = masked ? 0x80 : 0;
  let header: Buffer;
  if (length < 126n) header = Buffer.from([first, bit | Number(length)]);
  else if (length <= 0xffffn) {
    header = Buffer.from([first, bit | 126, 0, 0]);
    header.writeUInt16BE(Number(length), 2);
  } else {
    header = Buffer.alloc(10);
    header[0] = first;
    header[1] = bit | 127;
    header.writeBigUInt64BE(length, 2);
  }
  if (!masked) return Buffer.concat([header, body]);
  const mask = Buffer.from([0x1f, 0x2e, 0x3d, 0x4c]);
  return Buffer.concat([header, mask, body.map((byte, index) => byte ^ mask[index & 3]!)]);
}

/** A half as bytes on a TCP (or TLS) socket, for everything a proper client would not do. */
export class RawHalf {
  readonly socket: Socket;
  readonly frames: RawFrame[] = [];
  /** Status line of the answer to the upgrade. */
  status = '';
  ended = false;
  error: NodeJS.ErrnoException | undefined;
  readonly closed: Promise<void>;
  #bytes: Buffer = Buffer.alloc(0);
  #wanted: (() => void)[] = [];

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('end', () => {
      this.ended = true;
      this.#wake();
    });
    socket.on('error', (error) => {
      this.error = error;
    });
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.ended = true;
        this.#wake();
        resolve();
      });
    });
  }

  send(opcode: number, payload: Buffer | string, options?: FrameOptions): void {
    this.socket.write(clientFrame(opcode, payload, options));
  }

  /** The next frame that satisfies `wanted`; rejects when the connection ends first. */
  async next(wanted: (frame: RawFrame) => boolean = () => true): Promise<RawFrame> {
    for (;;) {
      const index = this.frames.findIndex(wanted);
      if (index >= 0) return this.frames.splice(index, 1)[0]!;
      if (this.ended) throw new Error('the connection ended before the frame came');
      await new Promise<void>((resolve) => this.#wanted.push(resolve));
    }
  }

  /** The close frame's code; 1005 where it has none. */
  async closeCode(): Promise<number> {
    const { payload } = await this.next(({ opcode }) => opcode === 8);
    return payload.length < 2 ? 1005 : payload.readUInt16BE(0);
  }

  async answered(): Promise<void> {
    while (this.status === '') {
      if (this.ended) throw new Error('the connection ended before the answer came');
      await new Promise<void>((resolve) => this.#wanted.push(resolve));
    }
  }

  #wake(): void {
    for (const wake of this.#wanted.splice(0)) wake();
  }

  #take(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    if (this.status === '') {
      const end = this.#bytes.indexOf('\r\n\r\n');
      if (end < 0) return;
      this.status = this.#bytes.subarray(0, this.#bytes.indexOf('\r\n')).toString();
      this.#bytes = this.#bytes.subarray(end + 4);
    }
    while (this.#parse());
    this.#wake();
  }

  #parse(): boolean {
    const b = this.#bytes;
    if (b.length < 2) return false;
    let length = b[1]! & 0x7f;
    let at = 2;
    if (length === 126) {
      if (b.length < 4) return false;
      length = b.readUInt16BE(2);
      at = 4;
    } else if (length === 127) {
      if (b.length < 10) return false;
      length = Number(b.readBigUInt64BE(2));
      at = 10;
    }
    if (b.length < at + length) return false;
    this.frames.push({
      fin: (b[0]! & 0x80) !== 0,
      opcode: b[0]! & 0x0f,
      payload: Buffer.from(b.subarray(at, at + length)),
    });
    this.#bytes = b.subarray(at + length);
    return true;
  }
}

/** Opens the connection only; nothing is sent. Destroyed when the test ends. */
export async function openRaw(t: TestContext, port: number, tls = false): Promise<RawHalf> {
  const socket = tls
    ? connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false })
    : connectTcp({ host: '127.0.0.1', port });
  t.after(() => socket.destroy());
  socket.setNoDelay(true);
  const half = new RawHalf(socket);
  await once(socket, tls ? 'secureConnect' : 'connect');
  return half;
}

/** The head of an upgrade request. */
export function upgradeHead(path: string, headers: Readonly<Record<string, string>> = {}): string {
  const all = {
    Host: '127.0.0.1',
    Upgrade: 'websocket',
    Connection: 'Upgrade',
    'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
    'Sec-WebSocket-Version': '13',
    ...headers,
  };
  return `GET ${path} HTTP/1.1\r\n${Object.entries(all)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')}\r\n`;
}

/** Opens a connection, sends the upgrade request, waits for the answer (see `status`). */
export async function rawHalf(t: TestContext, port: number, path: string, tls = false): Promise<RawHalf> {
  const half = await openRaw(t, port, tls);
  half.socket.write(upgradeHead(path));
  await half.answered();
  return half;
}

/** A TLS half with the TCP connection below it in hand, which alone can be reset. */
export async function tlsHalfOverTcp(
  t: TestContext,
  port: number,
  path: string,
): Promise<{ half: RawHalf; tcp: Socket }> {
  const tcp = connectTcp({ host: '127.0.0.1', port });
  t.after(() => tcp.destroy());
  tcp.on('error', () => {});
  const socket = connectTls({ socket: tcp, rejectUnauthorized: false });
  const half = new RawHalf(socket);
  await once(socket, 'secureConnect');
  socket.write(upgradeHead(path));
  await half.answered();
  return { half, tcp };
}
