import type { Clock } from '../core/clock.ts';

/** One reading of Redis TIME. */
export interface TimeSample {
  readonly redisMs: number;
  readonly roundTripMs: number;
  /** Monotonic ms at which the answer came. */
  readonly receivedMs: number;
}

interface Measured {
  readonly offsetMs: number;
  readonly roundTripMs: number;
}

const maxSamples = 8;
/** What two readings may contradict each other by, beyond their round trips, before a clock counts as set anew. */
const toleranceMs = 20;

/**
 * [K5] The clock of the whole cluster: this machine's, corrected by Redis TIME, so that servers whose clocks differ judge
 * the ages of cookies alike. While Redis is down the last correction holds.
 */
export class ClusterClock implements Clock {
  /** This machine's own. */
  readonly uncorrected: Clock;
  #samples: Measured[] = [];
  #offsetMs = 0;

  constructor(base: Clock) {
    this.uncorrected = base;
  }

  /** How far the cluster's time is ahead of this machine's. */
  get offsetSeconds(): number {
    return this.#offsetMs / 1000;
  }

  nowMs(): number {
    return this.uncorrected.nowMs() + Math.round(this.#offsetMs);
  }

  monotonicMs(): number {
    return this.uncorrected.monotonicMs();
  }

  /** Takes a reading. The one with the shortest round trip of the last few counts: it is the surest. */
  note({ redisMs, roundTripMs, receivedMs }: TimeSample): void {
    const wallMs = this.uncorrected.nowMs() - (this.uncorrected.monotonicMs() - receivedMs);
    const sample = { offsetMs: redisMs + roundTripMs / 2 - wallMs, roundTripMs };
    // Each reading is right within half its round trip; where two cannot both be, one of the clocks was set.
    const agrees = this.#samples.every(
      (known) => Math.abs(known.offsetMs - sample.offsetMs) <= (known.roundTripMs + roundTripMs) / 2 + toleranceMs,
    );
    if (!agrees) this.#samples = [];
    this.#samples = [...this.#samples, sample].slice(-maxSamples);
    this.#offsetMs = this.#samples.reduce((best, next) => (next.roundTripMs < best.roundTripMs ? next : best)).offsetMs;
  }
}
