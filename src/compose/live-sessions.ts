import type { LiveSession, LiveSessions, SessionViewer } from '../api/parts.ts';
import { SessionSight } from '../api/session-sight.ts';
import type { Clock } from '../core/clock.ts';
import type { Directory } from '../directory/directory.ts';
import type { Relay } from '../relay/relay.ts';
import type { RunningSession } from '../relay/session.ts';

/** What is asked of a relay's sessions. */
export type RelaySessions = Pick<Relay, 'sessions' | 'isRunning' | 'revoke'>;

/** The sessions that run on this server. */
export interface LocalSessions {
  /** As `LiveSessions.list`. */
  list(domain: string, viewer: SessionViewer, page: { after: string; limit: number }): Promise<LiveSession[]>;
  find(domain: string, id: string): LiveSession | undefined;
  end(domain: string, id: string): boolean;
}

/** The relay's running sessions as the API shows them. */
export function localSessions(relay: RelaySessions, clock: Clock, directory: Pick<Directory, 'access'>): LocalSessions {
  return {
    async list(domain, viewer, { after, limit }) {
      const running = [...relay.sessions()]
        .filter((session) => session.domain === domain && session.id > after)
        .sort((one, other) => (one.id < other.id ? -1 : 1));
      const sight = new SessionSight(directory, viewer);
      const shown: LiveSession[] = [];
      for (const session of running) {
        if (shown.length === limit) break;
        // It may end while the directory is asked.
        if ((await sight.sees(session)) && relay.isRunning(session)) shown.push(show(session, clock));
      }
      return shown;
    },
    find(domain, id) {
      for (const session of relay.sessions()) {
        if (session.domain === domain && session.id === id) return show(session, clock);
      }
      return undefined;
    },
    end: (domain, id) => relay.revoke(domain, id),
  };
}

/** The sessions of a server that stands alone. */
export function liveSessions(local: LocalSessions): LiveSessions {
  return {
    async list(...asked) {
      return { sessions: await local.list(...asked), missingServers: 0 };
    },
    async find(domain, id) {
      const session = local.find(domain, id);
      return { sessions: session === undefined ? [] : [session], missingServers: 0 };
    },
    end: async (domain, id) => local.end(domain, id),
  };
}

function show(session: RunningSession, clock: Clock): LiveSession {
  const { domain, id, protocol, userid, username, guestname, nodeid, user, device, recording, pair } = session;
  const { bufferedBytes: _, ...statistics } = pair.statistics();
  const durationMs = Math.round(clock.monotonicMs() - session.startedMs);
  return {
    ...{ domain, id, protocol, userid, username, guestname, nodeid },
    ...statistics,
    userAddress: user.address,
    deviceAddress: device.address,
    startedMs: clock.nowMs() - durationMs,
    durationMs,
    recording: recording?.file,
  };
}
