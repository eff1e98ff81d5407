import type { MetricSnapshot } from './merge.ts';
import { type CollectedRegistry, emptyRegistry } from './registry.ts';

/** What the supervising process of several workers counts itself. */
export interface SupervisorFigures {
  /** Workers that listen now. */
  readonly workers: number;
  readonly restarts: number;
  /** Workers that did not answer a scrape in time. */
  readonly silentWorkers: number;
  readonly droppedLogLines: number;
  /** When the supervising process started, Unix time in seconds. */
  readonly startedSeconds: number;
}

/** Defines the metrics of the supervising process; there are none such where a server is one process. */
export function createSupervisorMetrics(figures: () => SupervisorFigures): {
  readonly registry: CollectedRegistry['registry'];
  snapshot(): Promise<MetricSnapshot>;
} {
  const { registry, counter, gauge } = emptyRegistry();
  gauge('couplet_workers', 'Worker processes that listen now; absent where a server is one process.', [], () => [
    [[], figures().workers],
  ]);
  counter('couplet_worker_restarts_total', 'Workers that were started again after they had died.', [], () => [
    [[], figures().restarts],
  ]);
  counter('couplet_worker_silences_total', 'Times a worker did not answer a scrape in time.', [], () => [
    [[], figures().silentWorkers],
  ]);
  counter('couplet_log_lines_dropped_total', 'Log lines lost to a slow reader or a full disk.', [], () => [
    [[], figures().droppedLogLines],
  ]);
  gauge('process_start_time_seconds', 'Start time of the process since unix epoch in seconds.', [], () => [
    [[], figures().startedSeconds],
  ]);
  return { registry, snapshot: () => registry.getMetricsAsJSON() };
}
