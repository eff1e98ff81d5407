import { nodeText, type RedisNode, type RedisTarget } from '../config/redis-url.ts';
import { within } from './deadline.ts';
import { RedisConnection } from './redis-client.ts';

interface View extends RedisNode {
  readonly epoch: number;
}

/**
 * The master as the sentinels know it. All of them are asked, and the one with the newest configuration is believed:
 * another may be cut off from the rest and still name the old master.
 * Rejects where none of them answers in `withinMs`, or none knows the name.
 */
export async function masterOf(options: { target: RedisTarget; withinMs: number }): Promise<RedisNode> {
  const asked = await Promise.allSettled(options.target.nodes.map((node) => ask(node, options)));
  const views = asked.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const [best] = views.sort((a, b) => b.epoch - a.epoch);
  if (best !== undefined) return { host: best.host, port: best.port };
  const why = asked.map((result) => (result.status === 'rejected' ? String((result.reason as Error).message) : ''));
  throw new Error(`no sentinel names the master of ${options.target.masterName}: ${[...new Set(why)].join('; ')}`);
}

async function ask(node: RedisNode, { target, withinMs }: { target: RedisTarget; withinMs: number }): Promise<View> {
  const anonymous = { tls: target.tls, username: undefined, password: undefined, database: 0 };
  const login = { ...anonymous, username: target.username, password: target.password };
  try {
    return await askAs(node, anonymous, target.masterName, withinMs);
  } catch (error) {
    if (target.password === undefined || !/^NO(?:AUTH|PERM)/.test((error as Error).message)) throw error;
    return await askAs(node, login, target.masterName, withinMs);
  }
}

async function askAs(
  node: RedisNode,
  target: Pick<RedisTarget, 'tls' | 'username' | 'password' | 'database'>,
  name: string,
  withinMs: number,
): Promise<View> {
  const connection = await RedisConnection.open(node, { target, withinMs, onLost: () => undefined });
  try {
    const asking = connection.send(['SENTINEL', 'MASTER', name]);
    const reply = (await within(asking, withinMs, `asking sentinel ${nodeText(node)}`)) as string[];
    const fields = new Map<string, string>();
    for (let i = 0; i + 1 < reply.length; i += 2) fields.set(reply[i]!, reply[i + 1]!);
    return { host: fields.get('ip')!, port: Number(fields.get('port')), epoch: Number(fields.get('config-epoch')) };
  } finally {
    connection.close();
  }
}
