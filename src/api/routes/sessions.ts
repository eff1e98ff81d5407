import { z } from 'zod';
import { hasRights, type RightName } from '../../core/rights.ts';
import { forbidden, notFound } from '../errors.ts';
import type { LiveSession } from '../parts.ts';
import { type Call, type Route, route } from '../route.ts';
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

/** What of the rights that count here the caller holds over the session's device; asked once for each device. */
class SessionRights {
  readonly #call: Call;
  readonly #byDevice = new Map<string, Promise<number>>();

  constructor(call: Call) {
    this.#call = call;
  }

  isOver(session: LiveSession): boolean {
    const { caller, may } = this.#call;
    return may.holdsSite('manage-users') || ('user' in caller && caller.user.id === session.userid);
  }

  async holds({ nodeid }: LiveSession, ...anyOf: RightName[]): Promise<boolean> {
    const { caller, parts } = this.#call;
    if (nodeid === '' || !('user' in caller)) return false;
    let rights = this.#byDevice.get(nodeid);
    if (rights === undefined) {
      rights = parts.directory.access(caller.user.id, nodeid).then((access) => access.rights);
      this.#byDevice.set(nodeid, rights);
    }
    const held = await rights;
    return anyOf.some((right) => hasRights(held, right));
  }

  async sees(session: LiveSession): Promise<boolean> {
    return this.isOver(session) || (await this.holds(session, 'manage-users', 'manage-devices'));
  }
}

const defaultLimit = 100;

const list = route({
  method: 'GET',
  path: '/sessions',
  summary: 'List the running sessions: the own ones, those to devices that the caller manages, or all of the domain',
  scope: 'sessions:read',
  caller: 'user',
  inDomain: true,
  query: z.strictObject({
    after: z.string().max(512).optional().describe('The last id of the page before.'),
    limit: z.coerce.number().int().min(1).max(1_000).optional().describe('1 to 1000; 100 unless told.'),
  }),
  answer: z.object({ sessions: z.array(sessionOut) }),
  async handler(call) {
    const { after, limit = defaultLimit } = call.query;
    const rights = new SessionRights(call);
    const running = [...call.parts.sessions.list(call.domain)]
      .filter(({ id }) => after === undefined || id > after)
      .sort((one, other) => (one.id < other.id ? -1 : 1));
    const sessions: z.input<typeof sessionOut>[] = [];
    for (const session of running) {
      if (sessions.length === limit) break;
      if (await rights.sees(session)) sessions.push(show(session));
    }
    return { sessions };
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
    const rights = new SessionRights(call);
    const session = [...parts.sessions.list(domain)].find(({ id }) => id === params.id);
    if (session === undefined || !(await rights.sees(session))) throw notFound('session', params.id);
    if (!rights.isOver(session) && !(await rights.holds(session, 'manage-devices'))) {
      throw forbidden('this needs the right manage-devices over the device', 'manage-devices');
    }
    if (!parts.sessions.end(domain, session.id)) throw notFound('session', params.id);
    const { id, userid, nodeid, protocol } = session;
    parts.events.sessionKilled({ actor: actorOf(caller), domain, id, userid, nodeid, protocol });
  },
});

export const sessionRoutes: readonly Route[] = [list, kill];
