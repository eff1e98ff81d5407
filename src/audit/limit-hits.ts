import type { Clock } from '../core/clock.ts';

export interface LimitKey {
  readonly limit: string;
  readonly address: string;
}

interface Window {
  readonly key: LimitKey;
  endsMs: number;
  uncounted: number;
}

/** Addresses that are told apart at one time; further ones share a window per limit, named with an empty address. */
const MAX_WINDOWS = 1_000;

/**
 * Keeps a flood of refused upgrades from becoming a flood of events: the first hit of a limit by an address is told at
 * once, those of the next `windowMs` are counted and told together when the window ends. Nothing is left uncounted.
 */
export class LimitHits {
  readonly #clock: Clock;
  readonly #windowMs: number;
  readonly #tell: (key: LimitKey, count: number) => void;
  readonly #windows = new Map<string, Window>();

  constructor(clock: Clock, windowMs: number, tell: (key: LimitKey, count: number) => void) {
    this.#clock = clock;
    this.#windowMs = windowMs;
    this.#tell = tell;
  }

  hit(limit: string, address: string): void {
    const nowMs = this.#clock.monotonicMs();
    let key: LimitKey = { limit, address };
    let window = this.#windows.get(`${limit}\0${address}`);
    if (window === undefined && this.#windows.size >= MAX_WINDOWS) {
      key = { limit, address: '' };
      window = this.#windows.get(`${limit}\0`);
    }
    if (window !== undefined && nowMs < window.endsMs) {
      window.uncounted++;
      return;
    }
    this.#windows.set(`${limit}\0${key.address}`, { key, endsMs: nowMs + this.#windowMs, uncounted: 0 });
    this.#tell(key, 1 + (window?.uncounted ?? 0));
  }

  /**
   * Tells what ended windows counted, and forgets them; to be called about every `windowMs`.
   * @param all also windows that still run (before a stop).
   */
  sweep(all = false): void {
    const nowMs = this.#clock.monotonicMs();
    for (const [name, window] of this.#windows) {
      if (!all && nowMs < window.endsMs) continue;
      this.#windows.delete(name);
      if (window.uncounted > 0) this.#tell(window.key, window.uncounted);
    }
  }
}
