import type { WebSocket as UwsWebSocket } from 'uWebSockets.js';
import { once } from 'node:events';
import { request } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import {
  closers,
  figures,
  halfErrors,
  loadNative,
  type NativeAddon,
  newFigures,
  onNativePairEnd,
  outcomes,
} from '../../src/native/binding.ts';
import { Listener } from '../../src/server/app.ts';
import { type Client, connect } from '../support/client.ts';
import { openRaw, type RawHalf, upgradeHead } from '../support/raw-half.ts';
import { until } from '../support/relay.ts';

/** How a pair ended. */
export interface End {
  readonly outcome: string;
  readonly closedBy: string;
  readonly error: string;
}

export interface Limits {
  readonly highWaterBytes: number;
  readonly lowWaterBytes: number;
  readonly maxMessageBytes: number;
  readonly stallMs: number;
  readonly lingerMs: number;
  readonly pingMs: number;
}

export const limits: Limits = {
  highWaterBytes: 1_048_576,
  lowWaterBytes: 262_144,
  maxMessageBytes: 2_097_152,
  stallMs: 0,
  lingerMs: 10_000,
  pingMs: 0,
};

export function native(): NativeAddon {
  const { addon, error } = loadNative();
  if (addon === undefined) throw new Error(error);
  return addon;
}

/** One native pair of a test; its end is awaited. */
export class LinkPair {
  readonly id: number;
  readonly ended: Promise<End>;
  #last = newFigures();

  constructor(user: number, device: number, greeting: string, use: Limits) {
    let done: (end: End) => void = () => {};
    this.ended = new Promise((resolve) => {
      done = resolve;
    });
    this.id = native().pair(
      user,
      device,
      greeting,
      use.highWaterBytes,
      use.lowWaterBytes,
      use.maxMessageBytes,
      0,
      use.stallMs,
      use.lingerMs,
      use.pingMs,
      false,
      0,
      '',
      0,
      owner(),
      0,
      false,
    );
    if (this.id === 0) throw new Error('two halves could not be paired');
    const forget = onNativePairEnd((id, outcome, closedBy, error) => {
      if (id !== this.id) return;
      forget();
      this.statistics();
      done({ outcome: outcomes[outcome]!, closedBy: closers[closedBy]!, error: halfErrors[error]! });
    });
  }

  /** Of `figures`; those of its end, once it has ended. */
  statistics(): Float64Array {
    native().statistics(this.id, this.#last);
    return this.#last;
  }

  get bufferedBytes(): number {
    return this.statistics()[figures.bufferedBytes]!;
  }
}

let ownerId = 0;
function owner(): number {
  ownerId ||= native().owner();
  return ownerId;
}

/** A server's listener; halves that open come out of `next`, held. */
export class Server {
  readonly #listener: Listener;
  readonly #held = new Map<string, { readonly id: number }[]>();

  constructor(t: TestContext) {
    const open = (ws: UwsWebSocket<{ path: string }>) => {
      const { path } = ws.getUserData();
      const held = this.#held.get(path) ?? [];
      this.#held.set(path, [...held, { id: native().hold(ws, false) }]);
    };
    this.#listener = new Listener({
      host: '127.0.0.1',
      port: 0,
      tls: undefined,
      register: (app) =>
        app.ws<{ path: string }>('/*', {
          compression: 0,
          idleTimeout: 0,
          maxBackpressure: 0,
          sendPingsAutomatically: false,
          upgrade: (res, req, context) => {
            const header = (name: string) => req.getHeader(`sec-websocket-${name}`);
            res.upgrade({ path: req.getUrl() }, header('key'), header('protocol'), header('extensions'), context);
          },
          open,
        }),
    });
    this.#listener.listen();
    t.after(() => this.#listener.close());
  }

  get port(): number {
    return this.#listener.port;
  }

  url(path: string): string {
    return `ws://127.0.0.1:${this.port}${path}`;
  }

