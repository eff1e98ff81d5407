import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { claimKey } from '../../src/cluster/claim.ts';
import { ValueSealer } from '../../src/cluster/sealed-value.ts';
import { LoginKey } from '../../src/index.ts';
import { type Client, connect } from '../support/client.ts';
import { type ClusterServer, claimsIn, startCluster, TcpStub, type TestCluster } from '../support/cluster.ts';
import { freePort } from '../support/processes.ts';
import { startRedis } from '../support/redis.ts';
import { until } from '../support/relay.ts';

interface Pair {
  readonly user: Client;
  readonly device: Client;
}

const half = (t: TestContext, server: ClusterServer, side: 'user' | 'device', id: string) =>
  connect(t, server.serve.url(side, id));

/** Both greeted, and each hears the other. */
async function talk({ user, device }: Pair, text = 'still here'): Promise<void> {
  user.send(`${text}, user`);
  device.send(`${text}, device`);
  assert.equal(await device.nextText(), `${text}, user`);
  assert.equal(await user.nextText(), `${text}, device`);
}

async function greeted(user: Client, device: Client): Promise<Pair> {
  assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
  await talk({ user, device }, 'hello');
  return { user, device };
}

/** The user half comes first, so that its server has the id. */
async function pair(t: TestContext, of: ClusterServer, and: ClusterServer, id: string): Promise<Pair> {
  const claims = await of.metric('couplet_cluster_claims');
  const user = await half(t, of, 'user', id);
  await until(async () => (await of.metric('couplet_cluster_claims')) > claims, 'the user half waits');
  return await greeted(user, await half(t, and, 'device', id));
}

const redisIs = (cluster: TestCluster, up: 0 | 1) =>
  until(async () => {
    const all = await Promise.all(cluster.live.map((server) => server.metric('couplet_cluster_redis_up')));
    return all.every((value) => value === up);
  }, `couplet_cluster_redis_up is ${up} on all servers`);

test('[K6] fault 39: servers start without Redis, pair their own halves, and become a cluster when it comes up', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  await redis.kill();
  const settings = { relay: { holdMs: 2000 } };
  const cluster = await startCluster(t, { redis: redis.url, servers: 2, settings }, false);
  const [a, b] = cluster.servers as [ClusterServer, ClusterServer];
  await redisIs(cluster, 0);
  const own = await pair(t, a, a, 'own');
  const apart = await Promise.all([half(t, a, 'user', 'apart'), half(t, b, 'device', 'apart')]);
  const codes = await Promise.all(apart.map(async ({ closed }) => (await closed).code));
  assert.deepEqual(codes, [4408, 4408]);
  await redis.start();
  await cluster.whole(10_000);
  await talk(own);
  await greeted(await half(t, a, 'user', 'apart'), await half(t, b, 'device', 'apart'));
  await greeted(await half(t, b, 'user', 'again'), await half(t, a, 'device', 'again'));
});

test('[K6] fault 39: what runs goes on without Redis, and who waits on two servers meets when it is back', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const cluster = await startCluster(t, { redis: redis.url, servers: 2 });
  const [a, b] = cluster.servers as [ClusterServer, ClusterServer];
  const running = [await pair(t, a, a, 'own'), await pair(t, a, b, 'across'), await pair(t, b, a, 'back')];
  const waiting = await half(t, a, 'user', 'claimed before');
  await until(async () => (await claimsIn(redis)).length === 4, 'it has its claim');
  await redis.kill();
  await redisIs(cluster, 0);
  // Longer than a heartbeat: servers watch each other without Redis.
  const beats = await a.metric('couplet_cluster_peers_lost_total');
  for (let round = 0; round < 5; round++) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    for (const one of running) await talk(one);
  }
  assert.equal(await a.metric('couplet_cluster_peers_lost_total'), beats);
  running.push(await pair(t, b, b, 'new'));
  const [user, device] = [await half(t, a, 'user', 'apart'), await half(t, b, 'device', 'apart')];
  const late = await half(t, b, 'device', 'claimed before');
  await redis.start();
  await cluster.whole(10_000);
  running.push(await greeted(user, device), await greeted(waiting, late));
  for (const one of running) await talk(one);
  assert.equal(await cluster.sum('couplet_cluster_conflicts_total'), 0);
  // Every session's claim is there again, as it was lost with the old Redis.
  await until(async () => (await claimsIn(redis)).length === 6, 'all claims stand');
});

