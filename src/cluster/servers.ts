import { z } from 'zod';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { type BeatTask, type Redis, type RedisCommands, RedisScript } from './redis.ts';
import type { ValueSealer } from './sealed-value.ts';

/** [K1] A server of the cluster as it stands in Redis. */
export interface ServerEntry {
  readonly boot: string;
  /** `ws://HOST:PORT` or `wss://HOST:PORT` of its link listener. */
  readonly linkUrl: string;
  /** SHA-256 of the link listener's certificate; empty where it has none. */
  readonly fingerprint: string;
  /** Which directory it uses, in a word that only servers with the same one have. */
  readonly directory: string;
  readonly startedMs: number;
  readonly version: string;
}

/** [K1] The live servers of the cluster, as of the last heartbeat. */
export interface Servers {
  readonly self: ServerEntry;
  get(boot: string): ServerEntry | undefined;
  others(): readonly ServerEntry[];
  /** Reads them anew; joins a reading under way. Rejects with CoupletError `CPL_REDIS`. */
  refresh(): Promise<void>;
  /** [K7] A server is gone: its entry expired or it took it back. */
  onGone(listener: (boot: string, entry: ServerEntry) => void): () => void;
}

/**
 * `joining`: not in Redis yet. `joined`. `conflict`: kept out, because the others use another directory; it joins once
 * they are gone. `stopped`.
 */
export type RegistryState = 'joining' | 'joined' | 'conflict' | 'stopped';

export interface RegistryOptions {
  readonly redis: Redis;
  readonly sealer: ValueSealer;
  readonly self: ServerEntry;
  /** `cluster.prefix`. */
  readonly prefix: string;
  /** `cluster.heartbeatMs`: how long an entry lives after a beat. */
  readonly heartbeatMs: number;
  readonly clock: Clock;
  /** Told once of each thing that an operator should look into; one line. */
  readonly onProblem: (text: string) => void;
}

/*
 * All entries are in one hash, `PREFIX:servers`, by boot id: `EXPIRES KEYID DIRECTORY SEALED`, where EXPIRES is ms of Redis
 * TIME, KEYID tells entries of another login key, DIRECTORY is a keyed digest and SEALED the entry; a server that stopped
 * leaves `EXPIRES - -`. One script over one key, so that it is the same in Redis Cluster, and that two servers with different
 * directories cannot both get in. Entries are cleaned out a lifetime after they expired: until then everyone sees that
 * they did.
 */
const beatScript = new RedisScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local boot, sealed, keyId, directory, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local all = redis.call('HGETALL', KEYS[1])
local stands, foreign = 'joined', ''
local mine = false
for i = 1, #all, 2 do
  local expires, key, dir = string.match(all[i + 1], '^(%d+) (%S+) (%S+)')
  expires = tonumber(expires)
  if all[i] == boot then
    mine = expires ~= nil and key ~= '-'
  elseif expires == nil or expires + life < now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif expires >= now and key == keyId and dir ~= directory then
    stands, foreign = 'conflict', all[i]
  end
end
if stands == 'joined' then
  redis.call('HSET', KEYS[1], boot, string.format('%.0f', now + life) .. ' ' .. keyId .. ' ' .. directory .. ' ' .. sealed)
elseif mine then
  redis.call('HDEL', KEYS[1], boot)
