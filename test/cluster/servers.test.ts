import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { LoginKey } from '../../src/auth/keys.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { type RedisServer, startRedis, startRedisCluster } from '../support/redis.ts';
import { until } from '../support/relay.ts';
import { type Member, makeMember } from './support.ts';

const bootsOf = (member: Member) =>
  member.servers
    .others()
    .map(({ boot }) => boot)
    .sort();
const sees = (member: Member, ...others: Member[]) =>
  until(
    () =>
      bootsOf(member).join() ===
      others
        .map(({ servers }) => servers.self.boot)
        .sort()
        .join(),
    `${others.length} other servers are seen`,
  );

test('[K1] [K7] servers appear, leave at once by stop, and expire when they die', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const [a, b, c] = [makeMember(t, server.url), makeMember(t, server.url), makeMember(t, server.url)];
  for (const { servers } of [a, b, c]) await servers.start();
  assert.equal(a.servers.state, 'joined');
  await Promise.all([sees(a, b, c), sees(b, a, c), sees(c, a, b)]);
  assert.deepEqual(a.servers.get(b.servers.self.boot), b.servers.self);
  assert.equal(a.servers.get('unknown'), undefined);
  const stored = await server.cli('HGETALL', 'test:servers');
  assert.ok(!stored.includes('127.0.0.1'), 'entries are sealed');
  await b.servers.stop();
  await a.servers.refresh();
  assert.deepEqual(a.gone, [b.servers.self.boot], 'gone with the next reading');
  assert.deepEqual(bootsOf(a), [c.servers.self.boot]);
  // As a process that was killed: no more beats.
  c.redis.close();
  await sees(a);
  assert.deepEqual(a.gone, [b.servers.self.boot, c.servers.self.boot]);
  await until(
    async () => (await server.cli('HKEYS', 'test:servers')) === a.servers.self.boot,
    'entries are cleaned out',
  );
  assert.deepEqual(a.problems, []);
});

test('[K1] a refresh finds a server that has just come; two at once are one', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const [a, b] = [makeMember(t, server.url, { heartbeatMs: 60_000 }), makeMember(t, server.url)];
  await a.servers.start();
  await b.servers.start();
  assert.deepEqual(bootsOf(a), []);
  const before = a.redis.counters.ok;
  await Promise.all([a.servers.refresh(), a.servers.refresh()]);
  assert.equal(a.redis.counters.ok, before + 1);
  assert.deepEqual(bootsOf(a), [b.servers.self.boot]);
});

async function survives(t: TestContext, server: RedisServer, outage: () => Promise<void>) {
  const [a, b] = [makeMember(t, server.url), makeMember(t, server.url)];
  await a.servers.start();
  await b.servers.start();
  await Promise.all([sees(a, b), sees(b, a)]);
  await outage();
  await until(() => [a, b].every(({ redis }) => redis.isUp && redis.epoch > 0), 'both are up again');
  // Longer than an entry lives, by the beats themselves.
  for (const { redis } of [a, b]) {
    const { beatMs } = redis;
    await until(() => redis.beatMs > beatMs + 2500, 'some heartbeats later');
  }
  assert.deepEqual([...a.gone, ...b.gone], []);
  await Promise.all([sees(a, b), sees(b, a)]);
}

test('[K6] [K7] a restart of Redis that loses the registry makes nobody gone', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  await survives(t, server, () => server.restart());
});

test('[K6] [K7] Redis paused for longer than entries live makes nobody gone', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  await survives(t, server, async () => {
    server.pause();
    await new Promise((resolve) => setTimeout(resolve, 2000));
    server.resume();
  });
});

test('[K6] a flush is found by the next heartbeat: the epoch rises', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const a = makeMember(t, server.url);
  await a.servers.start();
  assert.equal(a.redis.epoch, 0);
  await server.cli('FLUSHALL');
  await until(() => a.redis.epoch === 1, 'the epoch rises');
  assert.equal(a.redis.isUp, true);
  assert.match(await server.cli('HKEYS', 'test:servers'), new RegExp(a.servers.self.boot));
});

