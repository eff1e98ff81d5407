import type { Clock } from '../core/clock.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import type { RunningSession } from './session.ts';

/** setTimeout's longest delay, milliseconds. */
export const maxDelayMs = 2_147_483_647;

/** The sessions that have an end by the clock; most have none. */
export class EndTimers {
  readonly #clock: Clock;
  readonly #limitHit: (session: RunningSession) => void;
  readonly #timers = new Map<RunningSession, NodeJS.Timeout>();

  /** @param limitHit told before a session is ended because it has lasted as long as it may (R26) */
  constructor(clock: Clock, limitHit: (session: RunningSession) => void) {
    this.#clock = clock;
    this.#limitHit = limitHit;
  }

  /**
   * The nearest of a session's ends by the clock: the tokens' absolute expiry (R6) and the longest session (R26).
   * @param longestMs 0: no limit
   */
  arm(session: RunningSession, longestMs: number): void {
    const expiresAtMs = Math.min(session.user.expiresAtMs ?? Infinity, session.device.expiresAtMs ?? Infinity);
    const tokenMs = expiresAtMs - this.#clock.nowMs();
    const limitMs = longestMs === 0 ? Infinity : session.startedMs + longestMs - this.#clock.monotonicMs();
    const delayMs = Math.min(tokenMs, limitMs);
    if (delayMs === Infinity) return;
    const timer = setTimeout(
      () => {
        if (tokenMs <= maxDelayMs && tokenMs <= limitMs) {
          session.pair.end('expired', closeCodes.expired, 'token expired');
        } else if (limitMs <= maxDelayMs) {
          this.#limitHit(session);
          session.pair.end('limit', closeCodes.limit, 'relay.maxSessionMs reached');
        } else {
          this.arm(session, longestMs);
        }
      },
      Math.min(Math.max(delayMs, 0), maxDelayMs),
    );
    this.#timers.set(session, timer);
  }

  clear(session: RunningSession): void {
    clearTimeout(this.#timers.get(session));
    this.#timers.delete(session);
  }
}