end
redis.call('PEXPIRE', KEYS[1], life * 10)
return {string.format('%.0f', now), stands, foreign, mine and 1 or 0, all}
`);

const stopScript = new RedisScript(`
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', time[1] * 1000) .. ' - -')
return 1
`);

const entryShape = z.object({
  boot: z.string().min(1).max(64),
  linkUrl: z.string().max(512),
  fingerprint: z.string().max(256),
  directory: z.string().max(4096),
  startedMs: z.number(),
  version: z.string().max(128),
});

interface Known {
  readonly entry: ServerEntry;
  /** Monotonic ms of the last time that it was seen alive. */
  seenMs: number;
}

/** [K1] [K7] Keeps this server's entry in Redis and knows the others'. */
export class ServerRegistry implements Servers {
  readonly self: ServerEntry;
  state: RegistryState = 'joining';
  /** Entries of other servers that do not unseal, as of the last beat. */
  foreignEntries = 0;
  readonly #options: RegistryOptions;
  readonly #key: string;
  readonly #keyId: string;
  readonly #directory: string;
  readonly #joinedListeners = new Set<(entry: ServerEntry) => void>();
  readonly #goneListeners = new Set<(boot: string, entry: ServerEntry) => void>();
  readonly #known = new Map<string, Known>();
  #refreshing: Promise<void> | undefined;
  /** Monotonic ms since when Redis has been up without a break: entries that expired while it was down mean nothing. */
  #upSinceMs = 0;
  #lastEpoch = 0;
  #wasIn = false;
  #toldForeign = false;
  #conflict: CoupletError | undefined;

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.self = options.self;
    this.#key = `${options.prefix}:servers`;
    this.#keyId = options.sealer.digest(`key of ${this.#key}`);
    this.#directory = options.sealer.digest(`directory ${options.self.directory}`);
    options.redis.onBeat(this.#onBeat);
    options.redis.onChange(() => {
      if (!options.redis.isUp) this.#upSinceMs = Number.POSITIVE_INFINITY;
    });
  }

  /** Why it is kept out; empty where it is not. */
  get conflict(): string {
    return this.#conflict?.message ?? '';
  }

  /**
   * Joins the cluster. Resolves also where Redis is down: it is tried on.
   * @throws CoupletError `CPL_CLUSTER_DIRECTORY` where live servers of the cluster use another directory
   */
  async start(): Promise<void> {
    await this.#options.redis.start();
    if (this.#conflict !== undefined) throw this.#conflict;
  }

  /** Takes the own entry back at once, where Redis is up; else it expires. */
  async stop(): Promise<void> {
    if (this.state === 'stopped') return;
    this.state = 'stopped';
    const { redis, self } = this.#options;
    await this.#refreshing?.catch(() => undefined);
    if (redis.isUp) await redis.script(stopScript, this.#key, [self.boot]).catch(() => undefined);
  }

  get(boot: string): ServerEntry | undefined {
    return this.#known.get(boot)?.entry;
  }

  others(): readonly ServerEntry[] {
    return [...this.#known.values()].map(({ entry }) => entry);
  }

  refresh(): Promise<void> {
    return this.#exchange(this.#options.redis);
  }

  /** A server is there that was not known. Gives the function that ends it. */
  onJoined(listener: (entry: ServerEntry) => void): () => void {
    this.#joinedListeners.add(listener);
    return () => this.#joinedListeners.delete(listener);
  }

  onGone(listener: (boot: string, entry: ServerEntry) => void): () => void {
    this.#goneListeners.add(listener);
    return () => this.#goneListeners.delete(listener);
  }

  readonly #onBeat: BeatTask = async (commands) => {
    if (this.state === 'stopped') return;
    // One that a caller of `refresh` began may be on a connection that is gone.
    await this.#refreshing?.catch(() => undefined);
    await this.#exchange(commands);
    // A server that stays out must not claim anything either: its heartbeat fails, and with it everything.
    if (this.#conflict !== undefined) throw this.#conflict;
  };

  #exchange(commands: RedisCommands): Promise<void> {
    if (this.state === 'stopped') return Promise.resolve();
    this.#refreshing ??= this.#beat(commands).finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  async #beat(commands: RedisCommands): Promise<void> {
    const { sealer, self, heartbeatMs, redis, clock } = this.#options;
    const sealed = sealer.seal(`${this.#key} ${self.boot}`, JSON.stringify(self));
    const args = [self.boot, sealed, this.#keyId, this.#directory, String(heartbeatMs)];
    const reply = (await commands.script(beatScript, this.#key, args)) as [string, string, string, number, string[]];
    const [now, stands, foreign, wasStored, pairs] = reply;
    if (this.#lastEpoch !== redis.epoch || !redis.isUp || this.#upSinceMs === Number.POSITIVE_INFINITY) {
      this.#lastEpoch = redis.epoch;
      this.#upSinceMs = clock.monotonicMs();
    }
    this.#read(Number(now), pairs);
    this.#settle(stands === 'conflict' ? foreign : undefined, wasStored === 1);
  }

  #settle(foreign: string | undefined, wasStored: boolean): void {
    const { redis, self, onProblem } = this.#options;
    if (this.state === 'stopped') return;
    if (foreign === undefined) {
      // The hash was flushed, or a failover lost it: so may claims be lost.
      if (this.#wasIn && !wasStored && redis.isUp) {
        this.#upSinceMs = this.#options.clock.monotonicMs();
        redis.noteLoss();
        this.#lastEpoch = redis.epoch;
      }
      this.#wasIn = true;
      this.#conflict = undefined;
      this.state = 'joined';
      return;
    }
    this.#wasIn = false;
    const theirs = this.#known.get(foreign)?.entry.directory ?? 'another';
    const text = `the directory of this server is ${self.directory}; a server of the cluster (${this.get(foreign)?.linkUrl ?? foreign}) uses ${theirs}: all servers of a cluster must use the same one, and sqlite only as workers of one machine`;
    this.#conflict = new CoupletError('CPL_CLUSTER_DIRECTORY', text, { level: 'error' });
    if (this.state !== 'conflict') onProblem(text);
    this.state = 'conflict';
  }

  /** Takes over the entries that Redis has, and finds out who is gone. */
  #read(nowMs: number, pairs: readonly string[]): void {
    const { clock, heartbeatMs, self } = this.#options;
    const seenMs = clock.monotonicMs();
    const gone = new Set<string>();
    const present = new Set<string>();
    // What expired or vanished counts only once Redis has been up long enough for everyone to have beaten again.
    const isSure = seenMs - this.#upSinceMs > heartbeatMs;
    this.foreignEntries = 0;
    for (let i = 0; i + 1 < pairs.length; i += 2) {
      const boot = pairs[i]!;
      if (boot === self.boot) continue;
      const [expires = '0', keyId, , sealed = ''] = pairs[i + 1]!.split(' ');
      const expiresMs = Number(expires);
      if (keyId === '-') gone.add(boot);
      else if (expiresMs < nowMs) {
        if (isSure) gone.add(boot);
      } else if (this.#note(boot, keyId === this.#keyId ? sealed : '', seenMs)) present.add(boot);
    }
    for (const [boot, known] of this.#known) {
      const isLost = isSure && !present.has(boot) && seenMs - known.seenMs > heartbeatMs;
      if (!gone.has(boot) && !isLost) continue;
      this.#known.delete(boot);
      for (const listener of [...this.#goneListeners]) listener(boot, known.entry);
    }
    if (this.foreignEntries > 0 && !this.#toldForeign) {
      this.#toldForeign = true;
      this.#options.onProblem(
        `${this.#key} in Redis has ${this.foreignEntries} entries that this login key does not open: all servers under one cluster.prefix must have the same login key`,
      );
    }
    if (this.foreignEntries === 0) this.#toldForeign = false;
  }

  #note(boot: string, sealed: string, seenMs: number): boolean {
    const known = this.#known.get(boot);
    const text = this.#options.sealer.open(`${this.#key} ${boot}`, sealed);
    const entry = text === undefined ? undefined : parseEntry(text);
    if (entry === undefined || entry.boot !== boot) {
      this.foreignEntries++;
      return false;
    }
    if (known !== undefined) known.seenMs = seenMs;
    else {
      this.#known.set(boot, { entry, seenMs });
      for (const listener of [...this.#joinedListeners]) listener(entry);
    }
    return true;
  }
}

function parseEntry(text: string): ServerEntry | undefined {
  try {
    return entryShape.parse(JSON.parse(text));
  } catch {
    // Sealed with our key, but by a version with other fields.
    return undefined;
  }
}
