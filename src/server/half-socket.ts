import type { WebSocket } from 'uWebSockets.js';
import type { NativeAddon } from '../native/binding.ts';
import type { NativeSocket } from '../relay/native-forwarder.ts';
import type { CloseFrame, PortableReceiver, PortableSocket, SocketEnd } from '../relay/portable-forwarder.ts';
import type { Half } from '../relay/session.ts';

/** User data of a half's WebSocket; uWebSockets.js copies it onto the WebSocket object. */
export interface HalfData {
  couplet: UwsHalfSocket;
}

/** What uWebSockets.js says, as reason of code 1006, of an end without a close frame. */
const uwsReasons: Readonly<Record<string, SocketEnd>> = {
  'Received TCP FIN before WebSocket close frame': 'orderly',
  'Received too big message': 'too-big',
};

/** What the sockets of one listener have in common: an object for all of them, for each is held as long as its session. */
export interface HalfSocketParts {
  readonly addon: NativeAddon | undefined;
  readonly ssl: boolean;
  /** Accepting ends of links. */
  readonly isLink: boolean;
  /** A half's socket is closed, whoever closed it; called once. */
  closed(half: Half): void;
  /** A half that nobody could pause has sent more than `maxEarlyBytes` before its mate came. */
  flooded(half: Half): void;
}

/**
 * A half's uWebSockets.js socket. With the addon it is held from its opening, natively forwarded or (portable path)
 * paused and resumed; without the addon what it sends while it waits is kept up to `maxEarlyBytes`.
 */
export class UwsHalfSocket implements NativeSocket, PortableSocket {
  nativeId = 0;
  /** Whose socket it is; set before it opens. */
  half!: Half;
  readonly #parts: HalfSocketParts;
  readonly #maxEarlyBytes: number;
  #ws: WebSocket<HalfData> | undefined;
  #receiver: PortableReceiver | undefined;
  /** Made for the first message, as nearly all halves have none. */
  #early: { data: ArrayBuffer; isBinary: boolean }[] | undefined;
  #earlyBytes = 0;
  #paused = false;
  #closing = false;
  #promised = false;
  /** How a promised half that nobody could hold has ended, until its mate is told. */
  #ended: { readonly how: SocketEnd; readonly close: CloseFrame | undefined } | undefined;

  constructor(parts: HalfSocketParts, maxEarlyBytes: number) {
    this.#parts = parts;
    this.#maxEarlyBytes = maxEarlyBytes;
  }

  get isLink(): boolean {
    return this.#parts.isLink;
  }

  get #addon(): NativeAddon | undefined {
    return this.#parts.addon;
  }

  // -- from uWebSockets.js ------------------------------------------------------------------------------------------

  opened(ws: WebSocket<HalfData>): void {
    this.#ws = ws;
    if (this.#addon === undefined) return;
    this.nativeId = this.#addon.hold(ws, this.#parts.ssl);
    if (this.isLink) this.#addon.markLink?.(this.nativeId);
  }

  message(data: ArrayBuffer, isBinary: boolean): void {
    if (this.#receiver !== undefined) return this.#receiver.message(data, isBinary);
    if (this.#closing) return;
    this.#earlyBytes += data.byteLength;
    if (this.#earlyBytes > this.#maxEarlyBytes) {
      this.#early = undefined;
      this.#parts.flooded(this.half);
    } else {
      this.#early ??= [];
      this.#early.push({ data: data.slice(0), isBinary });
    }
  }

  drained(): void {
    this.#receiver?.drained();
  }

  pong(): void {
    this.#receiver?.pong();
  }

  /** A ping came, and uWebSockets.js has answered it. */
  pinged(): void {
    if (this.#receiver !== undefined) this.#receiver.pinged();
    else if (!this.#closing && this.bufferedBytes() > this.#maxEarlyBytes) this.#parts.flooded(this.half);
  }

  socketClosed(code: number, reason: ArrayBuffer): void {
    if (this.#ws === undefined) return;
    this.#ws = undefined;
    const how = code === 1006 ? (uwsReasons[Buffer.from(reason).toString('latin1')] ?? 'broken') : 'clean';
    const close = how === 'clean' ? { code, reason: Buffer.from(reason).toString() } : undefined;
    if (this.#promised && this.#receiver === undefined && !this.#closing && how !== 'broken') {
      this.#ended = { how, close };
      return;
    }
    this.#early = undefined;
    this.#receiver?.closed(how, close);
    this.#parts.closed(this.half);
  }

  // -- HalfSocket: while it waits or is refused ---------------------------------------------------------------------

  close(code: number, reason: string): void {
    if (this.#ended !== undefined) this.#tellEnd();
    if (this.#ws === undefined || this.#closing) return;
    this.#closing = true;
    if (this.nativeId !== 0) this.#addon!.close(this.nativeId, code, reason);
    else this.#ws.end(code, reason);
  }

  promise(isPromised = true): void {
    this.#promised = isPromised;
    this.#addon?.promise(this.nativeId, isPromised);
    if (!isPromised && this.#ended !== undefined) this.#tellEnd();
  }

  isGone(): boolean {
    // What a half that is promised has sent, and its goodbye, are its mate's: it is gone once its connection is broken.
    if (this.#promised) return this.#ws === undefined && this.#ended === undefined;
    return this.#ws === undefined || (this.nativeId !== 0 && this.#addon!.isGone(this.nativeId));
  }

  // -- the portable path ----------------------------------------------------------------------------------------------

  get canPause(): boolean {
    return this.nativeId !== 0;
  }

  attach(receiver: PortableReceiver): void {
    this.#receiver = receiver;
    if (this.nativeId !== 0) this.#addon!.adopt(this.nativeId);
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const { data, isBinary } of early) receiver.message(data, isBinary);
    if (this.#ended !== undefined) this.#tellEnd();
  }

  #tellEnd(): void {
    const { how, close } = this.#ended!;
    this.#ended = undefined;
    this.#early = undefined;
    this.#receiver?.closed(how, close);
    this.#parts.closed(this.half);
  }

  send(data: ArrayBuffer | Uint8Array | string, isBinary: boolean): void {
    // Never dropped: maxBackpressure is 0, the forwarder bounds the buffer by pausing the sender.
    this.#ws?.send(data, isBinary);
  }

  ping(): void {
    this.#ws?.ping();
    this.#keepPaused();
  }

  bufferedBytes(): number {
    return this.#ws === undefined || this.#closing ? 0 : this.#ws.getBufferedAmount();
  }

  cork(write: () => void): void {
    this.#ws?.cork(write);
    this.#keepPaused();
  }

  pause(): void {
    this.#paused = true;
    this.#addon?.pause(this.nativeId);
    // In a read callback uWebSockets.js may still write, pongs at least: see #keepPaused.
    setImmediate(() => this.#keepPaused());
  }

  resume(): void {
    this.#paused = false;
    this.#addon?.resume(this.nativeId);
  }

  terminate(): void {
    this.#ws?.close();
  }

  // A write that does not go through makes µSockets poll for reading again.
  #keepPaused(): void {
    if (this.#paused) this.#addon?.keepPaused(this.nativeId);
  }
}
