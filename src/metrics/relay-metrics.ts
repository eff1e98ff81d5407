import type { Registry } from 'prom-client';
import { outcomes } from '../core/outcome.ts';
import { defineClusterMetrics } from './cluster-metrics.ts';
import type { MetricSnapshot } from './merge.ts';
import { defineRecordingMetrics } from './recording-metrics.ts';
import { createRegistry, type Sample } from './registry.ts';
import type { BuildInfo, ForwardingTotals, MetricSources } from './sources.ts';

/** The relay's metrics: scraped through `registry`, with two observers that are called once in a session. */
export interface RelayMetrics {
  readonly registry: Registry;
  /** The text of a scrape and its content type. */
  scrape(): Promise<{ readonly body: string; readonly contentType: string }>;
  /** The same for a process that merges the metrics of several. */
  snapshot(): Promise<MetricSnapshot>;
  /** Seconds from the first half's arrival to its mate's. */
  observePairing(seconds: number): void;
  /** Seconds from pairing to close. */
  observeSession(seconds: number): void;
}

const pairingBuckets = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30];
const sessionBuckets = [1, 10, 60, 300, 900, 3600, 14_400, 43_200, 86_400];
const bothWays = ['user_to_device', 'device_to_user'] as const;

/**
 * Defines every metric of the contract that exists. Names are relied on outside: change none. The function and the page
 * docs/reference/metrics.md are held equal by a test.
 */
