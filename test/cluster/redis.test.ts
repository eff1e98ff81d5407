import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { inspect, promisify } from 'node:util';
import { masterOf } from '../../src/cluster/redis-sentinel.ts';
import { RedisStore } from '../../src/cluster/redis-store.ts';
import { parseRedisUrl } from '../../src/config/redis-url.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { startRedis, startRedisCluster, startSentinel } from '../support/redis.ts';
import { makeCertificate, temporaryFolder, until } from '../support/relay.ts';
import { root } from '../support/serve.ts';
import { requireProgram } from '../support/services.ts';
import { openRedis, upRedis } from './support.ts';

const isRedisError = (error: unknown) => error instanceof CoupletError && error.code === 'CPL_REDIS';

test('[K6] a paused Redis: commands end by their deadline, then are refused at once; it comes back by itself', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const { redis, problems } = await upRedis(t, server.url, { commandMs: 200, heartbeatMs: 60_000 });
  const store = new RedisStore(redis, 'test');
  const changes: string[] = [];
  redis.onChange(() => changes.push(`${redis.isUp ? 'up' : 'down'} ${redis.epoch}`));
  await store.claim('a', 'mine', 60_000);
  server.pause();
  const started = performance.now();
  await assert.rejects(store.get('a'), isRedisError);
  assert.ok(performance.now() - started >= 190, 'not before its deadline');
  assert.deepEqual(changes, ['down 0']);
  assert.equal(redis.counters.timeout, 1);
  // Refused in this very turn: no deadline is waited for.
  let refused = 0;
  for (let i = 0; i < 100; i++) void store.get('a').catch(() => refused++);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(refused, 100);
  assert.equal(redis.counters.refused, 100);
  server.resume();
  await until(() => redis.isUp, 'Redis is up again');
  assert.deepEqual(changes, ['down 0', 'up 1'], 'the connection is a new one, so what was written may be lost');
  assert.equal(await store.get('a'), 'mine');
  assert.ok(problems.length >= 1);
  assert.ok(problems.every((line) => line.startsWith(`Redis ${server.url} is down: `)));
});

test('[K6] no more than 10,000 commands are under way; one more is refused at once', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const { redis } = await upRedis(t, server.url, { commandMs: 5000, heartbeatMs: 60_000 });
  server.pause();
  const outcomes = { answered: 0, refused: 0 };
  const all = Array.from({ length: 10_050 }, () =>
    redis.command('k', ['GET', 'k']).then(
      () => outcomes.answered++,
      () => outcomes.refused++,
    ),
  );
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(outcomes, { answered: 0, refused: 50 });
  server.resume();
  await Promise.all(all);
  assert.deepEqual(outcomes, { answered: 10_000, refused: 50 });
  assert.equal(await redis.command('k', ['GET', 'k']), null, 'and commands are taken again');
});

test('[K6] an idle server finds a paused Redis by its heartbeat', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const { redis } = await upRedis(t, server.url, { commandMs: 100, heartbeatMs: 500 });
  const beatMs = redis.beatMs;
  await until(() => redis.beatMs > beatMs, 'a heartbeat');
  assert.equal(redis.epoch, 0, 'an even beat raises nothing');
  server.pause();
  await until(() => !redis.isUp, 'down without a command');
  await until(() => redis.problem.includes('longer') || redis.problem.includes('Timeout'), 'attempts that hang');
  await new Promise((resolve) => setTimeout(resolve, 1000));
  server.resume();
  await until(() => redis.isUp && redis.epoch === 1, 'up again');
  // One of ours and that of redis-cli: what was tried meanwhile is closed.
  const open = async () => (await server.cli('CLIENT', 'LIST')).split('\n').length;
  await until(async () => (await open()) === 2, 'no connection is left over');
});

test('[K6] Redis down at the start: start resolves, and it is up once Redis is there', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  await server.kill();
  const { redis, problems } = openRedis(t, server.url);
  await redis.start();
  assert.equal(redis.isUp, false);
  await assert.rejects(redis.command('k', ['GET', 'k']), isRedisError);
  await server.start();
  await until(() => redis.isUp, 'up');
  assert.equal(redis.epoch, 0, 'nothing was written before');
  assert.equal(problems.length, 1, String(problems));
});

test('[K6] a restart that loses the keys raises the epoch', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const { redis } = await upRedis(t, server.url);
  const store = new RedisStore(redis, 'test');
  await store.take('a', 'mine', 60_000);
  await server.restart();
  await until(() => redis.isUp && redis.epoch === 1, 'up with a new epoch');
  assert.equal(await store.get('a'), undefined);
  assert.equal(await store.take('a', 'mine', 60_000), undefined, 'its script is loaded anew');
});

