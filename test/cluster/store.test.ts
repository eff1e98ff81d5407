import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { slotOf } from '../../src/cluster/redis-cluster.ts';
import { RedisStore } from '../../src/cluster/redis-store.ts';
import { startRedis, startRedisCluster, startSentinel } from '../support/redis.ts';
import { until } from '../support/relay.ts';
import { upRedis } from './support.ts';

/** Every operation of the store, over keys that lie on all servers of a Redis Cluster. */
async function everyOperation(t: TestContext, url: string): Promise<void> {
  const { redis } = await upRedis(t, url);
  const store = new RedisStore(redis, 'test');
  for (let i = 0; i < 20; i++) {
    const key = `claim:${i}`;
    assert.equal(await store.get(key), undefined);
    assert.equal(await store.claim(key, 'a', 60_000), undefined);
    assert.equal(await store.claim(key, 'b', 60_000), 'a');
    assert.equal(await store.take(key, 'b', 60_000), 'a');
    assert.equal(await store.take(key, 'b', 60_000, 'c'), 'a', 'another value than the one to replace');
    assert.equal(await store.take(key, 'a', 60_000), undefined, 'its own');
    assert.equal(await store.take(key, 'b', 60_000, 'a'), undefined);
    assert.equal(await store.get(key), 'b');
    await store.release(key, 'a');
    assert.equal(await store.get(key), 'b', 'released by another value');
    assert.equal(await store.exchange(key, 'c', 60_000), 'b');
    await store.release(key, 'c');
    assert.equal(await store.take(key, 'd', 60_000), undefined, 'nothing stands');
    assert.equal(await store.exchange(`agent:${i}`, 'x', 60_000), undefined);
    assert.equal(await store.once(`cookie ${i}`, 60_000), true);
    assert.equal(await store.once(`cookie ${i}`, 60_000), false);
  }
  const names = Array.from({ length: 20 }, (_, i) => `claim:${i}`);
  assert.deepEqual(await store.getMany([...names, 'claim:none']), [...names.map(() => 'd'), undefined]);
  await store.claim('short', 'a', 50);
  await store.exchange('short2', 'a', 50);
  assert.equal(await store.once('short3', 50), true);
  await store.take('short4', 'a', 50);
  const gone = async () =>
    (await store.getMany(['short', 'short2', 'once:short3', 'short4'])).every((v) => v === undefined);
  await until(gone, 'what has a lifetime expires');
  assert.equal(redis.counters.timeout + redis.counters.error + redis.counters.refused, 0);
}

/** 1000 claims of each of 20 ids at once, by several clients: one winner each. */
async function race(t: TestContext, url: string): Promise<void> {
  const clients = await Promise.all(
    [1, 2, 3, 4].map(() => upRedis(t, url, { commandMs: 10_000, heartbeatMs: 60_000 })),
  );
  const stores = clients.map(({ redis }) => new RedisStore(redis, 'test'));
  const winners = new Map<string, string[]>();
  const told: string[] = [];
  await Promise.all(
    Array.from({ length: 1000 }, async (_, n) => {
      const [key, value] = [`race:${n % 20}`, `value ${n}`];
      const stands = await stores[n % 4]!.claim(key, value, 60_000);
      if (stands === undefined) winners.set(key, [...(winners.get(key) ?? []), value]);
      else told.push(`${key} ${stands}`);
    }),
  );
  assert.equal(winners.size, 20);
  for (const values of winners.values()) assert.equal(values.length, 1);
  assert.equal(told.length, 980);
  for (const line of told) {
    const [key, ...value] = line.split(' ');
    assert.deepEqual(winners.get(key!), [value.join(' ')], 'the losers are told of the winner');
  }
}

test('[K1] [K2] [K5] store: a single Redis server', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  await t.test('every operation', (s) => everyOperation(s, redis.url));
  await t.test('a race has one winner', (s) => race(s, redis.url));
});

test('[K1] [K2] [K5] store: Redis behind Sentinel', async (t) => {
  const sentinels = await startSentinel(t);
  if (sentinels === undefined) return;
  await t.test('every operation', (s) => everyOperation(s, sentinels.url));
  await t.test('a race has one winner', (s) => race(s, sentinels.url));
});

test('[K1] [K2] [K5] store: Redis Cluster', async (t) => {
  const cluster = await startRedisCluster(t);
  if (cluster === undefined) return;
  await t.test('every operation', (s) => everyOperation(s, cluster.url));
  await t.test('a race has one winner', (s) => race(s, cluster.url));
  await t.test('slots are those of Redis', async () => {
    for (const key of ['', 'a', 'couplet:events', '123456789', 'couplet:claim:Zm9v']) {
      assert.equal(slotOf(key), Number(await cluster.servers[0]!.cli('CLUSTER', 'KEYSLOT', key)));
    }
  });
});
