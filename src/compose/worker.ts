import { join } from 'node:path';
import { SingleUseFile } from '../auth/single-use.ts';
import { ConfigError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { parseListen } from '../config/setting.ts';
import type { Clock } from '../core/clock.ts';
import type { Logger } from '../core/logger.ts';
import { type MetricsServer, serveMetrics } from '../metrics/http.ts';
import type { RelayMetrics } from '../metrics/relay-metrics.ts';
import { lockFolder } from './folder-lock.ts';

/**
 * [K8] A server that is one of several worker processes behind one configuration. The data folder is its supervisor's,
 * who keeps the lock on it and serves the metrics of all; files that a process must have to itself bear its number.
 */
export interface WorkerPart {
  /** From 1. */
  readonly number: number;
  /** Other workers listen on the same port. */
  readonly sharesPort: boolean;
  /** The metrics of all workers together. */
  scrapeAll(): ReturnType<RelayMetrics['scrape']>;
}

/**
 * Locks the data folder, which a worker's supervisor has done.
 * @throws CoupletError `CPL_CONFIG` where one server in this process is asked to be several, `CPL_DATA_DIR`
 */
export function holdFolder({ server }: Config, worker: WorkerPart | undefined, logger: Logger): () => void {
  if (worker !== undefined) return () => {};
  if (server.workers > 1) {
    throw new ConfigError([`server.workers is ${server.workers}; it must be 1 but in \`couplet serve\``]);
  }
  return lockFolder(server.dataDir, (error) => {
    logger.warn({ err: error }, 'the data folder cannot be locked: see to it that no other server uses it');
  }).letGo;
}

/** @throws CoupletError `CPL_SINGLE_USE` */
export function openSingleUse(
  { server }: Config,
  clock: Clock,
  logger: Logger,
  worker: WorkerPart | undefined,
): SingleUseFile {
  return new SingleUseFile({
    path: join(server.dataDir, worker === undefined ? 'single-use' : `single-use-${worker.number}`),
    clock,
    onProblem: (problem) => logger.error({ err: problem }, problem.message),
  });
}

/** Serves the metrics, unless a supervisor does. @throws CoupletError `CPL_METRICS_LISTEN` */
export async function serveOwnMetrics(
  { server }: Config,
  metrics: RelayMetrics,
  logger: Logger,
  worker: WorkerPart | undefined,
): Promise<MetricsServer | undefined> {
  if (worker !== undefined) return undefined;
  return serveMetrics({
    ...parseListen(server.metricsListen)!,
    scrape: () => metrics.scrape(),
    onError: (error) => logger.error({ err: error }, 'the metrics could not be read'),
  });
}
