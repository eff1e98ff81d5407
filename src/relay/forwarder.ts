import type { Outcome } from '../core/outcome.ts';
import type { HalfSocket, Side } from './half.ts';

/** Bounds of one pair; bytes, milliseconds, bytes per second. 0 means off where a limit may be off. */
export interface PairOptions {
  /** Past this much buffered for a receiver its sender is not read (R23). */
  readonly highWaterBytes: number;
  /** The sender is read again once no more than this is buffered. */
  readonly lowWaterBytes: number;
  readonly maxMessageBytes: number;
  /** No message either way for this long ends the session with `idle`. 0: off. */
  readonly idleMs: number;
  /** No byte written to a half that has a backlog for this long ends the session with `slow`. */
  readonly stallMs: number;
  /** How long a mate may take to drain after a clean close (R24). */
  readonly lingerMs: number;
  /** WebSocket ping interval (R21). 0: off. */
  readonly pingMs: number;
  /** Pacing (R26): bytes per second of the session, both directions together. 0: off. */
  readonly bytesPerSecond: number;
  /** Pacing shared by all sessions of a user: the user's id and rate. */
  readonly userPace?: { readonly key: string; readonly bytesPerSecond: number };
  /** `hd=1` on either half: TCP ends at once after tail and close frame. */
  readonly hardClose: boolean;
  readonly recording?: PairRecording | undefined;
}

/** A session's recording as forwarders need it (R35, R36). */
export interface PairRecording {
  /** The native recorder's handle, with which the addon records what it forwards. */
  readonly handle: number;
  /** A recording that ends early ends the session. */
  readonly strict: boolean;
  /** The recording takes whole messages in JavaScript: the session's forwarder is the portable one. */
  readonly takesText: boolean;
  /** Records one message that has just arrived; false where the recording has ended. */
  append(from: Side, data: ArrayBuffer, isBinary: boolean): boolean;
  /** Whether what is recorded waits for the disk, so that reading is to be paused until `goOn`. */
  holdsBack(): boolean;
  /** Who is told of what happens to a recording by itself. One listener. */
  listen(listener: { holdBack(): void; goOn(): void; failed(): void }): void;
}

/** Plain counters of one pair, read when the session ends or at scrape. */
export interface PairStatistics {
  readonly bytesUserToDevice: number;
  readonly bytesDeviceToUser: number;
  readonly messagesUserToDevice: number;
  readonly messagesDeviceToUser: number;
  /** Time in which the user half was not read, by flow control, pacing or for the recording; up to now. */
  readonly throttledUserToDeviceMs: number;
  /** The same of the device half. */
  readonly throttledDeviceToUserMs: number;
  /** Whose doing that was: the three make up the sum of the two. */
  readonly throttledBy: ThrottledBy;
  readonly bufferedBytes: number;
}

/** Milliseconds of both directions, by who held reading back. */
export interface ThrottledBy {
  /** Flow control (R23): the user half was slower than what came for it. */
  readonly userMs: number;
  /** Flow control (R23): the device half was slower than what came for it. */
  readonly deviceMs: number;
  /** Pacing (R26) and the recording's disk (R36), where flow control did not hold back at the same time. */
  readonly relayMs: number;
}

/** Of a pair that has forwarded nothing. */
export const noStatistics: PairStatistics = {
  bytesUserToDevice: 0,
  bytesDeviceToUser: 0,
  messagesUserToDevice: 0,
  messagesDeviceToUser: 0,
  throttledUserToDeviceMs: 0,
  throttledDeviceToUserMs: 0,
  throttledBy: { userMs: 0, deviceMs: 0, relayMs: 0 },
  bufferedBytes: 0,
};

/** Times of one direction, milliseconds: its sender was not read, and of that for its receiver's backlog. */
interface Throttled {
  readonly throttledMs: number;
  readonly flowPausedMs: number;
}

/** Who throttled whom, of both directions' times. */
export function throttling(
  fromUser: Throttled,
  fromDevice: Throttled,
): Pick<PairStatistics, 'throttledUserToDeviceMs' | 'throttledDeviceToUserMs' | 'throttledBy'> {
  const heldMs = ({ throttledMs, flowPausedMs }: Throttled) => Math.max(0, throttledMs - flowPausedMs);
  return {
    throttledUserToDeviceMs: fromUser.throttledMs,
    throttledDeviceToUserMs: fromDevice.throttledMs,
    throttledBy: {
      userMs: fromDevice.flowPausedMs,
      deviceMs: fromUser.flowPausedMs,
      relayMs: heldMs(fromUser) + heldMs(fromDevice),
    },
  };
}

/** Why and by whom a pair ended; reported exactly once, when both halves have their tail or are gone (R28). */
export interface PairEnd {
  readonly outcome: Outcome;
  readonly closedBy: Side | 'relay';
  /** A word for `couplet_half_errors_total` where a half broke a rule or its connection broke; else empty. */
  readonly error: string;
  readonly statistics: PairStatistics;
}

/** Two paired halves, forwarding. */
export interface ForwardedPair {
  /** Queues a text message of the relay's own for one half, between its messages, uncounted (R20, R21). */
  sendText(to: Side, text: string): void;
  /** Ends the pair: both halves get this close code. `drain`: deliver what is buffered first (only for shutdown). */
  end(outcome: Outcome, code: number, reason: string, drain?: boolean): void;
  statistics(): PairStatistics;
}

/** Sums over all pairs since start; plain numbers read at scrape time. */
export interface ForwarderTotals {
  readonly bytesUserToDevice: number;
  readonly bytesDeviceToUser: number;
  readonly messagesUserToDevice: number;
  readonly messagesDeviceToUser: number;
  readonly flowPauses: number;
  readonly flowPausedSeconds: number;
  /** Seconds in which flow control or pacing held reading back. */
  readonly throttledSeconds: number;
  readonly bufferedBytes: number;
}

/** One of the two ways messages travel: in the addon, or in TypeScript. Both pass the same test suite. */
export interface Forwarder {
  readonly kind: 'native' | 'portable';
  /** Starts forwarding between two held halves; `greeting` is the first text both receive (R20), empty for none. */
  pair(
    user: HalfSocket,
    device: HalfSocket,
    greeting: string,
    options: PairOptions,
    onEnd: (end: PairEnd) => void,
  ): ForwardedPair;
  totals(): ForwarderTotals;
}
