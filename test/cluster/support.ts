import type { TestContext } from 'node:test';
import { LoginKey } from '../../src/auth/keys.ts';
import { Redis, type RedisOptions } from '../../src/cluster/redis.ts';
import { ValueSealer } from '../../src/cluster/sealed-value.ts';
import { type ServerEntry, ServerRegistry } from '../../src/cluster/servers.ts';
import { parseRedisUrl } from '../../src/config/redis-url.ts';
import { systemClock } from '../../src/core/clock.ts';
import { mintId } from '../../src/core/ids.ts';

export const loginKey = LoginKey.generate();

export interface Opened {
  readonly redis: Redis;
  /** Lines of `onProblem`. */
  readonly problems: string[];
}

/** A Redis layer over a real server, closed when the test ends. */
export function openRedis(t: TestContext, url: string, options: Partial<RedisOptions> = {}): Opened {
  const problems: string[] = [];
  const redis = new Redis({
    target: parseRedisUrl(url)!,
    commandMs: 500,
    heartbeatMs: 2000,
    prefix: 'test',
    clock: systemClock,
    onProblem: (text) => problems.push(text),
    ...options,
  });
  t.after(() => redis.close());
  return { redis, problems };
}

/** One that is up. */
export async function upRedis(t: TestContext, url: string, options: Partial<RedisOptions> = {}): Promise<Opened> {
  const opened = openRedis(t, url, options);
  await opened.redis.start();
  if (!opened.redis.isUp) throw new Error(opened.redis.problem);
  return opened;
}

export interface Member extends Opened {
  readonly servers: ServerRegistry;
  readonly gone: string[];
}

/** A server's registry, with a Redis layer of its own; not started. */
export function makeMember(
  t: TestContext,
  url: string,
  options: { directory?: string; key?: LoginKey; heartbeatMs?: number } = {},
): Member {
  const { directory = 'none', key = loginKey, heartbeatMs = 1000 } = options;
  const opened = openRedis(t, url, { heartbeatMs });
  const self: ServerEntry = {
    boot: mintId(),
    linkUrl: 'ws://127.0.0.1:9',
    fingerprint: '',
    directory,
    startedMs: 1,
    version: '0',
  };
  const servers = new ServerRegistry({
    redis: opened.redis,
    sealer: sealerOf(key),
    self,
    prefix: 'test',
    heartbeatMs,
    clock: systemClock,
    onProblem: (text) => opened.problems.push(text),
  });
  const gone: string[] = [];
  servers.onGone((boot) => gone.push(boot));
  return { ...opened, servers, gone };
}

export function sealerOf(key: LoginKey = loginKey): ValueSealer {
  return new ValueSealer(key.derive('cluster-values'));
}
