import { createHash } from 'node:crypto';
import type { Events } from '../audit/events.ts';
import type { Clock } from '../core/clock.ts';
import { parseId } from '../core/ids.ts';
import type { Directory } from '../directory/directory.ts';
import type { Admission } from '../relay/half.ts';
import type { Counters } from './counters.ts';
import type { RoutingObserver } from './devices.ts';

export interface RoutingObserverParts {
  readonly events: Events;
  readonly counters: Counters;
  readonly clock: Clock;
  readonly directory: Directory;
  readonly onProblem: (error: unknown, message: string) => void;
}

/** Turns what agents and tunnels tell into events and counters [R30]. */
export function observeRouting(parts: RoutingObserverParts): RoutingObserver {
  const { events, counters, clock, directory, onProblem } = parts;
  return {
    online: ({ nodeid, address, facts: { hostname, platform, version } }) =>
      events.agentOnline({ domain: domainOf(nodeid), nodeid, address, hostname, platform, version }),
    offline: ({ nodeid, address, sinceMs }, reason) => {
      const onlineMs = Math.max(clock.nowMs() - sinceMs, 0);
      events.agentOffline({ domain: domainOf(nodeid), nodeid, address, reason, onlineMs });
    },
    enrolled: ({ nodeid, address, facts, publicKey }) => {
      const fingerprint = createHash('sha256').update(publicKey, 'base64url').digest('hex');
      events.deviceEnrolled({ domain: domainOf(nodeid), nodeid, address, hostname: facts.hostname, fingerprint });
    },
    replaced: ({ nodeid, address: replacedAddress }, address) =>
      events.agentReplaced({ domain: domainOf(nodeid), nodeid, address, replacedAddress }),
    refused: (address, nodeid, reason) => {
      counters.count(counters.agentsRefused, reason);
      events.agentRefused({ address, reason, ...(nodeid === '' ? {} : { domain: domainOf(nodeid), nodeid }) });
    },
    // What it is about is told by the tunnels, which know the half.
    report: () => {},
    failed: (error) => onProblem(error, 'an agent could not be judged or noted'),
    revoked: ({ domain, id, userid, nodeid, protocol }, reason) =>
      events.sessionRevoked({ domain, id, userid, nodeid, protocol, reason }),
    tunnels: {
      sent(half, { share, access }) {
        events.tunnelSent({ ...tunnelFacts(half), userid: access.userId, username: access.username });
        if (share === undefined) return;
        const { domain, id, address, protocol } = half;
        const { createdBy: userid, deviceId: nodeid, id: shareid, guestName: guestname } = share;
        events.shareUsed({ domain, id, address, protocol, userid, nodeid, shareid, guestname });
        directory.shares.countUse(shareid).catch((error) => onProblem(error, 'a use of a share could not be counted'));
      },
      refused(half, reason) {
        counters.count(counters.refused, reason === 'offline' ? 'device-offline' : 'routing');
        const { username: _, ...facts } = tunnelFacts(half);
        events.tunnelRefused({ ...facts, address: half.address, reason });
      },
      failed({ domain, nodeid, id, identity }, report) {
        const { type, reason, detail } = report;
        const state = type === 'tunnel-refused' ? 'refused' : 'failed';
        events.tunnelFailed({ domain, nodeid, id, state, reason, detail, userid: identity.userid });
      },
    },
  };
}

function domainOf(nodeid: string): string {
  return parseId(nodeid)?.domain ?? '';
}

function tunnelFacts({ domain, id, identity, protocol, nodeid, routing }: Admission) {
  const { userid, username, guestname, shareid } = identity;
  const target =
    routing === undefined || routing.transport === 'none'
      ? 'none'
      : `${routing.transport}:${routing.address}:${routing.port}`;
  return { domain, id, userid, username, guestname, shareid, protocol, nodeid: routing?.nodeid ?? nodeid, target };
}
