import type { Socket } from 'node:net';
import type { CoupletError } from '../core/errors.ts';
import { type Destination, type ForwardOptions, type Listener, listenTcp } from './forward.ts';

/*
 * SOCKS5 (RFC 1928) with CONNECT alone and no authentication: the listener is bound to loopback unless told otherwise.
 */

const version = 5;
const noAuthentication = 0;
const noMethod = 0xff;
const connectCommand = 1;
const addressTypes = { ipv4: 1, domain: 3, ipv6: 4 } as const;
const replies = {
  succeeded: 0,
  generalFailure: 1,
  notAllowed: 2,
  hostUnreachable: 4,
  connectionRefused: 5,
  commandNotSupported: 7,
  addressTypeNotSupported: 8,
} as const;

/** A request must be complete in this time. */
const requestWaitMs = 10_000;
/**
 * An agent of another make does not say when its target stands. Longer than a Couplet agent's dial: after that silence
 * the target is taken to stand.
 */
const connectedWaitMs = 15_000;

/** [T12] Listens for SOCKS5 clients; each CONNECT goes through a session of its own. */
export function forwardSocks(
  local: { readonly bindAddress: string; readonly localPort: number },
  options: ForwardOptions,
): Promise<Listener> {
  return listenTcp(local, 'socks5', options, negotiate);
}

async function negotiate(socket: Socket): Promise<Destination | undefined> {
  const late = setTimeout(() => socket.destroy(), requestWaitMs);
  try {
    const target = await readRequest(socket);
    return typeof target === 'number' ? turnAway(socket, target) : destinationOf(socket, target);
  } catch {
    socket.destroySoon(); // it left, or speaks something else: there is nobody to tell
    return undefined;
  } finally {
    clearTimeout(late);
  }
}

function turnAway(socket: Socket, reply: number): undefined {
  socket.resume();
  socket.end(replyBytes(reply));
  socket.setTimeout(requestWaitMs, () => socket.destroy());
  socket.once('end', () => socket.destroySoon());
  return undefined;
}

function destinationOf(socket: Socket, target: { host: string; port: number }): Destination {
  let answered = false;
  const succeed = () => {
    clearTimeout(assumed);
    if (answered) return;
    answered = true;
    socket.write(replyBytes(replies.succeeded));
  };
  const assumed = setTimeout(succeed, connectedWaitMs);
  socket.once('close', () => clearTimeout(assumed));
  return {
    ...target,
    onConnected: succeed,
    onFailure: (error) => {
      clearTimeout(assumed);
      if (answered) return false;
      answered = true;
      turnAway(socket, replyFor(error));
      return true;
    },
  };
}

/** The mate's words are for people; the little a SOCKS client wants to know is in the system's own word. */
function replyFor({ code, message }: CoupletError): number {
  if (code === 'CPL_CLIENT_DENIED' || /not among the targets/.test(message)) return replies.notAllowed;
  if (/ECONNREFUSED/.test(message)) return replies.connectionRefused;
  if (/ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|cannot resolve/.test(message)) return replies.hostUnreachable;
  return replies.generalFailure;
}

/** Reads the greeting, answers it, and reads the request. A number: the reply that turns it away. */
async function readRequest(socket: Socket): Promise<{ host: string; port: number } | number> {
  const reader = new RequestReader(socket);
  const [greetingVersion, methodCount] = await reader.take(2);
  if (greetingVersion !== version) throw new Error('not SOCKS5');
  const methods = methodCount === 0 ? Buffer.alloc(0) : await reader.take(methodCount!);
  if (!methods.includes(noAuthentication)) {
    socket.write(Buffer.of(version, noMethod));
    throw new Error('no method in common');
  }
  socket.write(Buffer.of(version, noAuthentication));
  const [requestVersion, command, , type] = await reader.take(4);
  if (requestVersion !== version) throw new Error('not SOCKS5');
  const host = await readHost(reader, type!);
  if (host === undefined) return replies.addressTypeNotSupported;
  const port = (await reader.take(2)).readUInt16BE(0);
  reader.giveBack();
  if (command !== connectCommand) return replies.commandNotSupported;
  if (port === 0 || !/^[\x21-\x7e]{1,255}$/.test(host)) return replies.generalFailure;
  return { host, port };
}

async function readHost(reader: RequestReader, type: number): Promise<string | undefined> {
  if (type === addressTypes.ipv4) return (await reader.take(4)).join('.');
  if (type === addressTypes.domain) {
    const [length] = await reader.take(1);
    return length === 0 ? '' : (await reader.take(length!)).toString('latin1');
  }
  if (type !== addressTypes.ipv6) return undefined;
  const bytes = await reader.take(16);
  return Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(2 * index).toString(16)).join(':');
}

/** Takes a request out of a stream; what comes behind it is put back. */
class RequestReader {
  readonly #socket: Socket;
  #data: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Exactly so many bytes. Never by `read(size)`: a stream that holds less says at once, and again, that it holds some. */
  async take(size: number): Promise<Buffer> {
    while (this.#data.length < size) {
      const chunk = this.#socket.read() as Buffer | null;
      if (chunk !== null) this.#data = Buffer.concat([this.#data, chunk]);
      else if (this.#socket.readableEnded || this.#socket.destroyed) throw new Error('the client left');
      else await more(this.#socket);
    }
    const taken = this.#data.subarray(0, size);
    this.#data = this.#data.subarray(size);
    return taken;
  }

  giveBack(): void {
    if (this.#data.length > 0) this.#socket.unshift(this.#data);
  }
}

function more(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      for (const event of ['readable', 'end', 'close'] as const) socket.off(event, done);
      resolve();
    };
    for (const event of ['readable', 'end', 'close'] as const) socket.on(event, done);
  });
}

function replyBytes(reply: number): Buffer {
  return Buffer.of(version, reply, 0, addressTypes.ipv4, 0, 0, 0, 0, 0, 0);
}
