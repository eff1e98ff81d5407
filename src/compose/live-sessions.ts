import type { LiveSession, LiveSessions } from '../api/parts.ts';
import type { Clock } from '../core/clock.ts';
import type { Relay } from '../relay/relay.ts';
import type { RunningSession } from '../relay/session.ts';

/** The relay's running sessions as the API shows them. */
export function liveSessions(relay: Relay, clock: Clock): LiveSessions {
  return {
    *list(domain) {
      const nowMs = clock.nowMs();
      const monotonicMs = clock.monotonicMs();
      for (const session of relay.sessions()) {
        if (session.domain === domain) yield show(session, nowMs, monotonicMs - session.startedMs);
      }
    },
    end: (domain, id) => relay.revoke(domain, id),
  };
}

function show(session: RunningSession, nowMs: number, ranMs: number): LiveSession {
  const { domain, id, protocol, userid, username, guestname, nodeid, user, device, recording, pair } = session;
  const { bufferedBytes: _, ...statistics } = pair.statistics();
  const durationMs = Math.round(ranMs);
  return {
    ...{ domain, id, protocol, userid, username, guestname, nodeid },
    ...statistics,
    userAddress: user.address,
    deviceAddress: device.address,
    startedMs: nowMs - durationMs,
    durationMs,
    recording: recording?.file,
  };
}
