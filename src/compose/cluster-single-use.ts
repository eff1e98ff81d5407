import type { OnceRecord } from '../auth/cookie.ts';
import type { SingleUse, UseResult } from '../auth/single-use.ts';
import type { Clock } from '../core/clock.ts';

/** Longer than a cookie is good for, as the servers' clocks differ a little after all, milliseconds. */
const graceMs = 60_000;

/** [R7] [K5] Single use on every server of a cluster: Redis is asked first, then the server's own memory, which a failover of Redis does not reach. */
export class ClusterSingleUse implements SingleUse {
  readonly #own: SingleUse;
  readonly #store: { once(fingerprint: string, ttlMs: number): Promise<boolean> };
  readonly #clock: Clock;

  constructor(own: SingleUse, store: { once(fingerprint: string, ttlMs: number): Promise<boolean> }, clock: Clock) {
    this.#own = own;
    this.#store = store;
    this.#clock = clock;
  }

  async use(record: OnceRecord): Promise<UseResult> {
    const ttlMs = Math.max(0, Math.ceil(record.expiredAtMs - this.#clock.nowMs())) + graceMs;
    let isFresh: boolean;
    try {
      isFresh = await this.#store.once(record.fingerprint, ttlMs);
    } catch {
      return 'unavailable'; // Redis counts why
    }
    return isFresh ? this.#own.use(record) : 'used';
  }
}
