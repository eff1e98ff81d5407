import { AggregatorRegistry, type PrometheusContentType } from 'prom-client';
import type { CollectedRegistry } from './registry.ts';

/** The metrics of one process at one moment, as they travel between processes: plain objects and numbers. */
export type MetricSnapshot = Awaited<ReturnType<CollectedRegistry['registry']['getMetricsAsJSON']>>;

type Aggregator = 'first' | 'max' | 'min' | 'average';

/**
 * What is not the sum over the processes. prom-client would also omit the start time, and average the loop's lag, in
 * which one process that hangs would be lost.
 */
const aggregators: Readonly<Record<string, Aggregator>> = {
  process_start_time_seconds: 'first',
  nodejs_version_info: 'first',
  nodejs_eventloop_lag_seconds: 'max',
  nodejs_eventloop_lag_min_seconds: 'min',
  nodejs_eventloop_lag_max_seconds: 'max',
  nodejs_eventloop_lag_mean_seconds: 'average',
  nodejs_eventloop_lag_stddev_seconds: 'max',
  nodejs_eventloop_lag_p50_seconds: 'max',
  nodejs_eventloop_lag_p90_seconds: 'max',
  nodejs_eventloop_lag_p99_seconds: 'max',
  couplet_build_info: 'first',
  couplet_forwarder_info: 'max',
  couplet_listener_resting: 'max',
  couplet_cluster_servers: 'max',
  couplet_cluster_redis_up: 'min',
  couplet_cluster_clock_offset_seconds: 'average',
};

function aggregate(snapshots: readonly MetricSnapshot[]) {
  const marked = snapshots.map((snapshot) =>
    snapshot.map((metric) => ({ ...metric, aggregator: aggregators[metric.name] ?? 'sum' })),
  );
  return AggregatorRegistry.aggregate<PrometheusContentType>(marked);
}

/** Counters and histograms: what a process has counted stays counted when it is gone. */
function cumulative(snapshot: MetricSnapshot): MetricSnapshot {
  // prom-client's typings say an enumeration of numbers; they are words.
  return snapshot.filter(({ type }) => /^(counter|histogram)$/.test(String(type)));
}

/**
 * The metrics of several processes as those of one [K8]. Sums never fall: what a process had counted when it was last
 * heard of goes on counting while it is silent, and after it has ended.
 */
export class MergedMetrics {
  /** By process, of those that run. */
  readonly #last = new Map<number, MetricSnapshot>();
  #ended: MetricSnapshot[] = [];
  /** One merge at a time: it folds what stands in `#ended`. */
  #merging: Promise<unknown> = Promise.resolve();

  /** Takes a running process's newest metrics. */
  heard(id: number, snapshot: MetricSnapshot): void {
    this.#last.set(id, snapshot);
  }

  /** A process has ended; another one may have its number from now on. */
  ended(id: number): void {
    const last = this.#last.get(id);
    if (last === undefined) return;
    this.#last.delete(id);
    this.#ended.push(cumulative(last));
  }

  /**
   * The text of a scrape.
   * @param own metrics of the process that merges; of those that are not added up its value counts
   * @param answered processes whose newest metrics are of this moment: of the others only what adds up counts
   */
  merge(own: MetricSnapshot, answered: ReadonlySet<number>): Promise<{ body: string; contentType: string }> {
    const merged = this.#merging.then(() => this.#merge(own, answered));
    this.#merging = merged.catch(() => undefined);
    return merged;
  }

  async #merge(own: MetricSnapshot, answered: ReadonlySet<number>): Promise<{ body: string; contentType: string }> {
    if (this.#ended.length > 1) {
      const ended = this.#ended;
      const folded = await aggregate(ended).getMetricsAsJSON();
      // A process may have ended meanwhile.
      this.#ended = [folded, ...this.#ended.slice(ended.length)];
    }
    const running = Array.from(this.#last, ([id, last]) => (answered.has(id) ? last : cumulative(last)));
    const registry = aggregate([own, ...running, ...this.#ended]);
    return { body: await registry.metrics(), contentType: registry.contentType };
  }
}