test('[K6] a server that turned into a replica is left', async (t) => {
  const [first, second] = [await startRedis(t), await startRedis(t)];
  if (first === undefined || second === undefined) return;
  const { redis } = await upRedis(t, first.url, { heartbeatMs: 60_000 });
  const store = new RedisStore(redis, 'test');
  await first.cli('REPLICAOF', '127.0.0.1', String(second.port));
  await assert.rejects(store.claim('a', 'x', 1000), /READONLY|closed|down/);
  assert.equal(redis.isUp, false);
  await first.cli('REPLICAOF', 'NO', 'ONE');
  await until(
    async () =>
      redis.isUp &&
      (await store.claim('a', 'x', 60_000).then(
        () => true,
        () => false,
      )),
    'up again',
  );
  assert.ok(redis.epoch >= 1);
});

test('[K1] [K6] Sentinel: the master is killed, its replica serves, and the epoch has risen', async (t) => {
  const sentinels = await startSentinel(t);
  if (sentinels === undefined) return;
  const [master, replica] = sentinels.servers;
  const { redis } = await upRedis(t, sentinels.url, { commandMs: 300 });
  const store = new RedisStore(redis, 'test');
  await store.claim('a', 'x', 60_000);
  await master.kill();
  await until(() => !redis.isUp, 'down');
  await until(() => redis.isUp, 'up on the replica', 30_000);
  assert.ok(redis.epoch >= 1);
  await store.exchange('b', 'y', 60_000);
  assert.equal(await replica.cli('GET', 'test:b'), 'y');
});

test('[K1] [K6] Sentinel: a switch that leaves the old master running is followed, also by an idle server', async (t) => {
  const sentinels = await startSentinel(t);
  if (sentinels === undefined) return;
  const replica = sentinels.servers[1];
  const { redis } = await upRedis(t, sentinels.url, { heartbeatMs: 1000 });
  const store = new RedisStore(redis, 'test');
  // This one misses the switch.
  const cutOff = sentinels.sentinels[2]!;
  cutOff.pause();
  await sentinels.sentinels[0]!.cli('SENTINEL', 'FAILOVER', 'main');
  await until(() => redis.isUp && redis.epoch >= 1, 'up on the replica', 30_000);
  const isThere = async () => {
    await store.exchange('b', 'y', 60_000).catch(() => undefined);
    return (await replica.cli('GET', 'test:b')) === 'y' && (await replica.cli('ROLE')).startsWith('master');
  };
  await until(isThere, 'commands go to the new master', 30_000);
  cutOff.resume();
  const target = parseRedisUrl(sentinels.url)!;
  for (let i = 0; i < 20; i++) {
    assert.deepEqual(await masterOf({ target, withinMs: 2000 }), { host: '127.0.0.1', port: replica.port });
  }
});

test('[K1] [K6] Redis Cluster: a master is killed, its replica serves; a moved slot is followed and raises the epoch', async (t) => {
  const cluster = await startRedisCluster(t);
  if (cluster === undefined) return;
  const { redis } = await upRedis(t, cluster.url, { commandMs: 300, heartbeatMs: 1000 });
  const store = new RedisStore(redis, 'test');
  await t.test('a slot moves', async () => {
    await store.claim('a', 'x', 600_000);
    const owner = await cluster.ownerOf('test:a');
    const other = cluster.servers.slice(0, 3).find((server) => server !== owner)!;
    const slot = await owner.cli('CLUSTER', 'KEYSLOT', 'test:a');
    const ids = { from: await owner.cli('CLUSTER', 'MYID'), to: await other.cli('CLUSTER', 'MYID') };
    await other.cli('CLUSTER', 'SETSLOT', slot, 'IMPORTING', ids.from);
    await owner.cli('CLUSTER', 'SETSLOT', slot, 'MIGRATING', ids.to);
    await owner.cli('MIGRATE', '127.0.0.1', String(other.port), 'test:a', '0', '5000');
    assert.equal(await store.get('a'), 'x', 'half moved: ASK');
    assert.equal(redis.epoch, 0);
    for (const server of [other, owner]) await server.cli('CLUSTER', 'SETSLOT', slot, 'NODE', ids.to);
    assert.equal(await store.get('a'), 'x', 'moved: MOVED');
    await until(() => redis.epoch >= 1, 'the epoch rises');
    assert.equal(redis.isUp, true);
  });
  await t.test('a master dies', async () => {
    const before = redis.epoch;
    const owner = await cluster.ownerOf('test:b');
    await owner.kill();
    await until(() => !redis.isUp, 'down');
    await until(() => redis.isUp, 'up on the replica', 30_000);
    assert.ok(redis.epoch > before);
    assert.equal(await store.exchange('b', 'y', 60_000), undefined);
    assert.notEqual((await cluster.ownerOf('test:b')).port, owner.port);
  });
});

