import type { Clock } from '../core/clock.ts';

/** Why an upgrade is refused by a limit (R26); the word is the `couplet_refused_total` reason. */
export type AdmissionLimit = 'waiting' | 'waiting-address' | 'rate';

export interface LimitOptions {
  readonly maxWaiting: number;
  readonly maxWaitingPerAddress: number;
  /** 0: off. */
  readonly maxSessionsPerUser: number;
  /** 0: off. */
  readonly upgradesPerAddressPerSecond: number;
}

/** Counts by key that forgets a key at zero, so that it stays as small as what it counts. */
export class Tally {
  readonly #counts = new Map<string, number>();

  of(key: string): number {
    return this.#counts.get(key) ?? 0;
  }

  add(key: string): void {
    this.#counts.set(key, this.of(key) + 1);
  }

  remove(key: string): void {
    const left = this.of(key) - 1;
    if (left > 0) this.#counts.set(key, left);
    else this.#counts.delete(key);
  }
}

/** The admission limits of R26: plain counts, nothing per message. */
export class Limits {
  options: LimitOptions;
  readonly sessionsByUser = new Tally();
  readonly waitingByAddress = new Tally();
  readonly #clock: Clock;
  #upgrades = new Map<string, number>();
  #windowStartMs = 0;

  constructor(options: LimitOptions, clock: Clock) {
    this.options = options;
    this.#clock = clock;
  }

  /**
   * Counts an upgrade request of an address; false where the address has used up this second. Counted before any
   * credential is looked at, which is what makes guessing ids slow (fault 12).
   */
  admitUpgrade(address: string): boolean {
    const limit = this.options.upgradesPerAddressPerSecond;
    if (limit === 0) return true;
    const now = this.#clock.monotonicMs();
    if (now - this.#windowStartMs >= 1000) {
      this.#windowStartMs = now;
      if (this.#upgrades.size > 0) this.#upgrades = new Map();
    }
    const used = this.#upgrades.get(address) ?? 0;
    if (used >= limit) return false;
    this.#upgrades.set(address, used + 1);
    return true;
  }

  /** Whether one more half may wait; `waiting` is how many do now. */
  admitWaiting(address: string, waiting: number): AdmissionLimit | undefined {
    if (waiting >= this.options.maxWaiting) return 'waiting';
    if (this.waitingByAddress.of(address) >= this.options.maxWaitingPerAddress) return 'waiting-address';
    return undefined;
  }

  /** Whether a user may start one more session. */
  admitSession(userid: string): boolean {
    const limit = this.options.maxSessionsPerUser;
    return limit === 0 || userid === '' || this.sessionsByUser.of(userid) < limit;
  }
}
