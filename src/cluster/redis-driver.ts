import { nodeText, type RedisNode, type RedisTarget } from '../config/redis-url.ts';
import { within } from './deadline.ts';
import { RedisConnection } from './redis-client.ts';
import { openRedisCluster } from './redis-cluster.ts';
import { masterOf } from './redis-sentinel.ts';

/** A way to Redis, whatever its form. It lives once: when it breaks a new one is opened. */
export interface RedisDriver {
  /** Sends one command to the server that has `key`. No deadline of its own. */
  send(key: string, args: readonly string[]): Promise<unknown>;
  /**
   * A text that changes where what was written may be lost: other servers, or the same ones restarted or promoted.
   * Rejects where this way leads to the wrong server by now.
   */
  identity(): Promise<string>;
  close(): void;
}

export interface DriverOptions {
  readonly target: RedisTarget;
  /** Deadline of each step of opening, and of those in `identity`. */
  readonly withinMs: number;
  /** Called once where it breaks by itself. */
  readonly onLost: (error: Error) => void;
}

/** Opens a way to Redis; rejects where that fails. */
export function openDriver(options: DriverOptions): Promise<RedisDriver> {
  switch (options.target.kind) {
    case 'single':
      return openSingle(options, options.target.nodes[0]!);
    case 'sentinel':
      return openSentinel(options);
    case 'cluster':
      return openRedisCluster(options);
  }
}

async function openSingle(options: DriverOptions, node: RedisNode): Promise<RedisDriver> {
  const connection = await RedisConnection.open(node, options);
  return {
    send: (_key, args) => connection.send(args),
    identity: () => serverIdentity(connection, options.withinMs),
    close: () => connection.close(),
  };
}

async function openSentinel(options: DriverOptions): Promise<RedisDriver> {
  const master = await masterOf(options);
  const driver = await openSingle(options, master);
  const check = async (): Promise<string> => {
    const [now, identity] = await Promise.all([masterOf(options).catch(() => undefined), driver.identity()]);
    // Sentinels that cannot be reached say nothing against a master that answers.
    if (now !== undefined && nodeText(now) !== nodeText(master)) {
      throw new Error(`the sentinels have another master now: ${nodeText(now)} in place of ${nodeText(master)}`);
    }
    if (!identity.includes('role:master')) throw new Error(`Redis ${nodeText(master)} is no master yet`);
    return identity;
  };
  return { ...driver, identity: check };
}

/** Which process of Redis answers, and of which history its data is. */
export async function serverIdentity(connection: RedisConnection, withinMs: number): Promise<string> {
  const sections = Promise.all([connection.send(['INFO', 'server']), connection.send(['INFO', 'replication'])]);
  const text = (await within(sections, withinMs, `INFO of Redis ${nodeText(connection.node)}`)).join('\n');
  const wanted = /^(?:run_id|role|master_replid):.*$/gm;
  return [nodeText(connection.node), ...(text.match(wanted) ?? []).map((line) => line.trim())].join(' ');
}