test('[K1] a server that dies while Redis is down is gone after it', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const [a, b] = [makeMember(t, server.url), makeMember(t, server.url)];
  await a.servers.start();
  await b.servers.start();
  await sees(a, b);
  await server.kill();
  b.redis.close();
  await until(() => !a.redis.isUp, 'down');
  assert.deepEqual(bootsOf(a), [b.servers.self.boot], 'what was known holds while Redis is down');
  await server.start();
  await sees(a);
  assert.deepEqual(a.gone, [b.servers.self.boot]);
});

test('[K1] a server with another login key is ignored, counted and told once', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const a = makeMember(t, server.url);
  const stranger = makeMember(t, server.url, { key: LoginKey.generate(), directory: 'postgres' });
  await a.servers.start();
  await stranger.servers.start();
  await until(() => a.servers.foreignEntries === 1 && stranger.servers.foreignEntries === 1, 'both are counted');
  const { beatMs } = a.redis;
  await until(() => a.redis.beatMs > beatMs + 600, 'more heartbeats');
  assert.deepEqual(bootsOf(a), []);
  assert.equal(a.problems.length, 1, String(a.problems));
  assert.match(a.problems[0]!, /login key/);
  await stranger.servers.stop();
  await until(() => a.servers.foreignEntries === 0, 'it is gone');
});

test('[K8] another directory is an error at the start, and joins once the others are gone', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const a = makeMember(t, server.url, { directory: 'sqlite:host-a' });
  const same = makeMember(t, server.url, { directory: 'sqlite:host-a' });
  const other = makeMember(t, server.url, { directory: 'sqlite:host-b' });
  await a.servers.start();
  await same.servers.start();
  await assert.rejects(other.servers.start(), (error) => {
    assert.ok(error instanceof CoupletError);
    assert.equal(error.code, 'CPL_CLUSTER_DIRECTORY');
    assert.match(error.message, /sqlite:host-b.*sqlite:host-a.*must use the same/);
    return !error.message.includes('\n');
  });
  assert.equal(other.servers.state, 'conflict');
  assert.equal(other.redis.isUp, false, 'it can claim nothing');
  assert.equal(await server.cli('HEXISTS', 'test:servers', other.servers.self.boot), '0');
  await a.servers.stop();
  await same.servers.stop();
  await until(() => other.servers.state === 'joined' && other.redis.isUp, 'it joins');
});

test('[K8] a conflict that shows only when Redis comes: told, one of them stays out', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  await server.kill();
  const members = [
    makeMember(t, server.url, { directory: 'none' }),
    makeMember(t, server.url, { directory: 'postgres' }),
  ];
  for (const { servers } of members) await servers.start();
  assert.deepEqual(
    members.map(({ servers }) => servers.state),
    ['joining', 'joining'],
  );
  await server.start();
  const states = () =>
    members
      .map(({ servers }) => servers.state)
      .sort()
      .join();
  await until(() => states() === 'conflict,joined', 'exactly one is in');
  const out = members.find(({ servers }) => servers.state === 'conflict')!;
  assert.ok(out.problems.some((line) => line.includes('must use the same one')));
});

test('[K1] [K7] the registry over a Redis Cluster, also when the server that has it dies', async (t) => {
  const cluster = await startRedisCluster(t);
  if (cluster === undefined) return;
  const [a, b] = [makeMember(t, cluster.url), makeMember(t, cluster.url)];
  await a.servers.start();
  await b.servers.start();
  await Promise.all([sees(a, b), sees(b, a)]);
  await (await cluster.ownerOf('test:servers')).kill();
  await until(() => [a, b].every(({ redis }) => redis.isUp && redis.epoch > 0), 'up on the replica', 30_000);
  await b.servers.stop();
  await until(() => a.gone.length > 0, 'b is gone');
  assert.deepEqual(a.gone, [b.servers.self.boot]);
});
