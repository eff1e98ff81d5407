import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';

/** [K4] What Redis holds of a device: which server its control channel is on, and what is shown of it. */
const presenceSchema = z.object({
  boot: z.string().min(1).max(64),
  /** Counts the connections of that boot: the higher, the newer. */
  connection: z.int().positive(),
  /** Epoch ms. */
  sinceMs: z.int(),
  address: z.string().max(256),
  hostname: z.string().max(256),
  platform: z.string().max(32),
  version: z.string().max(64),
  capabilities: z.array(z.string().max(32)).max(32),
});
export type PresenceEntry = z.output<typeof presenceSchema>;

/** [K4] A connection of a device that a newer one on another server has replaced. */
export const replacedSchema = z.object({
  nodeid: z.string().max(512),
  connection: z.int().positive(),
  /** Of the newer one. */
  address: z.string().max(256),
});
export type ReplacedConnection = z.output<typeof replacedSchema>;

/** A device whose control channel is here. */
export type PresentAgent = Omit<PresenceEntry, 'boot' | 'connection'> & { readonly nodeid: string };

export interface PresenceParts {
  /** This server's boot id. */
  readonly boot: string;
  readonly store: {
    exchange(key: string, value: string, ttlMs: number): Promise<string | undefined>;
    take(key: string, value: string, ttlMs: number, instead?: string): Promise<string | undefined>;
    release(key: string, value: string): Promise<void>;
    getMany(keys: readonly string[]): Promise<(string | undefined)[]>;
  };
  readonly redis: { readonly isUp: boolean; readonly epoch: number; onChange(listener: () => void): () => void };
  readonly servers: { get(boot: string): unknown; refresh(): Promise<void> };
  readonly clock: { monotonicMs(): number };
  /** Seals a value; the key's name is part of what is vouched for. */
  seal(key: string, value: object): string;
  /** `undefined` where it is not a value of ours under this key. */
  unseal(key: string, text: string): unknown;
  /** [T9] A newer connection of the device, from `address`, stands elsewhere: ours is to be closed. */
  replaced(nodeid: string, address: string): void;
  /** Tells another server that a connection there was replaced. Rejects where it does not answer. */
  tellReplaced(boot: string, connection: ReplacedConnection): Promise<unknown>;
  /** Neither Redis' refusals nor a silent server: those are counted where they are asked. */
  failed(error: unknown): void;
  /** How long an entry stands without being renewed, milliseconds. */
  readonly ttlMs?: number;
  /** From a failure to the next attempt, milliseconds; doubled each time where a server is told. */
  readonly retryMs?: number;
}

interface Own {
  readonly agent: PresentAgent;
  readonly connection: number;
  readonly text: string;
  /** The first writing wins over what stands, whatever it is: it is of the newest connection. */
  isNew: boolean;
  isDue: boolean;
  /** Redis' epoch in which this was last seen to stand there. */
  stoodIn: number;
}

const defaultTtlMs = 3_600_000;
const defaultRetryMs = 1_000;
const maxTellings = 5;
const batch = 100;
/** A boot id that the registry does not know is looked for in Redis no more often than this, milliseconds. */
const lookAgainMs = 5_000;

/**
 * [K4][T9] Says in Redis which devices are connected to this server, and finds those connected to others. Of one device
 * the connection that came last to Redis stands; the server of the one before is told to close it. What could not be
 * written is written once Redis answers again, and all of it when Redis may have lost it; the wall clock decides only
 * then which of two is newer.
 */
export class Presence {
  readonly #parts: PresenceParts;
  readonly #ttlMs: number;
  readonly #retryMs: number;
  readonly #own = new Map<string, Own>();
  /** Entries of ours that are to go. */
  readonly #gone = new Map<string, string>();
  readonly #working = new Map<string, Promise<void>>();
  readonly #unknownBoots = new Map<string, { readonly lookedMs: number; readonly looked: Promise<void> }>();
  readonly #timer: NodeJS.Timeout;
  readonly #unlisten: () => void;
  /** Devices of which the last attempt failed although Redis is there. */
  readonly #unwritten = new Set<string>();
  #retry: NodeJS.Timeout | undefined;
  #sweeping: Promise<void> | undefined;
  #sweepAgain = false;
  #connections = 0;
  #epoch: number;
  #wasUp: boolean;
  #closed = false;
  /** Servers that could not be told, to the last attempt, that a connection of theirs was replaced. */
  untold = 0;

