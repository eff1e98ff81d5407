import type { Socket } from 'node:net';
import { WebSocket } from 'ws';
import type { NativeAddon } from '../native/binding.ts';
import type { HalfSocket } from '../relay/half.ts';
import type { NativeSocket } from '../relay/native-forwarder.ts';
import type { CloseFrame, PortableReceiver, PortableSocket, SocketEnd } from '../relay/portable-forwarder.ts';

/** The dialler's end of a link, held: nothing of what comes has been read. */
export type LinkSocket = HalfSocket & (NativeSocket | PortableSocket);

/** A link that the addon has taken over. */
export class NativeLinkSocket implements NativeSocket {
  readonly isLink = true;
  readonly nativeId: number;
  readonly #addon: NativeAddon;

  constructor(addon: NativeAddon, nativeId: number) {
    this.#addon = addon;
    this.nativeId = nativeId;
  }

  close(code: number, reason: string): void {
    this.#addon.close(this.nativeId, code, reason);
  }

  promise(): void {
    this.#addon.promise(this.nativeId, true);
  }

  isGone(): boolean {
    return this.#addon.isGone(this.nativeId);
  }
}

/** For the answer to a close frame, of a link that is not paired. */
const closeMs = 2000;

const binary = { binary: true };
const text = { binary: false };

/** A link over `ws`, for TLS and wherever the addon does not forward. */
export class WsLinkSocket implements PortableSocket {
  readonly isLink = true;
  readonly canPause = true;
  readonly #ws: WebSocket;
  readonly #socket: Socket;
  #receiver: PortableReceiver | undefined;
  #end: { readonly how: SocketEnd; readonly close: CloseFrame | undefined } | undefined;
  #sawEnd = false;
  #failure = '';
  #closing = false;

  /** @param ws just open, in its `open` event; `socket` is the one below it */
  constructor(ws: WebSocket, socket: Socket) {
    this.#ws = ws;
    this.#socket = socket;
    ws.pause();
    socket.once('end', () => {
      this.#sawEnd = true;
    });
    socket.once('error', () => {
      this.#failure ||= 'broken';
    });
    socket.on('drain', this.#drained);
    ws.on('error', (error: NodeJS.ErrnoException) => {
      this.#failure = error.code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH' ? 'too-big' : 'broken';
    });
    ws.on('message', (data, isBinary) => this.#receiver?.message(data as Buffer, isBinary));
    ws.on('ping', () => this.#receiver?.pinged());
    ws.on('pong', () => this.#receiver?.pong());
    ws.on('close', (code, reason) => this.#closed(code, reason));
  }

  close(code: number, reason: string): void {
    if (this.#closing) return;
    this.#closing = true;
    // While it is paused the answer to the close frame would not be read.
    this.#ws.resume();
    this.#ws.close(code, reason);
    // Once it is paired its deadline is the pair's.
    if (this.#receiver === undefined) setTimeout(() => this.#ws.terminate(), closeMs).unref();
  }

  promise(): void {
    // Nothing is read before `attach`, and so no goodbye is seen before.
  }

  isGone(): boolean {
    return this.#ws.readyState !== WebSocket.OPEN || this.#socket.destroyed;
  }

  attach(receiver: PortableReceiver): void {
    this.#receiver = receiver;
    if (this.#end !== undefined) receiver.closed(this.#end.how, this.#end.close);
    else this.#ws.resume();
  }

  send(data: ArrayBuffer | Uint8Array | string, isBinary: boolean): void {
    if (this.#ws.readyState !== WebSocket.OPEN) return;
    // What is not the socket's to keep is copied: it may wait for the network longer than this call takes.
    const own = data instanceof Uint8Array ? Buffer.from(data) : data;
    this.#ws.send(own, isBinary ? binary : text, this.#drained);
  }

  ping(): void {
    if (this.#ws.readyState === WebSocket.OPEN) this.#ws.ping();
  }

  bufferedBytes(): number {
    return this.#closing ? 0 : this.#ws.bufferedAmount;
  }

  cork(write: () => void): void {
    this.#socket.cork();
    write();
    this.#socket.uncork();
  }

  pause(): void {
    this.#ws.pause();
  }

  resume(): void {
    this.#ws.resume();
  }

  terminate(): void {
    this.#ws.terminate();
  }

  /** One function for all sends: per message nothing is made. */
  readonly #drained = (): void => {
    if (!this.#closing) this.#receiver?.drained();
  };

  #closed(code: number, reason: Buffer): void {
    const isClean = code !== 1006 && this.#failure === '';
    const how = isClean
      ? 'clean'
      : this.#failure !== ''
        ? (this.#failure as SocketEnd)
        : this.#sawEnd
          ? 'orderly'
          : 'broken';
    this.#end = { how, close: isClean ? { code, reason: reason.toString() } : undefined };
    this.#receiver?.closed(how, this.#end.close);
  }
}