test('[K6] fault 39: Redis that hangs delays nobody beyond its deadline', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const cluster = await startCluster(t, { redis: redis.url, servers: 2 });
  const [a, b] = cluster.servers as [ClusterServer, ClusterServer];
  const across = await pair(t, a, b, 'across');
  redis.pause();
  // All of this happens while it hangs.
  const [user, device] = [await half(t, b, 'user', 'x'), await half(t, b, 'device', 'x')];
  const own = await greeted(user, device);
  await redisIs(cluster, 0);
  assert.ok((await cluster.sum('couplet_cluster_redis_commands_total{result="timeout"}')) > 0);
  const waiting = [await half(t, a, 'user', 'y'), await half(t, b, 'device', 'y')] as const;
  await talk(across);
  await talk(own);
  redis.resume();
  await cluster.whole(10_000);
  await greeted(...waiting);
  await talk(across);
  await talk(own);
});

for (const how of ['killed', 'stopped'] as const) {
  test(`[K7] fault 41: a server is ${how}: its peers' sessions end with 4502, its claims are taken over`, async (t) => {
    const redis = await startRedis(t);
    if (redis === undefined) return;
    const cluster = await startCluster(t, { redis: redis.url, servers: 3 });
    const [a, b, c] = cluster.servers as [ClusterServer, ClusterServer, ClusterServer];
    const theirs = await pair(t, b, a, 'theirs');
    const ours = await pair(t, a, b, 'ours');
    const untouched = await pair(t, a, c, 'untouched');
    const lonely = await pair(t, b, b, 'lonely');
    const waiting = await half(t, b, 'user', 'waiting');
    await until(async () => (await claimsIn(redis)).length === 5, 'all claims stand');
    if (how === 'killed') await b.kill();
    else b.pause();
    // While it stands still.
    assert.equal((await theirs.device.closed).code, 4502);
    assert.equal((await ours.user.closed).code, 4502);
    await until(() => a.events().some(({ code }) => code === 'CPL-1002I'), 'the end is on record');
    const ends = a.events().filter(({ code }) => code === 'CPL-1002I');
    assert.deepEqual(
      ends.map(({ msgArgs, outcome }) => [(msgArgs as string[])[0], outcome]),
      [['ours', 'peer-error']],
    );
    const next = await greeted(await half(t, a, 'user', 'theirs'), await half(t, c, 'device', 'theirs'));
    const instead = await greeted(await half(t, a, 'user', 'lonely'), await half(t, c, 'device', 'lonely'));
    const mate = await half(t, c, 'device', 'waiting');
    await cluster.whole(10_000);
    await talk(untouched);
    if (how === 'killed') {
      await b.start();
      await cluster.whole(10_000);
      await greeted(await half(t, b, 'user', 'waiting'), mate);
    } else {
      b.resume();
      await cluster.whole(10_000);
      assert.equal((await theirs.user.closed).code, 4502);
      assert.equal((await ours.device.closed).code, 4502);
      // Of two pairs of one id the one ends whose server was taken for dead, as soon as it finds out.
      assert.deepEqual([(await lonely.user.closed).code, (await lonely.device.closed).code], [4502, 4502]);
      // Whoever waited there all the time meets whoever came elsewhere meanwhile.
      await greeted(waiting, mate);
    }
    await greeted(await half(t, a, 'user', 'new'), await half(t, b, 'device', 'new'));
    const third = await half(t, b, 'device', 'theirs');
    assert.equal((await third.closed).code, 4409);
    for (const one of [next, instead, untouched]) await talk(one);
    const starts = cluster.starts();
    for (const id of ['theirs', 'lonely']) assert.equal(starts.get(id), 2, id);
    for (const id of ['ours', 'untouched', 'waiting', 'new']) assert.equal(starts.get(id), 1, id);
    const conflicts = await cluster.sum('couplet_cluster_conflicts_total');
    assert.equal(conflicts > 0, how === 'stopped', `${conflicts} conflicts`);
  });
}