export function createRelayMetrics(sources: MetricSources, build: BuildInfo): RelayMetrics {
  const collected = createRegistry();
  const { registry, counter, gauge, histogram } = collected;
  const relay = oncePerScrape(() => sources.relay());
  const forwarders = oncePerScrape(() => [...sources.forwarders()]);
  const server = oncePerScrape(() => sources.server());
  const events = oncePerScrape(() => sources.events());
  const devices = oncePerScrape(() => sources.devices());
  const total = (read: (totals: ForwardingTotals) => number) =>
    forwarders().reduce((sum, { totals }) => sum + read(totals), 0);

  gauge('couplet_halves', 'Admitted halves now, by state.', ['state'], () => [
    [['waiting'], relay().halvesWaiting],
    [['paired'], relay().halvesPaired],
  ]);
  gauge(
    'couplet_sessions',
    'Running sessions now, by protocol number and whether they are recorded.',
    ['protocol', 'recorded'],
    () => Array.from(relay().sessions, ({ protocol, recorded, count }) => [[protocol, recorded], count]),
  );
  counter('couplet_sessions_total', 'Sessions since start, by protocol number.', ['protocol'], () =>
    byLabel(relay().sessionsTotal),
  );
  counter('couplet_session_outcomes_total', 'Rendezvous that ended, by outcome.', ['outcome'], () => {
    const counts = relay().outcomes;
    return outcomes.map((outcome) => [[outcome], counts[outcome]]);
  });
  counter('couplet_refused_total', 'Halves refused and limits hit, by reason.', ['reason'], () =>
    byLabel(relay().refused),
  );
  counter('couplet_half_errors_total', 'Halves that broke a rule or whose connection broke.', ['reason'], () =>
    byLabel(relay().halfErrors),
  );

  counter('couplet_relayed_bytes_total', 'Payload bytes forwarded.', ['direction'], () => [
    [[bothWays[0]], total((totals) => totals.bytesUserToDevice)],
    [[bothWays[1]], total((totals) => totals.bytesDeviceToUser)],
  ]);
  counter('couplet_relayed_messages_total', 'Messages forwarded.', ['direction'], () => [
    [[bothWays[0]], total((totals) => totals.messagesUserToDevice)],
    [[bothWays[1]], total((totals) => totals.messagesDeviceToUser)],
  ]);
  counter('couplet_flow_pauses_total', 'Times a half was not read because its mate was slow.', [], () => [
    [[], total((totals) => totals.flowPauses)],
  ]);
  counter('couplet_flow_paused_seconds_total', 'Seconds in which halves were not read for that reason.', [], () => [
    [[], total((totals) => totals.flowPausedSeconds)],
  ]);
  gauge('couplet_buffered_bytes', 'Bytes buffered for receivers now.', [], () => [
    [[], total((totals) => totals.bufferedBytes)],
  ]);
  counter('couplet_throttled_seconds_total', 'Seconds in which pacing or flow control held reading back.', [], () => [
    [[], sources.throttledSeconds()],
  ]);
  gauge('couplet_forwarder_info', 'Paths that messages take, 1 for each in use.', ['kind'], () =>
    Array.from(forwarders(), ({ kind }) => [[kind], 1]),
  );

  gauge('couplet_pending_upgrades', 'Upgrade requests being authenticated now.', [], () => [
    [[], server().pendingUpgrades],
  ]);
  gauge('couplet_listener_resting', '1 while the listener rests for want of file descriptors.', [], () => [
    [[], server().listenerResting ? 1 : 0],
  ]);
  counter('couplet_listener_rests_total', 'Times the listener rested for want of file descriptors.', [], () => [
    [[], server().listenerRests],
  ]);

  gauge('couplet_agents', 'Agents that are online now.', [], () => [[[], devices().agentsOnline]]);
  gauge('couplet_agents_pending', 'Control channels that have not proven anything yet.', [], () => [
    [[], devices().agentsPending],
  ]);
  counter('couplet_agents_refused_total', 'Agents that were refused, by reason.', ['reason'], () =>
    byLabel(devices().agentsRefused),
  );
  gauge('couplet_directory_cache_entries', 'Answers about rights that are remembered now.', [], () => [
    [[], devices().cacheEntries],
  ]);
  counter(
    'couplet_directory_cache_total',
    'Questions about rights, by whether the answer was remembered.',
    ['result'],
    () => [
      [['hit'], devices().cacheHits],
      [['miss'], devices().cacheMisses],
    ],
  );

  defineRecordingMetrics(
    collected,
    oncePerScrape(() => sources.recording?.()),
  );

  const { cluster } = sources;
  if (cluster !== undefined) defineClusterMetrics(collected, oncePerScrape(cluster));

  counter('couplet_events_total', 'Audit events, by code.', ['code'], () => byLabel(events().events));
  counter('couplet_event_sink_failures_total', 'Events that a sink failed to take.', ['sink'], () =>
    byLabel(events().sinkFailures),
  );
  counter('couplet_log_lines_dropped_total', 'Log lines lost to a slow reader or a full disk.', [], () => [
    [[], sources.droppedLogLines()],
  ]);
  gauge('couplet_build_info', '1, with the version of Couplet and of Node.js.', ['version', 'node_version'], () => [
    [[build.version, build.nodeVersion], 1],
  ]);

  const observePairing = histogram(
    'couplet_pairing_seconds',
    "Seconds from a waiting half's arrival to its mate's.",
    pairingBuckets,
  );
  const observeSession = histogram('couplet_session_seconds', 'Seconds from pairing to close.', sessionBuckets);
  const scrape = async () => ({ body: await registry.metrics(), contentType: registry.contentType });
  return { registry, scrape, snapshot: () => registry.getMetricsAsJSON(), observePairing, observeSession };
}

function byLabel(counts: ReadonlyMap<string | number, number>): Sample[] {
  return Array.from(counts, ([label, count]) => [[label], count]);
}

/**
 * Reads once for all metrics of a scrape, so that they fit together and sessions are not counted for each of them:
 * prom-client asks all metrics before it waits for any.
 */
function oncePerScrape<T>(read: () => T): () => T {
  let held: { readonly value: T } | undefined;
  return () => {
    if (held === undefined) {
      held = { value: read() };
      queueMicrotask(() => {
        held = undefined;
      });
    }
    return held.value;
  };
}
