import { z } from 'zod';
import type { LiveSession, LiveSessions, SessionPage } from '../api/parts.ts';
import type { LocalSessions } from './live-sessions.ts';
import type { PeerCalls } from './peer-calls.ts';

const text = z.string().max(4_096);
const count = z.number().nonnegative();
const sessionSchema = z.object({
  domain: text,
  id: text,
  protocol: z.int(),
  userid: text,
  username: text,
  guestname: text.optional(),
  nodeid: text,
  userAddress: text,
  deviceAddress: text,
  startedMs: z.number(),
  durationMs: z.number(),
  bytesUserToDevice: count,
  bytesDeviceToUser: count,
  messagesUserToDevice: count,
  messagesDeviceToUser: count,
  throttledUserToDeviceMs: count,
  throttledDeviceToUserMs: count,
  recording: text.optional(),
});
const sessionsAnswer = z.object({ sessions: z.array(sessionSchema).max(1_000) });

const listBody = z.object({
  domain: text,
  userid: text.optional(),
  after: text,
  limit: z.int().min(1).max(1_000),
});
const placeBody = z.object({ domain: text, id: text });
const endedAnswer = z.object({ ended: z.boolean() });

/** How long the other servers may take, milliseconds: somebody waits for the list. */
const withinMs = 1_500;

/**
 * [K9] The sessions of the whole cluster. Each server gives the first of its own that the viewer sees, in the order of
 * their ids: together they hold the first of all.
 */
export function clusterSessions(local: LocalSessions, peers: PeerCalls): LiveSessions {
  peers.serve('sessions', async (body) => {
    const { domain, userid, after, limit } = listBody.parse(body);
    return { sessions: await local.list(domain, { userid }, { after, limit }) };
  });
  peers.serve('find-session', (body) => {
    const { domain, id } = placeBody.parse(body);
    const session = local.find(domain, id);
    return { sessions: session === undefined ? [] : [session] };
  });
  peers.serve('end-session', (body) => {
    const { domain, id } = placeBody.parse(body);
    return { ended: local.end(domain, id) };
  });

  const ask = async (method: string, body: object): Promise<SessionPage> => {
    const { answers, silent } = await peers.askAll(method, body, withinMs);
    const sessions: LiveSession[] = [];
    let missingServers = silent.length;
    for (const { answer } of answers) {
      const read = sessionsAnswer.safeParse(answer);
      if (read.success) sessions.push(...read.data.sessions.map(asLiveSession));
      else missingServers++;
    }
    return { sessions, missingServers };
  };
  return {
    async list(domain, viewer, page) {
      const { userid } = viewer;
      const [here, elsewhere] = await Promise.all([
        local.list(domain, viewer, page),
        ask('sessions', { domain, ...(userid !== undefined && { userid }), ...page }),
      ]);
      const sessions = [...here, ...elsewhere.sessions].sort((one, other) => (one.id < other.id ? -1 : 1));
      return { sessions: sessions.slice(0, page.limit), missingServers: elsewhere.missingServers };
    },
    async find(domain, id) {
      const session = local.find(domain, id);
      return session === undefined ? ask('find-session', { domain, id }) : { sessions: [session], missingServers: 0 };
    },
    async end(domain, id) {
      if (local.end(domain, id)) return true;
      const { answers } = await peers.askAll('end-session', { domain, id }, withinMs);
      return answers.some(({ answer }) => endedAnswer.safeParse(answer).data?.ended === true);
    },
  };
}

/** JSON has no `undefined`. */
function asLiveSession({ guestname, recording, ...session }: z.output<typeof sessionSchema>): LiveSession {
  return { ...session, guestname, recording };
}
