import { performance } from 'node:perf_hooks';

/** The only source of time (house rule: the wall clock is read here alone). Tests pass a clock of their own. */
export interface Clock {
  /** Wall clock, whole milliseconds since 1970-01-01 UTC. */
  nowMs(): number;
  /** Monotonic milliseconds from an arbitrary start; never steps back. */
  monotonicMs(): number;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};
