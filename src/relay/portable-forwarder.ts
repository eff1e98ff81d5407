import type { Clock } from '../core/clock.ts';
import type { Outcome } from '../core/outcome.ts';
import type { ForwardedPair, Forwarder, ForwarderTotals, PairEnd, PairOptions, PairStatistics } from './forwarder.ts';
import type { HalfSocket, Side } from './half.ts';
import { Pace } from './portable-end.ts';
import { PortablePair } from './portable-pair.ts';

/** How a socket ended: by a close frame, by the end of its stream, by a message past the limit, by an error. */
export type SocketEnd = 'clean' | 'orderly' | 'too-big' | 'broken';

/** A close frame's content; code 1005 where it had none. */
export interface CloseFrame {
  readonly code: number;
  readonly reason: string;
}

/** What a socket tells the portable forwarder once it is attached. */
export interface PortableReceiver {
  /** A whole message; an `ArrayBuffer` is only valid during the call, a `Uint8Array` is the receiver's to keep. */
  message(data: ArrayBuffer | Uint8Array, isBinary: boolean): void;
  /** Something of what was buffered has been written. */
  drained(): void;
  pong(): void;
  /** A ping came; its answer is among what is buffered for the socket. */
  pinged(): void;
  /** The socket is closed. `close`: what its close frame said, where one came. */
  closed(how: SocketEnd, close?: CloseFrame): void;
}

/** A half's socket as the portable path needs it: a uWebSockets.js socket, a cluster link, a test's double. */
export interface PortableSocket extends HalfSocket {
  /** Starts delivering to `receiver`, what came while the half was held first. */
  attach(receiver: PortableReceiver): void;
  /**
   * Queues one message; never drops. Called outside read callbacks only. An `ArrayBuffer` is the socket's to keep, a
   * `Uint8Array` is only valid during the call.
   */
  send(data: ArrayBuffer | Uint8Array | string, isBinary: boolean): void;
  ping(): void;
  bufferedBytes(): number;
  /** Groups the sends made in `write` into few system calls. */
  cork(write: () => void): void;
  /** Whether `pause` stops the reading; false: what it sends can only be capped. */
  readonly canPause: boolean;
  pause(): void;
  resume(): void;
  /** Ends the connection without a close frame. */
  terminate(): void;
}

/** Messages up to this size are copied into one buffer for a turn of the event loop: a buffer of its own costs more. */
const sharedCopyBytes = 4096;
const turnBufferBytes = 65_536;

/** How often deadlines, pings and paces are looked at, milliseconds. */
const tickMs = 250;

/**
 * Forwarding in TypeScript, for builds where the native forwarder cannot work and for mates that are not
 * uWebSockets.js sockets. Messages are copied in the read callback and sent outside it, all of a turn together: over
 * TLS a write from inside a read callback would destroy the reader's stream.
 */
export class PortableForwarder implements Forwarder {
  readonly kind = 'portable';
  readonly clock: Clock;
  readonly sums = {
    bytesUserToDevice: 0,
    bytesDeviceToUser: 0,
    messagesUserToDevice: 0,
    messagesDeviceToUser: 0,
    flowPauses: 0,
    flowPausedSeconds: 0,
    throttledSeconds: 0,
  };
  readonly #pairs = new Set<PortablePair>();
  readonly #userPaces = new Map<string, { pace: Pace; pairs: number }>();
  #dirty: PortablePair[] = [];
  #flushing: NodeJS.Immediate | undefined;
  /** Of the messages that wait for the end of the turn. */
  #turnBuffer = new Uint8Array(turnBufferBytes);
  #turnBytes = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  pair(
    user: HalfSocket,
    device: HalfSocket,
    greeting: string,
    options: PairOptions,
    onEnd: (end: PairEnd) => void,
  ): ForwardedPair {
    const paces: Pace[] = [];
    if (options.bytesPerSecond > 0) paces.push(new Pace(options.bytesPerSecond, this.clock));
    if (options.userPace !== undefined) paces.push(this.#userPace(options.userPace));
    const pair = new PortablePair(this, user as PortableSocket, device as PortableSocket, options, paces, onEnd);
    this.#pairs.add(pair);
    this.#timer ??= setInterval(() => this.#tick(), tickMs).unref();
    pair.start(greeting);
    return {
      sendText: (to: Side, text: string) => pair.sendText(to, text),
      end: (outcome: Outcome, code: number, reason: string, drain = false) => pair.end(outcome, code, reason, drain),
      statistics: (): PairStatistics => pair.statistics(),
    };
  }

  totals(): ForwarderTotals {
    let bufferedBytes = 0;
    for (const pair of this.#pairs) bufferedBytes += pair.statistics().bufferedBytes;
    return { ...this.sums, bufferedBytes };
  }

  /** The pair has something to send; it is called back once in this turn of the event loop. */
  schedule(pair: PortablePair): void {
    this.#dirty.push(pair);
    this.#flushing ??= setImmediate(() => {
      this.#flushing = undefined;
      const pairs = this.#dirty;
      this.#dirty = [];
      for (const dirty of pairs) dirty.flush();
      if (this.#dirty.length === 0) this.#turnBytes = 0;
    });
  }

  /** A copy of a message that is good until its pair's next `flush`, which empties all queues or throws them away. */
  copy(data: ArrayBuffer | Uint8Array): ArrayBuffer | Uint8Array {
    if (data instanceof Uint8Array) return data;
    const bytes = data.byteLength;
    if (bytes > sharedCopyBytes) return data.slice(0);
    if (this.#turnBytes + bytes > turnBufferBytes) {
      this.#turnBuffer = new Uint8Array(turnBufferBytes);
      this.#turnBytes = 0;
    }
    const copy = this.#turnBuffer.subarray(this.#turnBytes, this.#turnBytes + bytes);
    copy.set(new Uint8Array(data));
    this.#turnBytes += bytes;
    return copy;
  }

  /** Both sockets of a pair are closed. */
  forget(pair: PortablePair, options: PairOptions): void {
    if (!this.#pairs.delete(pair)) return;
    if (options.userPace !== undefined) {
      const shared = this.#userPaces.get(options.userPace.key);
      if (shared !== undefined && --shared.pairs === 0) this.#userPaces.delete(options.userPace.key);
    }
    if (this.#pairs.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
  }

  #userPace(of: { key: string; bytesPerSecond: number }): Pace {
    let shared = this.#userPaces.get(of.key);
    if (shared === undefined) {
      shared = { pace: new Pace(of.bytesPerSecond, this.clock), pairs: 0 };
      this.#userPaces.set(of.key, shared);
    }
    shared.pairs++;
    return shared.pace;
  }

  #tick(): void {
    for (const pair of this.#pairs) pair.tick(tickMs);
  }
}
