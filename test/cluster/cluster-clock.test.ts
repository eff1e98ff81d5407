import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { ClusterClock } from '../../src/cluster/cluster-clock.ts';
import { systemClock } from '../../src/core/clock.ts';
import { startRedis } from '../support/redis.ts';
import { until } from '../support/relay.ts';
import { root } from '../support/serve.ts';
import { requireProgram } from '../support/services.ts';
import { openRedis } from './support.ts';

class HandClock {
  wall = 1_000_000;
  monotonic = 500;
  nowMs = () => this.wall;
  monotonicMs = () => this.monotonic;
  pass(ms: number) {
    this.wall += ms;
    this.monotonic += ms;
  }
}

test('[K5] the clock is corrected by the reading with the shortest round trip', () => {
  const base = new HandClock();
  const clock = new ClusterClock(base);
  assert.equal(clock.nowMs(), 1_000_000);
  // The cluster is 300 s ahead; the answer took 100 ms and was on its way back for 90 of them.
  clock.note({ redisMs: 1_300_000 - 90, roundTripMs: 100, receivedMs: 500 });
  assert.equal(clock.nowMs(), 1_300_000 - 40);
  clock.note({ redisMs: 1_300_000 - 1, roundTripMs: 2, receivedMs: 500 });
  assert.equal(clock.nowMs(), 1_300_000);
  clock.note({ redisMs: 1_300_000 - 10, roundTripMs: 80, receivedMs: 500 });
  assert.equal(clock.nowMs(), 1_300_000, 'a worse reading changes nothing');
  assert.equal(clock.offsetSeconds, 300);
  base.pass(5000);
  assert.equal(clock.nowMs(), 1_305_000, 'without readings the correction holds');
  assert.equal(clock.monotonicMs(), 5500);
});

test('[K5] a reading that is looked at late counts for when it came', () => {
  const base = new HandClock();
  const clock = new ClusterClock(base);
  base.pass(700);
  clock.note({ redisMs: 1_300_000, roundTripMs: 0, receivedMs: 500 });
  assert.equal(clock.nowMs(), 1_300_700);
});

test('[K5] a clock that was set: older readings are forgotten, whichever clock it was', () => {
  const base = new HandClock();
  const clock = new ClusterClock(base);
  clock.note({ redisMs: 1_300_000, roundTripMs: 0, receivedMs: 500 });
  base.wall += 300_000;
  clock.note({ redisMs: 1_300_000, roundTripMs: 10, receivedMs: 500 });
  assert.equal(clock.nowMs(), 1_300_005, "this machine's was set");
  clock.note({ redisMs: 900_000, roundTripMs: 30, receivedMs: 500 });
  assert.equal(clock.nowMs(), 900_015, "Redis's was set");
});

/** A clock that is wrong by some milliseconds. */
const skewed = (byMs: number) => ({ ...systemClock, nowMs: () => systemClock.nowMs() + byMs });

test('[K5] fault 44: servers whose clocks differ by 10 minutes agree; while Redis is down the correction holds', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const clocks = await Promise.all(
    [-300_000, 300_000].map(async (byMs) => {
      const base = skewed(byMs);
      const { redis } = openRedis(t, server.url, { heartbeatMs: 500, clock: base });
      const clock = new ClusterClock(base);
      redis.onBeat(async (_redis, sample) => clock.note(sample));
      await redis.start();
      assert.equal(redis.isUp, true);
      return { clock, redis };
    }),
  );
  const errors = () => clocks.map(({ clock }) => Math.abs(clock.nowMs() - systemClock.nowMs()));
  assert.ok(
    errors().every((error) => error < 1000),
    String(errors()),
  );
  assert.deepEqual(
    clocks.map(({ clock }) => Math.round(clock.offsetSeconds)),
    [300, -300],
  );
  await server.kill();
  await until(() => clocks.every(({ redis }) => !redis.isUp), 'down');
  assert.ok(
    errors().every((error) => error < 1000),
    String(errors()),
  );
});

test('[K5] fault 44: a process under faketime, 5 minutes ahead, is corrected', async (t) => {
  const faketime = requireProgram(t, 'faketime');
  if (faketime === undefined) return;
  const server = await startRedis(t);
  if (server === undefined) return;
  const program = `
    const { Redis } = await import('./src/cluster/redis.ts');
    const { ClusterClock } = await import('./src/cluster/cluster-clock.ts');
    const { parseRedisUrl } = await import('./src/config/redis-url.ts');
    const { systemClock } = await import('./src/core/clock.ts');
    const target = parseRedisUrl(${JSON.stringify(server.url)});
    const options = { target, commandMs: 5000, heartbeatMs: 5000, prefix: 'test', onProblem: console.error };
    const redis = new Redis({ ...options, clock: systemClock });
    const clock = new ClusterClock(systemClock);
    redis.onBeat(async (_redis, sample) => clock.note(sample));
    await redis.start();
    console.log(systemClock.nowMs(), clock.nowMs());
    redis.close();`;
  const args = ['-f', '+300s', process.execPath, '--import', 'tsx', '--input-type=module', '-e', program];
  const startedMs = systemClock.nowMs();
  const { stdout } = await promisify(execFile)(faketime, args, { cwd: root, timeout: 30_000 });
  const [own, corrected] = stdout.trim().split(' ').map(Number) as [number, number];
  assert.ok(own >= startedMs + 300_000, 'its own clock is ahead');
  assert.ok(corrected >= startedMs - 1000 && corrected <= systemClock.nowMs() + 1000, `${corrected - startedMs}`);
});
