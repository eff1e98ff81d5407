import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { claimsIn, startCluster, type TestCluster } from '../support/cluster.ts';
import { type Meeting, quantile, Wave } from '../support/cluster-load.ts';
import { Random } from '../support/random.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';
import { until } from '../support/relay.ts';

/** Sessions in all; `npm run torture` runs ten thousand over each number of servers. */
const total = Number(process.env.COUPLET_TEST_CONNECTIONS ?? 1500);
const isWhole = total >= 10_000;
const perWave = 500;
const perSecond = 250;
/** No fault is tested here, and a machine that is busy with other things is none. */
const settings = { cluster: { heartbeatMs: 10_000, commandMs: 5000 } };
const serverCounts = isWhole ? [2, 3, 4] : [3];

function seeded(t: TestContext): Random {
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  return random;
}

/** Nothing is left of any session, on any server and in Redis. */
async function checkNothingLeft(cluster: TestCluster, redis: RedisServer): Promise<void> {
  await until(async () => (await claimsIn(redis)).length === 0, 'no claim is left in Redis');
  for (const name of [
    'couplet_links{direction="out"}',
    'couplet_links{direction="in"}',
    'couplet_cluster_claims',
    'couplet_halves{state="waiting"}',
    'couplet_halves{state="paired"}',
    'couplet_link_buffered_bytes',
  ]) {
    await until(async () => (await cluster.sum(name)) === 0, `${name} is 0 on all servers`);
  }
}

function tell(t: TestContext, what: string, meetings: readonly Meeting[]): void {
  const times = meetings.map(({ pairingMs }) => pairingMs);
  const [median, p99] = [quantile(times, 0.5).toFixed(1), quantile(times, 0.99).toFixed(1)];
  t.diagnostic(`${what}: ${times.length} pairs, both greeted after ${median} ms (median), ${p99} ms (p99)`);
}

for (const count of serverCounts) {
  test(`[K2] ${count} servers, ${total} sessions whose halves come to random servers at once: a pair each, none double, none lost`, async (t) => {
    const redis = await startRedis(t);
    if (redis === undefined) return;
    const random = seeded(t);
    const cluster = await startCluster(t, { redis: redis.url, servers: count, settings });
    const all: Meeting[] = [];
    const before = performance.now();
    while (all.length < total) {
      const sessions = Math.min(perWave, total - all.length);
      const wave = await Wave.start(cluster, { random, sessions, perSecond });
      await wave.settled(20_000);
      wave.checkExact();
      wave.checkPaired(() => true, 'nothing is wrong');
      await wave.end();
      all.push(...wave.meetings);
    }
    t.diagnostic(`${((performance.now() - before) / 1000).toFixed(1)} s`);
    tell(
      t,
      'on one server',
      all.filter(({ isAcross }) => !isAcross),
    );
    tell(
      t,
      'across a link',
      all.filter(({ isAcross }) => isAcross),
    );
    await checkNothingLeft(cluster, redis);
    const starts = cluster.starts();
    assert.deepEqual(
      [...starts].filter(([, times]) => times !== 1),
      [],
    );
    assert.deepEqual([...starts.keys()].sort(), all.map(({ id }) => id).sort());
    assert.equal(await cluster.sum('couplet_cluster_conflicts_total'), 0);
  });
}

test('[K2] fault 40: four halves of each id come to four servers at once: one pair of each, the others are refused', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const random = seeded(t);
  const cluster = await startCluster(t, { redis: redis.url, servers: 4, settings });
  const wave = await Wave.start(cluster, { random, sessions: 300, perSecond: 120, halves: 4 });
  await wave.settled(20_000);
  wave.checkExact();
  wave.checkPaired(() => true, 'nothing is wrong');
  const others = wave.halves.filter(({ greetings }) => greetings === 0);
  assert.equal(others.length, 600);
  // The mate of one's own kind alone is turned away; whoever comes to a pair is the third.
  const codes = new Set(others.map(({ closeCode }) => closeCode));
  assert.deepEqual(
    [...codes].filter((code) => code !== 4409 && code !== 4403),
    [],
  );
  await wave.end();
  await checkNothingLeft(cluster, redis);
  const starts = cluster.starts();
  assert.deepEqual(
    [...starts].filter(([, times]) => times !== 1),
    [],
  );
  assert.equal(starts.size, 300);
});
