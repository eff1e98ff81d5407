import { z } from 'zod';
import { CoupletError } from '../../core/errors.ts';
import { forbidden, notFound } from '../errors.ts';
import type { LiveSession, SessionViewer } from '../parts.ts';
import { type Call, type Route, route } from '../route.ts';
import { SessionSight } from '../session-sight.ts';
import { actorOf, epochMs, orNull } from '../shapes.ts';

const direction = z.object({
  bytes: z.number().int(),
  messages: z.number().int(),
  throttled: z
    .object({
      who: z.enum(['user', 'device']).describe('Whose sending was held back.'),
      by: z.enum(['user', 'device']).describe('Who did not take it as fast; limits of the relay count here too.'),
      ms: z.number().int(),
    })
    .describe('How long reading from the sender was held back, in all.'),
});

const sessionOut = z.object({
  id: z.string(),
  domain: z.string(),
  protocol: z.number().int(),
  userid: z.string(),
  username: z.string(),
  guestname: z.string().nullable(),
  nodeid: z.string().nullable(),
  userAddress: z.string(),
  deviceAddress: z.string(),
  startedMs: epochMs,
  seconds: z.number().int(),
  userToDevice: direction,
  deviceToUser: direction,
  recording: z.string().nullable().describe('File name.'),
});

function show(session: LiveSession): z.input<typeof sessionOut> {
  const { id, domain, protocol, userid, username, nodeid, userAddress, deviceAddress } = session;
  const throttled = (who: 'user' | 'device', by: 'user' | 'device', ms: number) => ({ who, by, ms: Math.round(ms) });
  return {
    id,
    domain,
    protocol,
    userid,
    username,
    guestname: orNull(session.guestname),
    nodeid: nodeid === '' ? null : nodeid,
    userAddress,
    deviceAddress,
    startedMs: Math.round(session.startedMs),
    seconds: Math.floor(session.durationMs / 1000),
    userToDevice: {
      bytes: session.bytesUserToDevice,
      messages: session.messagesUserToDevice,
      throttled: throttled('user', 'device', session.throttledUserToDeviceMs),
    },
    deviceToUser: {
      bytes: session.bytesDeviceToUser,
      messages: session.messagesDeviceToUser,
      throttled: throttled('device', 'user', session.throttledDeviceToUserMs),
    },
    recording: orNull(session.recording),
  };
}

function viewerOf({ caller, may }: Call): SessionViewer {
  return { userid: may.holdsSite('manage-users') || !('user' in caller) ? undefined : caller.user.id };
}

const defaultLimit = 100;

const list = route({
  method: 'GET',
  path: '/sessions',
  summary:
    'List the running sessions of all servers: the own ones, those to devices that the caller manages, or all of the domain',
  scope: 'sessions:read',
  caller: 'user',
  inDomain: true,
  query: z.strictObject({
    after: z.string().max(512).optional().describe('The last id of the page before.'),
    limit: z.coerce.number().int().min(1).max(1_000).optional().describe('1 to 1000; 100 unless told.'),
  }),
  answer: z.object({
    sessions: z.array(sessionOut),
    missingServers: z
      .number()
      .int()
      .describe('Servers of the cluster that did not answer in time: their sessions are not in the list.'),
  }),
  async handler(call) {
    const { limit = defaultLimit } = call.query;
    let { after = '' } = call.query;
    const viewer = viewerOf(call);
    const sight = new SessionSight(call.parts.directory, viewer);
    const sessions: z.input<typeof sessionOut>[] = [];
    for (let missingServers = 0; ; ) {
      const page = await call.parts.sessions.list(call.domain, viewer, { after, limit });
      missingServers = Math.max(missingServers, page.missingServers);
      // Also what another server has judged already: a right may have gone in between.
      for (const session of page.sessions) {
        if (sessions.length < limit && (await sight.sees(session))) sessions.push(show(session));
      }
      if (sessions.length === limit || page.sessions.length < limit) return { sessions, missingServers };
      after = page.sessions.at(-1)!.id;
    }
  },
});

const kill = route({
  method: 'DELETE',
  path: '/sessions/{id}',
  summary: 'End a running session: an own one, or one to a device that the caller manages',
  scope: 'sessions:write',
  caller: 'user',
  inDomain: true,
  params: z.strictObject({ id: z.string().max(256) }),
  async handler(call) {
    const { parts, domain, params, caller } = call;
    const sight = new SessionSight(parts.directory, viewerOf(call));
    const page = await parts.sessions.find(domain, params.id);
    const session = page.sessions[0];
    if (session === undefined && page.missingServers > 0) {
      const text = `${page.missingServers} servers did not answer: whether they have this session is not known`;
      throw new CoupletError('CPL_API_SERVERS', text, { httpStatus: 503 });
    }
    if (session === undefined || !(await sight.sees(session))) throw notFound('session', params.id);
    if (!sight.isOver(session) && !(await sight.holds(session, 'manage-devices'))) {
      throw forbidden('this needs the right manage-devices over the device', 'manage-devices');
    }
    if (!(await parts.sessions.end(domain, session.id))) throw notFound('session', params.id);
    const { id, userid, nodeid, protocol } = session;
    parts.events.sessionKilled({ actor: actorOf(caller), domain, id, userid, nodeid, protocol });
  },
});

export const sessionRoutes: readonly Route[] = [list, kill];
