import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type LatencyBuckets, mergeLatencies } from '../../bench/latency.ts';

const near = (value: number, expected: number): void =>
  assert.ok(Math.abs(value / expected - 1) < 0.002, `${value} is not about ${expected}`);

test('runs are merged message by message, not percentile by percentile', () => {
  const quick: LatencyBuckets = [
    [10_000, 9_000],
    [20_000, 900],
    [30_000, 100],
  ];
  const slow: LatencyBuckets = [[5_000_000, 100]];
  const { count, micros } = mergeLatencies([quick, slow]);
  assert.equal(count, 10_100);
  near(micros.p50, 10);
  near(micros.p90, 20);
  near(micros.p99, 30);
  near(micros.p999, 5000);
  near(micros.p9999, 5000);
  assert.equal(micros.max, 5000);
});

test('a percentile is the smallest value that so many messages do not exceed', () => {
  const buckets: LatencyBuckets = Array.from({ length: 10_000 }, (_, i) => [(i + 1) * 1000, 1]);
  const { micros } = mergeLatencies([buckets]);
  near(micros.p50, 5000);
  near(micros.p90, 9000);
  near(micros.p99, 9900);
  near(micros.p999, 9990);
  near(micros.p9999, 9999);
  assert.equal(micros.max, 10_000);
});

test('the points of a chart go up to the maximum and are even in log(1 / (1 − fraction))', () => {
  const { points } = mergeLatencies([Array.from({ length: 1000 }, (_, i) => [(i + 1) * 1000, 1] as const)]);
  assert.equal(points[0]!.fraction, 0.5);
  near(points[0]!.micros, 500);
  assert.deepEqual(points.at(-1), { fraction: 0.999, micros: 1000 });
  for (let i = 1; i < points.length; i++) {
    const [before, point] = [points[i - 1]!, points[i]!];
    assert.ok(point.fraction > before.fraction && point.micros >= before.micros);
    const distance = Math.log2((1 - before.fraction) / (1 - point.fraction));
    if (i < points.length - 1) assert.ok(Math.abs(distance - 0.25) < 1e-9);
    near(point.micros, Math.ceil(point.fraction * 1000));
  }
});

test('one message has percentiles and no chart; none has nothing', () => {
  const { micros, points } = mergeLatencies([[[1500, 1]]]);
  assert.deepEqual(micros, { p50: 1.5, p90: 1.5, p99: 1.5, p999: 1.5, p9999: 1.5, max: 1.5 });
  assert.deepEqual(points, []);
  assert.throws(() => mergeLatencies([[], []]), /no messages/);
  assert.throws(() => mergeLatencies([[[1.5, 1]]]), /not a bucket/);
  assert.throws(() => mergeLatencies([[[10, 0]]]), /not a bucket/);
});
