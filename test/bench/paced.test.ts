import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { test } from 'node:test';
import type { WebSocket } from 'ws';
import { buildTools } from '../../bench/build.ts';
import { mergeLatencies } from '../../bench/latency.ts';
import { floorPeer } from '../../bench/peers/floor.ts';
import { faults, noErrors, onNth, runProgram, startTampering, type Tamper } from './load-programs.ts';

const tools = buildTools();
const limits = { timeout: 30_000 };

async function runTampered(
  tamper: Tamper,
  options: Record<string, string | number>,
  started?: (child: ChildProcess) => void,
) {
  const relay = await startTampering(tamper);
  try {
    return await runProgram(tools.paced, relay, { warmup: 0, ...options }, started);
  } finally {
    relay.close();
  }
}

test('as many messages as the rate asks for go through the floor, and each has a latency', limits, async () => {
  const relay = await floorPeer(tools.floor).start(undefined);
  try {
    const options = { pairs: 5, rate: 2000, warmup: 0.1, duration: 0.4, pid: relay.pid };
    const beganMs = performance.now();
    const { status, output } = await runProgram(tools.paced, relay, options);
    const tookMs = performance.now() - beganMs;
    assert.deepEqual(output.errors, noErrors);
    assert.equal(status, 0);
    assert.equal(output.messages, 800);
    assert.ok(tookMs >= 500 * (1 - 1 / 1000), `the last message left before it was due, ${tookMs} ms after the start`);
    assert.equal(output.waived, 0);
    const { count, micros } = mergeLatencies([output.latencyNanos]);
    assert.equal(count, 800);
    assert.ok(output.latencyNanos.every(([value], i, all) => value > 0 && (i === 0 || value >= all[i - 1]![0])));
    for (const [printed, merged] of [
      [output.latencyMicros.p50, micros.p50],
      [output.latencyMicros.p99, micros.p99],
      [output.latencyMicros.max, micros.max],
    ] as const) {
      assert.ok(Math.abs(printed / merged - 1) < 0.04, `${printed} and ${merged}`);
    }
    assert.ok(output.relayCpuSeconds! > 0 && output.generatorCpuSeconds > 0);
  } finally {
    await relay.stop();
  }
});

for (const [direction, sides] of [
  ['user', [true]],
  ['device', [false]],
  ['both', [true, false]],
] as const) {
  test(`direction ${direction}: they send in turn, as many each`, limits, async () => {
    const counts = new Map<string, number>();
    const order: boolean[] = [];
    const tamper: Tamper = (message, fromUser, from) => {
      const name = `${fromUser} ${[...counts.keys()].length}`;
      order.push(fromUser);
      const key = senders.get(from) ?? name;
      senders.set(from, key);
      counts.set(key, (counts.get(key) ?? 0) + 1);
      return [message];
    };
    const senders = new Map<WebSocket, string>();
    const { output } = await runTampered(tamper, { pairs: 3, rate: 1000, duration: 0.12, direction });
    assert.deepEqual(output.errors, noErrors);
    assert.equal(output.messages, 120);
    assert.deepEqual([...new Set(order)].sort(), [...sides].sort());
    assert.deepEqual(
      [...counts.values()],
      Array.from({ length: 3 * sides.length }, () => 40 / sides.length),
    );
  });
}

test('where the relay stops, all that were due meanwhile have waited, not only the one under way', limits, async () => {
  const held: [WebSocket, Buffer][] = [];
  let count = 0;
  // Message 200 is let go when message 500 has come, which is not due before 300 ms later.
  const { status, output } = await runTampered(
    (message, _fromUser, _from, to) => {
      count++;
      if (count < 200 || count > 500) return [message];
      held.push([to, message]);
      if (count < 500) return [];
      for (const [half, kept] of held) half.send(kept);
      return [];
    },
    { pairs: 2, rate: 1000, duration: 0.8 },
  );
  assert.equal(status, 0);
  assert.deepEqual(output.errors, noErrors);
  assert.equal(output.messages, 800);
  const waited = (ms: number): number =>
    output.latencyNanos.reduce((sum, [value, messages]) => sum + (value >= ms * 0.98e6 ? messages : 0), 0);
  assert.ok(waited(300) >= 1);
  assert.ok(waited(200) >= 100, `${waited(200)} messages waited for 200 ms`);
  assert.ok(waited(100) >= 200, `${waited(100)} messages waited for 100 ms`);
});

test('a generator that is late counts its lateness, in the latency too', limits, async () => {
  let child: ChildProcess | undefined;
  let count = 0;
  const { output } = await runTampered(
    (message) => {
      if (++count === 50) {
        child!.kill('SIGSTOP');
        setTimeout(() => child!.kill('SIGCONT'), 300);
      }
      return [message];
    },
    { pairs: 2, rate: 1000, duration: 0.5 },
    (started) => {
      child = started;
    },
  );
  assert.deepEqual(output.errors, noErrors);
  assert.equal(output.messages, 500);
  assert.ok(output.sentLateMicros.max >= 250_000, `${output.sentLateMicros.max} µs late`);
  assert.ok(output.latencyMicros.max >= output.sentLateMicros.max);
  assert.ok(output.latencyMicros.p90 >= 100_000, `${output.latencyMicros.p90} µs`);
});

test('a relay that does not keep the rate is behind, and what is late still counts', limits, async () => {
  const held: [WebSocket, Buffer][] = [];
  const { status, output } = await runTampered(
    (message, _fromUser, _from, to) => {
      held.push([to, message]);
      if (held.length === 200) for (const [half, kept] of held) half.send(kept);
      return [];
    },
    { pairs: 2, rate: 1000, duration: 0.2 },
  );
  assert.equal(status, 0);
  assert.deepEqual(output.errors, noErrors);
  assert.equal(output.behind, true);
  assert.ok(output.rateReached < 1000);
  assert.equal(output.messages, 200);
});

test('a relay that does not read at all: the rest is waived, what left is lost, and the run ends', limits, async () => {
  let first = true;
  const { status, output } = await runTampered(
    (_message, _fromUser, from) => {
      if (first) from.pause();
      first = false;
      return [];
    },
    { pairs: 1, direction: 'user', rate: 200, duration: 0.5, 'message-bytes': 1_000_000 },
  );
  assert.equal(status, 1);
  assert.ok(output.errors.lost > 0 && output.waived > 0 && output.behind);
  assert.equal(output.messages, 0);
  assert.ok(output.errors.lost + output.waived <= 100);
});

for (const [what, error, fault] of faults) {
  test(`fixed load: ${what} is noticed`, limits, async () => {
    const { status, output } = await runTampered(
      onNth(20, (_message, fromUser) => !fromUser, fault),
      { pairs: 2, rate: 1000, duration: 0.1 },
    );
    assert.equal(status, 1);
    assert.ok(output.errors[error] > 0, JSON.stringify(output.errors));
  });
}

test('fixed load: the last message lost is noticed', limits, async () => {
  let count = 0;
  const { status, output } = await runTampered((message) => (++count === 100 ? [] : [message]), {
    pairs: 2,
    rate: 1000,
    duration: 0.1,
  });
  assert.equal(status, 1);
  assert.equal(output.errors.lost, 1);
});
