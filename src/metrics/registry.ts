import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { type BucketCounts, registerCountedHistogram } from './counted-histogram.ts';

/** One sample: the values of its labels, in the order of the metric's label names, and its number. */
export type Sample = readonly [labels: readonly (string | number | boolean)[], value: number];

/** Gauges whose name ends like a counter's: `promtool check metrics` refuses them, and they are deprecated. */
const misnamed = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total'];

/**
 * No label may carry a user, a device, an address or an id: values are words of the code, protocol numbers, event
 * codes or versions. Anything that does not look like one is shown as `invalid`, so that a mistake elsewhere cannot leak through.
 */
const labelValue = /^(?:[A-Za-z0-9_-]{1,32}|v?[0-9]+\.[0-9]+\.[0-9]+(?:-[A-Za-z0-9.-]{1,32})?)$/;

/** Metrics whose samples are read from plain counters when they are scraped. */
export interface CollectedRegistry {
  readonly registry: Registry;
  /** A counter; `read` gives its samples since start. */
  counter(name: string, help: string, labels: readonly string[], read: () => Iterable<Sample>): void;
  gauge(name: string, help: string, labels: readonly string[], read: () => Iterable<Sample>): void;
  /** A histogram without labels, for what happens once in a session. Returns its observer, in the unit of its name. */
  histogram(name: string, help: string, buckets: readonly number[]): (value: number) => void;
  /** A histogram without labels whose counts are kept elsewhere. */
  countedHistogram(name: string, help: string, read: () => BucketCounts): void;
}

/**
 * How often the event loop's lag is sampled, milliseconds; a sample holds this period. prom-client's own 10 ms would
 * wake an idle process a hundred times a second, which cost more than 15,000 idle halves do: 1 % of a core.
 */
const lagSampleMs = 50;

/** A registry that already holds prom-client's metrics of the process. */
export function createRegistry(): CollectedRegistry {
  const collected = emptyRegistry();
  const { registry } = collected;
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: lagSampleMs });
  for (const name of misnamed) registry.removeSingleMetric(name);
  return collected;
}

/** A registry that holds nothing yet. */
export function emptyRegistry(): CollectedRegistry {
  const registry = new Registry();
  const options = (name: string, help: string, labels: readonly string[]) => ({
    name,
    help,
    labelNames: [...labels],
    registers: [registry],
  });
  return {
    registry,
    counter(name, help, labels, read) {
      new Counter({
        ...options(name, help, labels),
        collect() {
          fill(this, labels, read());
        },
      });
    },
    gauge(name, help, labels, read) {
      new Gauge({
        ...options(name, help, labels),
        collect() {
          fill(this, labels, read());
        },
      });
    },
    histogram(name, help, buckets) {
      const histogram = new Histogram({ ...options(name, help, []), buckets: [...buckets] });
      return (value) => histogram.observe(value);
    },
    countedHistogram(name, help, read) {
      registerCountedHistogram(registry, name, help, read);
    },
  };
}

interface Fillable {
  reset(): void;
  inc(labels: Record<string, string>, value: number): void;
}

/** Samples of equal labels add up. Without labels a metric with no sample keeps its 0. */
function fill(metric: Fillable, names: readonly string[], samples: Iterable<Sample>): void {
  metric.reset();
  for (const [values, number] of samples) {
    const labels = Object.fromEntries(names.map((name, index) => [name, safeLabel(values[index])]));
    metric.inc(labels, number);
  }
}

function safeLabel(value: string | number | boolean | undefined): string {
  const text = String(value);
  return labelValue.test(text) ? text : 'invalid';
}
