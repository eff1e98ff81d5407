import { build } from 'hdr-histogram-js';

/** What `load/paced.c` prints as `latencyNanos`: [nanoseconds, count], ascending; the last value is the exact maximum. */
export type LatencyBuckets = readonly (readonly [nanoseconds: number, count: number])[];

/** Microseconds. A percentile beyond 1 − 1/count is the maximum. */
export interface LatencyMicros {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly p9999: number;
  readonly max: number;
}

/** A point of a percentile chart: `fraction` of all messages, above 0 and below 1, took at most `micros`. */
export interface LatencyPoint {
  readonly fraction: number;
  readonly micros: number;
}

/** The latencies of one or several runs. */
export interface Latency {
  /** Messages. */
  readonly count: number;
  readonly micros: LatencyMicros;
  /**
   * For a chart whose x axis is log(1 / (1 − fraction)), where they are evenly spread: so many for each halving of the
   * distance to 1, from 0.5 to the last fraction that the count tells anything about, 1 − 1/count, which is the maximum.
   */
  readonly points: readonly LatencyPoint[];
}

const pointsPerHalving = 4;

/**
 * Merges the histograms of runs: every message counts the same, whichever run it was in. Values are right to 1.7 %: the
 * generator's buckets are 1.6 % wide, those of the merged histogram 0.1 %. Throws where there is no message at all, or
 * a bucket is none.
 */
export function mergeLatencies(runs: readonly LatencyBuckets[]): Latency {
  const merged = build({ bitBucketSize: 64, numberOfSignificantValueDigits: 3 });
  let maxNanos = 0;
  for (const [nanoseconds, count] of runs.flat()) {
    if (!Number.isSafeInteger(nanoseconds) || nanoseconds < 0 || !Number.isSafeInteger(count) || count < 1) {
      throw new Error(`not a bucket of a histogram: [${nanoseconds}, ${count}]`);
    }
    merged.recordValueWithCount(nanoseconds, count);
    maxNanos = Math.max(maxNanos, nanoseconds);
  }
  const count = merged.totalCount;
  if (count === 0) throw new Error('no latency of no messages');
  // The library gives the upper end of a bucket, which for the last one may be above everything that occurred.
  const at = (fraction: number): number => Math.min(merged.getValueAtPercentile(fraction * 100), maxNanos) / 1000;
  const points: LatencyPoint[] = [];
  for (let tick = pointsPerHalving; 2 ** (tick / pointsPerHalving) < count; tick++) {
    const fraction = 1 - 2 ** (-tick / pointsPerHalving);
    points.push({ fraction, micros: at(fraction) });
  }
  const max = maxNanos / 1000;
  if (count > 1) points.push({ fraction: 1 - 1 / count, micros: max });
  return {
    count,
    micros: { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), p9999: at(0.9999), max },
    points,
  };
}
