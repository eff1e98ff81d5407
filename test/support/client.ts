import type { TestContext } from 'node:test';
import { type ClientOptions, WebSocket } from 'ws';

export interface Received {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

/** A real WebSocket half: what it received is queued, its end is awaited. */
export class Client {
  readonly ws: WebSocket;
  readonly closed: Promise<{ code: number; reason: string }>;
  readonly received: Received[] = [];
  #wanted: (() => void)[] = [];
  isClosed = false;
  #end = '';

  constructor(ws: WebSocket) {
    this.ws = ws;
    ws.on('message', (data: Buffer, isBinary: boolean) => {
      this.received.push({ data, isBinary });
      this.#wake();
    });
    ws.on('error', (error) => {
      this.#end = `${error.message}: `;
    });
    this.closed = new Promise((resolve) => {
      ws.on('close', (code, reason) => {
        this.isClosed = true;
        this.#end += `${code} ${reason}`;
        this.#wake();
        resolve({ code, reason: reason.toString() });
      });
    });
  }

  #wake(): void {
    for (const wake of this.#wanted.splice(0)) wake();
  }

  /** The next message; rejects when the socket closes first. */
  async next(): Promise<Received> {
    while (this.received.length === 0) {
      if (this.isClosed) throw new Error(`closed (${this.#end}) before a message came`);
      await new Promise<void>((resolve) => this.#wanted.push(resolve));
    }
    return this.received.shift()!;
  }

  async nextText(): Promise<string> {
    const { data, isBinary } = await this.next();
    if (isBinary) throw new Error('a binary message came where text was awaited');
    return data.toString();
  }

  send(data: Buffer | string): void {
    this.ws.send(data, { binary: typeof data !== 'string' });
  }
}

/** The HTTP status with which an upgrade was refused. */
export class Refused extends Error {
  readonly status: number;
  readonly body: string;
  constructor(status: number, body: string) {
    super(`refused with ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** Opens a half; rejects with `Refused` where the upgrade was answered otherwise. Terminated when the test ends. */
export function connect(t: TestContext, url: string, options: ClientOptions = {}): Promise<Client> {
  const ws = new WebSocket(url, { perMessageDeflate: false, rejectUnauthorized: false, ...options });
  t.after(() => ws.terminate());
  const client = new Client(ws);
  return new Promise((resolve, reject) => {
    ws.once('open', () => resolve(client));
    ws.once('unexpected-response', (_request, response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      response.on('end', () => reject(new Refused(response.statusCode ?? 0, body)));
    });
    ws.once('error', reject);
  });
}

/** Both halves of a session, past their greeting. */
export async function connectPair(
  t: TestContext,
  urls: { url(side: 'user' | 'device', id: string, query?: Record<string, string | number>): string },
  id: string,
  query: { user?: Record<string, string | number>; device?: Record<string, string | number> } = {},
): Promise<{ user: Client; device: Client }> {
  const user = await connect(t, urls.url('user', id, query.user));
  const device = await connect(t, urls.url('device', id, query.device));
  const greetings = [await user.nextText(), await device.nextText()];
  if (greetings.some((greeting) => greeting !== 'c')) throw new Error(`greeted with ${greetings}`);
  return { user, device };
}
