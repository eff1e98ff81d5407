import type { Clock } from '../core/clock.ts';
import type { Side } from './half.ts';
import type { PortableSocket } from './portable-forwarder.ts';

/** A token bucket, bytes; may go below zero by one read. */
export class Pace {
  readonly #bytesPerSecond: number;
  readonly #clock: Clock;
  #tokens = 0;
  #filledMs: number;

  constructor(bytesPerSecond: number, clock: Clock) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#clock = clock;
    this.#filledMs = clock.monotonicMs();
  }

  charge(bytes: number): void {
    this.#tokens -= bytes;
  }

  get spent(): boolean {
    const now = this.#clock.monotonicMs();
    const filled = this.#tokens + (this.#bytesPerSecond * (now - this.#filledMs)) / 1000;
    this.#tokens = Math.min(filled, this.#bytesPerSecond / 4);
    this.#filledMs = now;
    return this.#tokens < 0;
  }
}

/** Why a half is not read. */
export const pauseReasons = ['flowPaused', 'pacePaused', 'pongPaused', 'recorderPaused'] as const;
export type PauseReason = (typeof pauseReasons)[number];

/** `draining`: its close waits for its queue; `closing`: its close frame is out; `gone`: its socket is closed. */
type Stage = 'open' | 'draining' | 'closing' | 'gone';

/** One half of a pair, and what is queued for it. */
export class End {
  stage: Stage = 'open';
  queue: { readonly data: ArrayBuffer | Uint8Array | string; readonly isBinary: boolean }[] = [];
  queuedBytes = 0;
  bytes = 0;
  messages = 0;
  /**
   * Whether this half is not read: for its mate's backlog, for a pace, for answers to its pings that it does not read,
   * for its session's recording.
   */
  flowPaused = false;
  pacePaused = false;
  pongPaused = false;
  recorderPaused = false;
  throttledSinceMs = 0;
  flowSinceMs = 0;
  /** In which it was not read to slow it down, and of that for its mate's backlog, milliseconds; ended pauses only. */
  throttledMs = 0;
  flowPausedMs = 0;
  /** Milliseconds in ticks, so that an event loop that stood still does not count as silence. */
  silentMs = 0;
  pingMs = 0;
  stalledMs = 0;
  deadlineMs = 0;
  close: { code: number; reason: string } | undefined;
  keepsTail = false;
  lastBuffered = 0;
  readonly socket: PortableSocket;
  readonly side: Side;

  constructor(socket: PortableSocket, side: Side) {
    this.socket = socket;
    this.side = side;
  }

  get paused(): boolean {
    return this.flowPaused || this.pacePaused || this.pongPaused || this.recorderPaused;
  }

  /** Whether it is not read to slow it down; one that does not read its pongs slows itself down. */
  get throttled(): boolean {
    return this.flowPaused || this.pacePaused || this.recorderPaused;
  }

  /** Times of its pauses, one that still lasts included. */
  throttledAt(nowMs: number): { readonly throttledMs: number; readonly flowPausedMs: number } {
    return {
      throttledMs: this.throttledMs + (this.throttled ? nowMs - this.throttledSinceMs : 0),
      flowPausedMs: this.flowPausedMs + (this.flowPaused ? nowMs - this.flowSinceMs : 0),
    };
  }

  get backlog(): number {
    return this.queuedBytes + (this.stage === 'gone' ? 0 : this.socket.bufferedBytes());
  }
}