  /** The held half that opened with this path. */
  async held(path: string): Promise<number> {
    await until(() => (this.#held.get(path)?.length ?? 0) > 0, `a half at ${path}`);
    return this.#held.get(path)!.shift()!.id;
  }
}

let count = 0;

/** A half at a server: its client and the addon's id. */
export async function clientHalf(t: TestContext, server: Server): Promise<{ client: Client; id: number }> {
  const path = `/half-${++count}`;
  const client = await connect(t, server.url(path));
  return { client, id: await server.held(path) };
}

/** The same on a raw connection. */
export async function rawHalf(t: TestContext, server: Server): Promise<{ raw: RawHalf; id: number }> {
  const path = `/half-${++count}`;
  const raw = await openRaw(t, server.port);
  raw.socket.write(upgradeHead(path));
  await raw.answered();
  return { raw, id: await server.held(path) };
}

/** Dials a link as a carrier does; the addon has its connection when this resolves. */
export async function dial(port: number, path: string): Promise<number> {
  const dialled = request({
    host: '127.0.0.1',
    port,
    path,
    agent: false,
    headers: {
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
      'Sec-WebSocket-Version': '13',
    },
  });
  dialled.end();
  return new Promise((resolve, reject) => {
    dialled.on('error', reject);
    dialled.on('upgrade', (_response, socket, head) => {
      const { fd } = (socket as Socket & { _handle: { fd: number } })._handle;
      const id = native().adoptLink(fd, head);
      socket.destroy();
      resolve(id);
    });
  });
}

/** client ↔ server A ↔ link ↔ server B ↔ client. */
export interface Crossing {
  /** At the carrier, A. */
  readonly near: Client;
  /** At the owner, B. */
  readonly far: Client;
  readonly carrier: LinkPair;
  readonly session: LinkPair;
  readonly linkAtA: number;
  readonly linkAtB: number;
}

export async function cross(t: TestContext, use: Partial<Limits> = {}): Promise<Crossing> {
  const all = { ...limits, ...use };
  const a = new Server(t);
  const b = new Server(t);
  const near = await clientHalf(t, a);
  const far = await clientHalf(t, b);
  const path = `/link-${++count}`;
  const linkAtA = await dial(b.port, path);
  if (linkAtA === 0) throw new Error('the link was not adopted');
  const linkAtB = await b.held(path);
  native().markLink(linkAtB);
  const carrier = new LinkPair(near.id, linkAtA, '', all);
  const session = new LinkPair(linkAtB, far.id, 'c', all);
  return { near: near.client, far: far.client, carrier, session, linkAtA, linkAtB };
}

/** A far server made of bytes: it answers the upgrade, `head` right behind, and shows what frames come. */
export interface RawFarServer {
  readonly port: number;
  /** The accepted connection. */
  readonly link: Promise<RawLink>;
}

/** The far server's end of a link; `bytes` are all that came behind the upgrade. */
export class RawLink {
  readonly socket: Socket;
  bytes: Buffer;
  ended = false;
  isClosed = false;

  constructor(socket: Socket, rest: Buffer) {
    this.socket = socket;
    this.bytes = rest;
    socket.on('data', (chunk: Buffer) => {
      this.bytes = Buffer.concat([this.bytes, chunk]);
    });
    socket.on('end', () => {
      this.ended = true;
    });
    socket.on('error', () => {
      this.ended = true; // a reset: what is looked for is that it is over
    });
    socket.on('close', () => {
      this.isClosed = true;
    });
  }

  async atLeast(length: number): Promise<Buffer> {
    await until(() => this.bytes.length >= length, `${length} bytes on the link, not ${this.bytes.length}`);
    return this.bytes;
  }
}

export async function rawFarServer(t: TestContext, head: Buffer = Buffer.alloc(0)): Promise<RawFarServer> {
  const server = createServer();
  const link = new Promise<RawLink>((resolve) => {
    server.on('connection', (socket) => {
      t.after(() => socket.destroy());
      let asked = Buffer.alloc(0);
      const read = (chunk: Buffer) => {
        asked = Buffer.concat([asked, chunk]);
        const end = asked.indexOf('\r\n\r\n');
        if (end < 0) return;
        socket.off('data', read);
        const answer = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n';
        socket.write(Buffer.concat([Buffer.from(answer), head]));
        resolve(new RawLink(socket, asked.subarray(end + 4)));
      };
      socket.on('data', read);
    });
  });
  server.listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port, link };
}

/** A carrier's pair whose far server is made of bytes. */
export async function carry(t: TestContext, use: Partial<Limits> = {}, head?: Buffer) {
  const a = new Server(t);
  const near = await clientHalf(t, a);
  const server = await rawFarServer(t, head);
  const id = await dial(server.port, '/link');
  const link = await server.link;
  const carrier = new LinkPair(near.id, id, '', { ...limits, ...use });
  return { near: near.client, link, carrier };
}

/** An owner's session whose link is dialled by a client made of bytes. */
export async function own(t: TestContext, use: Partial<Limits> = {}) {
  const b = new Server(t);
  const far = await clientHalf(t, b);
  const { raw: link, id } = await rawHalf(t, b);
  native().markLink(id);
  const session = new LinkPair(id, far.id, 'c', { ...limits, ...use });
  return { link, far: far.client, session };
}

/** A close frame's payload. */
export function closePayload(code: number, reason: string): Buffer {
  const payload = Buffer.alloc(2 + reason.length);
  payload.writeUInt16BE(code, 0);
  payload.write(reason, 2);
  return payload;
}
