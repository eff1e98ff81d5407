import type { Metric, Registry } from 'prom-client';

/** What a histogram shows, counted elsewhere. */
export interface BucketCounts {
  /** Upper bounds, rising, in the unit of the metric's name. */
  readonly bounds: readonly number[];
  /** Observations by bucket, each by itself and not added up; one more than bounds, for what is above all of them. */
  readonly counts: readonly number[];
  /** All observations added up, in the unit of the metric's name. */
  readonly sum: number;
}

/**
 * Registers a histogram that is read when it is scraped. prom-client's own only takes single observations, and its
 * bounds are fixed when it is made; a registry asks no more of a metric than what stands here.
 */
export function registerCountedHistogram(
  registry: Registry,
  name: string,
  help: string,
  read: () => BucketCounts,
): void {
  const metric = {
    name,
    help,
    type: 'histogram',
    aggregator: 'sum',
    labelNames: [],
    get: async () => ({ name, help, type: 'histogram', aggregator: 'sum', values: samplesOf(name, read()) }),
    // The counts are not kept here.
    reset() {},
  };
  registry.registerMetric(metric as unknown as Metric);
}

/** The samples of the text format: buckets that include those below them, their sum and their number. */
function samplesOf(name: string, { bounds, counts, sum }: BucketCounts) {
  let count = 0;
  const buckets = [...bounds, '+Inf'].map((le, index) => {
    count += counts[index]!;
    return { metricName: `${name}_bucket`, labels: { le }, value: count };
  });
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels: {}, value: sum },
    { metricName: `${name}_count`, labels: {}, value: count },
  ];
}
