import { argv, stdout } from 'node:process';
import { pathToFileURL } from 'node:url';
import { outcomes } from '../core/outcome.ts';
import { createRelayMetrics } from './relay-metrics.ts';
import type { MetricSources } from './sources.ts';
import { createSupervisorMetrics } from './supervisor-metrics.ts';

const intro = `# Metrics

Made from \`src/metrics/\` by \`node --import tsx src/metrics/docs.ts > docs/reference/metrics.md\`; a test
holds the two equal.

Prometheus text on \`/metrics\` of \`server.metricsListen\` (default 127.0.0.1:9464). Everything is read from plain counters
when it is scraped. No label carries a user, a device, an address or an id. Besides these there are prom-client's metrics
of the process, \`process_…\` and \`nodejs_…\`. Of them
\`nodejs_eventloop_lag_min_seconds\`, \`…_mean_seconds\`, \`…_p99_seconds\` and so on are of a timer of 50 ms and hold that
period: an idle server shows 0.05.

Of several workers (\`server.workers\`) these are the sums, also of what workers counted that have ended since, so that no
counter falls; of the event loop's lag and of what is 1 or 0 it is the worst. The time of start is the supervising
process's. A worker that does not answer within two seconds is left out: what it counted until it was last heard of
stays, its gauges are missing.

`;

/** A table with its columns padded, as the formatter wants it. */
function tableOf(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |\n`;
  const padded = rows.map((row) => line(row.map((cell, column) => cell.padEnd(widths[column]!))));
  return [padded[0]!, line(widths.map((width) => '-'.repeat(width))), ...padded.slice(1)].join('');
}

/** Sources of a relay in which nothing has happened. */
export const nothingYet: MetricSources = {
  relay: () => ({
    halvesWaiting: 0,
    halvesPaired: 0,
    sessions: [],
    sessionsTotal: new Map(),
    outcomes: Object.fromEntries(outcomes.map((outcome) => [outcome, 0])) as Record<(typeof outcomes)[number], number>,
    refused: new Map(),
    halfErrors: new Map(),
  }),
  forwarders: () => [],
  throttledSeconds: () => 0,
  server: () => ({ pendingUpgrades: 0, listenerResting: false, listenerRests: 0 }),
  devices: () => ({
    agentsOnline: 0,
    agentsPending: 0,
    agentsRefused: new Map(),
    cacheEntries: 0,
    cacheHits: 0,
    cacheMisses: 0,
  }),
  events: () => ({ events: new Map(), sinkFailures: new Map() }),
  cluster: () => ({
    servers: 0,
    isRedisUp: false,
    redisCommands: { ok: 0, timeout: 0, error: 0, refused: 0 },
    claims: 0,
    rendezvous: {},
    conflicts: 0,
    linksOut: 0,
    linksIn: 0,
    bytesToPeer: 0,
    bytesFromPeer: 0,
    bufferedBytes: 0,
    linkFailures: new Map(),
    peersLost: 0,
    requests: new Map(),
    clockOffsetSeconds: 0,
  }),
  droppedLogLines: () => 0,
};

/** docs/reference/metrics.md as it must be. */
export async function metricsReference(): Promise<string> {
  const relay = createRelayMetrics(nothingYet, { version: '0', nodeVersion: '0' });
  const figures = { workers: 0, restarts: 0, silentWorkers: 0, droppedLogLines: 0, startedSeconds: 0 };
  const both = [relay, createSupervisorMetrics(() => figures)];
  const snapshots = await Promise.all(both.map(({ registry }) => registry.getMetricsAsJSON()));
  const types = new Map(snapshots.flat().map(({ name, type }) => [name, `${type}`]));
  // Both have the dropped log lines.
  const metrics = new Map(both.flatMap(({ registry }) => registry.getMetricsAsArray()).map((m) => [m.name, m]));
  const rows = [...metrics.values()]
    .filter(({ name }) => name.startsWith('couplet_'))
    .map((metric) => {
      // prom-client keeps the label names on the metric, outside its typings.
      const { labelNames } = metric as unknown as { labelNames: string[] };
      const labels = labelNames.map((label) => `\`${label}\``).join(', ');
      return [`\`${metric.name}\``, `${types.get(metric.name)}`, labels, metric.help];
    })
    .sort(([a], [b]) => (a! < b! ? -1 : 1));
  return intro + tableOf([['metric', 'type', 'labels', 'meaning'], ...rows]);
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(argv[1]).href) stdout.write(await metricsReference());