test('[K1] an ACL user with a password; a wrong one is told without it', async (t) => {
  const user = { name: 'relay', password: 'p:a%s', rules: '~test:* +@all' };
  const server = await startRedis(t, { user });
  if (server === undefined) return;
  const url = `redis://relay:${encodeURIComponent(user.password)}@${server.address}/3`;
  const { redis } = await upRedis(t, url);
  const store = new RedisStore(redis, 'test');
  await store.claim('a', 'x', 60_000);
  assert.equal(await server.cli('-n', '3', 'GET', 'test:a'), 'x', 'in the database of the URL');
  // What this user may not touch is an error and no reason to leave the server.
  await assert.rejects(redis.command('other', ['GET', 'other']), isRedisError);
  assert.equal(redis.isUp, true);
  assert.equal(redis.counters.error, 1);
  const wrong = openRedis(t, `redis://relay:secret-word@${server.address}`);
  await wrong.redis.start();
  assert.equal(wrong.redis.isUp, false);
  assert.match(wrong.problems[0]!, /WRONGPASS/);
  assert.ok(!wrong.problems.join().includes('secret-word'));
});

test('[K1] requirepass, and a password that is missing', async (t) => {
  const server = await startRedis(t, { password: 'pass' });
  if (server === undefined) return;
  await upRedis(t, server.url);
  const without = openRedis(t, `redis://${server.address}`);
  await without.redis.start();
  assert.match(without.problems[0]!, /NOAUTH/);
});

test('[K1] a Redis that repeats what it does not know: no password is told', async (t) => {
  const server = await startRedis(t, { lines: ['rename-command AUTH ""'] });
  if (server === undefined) return;
  const { redis, problems } = openRedis(t, `redis://:hunter2secret@${server.address}`);
  await redis.start();
  assert.match(problems[0]!, /unknown command 'AUTH'$/);
  const refused = await redis.command('x', ['GET', 'x']).catch((error: Error) => inspect(error, { depth: 9 }));
  assert.doesNotMatch([...problems, redis.problem, String(refused)].join(), /hunter2/);
});

test('[K1] rediss: a certificate of a trusted authority is taken, another is refused', async (t) => {
  if (requireProgram(t, 'openssl') === undefined) return;
  const tls = makeCertificate(temporaryFolder(t));
  const server = await startRedis(t, { tls });
  if (server === undefined) return;
  const refused = openRedis(t, server.url);
  await refused.redis.start();
  assert.match(refused.redis.problem, /self-signed certificate/);
  // Node.js reads the authorities that it is to trust when it starts.
  const program = `
    const { Redis } = await import('./src/cluster/redis.ts');
    const { parseRedisUrl } = await import('./src/config/redis-url.ts');
    const { systemClock: clock } = await import('./src/core/clock.ts');
    const target = parseRedisUrl(${JSON.stringify(server.url)});
    const redis = new Redis({ target, commandMs: 2000, heartbeatMs: 5000, prefix: 'test', clock, onProblem: console.error });
    await redis.start();
    console.log(redis.isUp, await redis.command('a', ['SET', 'a', 'x']));
    redis.close();`;
  const args = ['--import', 'tsx', '--input-type=module', '-e', program];
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: tls.certFile };
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root, env, timeout: 30_000 });
  assert.equal(stdout.trim(), 'true OK');
});

test('[K6] after close everything is refused, and what is under way ends', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const { redis } = await upRedis(t, server.url, { commandMs: 10_000, heartbeatMs: 60_000 });
  server.pause();
  const underWay = assert.rejects(redis.command('a', ['GET', 'a']), isRedisError);
  redis.close();
  await underWay;
  await assert.rejects(redis.command('a', ['GET', 'a']), isRedisError);
});

/** Answers every request as a sentinel would that knows this master. */
async function sentinelStub(t: TestContext, fields: readonly string[]): Promise<{ host: string; port: number }> {
  const reply = `*${fields.length}\r\n${fields.map((text) => `$${text.length}\r\n${text}\r\n`).join('')}`;
  const server = createServer((socket) => {
    socket.on('error', () => undefined).on('data', () => socket.write(reply));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port };
}

test('[K6] of sentinels that disagree the one with the newest configuration is believed', async (t) => {
  const view = (port: string, epoch: string) =>
    sentinelStub(t, ['ip', '10.0.0.1', 'port', port, 'config-epoch', epoch]);
  const [older, newer, oldest] = [await view('1111', '9'), await view('2222', '10'), await view('3333', '0')];
  const target = { ...parseRedisUrl('redis+sentinel://h/main')!, nodes: [older, newer, oldest] };
  assert.deepEqual(await masterOf({ target, withinMs: 2000 }), { host: '10.0.0.1', port: 2222 });
});
