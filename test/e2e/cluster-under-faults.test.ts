import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import {
  type ClusterOptions,
  type ClusterServer,
  startCluster,
  TcpStub,
  type TestCluster,
} from '../support/cluster.ts';
import { type Meeting, Wave } from '../support/cluster-load.ts';
import { Random } from '../support/random.ts';
import { startRedis, startRedisCluster, startSentinel } from '../support/redis.ts';
import { until } from '../support/relay.ts';

const isWhole = Number(process.env.COUPLET_TEST_CONNECTIONS ?? 0) >= 10_000;
const sessions = isWhole ? 10_000 : 400;
const perWave = 60;
/** Running at once: a session has two descriptors here. */
const maxWaves = 100;
const perSecond = isWhole ? 120 : 60;
const holdMs = 4000;
/** Long for a loopback: a busy machine is no fault. */
const commandMs = 1000;
const heartbeatMs = 2000;
/** How much later than by its deadline something may be seen to happen on a busy machine. */
const slackMs = 4000;

interface Fault {
  /** Breaks what it breaks while halves come, and mends it; resolves when it is mended. */
  run(cluster: TestCluster): Promise<void>;
  /** Servers whose own halves may be lost. */
  readonly hit?: () => readonly ClusterServer[];
  /** Nobody may be turned away by it. */
  readonly isHarmless?: boolean;
}

/** The load while something breaks, and what must hold then. */
async function under(t: TestContext, options: Pick<ClusterOptions, 'redis'>, fault: Fault): Promise<void> {
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  const settings = { relay: { holdMs }, cluster: { heartbeatMs, commandMs } };
  const cluster = await startCluster(t, { ...options, servers: 3, settings });
  let paired = 0;
  let refused = 0;
  const load = new Load(t, cluster, random, async (wave) => {
    await wave.settled(holdMs + slackMs);
    check(wave, fault.hit?.() ?? [], fault.isHarmless === true);
    const met = wave.meetings.filter(({ isPaired }) => isPaired).length;
    paired += met;
    refused += wave.meetings.length - met;
    await wave.end();
  });
  await until(() => load.pairedCount >= 60, 'sessions are running', 30_000);
  await fault.run(cluster);
  const mendedMs = performance.now();
  await cluster.whole(10_000);
  t.diagnostic(`whole again after ${Math.round(performance.now() - mendedMs)} ms`);
  await probe(cluster, random);
  await load.stop();
  t.diagnostic(`${paired} sessions, ${refused} refused`);
  const twice = [...cluster.starts()].filter(([, times]) => times !== 1);
  assert.deepEqual(twice, []);
  assert.equal(await cluster.sum('couplet_cluster_conflicts_total'), 0);
  for (const name of ['couplet_links{direction="out"}', 'couplet_links{direction="in"}', 'couplet_cluster_claims']) {
    await until(async () => (await cluster.sum(name)) === 0, `${name} is 0 on all servers`);
  }
}

/** Sessions that come, wave after wave. They stay until it is stopped, or the machine allows no more. */
class Load {
  readonly #waves: Wave[] = [];
  readonly #done: Promise<void>;
  readonly #finish: (wave: Wave) => Promise<void>;
  #count = 0;
  #isStopped = false;