test('[K2] [K6] fault 42: the claim of an earlier boot is ignored', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const cluster = await startCluster(t, { redis: redis.url, servers: 3 });
  const [a, b, c] = cluster.servers as [ClusterServer, ClusterServer, ClusterServer];
  const ids = ['same server', 'both ways', 'elsewhere'];
  for (const id of ids) await half(t, a, 'user', id);
  await until(async () => (await claimsIn(redis)).length === 3, 'all claims stand');
  await a.kill();
  await a.start();
  assert.equal((await claimsIn(redis)).length, 3);
  await greeted(await half(t, a, 'user', ids[0]!), await half(t, a, 'device', ids[0]!));
  await greeted(await half(t, b, 'user', ids[1]!), await half(t, a, 'device', ids[1]!));
  await greeted(await half(t, b, 'user', ids[2]!), await half(t, c, 'device', ids[2]!));
  assert.deepEqual([...cluster.starts()].sort(), ids.map((id) => [id, 1]).sort());
});

test('[K2] a forged claim in Redis does no harm', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const cluster = await startCluster(t, { redis: redis.url, servers: 2 });
  const [a, b] = cluster.servers as [ClusterServer, ClusterServer];
  const keyOf = (id: string) => `couplet:${claimKey({ domain: '', id })}`;
  const other = await pair(t, a, b, 'other');
  const copied = await redis.cli('GET', keyOf('other'));
  const foreign = new ValueSealer(LoginKey.parse('ab'.repeat(80)).derive('cluster-values'));
  const text = JSON.stringify({ boot: 'A'.repeat(22), fence: 1 });
  const forgeries: Record<string, string> = {
    garbage: '{"boot":"x","fence":1} \uffff',
    'another key': foreign.seal(claimKey({ domain: '', id: 'another key' }), text),
    copied,
    'cut off': copied.slice(0, 20),
    long: 'A'.repeat(1_000_000),
  };
  const forge = async ([id, value]: [string, string]) => {
    // There before anyone comes.
    if (value.length < 100_000) await redis.cli('SET', keyOf(id), value);
    else await redis.cli('EVAL', "redis.call('SET', KEYS[1], string.rep('A', 1000000))", '1', keyOf(id));
    await greeted(await half(t, a, 'user', id), await half(t, b, 'device', id));
    // In place of the claim of one who waits.
    const user = await half(t, a, 'user', `${id} 2`);
    await until(async () => (await redis.cli('EXISTS', keyOf(`${id} 2`))) === '1', 'it is claimed');
    await redis.cli('SET', keyOf(`${id} 2`), value.slice(0, 1000));
    await greeted(user, await half(t, b, 'device', `${id} 2`));
  };
  await Promise.all(Object.entries(forgeries).map(forge));
  await talk(other);
  const twice = [...cluster.starts()].filter(([, times]) => times !== 1);
  assert.deepEqual(twice, []);
  assert.equal(await cluster.sum('couplet_cluster_redis_up'), 2);
});

for (const forwarder of ['native', 'portable']) {
  test(`[K3] a link that takes long to open costs nobody a session (${forwarder})`, async (t) => {
    const redis = await startRedis(t);
    if (redis === undefined) return;
    const linkPort = await freePort();
    const stub = await TcpStub.start(t, linkPort);
    const cluster = await startCluster(t, {
      redis: redis.url,
      servers: 2,
      settings: { cluster: { heartbeatMs: 10_000 }, relay: { forwarder } },
      eachServer: (number) => {
        if (number === 0) return {};
        const advertise = `ws://127.0.0.1:${stub.port}`;
        return { settings: { cluster: { heartbeatMs: 10_000, linkListen: `127.0.0.1:${linkPort}`, advertise } } };
      },
    });
    const [a, b] = cluster.servers as [ClusterServer, ClusterServer];
    stub.only = 'GET /link';
    // Longer than connecting may take, both ways together.
    stub.delayMs = 1500;
    await pair(t, b, a, 'slow');
    assert.equal(cluster.starts().get('slow'), 1);
  });
}
