import { EventEmitter, once } from 'node:events';
import { CoupletError } from '../../src/core/errors.ts';

const redisDown = () => new CoupletError('CPL_REDIS', 'Redis does not answer');

/** What stands in Redis, shared by the servers of a test; each sees it through a {@link RedisDouble} of its own. */
export type Kept = Map<string, string>;

/** One server's way to Redis: the store's calls, its state, and failures when the test says so. */
export class RedisDouble {
  isUp = true;
  epoch = 0;
  /** The next calls that are to be refused although Redis is up. */
  failures = 0;
  /** Calls wait here until it resolves. */
  held: Promise<void> = Promise.resolve();
  readonly calls: string[] = [];
  readonly #kept: Kept;
  readonly #events = new EventEmitter();

  constructor(kept: Kept) {
    this.#kept = kept;
  }

  onChange(listener: () => void): () => void {
    this.#events.on('change', listener);
    return () => this.#events.off('change', listener);
  }

  down(): void {
    this.isUp = false;
    this.#events.emit('change');
  }

  /** It answers again and may have lost what was written. */
  up(): void {
    this.isUp = true;
    this.epoch++;
    this.#events.emit('change');
  }

  /** It was away for a moment and has lost nothing. */
  blink(): void {
    this.down();
    this.isUp = true;
    this.#events.emit('change');
  }

  async #call(name: string): Promise<void> {
    this.calls.push(name);
    await this.held;
    if (!this.isUp) throw redisDown();
    if (this.failures > 0) {
      this.failures--;
      throw redisDown();
    }
  }

  async exchange(key: string, value: string): Promise<string | undefined> {
    await this.#call('exchange');
    const before = this.#kept.get(key);
    this.#kept.set(key, value);
    return before;
  }

  async take(key: string, value: string, _ttlMs: number, instead?: string): Promise<string | undefined> {
    await this.#call('take');
    const stands = this.#kept.get(key);
    if (stands !== undefined && stands !== value && stands !== instead) return stands;
    this.#kept.set(key, value);
    return undefined;
  }

  async release(key: string, value: string): Promise<void> {
    await this.#call('release');
    if (this.#kept.get(key) === value) this.#kept.delete(key);
  }

  async getMany(keys: readonly string[]): Promise<(string | undefined)[]> {
    await this.#call('getMany');
    return keys.map((key) => this.#kept.get(key));
  }
}

let sealed = 0;

/** Seals nothing, and never gives the same text twice. */
export const sealing = {
  seal: (key: string, value: object): string => JSON.stringify({ key, value, nonce: ++sealed }),
  unseal(key: string, text: string): unknown {
    const read = JSON.parse(text) as { key: string; value: unknown };
    return read.key === key ? read.value : undefined;
  },
};

interface Line {
  readonly handlers: Map<string, (body: unknown, boot: string) => unknown>;
}

/** The servers of a test and the channels between them. */
export class PeerNetwork {
  readonly #lines = new Map<string, Line>();
  /** Boot ids that do not answer; they stay in the registry. */
  readonly silent = new Set<string>();
  /** Boot ids that are in the registry. */
  readonly alive = new Set<string>();
  /** Every request, as `METHOD FROM>TO`. */
  readonly asked: string[] = [];
  readonly #events = new EventEmitter();

  join(boot: string): PeersDouble {
    this.#lines.set(boot, { handlers: new Map() });
    this.alive.add(boot);
    return new PeersDouble(this, boot);
  }

  line(boot: string): Line | undefined {
    return this.silent.has(boot) ? undefined : this.#lines.get(boot);
  }

  tell(asked: string): void {
    this.asked.push(asked);
    this.#events.emit(asked.split(' ')[0]!);
  }

  /** Resolves at the next request of this method. */
  async next(method: string): Promise<void> {
    await once(this.#events, method);
  }
}

/** One server's channels. What is asked crosses as JSON, as it does on the wire. */
export class PeersDouble {
  readonly #network: PeerNetwork;
  readonly #boot: string;

  constructor(network: PeerNetwork, boot: string) {
    this.#network = network;
    this.#boot = boot;
  }

  async ask(boot: string, method: string, body: unknown): Promise<unknown> {
    const crossing = JSON.parse(JSON.stringify(body)) as unknown;
    await Promise.resolve();
    this.#network.tell(`${method} ${this.#boot}>${boot}`);
    const handler = this.#network.line(boot)?.handlers.get(method);
    if (handler === undefined) throw new CoupletError('CPL_PEER', `${boot} does not answer ${method}`);
    const answer = await handler(crossing, this.#boot);
    return JSON.parse(JSON.stringify(answer ?? null)) as unknown;
  }

  async askAll(method: string, body: unknown) {
    const answers: { boot: string; answer: unknown }[] = [];
    const silent: string[] = [];
    const others = [...this.#network.alive].filter((boot) => boot !== this.#boot);
    const one = async (boot: string) => {
      try {
        answers.push({ boot, answer: await this.ask(boot, method, body) });
      } catch {
        silent.push(boot);
      }
    };
    await Promise.all(others.map(one));
    return { answers, silent };
  }

  serve(method: string, handler: (body: unknown, boot: string) => unknown): void {
    this.#network.line(this.#boot)!.handlers.set(method, handler);
  }
}

/** The registry as one server sees it: what it has read of the network's. */
export class ServersDouble {
  readonly #network: PeerNetwork;
  #seen: Set<string>;
  refreshed = 0;

  constructor(network: PeerNetwork) {
    this.#network = network;
    this.#seen = new Set(network.alive);
  }

  get(boot: string): { boot: string } | undefined {
    return this.#seen.has(boot) ? { boot } : undefined;
  }

  async refresh(): Promise<void> {
    this.refreshed++;
    this.#seen = new Set(this.#network.alive);
  }
}
