import { type RedisCommands, RedisScript } from './redis.ts';
import type { ClusterStore } from './store.ts';

/** Sets ARGV[1] where nothing, itself or ARGV[3] stands; gives another value that stands. */
const takeScript = new RedisScript(`
local stands = redis.call('GET', KEYS[1])
if stands and stands ~= ARGV[1] and stands ~= ARGV[3] then return stands end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
`);

const releaseScript = new RedisScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
`);

/**
 * [K2] [K6] The store in Redis 7 of any form. Keys are given without the prefix. Each call touches one key, so it is
 * atomic in Redis Cluster too.
 */
export class RedisStore implements ClusterStore {
  readonly #redis: RedisCommands;
  readonly #prefix: string;

  constructor(redis: RedisCommands, prefix: string) {
    this.#redis = redis;
    this.#prefix = prefix;
  }

  async claim(key: string, value: string, ttlMs: number): Promise<string | undefined> {
    const name = this.#nameOf(key);
    return orUndefined(await this.#redis.command(name, ['SET', name, value, 'NX', 'PX', String(ttlMs), 'GET']));
  }

  async take(key: string, value: string, ttlMs: number, instead?: string): Promise<string | undefined> {
    const args = [value, String(ttlMs), ...(instead === undefined ? [] : [instead])];
    return orUndefined(await this.#redis.script(takeScript, this.#nameOf(key), args));
  }

  async release(key: string, value: string): Promise<void> {
    await this.#redis.script(releaseScript, this.#nameOf(key), [value]);
  }

  async get(key: string): Promise<string | undefined> {
    const name = this.#nameOf(key);
    return orUndefined(await this.#redis.command(name, ['GET', name]));
  }

  /** Single GETs, which are pipelined: MGET over several slots is refused by Redis Cluster. */
  getMany(keys: readonly string[]): Promise<(string | undefined)[]> {
    return Promise.all(keys.map((key) => this.get(key)));
  }

  async exchange(key: string, value: string, ttlMs: number): Promise<string | undefined> {
    const name = this.#nameOf(key);
    return orUndefined(await this.#redis.command(name, ['SET', name, value, 'PX', String(ttlMs), 'GET']));
  }

  async once(fingerprint: string, ttlMs: number): Promise<boolean> {
    const name = this.#nameOf(`once:${fingerprint}`);
    return (await this.#redis.command(name, ['SET', name, '1', 'NX', 'PX', String(ttlMs)])) === 'OK';
  }

  #nameOf(key: string): string {
    return `${this.#prefix}:${key}`;
  }
}

function orUndefined(reply: unknown): string | undefined {
  return reply === null ? undefined : String(reply);
}
