import WebSocket from 'ws';
import { CoupletError } from '../core/errors.ts';
import { isPrintableId } from '../core/ids.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import { connectError, type HalfClose, refusedError } from './client-errors.ts';

/** Default time from the first packet to the relay's 101. Above the relay's own 5 s for authentication (R26). */
const defaultHandshakeTimeoutMs = 15_000;
/** Largest message taken from a mate. Above the relay's default limit (16 MiB), so that the relay's limit decides. */
const maxMessageBytes = 64 * 1024 * 1024;
/** After this much silence the operating system asks whether the relay's host is still there. */
const tcpKeepAliveMs = 60_000;

/** How to join as one half. */
export interface ConnectOptions {
  /** `ws://` or `wss://` URL of a relay endpoint; further query parameters of R2 may stand in it. */
  readonly url: string;
  /** Session id (R4). */
  readonly id: string;
  /** Sealed cookie, and the query parameter that takes its kind: `auth` user and share, `rauth` device (R2, R7). */
  readonly credential: { readonly parameter: 'auth' | 'rauth'; readonly cookie: string };
  /** PEM text of the authorities that may have signed the relay's certificate, instead of the built-in ones. */
  readonly ca?: string;
  /** Takes any certificate: for tests. */
  readonly insecure?: boolean;
  /** Default 15,000. */
  readonly handshakeTimeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** What a client hears from its half, in order. */
export interface HalfHandlers {
  onText(text: string): void;
  onBinary(data: Buffer): void;
}

/**
 * One half as a client holds it. Not `createWebSocketStream`: a stream makes texts and binary messages one, turns its
 * own end into a close (so there is no half-close) and hides the close code.
 */
export class ClientHalf {
  /** Settles once, after the last message was handed over. Never rejects. */
  readonly closed: Promise<HalfClose>;
  readonly #socket: WebSocket;
  #handlers: HalfHandlers | undefined;

  /** Takes an open, paused socket: nothing is read before {@link start}, so no message can be missed. */
  constructor(socket: WebSocket) {
    this.#socket = socket;
    let cause: Error | undefined;
    socket.on('error', (error) => {
      cause ??= error;
    });
    socket.on('message', (data, isBinary) => {
      // `binaryType` is left at `nodebuffer`: every message is one Buffer.
      const buffer = data as Buffer;
      if (isBinary) this.#handlers?.onBinary(buffer);
      else this.#handlers?.onText(buffer.toString());
    });
    this.closed = new Promise((resolve) => {
      socket.on('close', (code, reason) => resolve({ code, reason: reason.toString(), cause }));
    });
  }

  /** Begins reading. */
  start(handlers: HalfHandlers): void {
    this.#handlers = handlers;
    this.#socket.resume();
  }

  /**
   * Sends one binary message. Settles when its last byte was handed to the operating system: who waits for that before
   * the next one never has more than one message buffered here. `false`: the connection is over, see {@link closed}.
   */
  sendBinary(data: Buffer): Promise<boolean> {
    return this.#send(data, true);
  }

  /** Sends one text message; otherwise as {@link sendBinary}. */
  sendText(text: string): Promise<boolean> {
    return this.#send(text, false);
  }

  #send(data: Buffer | string, binary: boolean): Promise<boolean> {
    return new Promise((resolve) => this.#socket.send(data, { binary }, (error) => resolve(!error)));
  }

  /** Stops reading from the network. Messages of the one read already made (at most 64 KiB) still come. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Bytes that wait here for the network. */
  get bufferedBytes(): number {
    return this.#socket.bufferedAmount;
  }

  /** Leaves in good order: a close frame after everything sent so far. No effect on a connection that is closing. */
  close(reason = ''): void {
    this.#socket.close(closeCodes.normal, reason);
  }

  /** Ends the TCP connection at once. */
  terminate(): void {
    this.#socket.terminate();
  }
}

/**
 * Opens one half. The half is returned paused; call `start`.
 * @throws CoupletError (as rejection): `CPL_CLIENT_URL`, `CPL_CLIENT_ID`; `CPL_CLIENT_CONNECT` for network, TLS and
 * time-out; by HTTP status `CPL_CLIENT_UNAUTHORIZED`, …. No message of it holds the cookie (R8). The signal's reason
 * where the signal ended it.
 */
export async function connectHalf(options: ConnectOptions): Promise<ClientHalf> {
  const { signal } = options;
  const { target, where } = halfUrl(options);
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(target, {
      handshakeTimeout: options.handshakeTimeoutMs ?? defaultHandshakeTimeoutMs,
      perMessageDeflate: false,
      maxPayload: maxMessageBytes,
      rejectUnauthorized: options.insecure !== true,
      ...(options.ca !== undefined && { ca: options.ca }),
    });
    const fail = (error: unknown) => {
      signal?.removeEventListener('abort', onAbort);
      reject(error);
      socket.terminate();
    };
    const onAbort = () => fail(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    // Stays for good: giving up makes `ws` emit another error, which settles nothing any more.
    socket.on('error', (error) => fail(connectError(where, error)));
    socket.on('unexpected-response', (_request, response) => fail(refusedError(where, response.statusCode ?? 0)));
    socket.on('upgrade', (response) => response.socket.setKeepAlive(true, tcpKeepAliveMs));
    socket.on('open', () => {
      signal?.removeEventListener('abort', onAbort);
      socket.removeAllListeners('error');
      socket.pause();
      resolve(new ClientHalf(socket));
    });
  });
}

/** The full URL, and what of it may stand in an error: no query, no user name or password. */
function halfUrl(options: ConnectOptions): { target: URL; where: string } {
  if (!isPrintableId(options.id)) {
    throw new CoupletError('CPL_CLIENT_ID', 'the session id must be 1 to 256 printable ASCII characters');
  }
  const target = URL.canParse(options.url) ? new URL(options.url) : undefined;
  if (target?.protocol !== 'ws:' && target?.protocol !== 'wss:') {
    throw new CoupletError('CPL_CLIENT_URL', 'the relay URL must read ws://HOST:PORT/relay or wss://HOST/relay');
  }
  const where = `${target.protocol}//${target.host}${target.pathname}`;
  for (const name of ['id', 'auth', 'rauth']) {
    if (target.searchParams.has(name)) {
      throw new CoupletError(
        'CPL_CLIENT_URL',
        `the query of ${where} must not hold ${name}: it has an option of its own`,
      );
    }
  }
  const { parameter, cookie } = options.credential;
  // Not URLSearchParams: it writes a space as `+`, which the relay takes for a plus (R42).
  const added = `id=${encodeURIComponent(options.id)}&${parameter}=${encodeURIComponent(cookie)}`;
  target.search = target.search ? `${target.search}&${added}` : added;
  target.hash = '';
  return { target, where };
}
