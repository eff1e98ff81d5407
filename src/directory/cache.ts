import type { DirectoryChange } from './directory.ts';

interface Entry<T> {
  readonly userId: string;
  readonly deviceId: string;
  readonly value: T;
  /** Asked for since it was kept, or since it was last spared. */
  used: boolean;
}

/**
 * [T4] Remembers answers about a user and a device, at most `capacity` of them; those not asked for
 * go first. An answer is kept only if no change came while it was being read, so it is never older than the last change heard.
 */
export class AccessCache<T> {
  readonly #capacity: number;
  readonly #isCurrent: () => boolean;
  readonly #entries = new Map<string, Entry<T>>();
  #changes = 0;
  hits = 0;
  misses = 0;

  /** @param isCurrent false: answers must come from the database (see `Feed.isCurrent`) */
  constructor(capacity: number, isCurrent: () => boolean) {
    this.#capacity = capacity;
    this.#isCurrent = isCurrent;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** What is remembered, if it is. */
  peek(userId: string, deviceId: string): T | undefined {
    if (!this.#isCurrent()) return undefined;
    const entry = this.#entries.get(`${userId}\n${deviceId}`);
    if (entry === undefined) return undefined;
    this.hits++;
    entry.used = true;
    return entry.value;
  }

  async get(userId: string, deviceId: string, read: () => Promise<T>): Promise<T> {
    // No id has a line feed in it.
    const key = `${userId}\n${deviceId}`;
    const current = this.#isCurrent();
    const entry = current ? this.#entries.get(key) : undefined;
    if (entry !== undefined) {
      this.hits++;
      entry.used = true;
      return entry.value;
    }
    this.misses++;
    const before = this.#changes;
    const value = await read();
    if (current && before === this.#changes && this.#isCurrent() && before === this.#changes) {
      this.#keep(key, { userId, deviceId, value, used: false });
    }
    return value;
  }

  readonly forget = (change: DirectoryChange): void => {
    this.#changes++;
    // A domain's policy is part of what is remembered of its devices.
    if (change.all || change.domains.length > 0) return this.#entries.clear();
    if (change.users.length + change.devices.length === 0) return;
    const users = new Set(change.users);
    const devices = new Set(change.devices);
    for (const [key, { userId, deviceId }] of this.#entries) {
      if (users.has(userId) || devices.has(deviceId)) this.#entries.delete(key);
    }
  };

  #keep(key: string, entry: Entry<T>): void {
    this.#entries.set(key, entry);
    if (this.#entries.size <= this.#capacity) return;
    // The oldest goes; one that was asked for is spared once and becomes the youngest. Ends: what is spared is not used.
    for (const [oldest, kept] of this.#entries) {
      this.#entries.delete(oldest);
      if (!kept.used) return;
      kept.used = false;
      this.#entries.set(oldest, kept);
    }
  }
}