  constructor(parts: PresenceParts) {
    this.#parts = parts;
    this.#ttlMs = parts.ttlMs ?? defaultTtlMs;
    this.#retryMs = parts.retryMs ?? defaultRetryMs;
    this.#epoch = parts.redis.epoch;
    this.#wasUp = parts.redis.isUp;
    this.#unlisten = parts.redis.onChange(() => this.#redisChanged());
    this.#timer = setInterval(() => this.#assertAll(), this.#ttlMs / 3).unref();
  }

  /** A device's control channel stands here now. */
  online(agent: PresentAgent): void {
    const { nodeid, ...facts } = agent;
    const connection = ++this.#connections;
    const entry: PresenceEntry = { ...facts, boot: this.#parts.boot, connection };
    const text = this.#parts.seal(keyOf(nodeid), entry);
    this.#gone.delete(nodeid);
    this.#own.set(nodeid, { agent, connection, text, isNew: true, isDue: true, stoodIn: -1 });
    void this.#work(nodeid);
  }

  /** It does not any more. */
  offline(nodeid: string): void {
    const own = this.#own.get(nodeid);
    if (own === undefined) return;
    this.#own.delete(nodeid);
    this.#gone.set(nodeid, own.text);
    void this.#work(nodeid);
  }

  /** Another server says that a connection here was replaced. One that came since is not meant. */
  wasReplaced({ nodeid, connection, address }: ReplacedConnection): void {
    const own = this.#own.get(nodeid);
    if (own !== undefined && own.connection <= connection) this.#parts.replaced(nodeid, address);
  }

  /**
   * Where devices are connected, of those connected to another server that is alive.
   * @throws CoupletError `CPL_REDIS` where that is not known
   */
  async find(nodeids: readonly string[]): Promise<Map<string, PresenceEntry>> {
    const found = new Map<string, PresenceEntry>();
    if (nodeids.length === 0) return found;
    const keys = nodeids.map(keyOf);
    const texts: (string | undefined)[] = [];
    for (let at = 0; at < keys.length; at += batch) {
      texts.push(...(await this.#parts.store.getMany(keys.slice(at, at + batch))));
    }
    for (const [index, nodeid] of nodeids.entries()) {
      const entry = this.#open(keys[index]!, texts[index]);
      // Where it names this server the channel has gone meanwhile: who asks has looked here before.
      if (entry === undefined || entry.boot === this.#parts.boot) continue;
      if (await this.#isAlive(entry.boot)) found.set(nodeid, entry);
    }
    return found;
  }

  /** Resolves when everything that was under way is written, or has failed. */
  async settled(): Promise<void> {
    while (this.#sweeping !== undefined || this.#working.size > 0) {
      await Promise.all([this.#sweeping, ...this.#working.values()]);
    }
  }

  /** Nothing is renewed from now on; resolves as {@link settled}. Entries of agents that were told gone are gone then. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    clearTimeout(this.#retry);
    this.#unlisten();
    await this.settled();
  }

  #redisChanged(): void {
    const { isUp, epoch } = this.#parts.redis;
    const isNews = isUp && (!this.#wasUp || epoch !== this.#epoch);
    this.#wasUp = isUp;
    if (!isNews) return;
    this.#epoch = epoch;
    this.#assertAll();
  }

  /** Writes all that is to stand once more, and takes away what is to go, a batch at a time. */
  #assertAll(): void {
    this.#sweepAgain = true;
    this.#sweeping ??= this.#sweep().finally(() => {
      this.#sweeping = undefined;
    });
  }

  async #sweep(): Promise<void> {
    while (this.#sweepAgain) {
      this.#sweepAgain = false;
      const nodeids = [...this.#own.keys(), ...this.#gone.keys()];
      for (let at = 0; at < nodeids.length && this.#parts.redis.isUp && !this.#closed; at += batch) {
        await Promise.all(nodeids.slice(at, at + batch).map((nodeid) => this.#workAgain(nodeid)));
      }
    }
  }

  /** Brings Redis to what holds here. One at a time for each device, so that its steps keep their order; never rejects. */
  #work(nodeid: string): Promise<void> {
    let working = this.#working.get(nodeid);
    if (working === undefined) {
      working = this.#run(nodeid).finally(() => this.#working.delete(nodeid));
      this.#working.set(nodeid, working);
    }
    return working;
  }

  async #run(nodeid: string): Promise<void> {
    // A connection that ends because the same device's next one is here is one step with it.
    await Promise.resolve();
    for (;;) {
      const own = this.#own.get(nodeid);
      const gone = this.#gone.get(nodeid);
      try {
        if (own?.isDue === true) {
          own.isDue = false;
          await this.#assert(nodeid, own);
        } else if (own === undefined && gone !== undefined) {
          this.#gone.delete(nodeid);
          await this.#parts.store.release(keyOf(nodeid), gone);
        } else return;
      } catch (error) {
        if (own === undefined && gone !== undefined && !this.#own.has(nodeid)) this.#gone.set(nodeid, gone);
        this.#retryLater(nodeid, error);
        return;
      }
    }
  }

  async #assert(nodeid: string, own: Own): Promise<void> {
    const { store, redis, boot } = this.#parts;
    const key = keyOf(nodeid);
    const { epoch } = redis;
    if (own.isNew) {
      own.isNew = false;
      const before = await store.exchange(key, own.text, this.#ttlMs);
      own.stoodIn = epoch;
      return this.#tell(nodeid, own, this.#open(key, before));
    }
    const other = await store.take(key, own.text, this.#ttlMs);
    if (other === undefined) {
      own.stoodIn = epoch;
      return;
    }
    const entry = this.#open(key, other);
    const rival = entry !== undefined && entry.boot !== boot && (await this.#isAlive(entry.boot)) ? entry : undefined;
    // It stood, and Redis has lost nothing since: the other was written after it. Else the clocks must tell.
    if (rival !== undefined && (own.stoodIn === epoch || isNewer(rival, own.agent, boot))) {
      if (this.#own.get(nodeid) === own) this.#parts.replaced(nodeid, rival.address);
      return;
    }
    if ((await store.take(key, own.text, this.#ttlMs, other)) === undefined) {
      own.stoodIn = epoch;
      return this.#tell(nodeid, own, rival);
    }
    // A third one in between: looked at like the second.
    own.isDue = true;
  }

  /** Tells the server of a connection that ours has replaced; nobody waits for that. */
  #tell(nodeid: string, { agent }: Own, before: PresenceEntry | undefined): void {
    if (before === undefined || before.boot === this.#parts.boot) return;
    const { boot, connection } = before;
    this.#tellUntilHeard(boot, { nodeid, connection, address: agent.address }).catch(this.#parts.failed);
  }

  async #tellUntilHeard(boot: string, connection: ReplacedConnection): Promise<void> {
    for (let attempt = 0; attempt < maxTellings && !this.#closed; attempt++) {
      try {
        // A server that is dead has no connection to close.
        if (!(await this.#isAlive(boot))) return;
        await this.#parts.tellReplaced(boot, connection);
        return;
      } catch {
        await delay(this.#retryMs * 2 ** attempt, undefined, { ref: false });
      }
    }
    // It finds out by itself, when it renews what it has written.
    this.untold++;
  }

  #retryLater(nodeid: string, error: unknown): void {
    if ((error as { code?: unknown }).code !== 'CPL_REDIS') this.#parts.failed(error);
    // While Redis is down it is its return that begins the next attempt.
    if (this.#closed || !this.#parts.redis.isUp) return;
    this.#unwritten.add(nodeid);
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      const nodeids = [...this.#unwritten];
      this.#unwritten.clear();
      for (const again of nodeids) void this.#workAgain(again);
    }, this.#retryMs).unref();
  }

  #workAgain(nodeid: string): Promise<void> {
    const own = this.#own.get(nodeid);
    if (own !== undefined) own.isDue = true;
    return this.#work(nodeid);
  }

  async #isAlive(boot: string): Promise<boolean> {
    const { servers, clock } = this.#parts;
    if (servers.get(boot) !== undefined) return true;
    const nowMs = clock.monotonicMs();
    for (const [other, { lookedMs }] of this.#unknownBoots) {
      if (nowMs - lookedMs > lookAgainMs) this.#unknownBoots.delete(other);
    }
    const before = this.#unknownBoots.get(boot);
    if (before === undefined) {
      const looked = servers.refresh();
      this.#unknownBoots.set(boot, { lookedMs: nowMs, looked });
      // It could not be looked for: that says nothing.
      looked.catch(() => this.#unknownBoots.delete(boot));
      await looked;
    } else await before.looked;
    return servers.get(boot) !== undefined;
  }

  #open(key: string, text: string | undefined): PresenceEntry | undefined {
    return text === undefined ? undefined : presenceSchema.safeParse(this.#parts.unseal(key, text)).data;
  }
}

function isNewer(rival: PresenceEntry, { sinceMs }: PresentAgent, boot: string): boolean {
  return rival.sinceMs === sinceMs ? rival.boot > boot : rival.sinceMs > sinceMs;
}

function keyOf(nodeid: string): string {
  return `agent:${createHash('sha256').update(nodeid).digest('base64url')}`;
}
