/** A small seeded generator (mulberry32): the same seed gives the same history, so that a failure can be repeated. */
export class Random {
  readonly seed: number;
  #state: number;

  /** @param seed `COUPLET_TEST_SEED` where it is set, to repeat a run; else a new one. */
  constructor(seed: number = Number(process.env.COUPLET_TEST_SEED ?? Math.floor(Math.random() * 0x7fffffff))) {
    this.seed = seed;
    this.#state = seed >>> 0;
  }

  /** A number of 0 to 1, 1 excluded. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  }

  /** A whole number of 0 to `below`, `below` excluded. */
  below(below: number): number {
    return Math.floor(this.next() * below);
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length);
    for (let i = 0; i < length; i++) bytes[i] = this.below(256);
    return bytes;
  }
}
