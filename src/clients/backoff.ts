import { setTimeout as sleep } from 'node:timers/promises';

export interface BackoffOptions {
  /** Default 1000. */
  readonly minMs?: number;
  /** Default 60,000. */
  readonly maxMs?: number;
  /** Numbers of 0 to 1, 1 excluded. */
  readonly random?: () => number;
}

/**
 * [T10] Waits between attempts: random between `minMs` and a limit that doubles up to `maxMs`, so that a thousand agents
 * whose server restarts do not come back in the same second.
 */
export class Backoff {
  readonly #minMs: number;
  readonly #maxMs: number;
  readonly #random: () => number;
  #limitMs: number;

  constructor({ minMs = 1000, maxMs = 60_000, random = Math.random }: BackoffOptions = {}) {
    this.#minMs = minMs;
    this.#maxMs = maxMs;
    this.#random = random;
    this.#limitMs = 2 * minMs;
  }

  /** Milliseconds until the next attempt. */
  next(): number {
    const limitMs = Math.min(this.#limitMs, this.#maxMs);
    this.#limitMs = Math.min(2 * limitMs, this.#maxMs);
    return this.#minMs + this.#random() * (limitMs - this.#minMs);
  }

  /** After a success: the next wait is a short one again. */
  reset(): void {
    this.#limitMs = 2 * this.#minMs;
  }
}

/** Waits; ends early, without an error, where the signal ends it. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch((error: Error) => {
    if (error.name !== 'AbortError') throw error;
  });
}
