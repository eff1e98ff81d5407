import { z } from 'zod';
import type { LoginSession } from '../../directory/directory.ts';
import { badRequest, conflict, notFound } from '../errors.ts';
import type { Caller, UserCaller } from '../request.ts';
import { type Route, route } from '../route.ts';
import { changed, epochMs, given, text } from '../shapes.ts';
import { checkPassword } from './login.ts';
import { showUser, userOut } from './users.ts';

/** @throws CoupletError 409 for root, who is no user */
export function userOf(caller: Caller): UserCaller {
  if (caller.kind !== 'root' && caller.kind !== 'nobody') return caller;
  throw conflict('this is for a user, and root is none: call it with a login or an API token');
}

const me = route({
  method: 'GET',
  path: '/me',
  summary: 'Show who calls',
  scope: 'account:read',
  caller: 'user',
  answer: z.object({
    kind: z.enum(['session', 'cookie', 'token']),
    scopes: z.array(z.string()),
    user: userOut,
  }),
  async handler({ caller }) {
    const { kind, scopes, user } = userOf(caller);
    return { kind, scopes: [...scopes], user: showUser(user) };
  },
});

const change = route({
  method: 'PATCH',
  path: '/me',
  summary: 'Change the own real name, or the own password by the old one; a new password ends all own login sessions',
  scope: 'account:write',
  caller: 'user',
  body: z.strictObject({
    realname: text.optional(),
    password: z.string().max(4_096).optional(),
    oldPassword: z.string().max(4_096).optional(),
  }),
  answer: userOut,
  async handler(call) {
    const { parts, caller, body } = call;
    const { user } = userOf(caller);
    if ((body.password === undefined) !== (body.oldPassword === undefined)) {
      throw badRequest('body.password needs body.oldPassword, and the other way round');
    }
    if (body.password !== undefined) {
      // Not 401: the caller's credential holds.
      await checkPassword(call, user.domain, user.name, body.oldPassword!, 403);
      await parts.directory.users.setPassword(user.id, body.password);
      changed(call, 'user-password-set', user.id);
    }
    const after = await parts.directory.users.update(user.id, given({ realname: body.realname }));
    if (body.realname !== undefined) changed(call, 'user-changed', user.id, 'realname');
    return showUser(after);
  },
});

const sessionOut = z.object({
  id: z.string(),
  address: z.string(),
  createdMs: epochMs,
  expiresMs: epochMs,
  lastUseMs: epochMs,
  current: z.boolean().describe('True for the one that this request is made with.'),
});

const sessions = route({
  method: 'GET',
  path: '/login-sessions',
  summary: 'List the own login sessions',
  scope: 'account:read',
  caller: 'user',
  answer: z.object({ loginSessions: z.array(sessionOut) }),
  async handler({ parts, caller }) {
    const { user, credentialId } = userOf(caller);
    const show = ({ userId: _, ...rest }: LoginSession) => ({ ...rest, current: rest.id === credentialId });
    return { loginSessions: (await parts.directory.loginSessions.list(user.id)).map(show) };
  },
});

const end = route({
  method: 'DELETE',
  path: '/login-sessions/{id}',
  summary: 'End one of the own login sessions',
  scope: 'account:write',
  caller: 'user',
  params: z.strictObject({ id: z.string().max(64) }),
  async handler(call) {
    const { parts, caller, params } = call;
    const { user } = userOf(caller);
    const own = await parts.directory.loginSessions.list(user.id);
    if (!own.some(({ id }) => id === params.id)) throw notFound('login session', params.id);
    await parts.directory.loginSessions.end(params.id);
    changed(call, 'login-session-ended', user.id, params.id);
  },
});

export const accountRoutes: readonly Route[] = [me, change, sessions, end];
