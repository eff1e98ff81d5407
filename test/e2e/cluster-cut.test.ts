import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { type TestContext, test } from 'node:test';
import { type Client, connect } from '../support/client.ts';
import { type ClusterServer, claimsIn, startCluster, TcpStub } from '../support/cluster.ts';
import { startRedis } from '../support/redis.ts';
import { until } from '../support/relay.ts';
import { missing, requireProgram } from '../support/services.ts';

const heartbeatMs = 2000;

/**
 * Two network namespaces: each has a way to this one, where Redis and clients are, and one to the other that can be cut
 * without anyone being told: what is sent there gets lost.
 */
async function networks(t: TestContext) {
  const ip = requireProgram(t, 'ip');
  if (ip === undefined) return undefined;
  const run = (...args: string[]) => execFileSync(ip, args, { stdio: 'pipe' }).toString();
  const tag = `${process.pid % 10_000}${Math.floor(Math.random() * 1000)}`;
  const names = [`couplet-${tag}a`, `couplet-${tag}b`] as const;
  try {
    if (process.getuid?.() !== 0) throw new Error('not root');
    run('netns', 'add', names[0]);
  } catch (cause) {
    missing(t, `network namespaces cannot be made here: ${(cause as Error).message}`);
    return undefined;
  }
  t.after(() => run('netns', 'del', names[0])); // takes its links along
  run('netns', 'add', names[1]);
  t.after(() => run('netns', 'del', names[1]));
  const base = `10.${200 + Math.floor(Math.random() * 50)}.${Math.floor(Math.random() * 250)}`;
  const hosts = names.map((name, index) => {
    const [here, there] = [`cp${tag}h${index}`, `cp${tag}n${index}`];
    run('link', 'add', here, 'type', 'veth', 'peer', 'name', there, 'netns', name);
    run('addr', 'add', `${base}.${index * 4 + 1}/30`, 'dev', here);
    run('link', 'set', here, 'up');
    run('-n', name, 'addr', 'add', `${base}.${index * 4 + 2}/30`, 'dev', there);
    run('-n', name, 'link', 'set', there, 'up');
    run('-n', name, 'link', 'set', 'lo', 'up');
    return { name, here: `${base}.${index * 4 + 1}`, there: `${base}.${index * 4 + 2}` };
  });
  const ends = [`cp${tag}x0`, `cp${tag}x1`] as const;
  run('-n', names[0], 'link', 'add', ends[0], 'type', 'veth', 'peer', 'name', ends[1], 'netns', names[1]);
  const links = names.map((name, index) => {
    run('-n', name, 'addr', 'add', `${base}.${9 + index}/30`, 'dev', ends[index]!);
    run('-n', name, 'link', 'set', ends[index]!, 'up');
    return `${base}.${9 + index}`;
  });
  const isUp = (name: string, dev: string) => run('-n', name, 'addr', 'show', dev).includes('state UP');
  await until(() => names.every((name, index) => isUp(name, ends[index]!)), 'the link is up');
  return {
    ip,
    hosts,
    links,
    /** Frames to an address that nobody has are dropped by whoever gets them. */
    cut: () => {
      for (const [index, name] of names.entries()) {
        const to = ['lladdr', '02:00:00:00:00:99', 'nud', 'permanent', 'dev', ends[index]!];
        run('-n', name, 'neigh', 'replace', links[1 - index]!, ...to);
      }
    },
    heal: () => {
      for (const [index, name] of names.entries()) {
        run('-n', name, 'neigh', 'del', links[1 - index]!, 'dev', ends[index]!);
      }
    },
  };
}

test('[K6] [K7] two servers that cannot reach each other, but Redis: what is between them ends in time, and comes back', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const nets = await networks(t);
  if (nets === undefined) return;
  const stub = await TcpStub.start(t, redis.port, '0.0.0.0');
  const cluster = await startCluster(t, {
    redis: redis.url,
    servers: 2,
    settings: { cluster: { heartbeatMs } },
    eachServer: (number) => {
      const { name, here, there } = nets.hosts[number]!;
      return {
        under: [nets.ip, 'netns', 'exec', name],
        redis: `redis://${here}:${stub.port}`,
        settings: {
          server: { listen: `${there}:0`, metricsListen: `${there}:0` },
          cluster: { linkListen: `${nets.links[number]}:0`, heartbeatMs },
        },
      };
    },
  });
  const [a, b] = cluster.servers as [ClusterServer, ClusterServer];
  const half = (server: ClusterServer, side: 'user' | 'device', id: string) =>
    connect(t, `ws://${server.serve.address}${server.serve.path(side, id)}`);
  const greeted = async (user: Client, device: Client) => {
    assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
    user.send('hello');
    assert.equal(await device.nextText(), 'hello');
    return { user, device };
  };
  const across = [
    await greeted(await half(a, 'user', 'one'), await half(b, 'device', 'one')),
    await greeted(await half(b, 'user', 'two'), await half(a, 'device', 'two')),
  ];
  const own = await greeted(await half(a, 'user', 'own'), await half(a, 'device', 'own'));
  const waiting = await half(a, 'user', 'waiting');
  await until(async () => (await claimsIn(redis)).length === 4, 'the half waits');
  const cutMs = performance.now();
  nets.cut();
  for (const { user, device } of across) {
    const codes = await Promise.all([user.closed, device.closed]);
    assert.deepEqual(
      codes.map(({ code }) => code),
      [4502, 4502],
    );
  }
  const endedMs = performance.now() - cutMs;
  assert.ok(endedMs < heartbeatMs * 1.25 + 2000, `sessions ended after ${endedMs} ms`);
  // Both are alive for Redis: an id that the other one has cannot be had, and is refused in time.
  const comesMs = performance.now();
  assert.equal((await (await half(b, 'device', 'waiting')).closed).code, 4502);
  const refusedMs = performance.now() - comesMs;
  // Two asks of 2 s each may have begun within the time.
  assert.ok(refusedMs < heartbeatMs * 1.25 + 4000, `refused after ${refusedMs} ms`);
  own.user.send('still here');
  assert.equal(await own.device.nextText(), 'still here');
  await cluster.whole(5000);
  assert.equal(waiting.isClosed, false);
  nets.heal();
  await greeted(waiting, await half(b, 'device', 'waiting'));
  await greeted(await half(b, 'user', 'new'), await half(a, 'device', 'new'));
  assert.deepEqual(
    [...cluster.starts()].filter(([, times]) => times !== 1),
    [],
  );
});