  constructor(t: TestContext, cluster: TestCluster, random: Random, finish: (wave: Wave) => Promise<void>) {
    t.after(() => {
      this.#isStopped = true;
      for (const wave of this.#waves) wave.destroy();
    });
    this.#finish = finish;
    this.#done = this.#run(cluster, random);
    this.#done.catch(() => {}); // told by `stop`
  }

  get pairedCount(): number {
    return this.#waves.flatMap(({ meetings }) => meetings).filter(({ isPaired }) => isPaired).length;
  }

  /** After `sessions` in all at the earliest. Each wave has been finished then. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#done;
    while (this.#waves.length > 0) await this.#finish(this.#waves.shift()!);
  }

  async #run(cluster: TestCluster, random: Random): Promise<void> {
    while (!this.#isStopped || this.#count < sessions) {
      if (this.#waves.length >= maxWaves) await this.#finish(this.#waves.shift()!);
      const wave = await Wave.start(cluster, { random, sessions: perWave, perSecond });
      this.#waves.push(wave);
      this.#count += perWave;
      await wave.arrived;
    }
  }
}

/** New sessions meet at once, across every two servers. */
async function probe(cluster: TestCluster, random: Random): Promise<void> {
  const wave = await Wave.start(cluster, { random, sessions: 90, perSecond: 90 });
  await wave.settled(10_000);
  wave.checkExact();
  wave.checkPaired(() => true, 'after the fault');
  const ways = new Set(wave.meetings.map(({ halves }) => halves.map(({ server }) => server.number).join()));
  assert.equal(ways.size, cluster.live.length ** 2);
  await wave.end();
}

function check(wave: Wave, hit: readonly ClusterServer[], isHarmless: boolean): void {
  wave.checkExact();
  const isHit = ({ halves }: Meeting) => halves.some(({ server }) => hit.includes(server));
  // [K6] Whoever comes to the same server meets, whatever Redis does, and nothing that runs is touched.
  wave.checkPaired((meeting) => !isHit(meeting) && !meeting.isAcross, 'same-server sessions');
  if (isHarmless) wave.checkPaired((meeting) => !isHit(meeting), 'sessions that the fault does not concern');
  for (const meeting of wave.meetings) {
    for (const half of meeting.halves) {
      if (hit.includes(half.server)) continue;
      const what = meeting.describe();
      if (half.greetings > 0) {
        assert.equal(half.isOver && !isHit(meeting), false, `a running session was ended: ${what}`);
        assert.ok(half.isPaired || isHit(meeting), `greeted, but its mate was not heard: ${what}`);
        continue;
      }
      assert.ok(half.isRefused, `neither paired nor refused: ${what}`);
      const refusals = [4408, 4502, 401, 503];
      assert.ok(refusals.includes(half.closeCode || half.status), `refused by another code: ${what}`);
      assert.ok(half.overMs - half.sentMs < holdMs + slackMs, `refused late: ${what}`);
    }
  }
}

test('[K2] [K7] a server is killed and another one started while halves come', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  let killed: ClusterServer | undefined;
  await under(
    t,
    { redis: redis.url },
    {
      run: async (cluster) => {
        killed = cluster.servers[1]!;
        await killed.kill();
        await cluster.add();
      },
      hit: () => [killed!],
      isHarmless: true,
    },
  );
});

test('[K6] Redis is restarted, empty, while halves come', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  await under(t, { redis: redis.url }, { run: () => redis.restart() });
});

test('[K6] fault 39: Redis hangs while halves come', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  await under(
    t,
    { redis: redis.url },
    {
      run: async (cluster) => {
        redis.pause();
        // The time of the pause is what is tested.
        const pause = new Promise((resolve) => setTimeout(resolve, isWhole ? 30_000 : 5000));
        await until(async () => (await cluster.sum('couplet_cluster_redis_up')) === 0, 'Redis counts as down', 5000);
        await pause;
        redis.resume();
      },
    },
  );
});

test('[K6] everything to and from Redis takes 50 ms longer', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const stub = await TcpStub.start(t, redis.port);
  await under(
    t,
    { redis: `redis://127.0.0.1:${stub.port}` },
    {
      run: async () => {
        stub.delayMs = 50;
      },
      isHarmless: true,
    },
  );
});

test('[K6] fault 39: Sentinel fails over to a replica that does not have the latest claims', async (t) => {
  const redis = await startSentinel(t);
  if (redis === undefined) return;
  const [master, replica] = redis.servers;
  await under(
    t,
    { redis: redis.url },
    {
      run: async (cluster) => {
        replica.pause();
        // Its connection is gone before what is claimed now can be on the way to it.
        await master.cli('CLIENT', 'KILL', 'TYPE', 'replica');
        const before = await cluster.sum('couplet_cluster_rendezvous_total{result="claimed"}');
        const claimed = async () => await cluster.sum('couplet_cluster_rendezvous_total{result="claimed"}');
        await until(async () => (await claimed()) > before + 30, 'more is claimed');
        await master.kill();
        replica.resume();
        const isMaster = async () => (await replica.cli('INFO', 'replication')).includes('role:master');
        await until(isMaster, 'the replica has taken over', 30_000);
      },
    },
  );
});

test('[K6] fault 39: a master of a Redis Cluster is killed', async (t) => {
  const redis = await startRedisCluster(t);
  if (redis === undefined) return;
  await under(
    t,
    { redis: redis.url },
    {
      run: async () => {
        const victim = redis.servers[1]!;
        await victim.kill();
        const views = () =>
          Promise.all(redis.servers.filter((one) => one.isAlive).map((one) => one.cli('CLUSTER', 'INFO')));
        const nodes = () => redis.servers[0]!.cli('CLUSTER', 'NODES');
        await until(
          async () =>
            (await nodes()).split('\n').some((line) => line.includes(`:${victim.port}@`) && line.includes('fail')) &&
            (await views()).every((view) => view.includes('cluster_state:ok')),
          'its replica has taken over',
          30_000,
        );
      },
    },
  );
});
