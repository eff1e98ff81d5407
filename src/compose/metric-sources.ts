import type { Events } from '../audit/events.ts';
import type { LogHandle } from '../core/logger.ts';
import type { MetricSources, ServerCounters } from '../metrics/sources.ts';
import type { Forwarder } from '../relay/forwarder.ts';
import type { Relay } from '../relay/relay.ts';
import type { Counters } from './counters.ts';
import type { Devices } from './devices.ts';
import type { Recordings } from './recordings.ts';

/** The parts of a server that count; asked for at each scrape, for some come after the metrics. */
export interface Counting {
  readonly relay: Relay;
  readonly forwarders: readonly Forwarder[];
  readonly recordings: Recordings | undefined;
  readonly devices: Devices;
  readonly server: ServerCounters;
  readonly events: Events;
  readonly log: LogHandle;
}

/** What the metrics read at scrape time. @param cluster absent where the server is the only one */
export function metricSources(
  counters: Counters,
  parts: () => Counting,
  cluster: MetricSources['cluster'],
): MetricSources {
  return {
    relay: () => counters.read(parts().relay),
    forwarders: () => parts().forwarders.map((forwarder) => ({ kind: forwarder.kind, totals: forwarder.totals() })),
    throttledSeconds: () =>
      parts().forwarders.reduce((seconds, forwarder) => seconds + forwarder.totals().throttledSeconds, 0),
    recording: () => parts().recordings?.figures(),
    server: () => parts().server,
    events: () => ({ events: parts().events.counts, sinkFailures: parts().events.sinkFailures() }),
    devices: () => parts().devices.figures(counters.agentsRefused),
    cluster,
    droppedLogLines: () => parts().log.droppedLines(),
  };
}
