import type { CollectedRegistry, Sample } from './registry.ts';
import type { ClusterFigures } from './sources.ts';

/** The metrics of a server that is one of several [K1]. */
export function defineClusterMetrics(
  { counter, gauge }: Pick<CollectedRegistry, 'counter' | 'gauge'>,
  read: () => ClusterFigures,
): void {
  gauge('couplet_cluster_servers', 'Live servers, this one included; 0 until it has joined the cluster.', [], () => [
    [[], read().servers],
  ]);
  gauge('couplet_cluster_redis_up', '1 while Redis answers.', [], () => [[[], read().isRedisUp ? 1 : 0]]);
  counter('couplet_cluster_redis_commands_total', 'Commands to Redis, by how they ended.', ['result'], () =>
    Object.entries(read().redisCommands).map(([result, count]): Sample => [[result], count]),
  );
  gauge('couplet_cluster_claims', 'Session ids that this server has now.', [], () => [[[], read().claims]]);
  counter(
    'couplet_cluster_rendezvous_total',
    'Halves by where they found their rendezvous, and claims that were handed over.',
    ['result'],
    () => Object.entries(read().rendezvous).map(([result, count]): Sample => [[result], count]),
  );
  counter('couplet_cluster_conflicts_total', 'Sessions whose id another server had claimed.', [], () => [
    [[], read().conflicts],
  ]);
  gauge('couplet_links', 'Links now: dialled by this server, and by others.', ['direction'], () => [
    [['out'], read().linksOut],
    [['in'], read().linksIn],
  ]);
  counter('couplet_link_bytes_total', 'Payload bytes over the links that this server dialled.', ['direction'], () => [
    [['to_peer'], read().bytesToPeer],
    [['from_peer'], read().bytesFromPeer],
  ]);
  gauge('couplet_link_buffered_bytes', 'Bytes buffered for those links and their halves now.', [], () => [
    [[], read().bufferedBytes],
  ]);
  counter('couplet_link_failures_total', 'Links that did not come about, by reason.', ['reason'], () =>
    Array.from(read().linkFailures, ([reason, count]) => [[reason], count]),
  );
  counter('couplet_cluster_peers_lost_total', 'Times the channel to another server was lost.', [], () => [
    [[], read().peersLost],
  ]);
  counter('couplet_cluster_requests_total', 'Requests to other servers, by how they ended.', ['method', 'result'], () =>
    Array.from(read().requests, ([key, count]) => [key.split(' '), count]),
  );
  gauge('couplet_cluster_clock_offset_seconds', "How far Redis's clock is ahead of this machine's.", [], () => [
    [[], read().clockOffsetSeconds],
  ]);
}
