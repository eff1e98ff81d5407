import { z } from 'zod';
import { adminSiteRights, siteRightBits } from '../../core/rights.ts';
import type { Directory, User } from '../../directory/directory.ts';
import { conflict, forbidden, notFound } from '../errors.ts';
import { found, isFullAdmin } from '../permissions.ts';
import { type Call, type Route, route } from '../route.ts';
import {
  changed,
  epochMs,
  given,
  idOrName,
  maybeMs,
  orNull,
  paging,
  showSiteRights,
  siteRightsIn,
  siteRightsOut,
  text,
} from '../shapes.ts';

export const userOut = z.object({
  userid: z.string(),
  name: z.string(),
  domain: z.string(),
  realname: z.string(),
  ...siteRightsOut,
  locked: z.boolean(),
  hasPassword: z.boolean(),
  createdMs: epochMs,
  lastLoginMs: maybeMs,
});

export function showUser(user: User): z.input<typeof userOut> {
  const { id: userid, siteRights, lastLoginMs, ...rest } = user;
  return { ...rest, userid, ...showSiteRights(siteRights), lastLoginMs: orNull(lastLoginMs) };
}

const password = z.string().max(4_096);
const userPath = z.strictObject({ userId: idOrName });

/** By id or name. Who does not manage users sees himself alone. @throws CoupletError 404 */
export async function seeUser({ parts, may, caller, domain }: Call, id: string): Promise<User> {
  const user = await found(parts.directory.users.find(domain, id));
  const isOwn = user !== undefined && 'user' in caller && caller.user.id === user.id;
  if (user === undefined || !(isOwn || may.holdsSite('manage-users'))) throw notFound('user', id);
  return user;
}

const guards = new WeakMap<Directory, Promise<unknown>>();

/** One after the other: of two that each take the last but one administrator away, one must see what the other did. */
async function inTurn<T>(directory: Directory, work: () => Promise<T>): Promise<T> {
  const turn = (guards.get(directory) ?? Promise.resolve()).then(work, work);
  guards.set(directory, turn);
  return await turn;
}

/** @throws CoupletError 409 where no other user of the default domain with all site rights is left */
async function requireOtherAdmin(directory: Directory, user: User): Promise<void> {
  if (user.domain !== '' || !isFullAdmin(user)) return;
  for (let after: string | undefined; ; ) {
    const page = await directory.users.list('', { after, limit: 1_000 });
    if (page.some((other) => other.id !== user.id && isFullAdmin(other))) return;
    if (page.length < 1_000) break;
    after = page.at(-1)!.id;
  }
  throw conflict('this is the last user with all site rights in the default domain: give them to another one first');
}

const list = route({
  method: 'GET',
  path: '/users',
  summary: 'List the users of the domain',
  scope: 'users:read',
  caller: 'user',
  inDomain: true,
  query: z.strictObject(paging),
  answer: z.object({ users: z.array(userOut) }),
  async handler({ parts, may, domain, query }) {
    may.requireSite('manage-users');
    return { users: (await parts.directory.users.list(domain, query)).map(showUser) };
  },
});

const create = route({
  method: 'POST',
  path: '/users',
  summary: 'Add a user',
  scope: 'users:write',
  caller: 'user',
  inDomain: true,
  body: z.strictObject({
    name: text,
    realname: text.optional(),
    siteRights: siteRightsIn.optional(),
    password: password.optional().describe('At least 8 characters; without one the user cannot log in.'),
  }),
  status: 201,
  answer: userOut,
  async handler(call) {
    const { parts, may, domain, body } = call;
    may.requireSite('manage-users');
    may.requireSiteRights(body.siteRights ?? 0);
    const user = await parts.directory.users.create({ domain, name: body.name, ...given(body) });
    changed(call, 'user-created', user.id, `site rights ${showSiteRights(user.siteRights).siteRights}`);
    return showUser(user);
  },
});

const get = route({
  method: 'GET',
  path: '/users/{userId}',
  summary: 'Show a user',
  scope: 'users:read',
  caller: 'user',
  inDomain: true,
  params: userPath,
  answer: userOut,
  async handler(call) {
    return showUser(await seeUser(call, call.params.userId));
  },
});

const update = route({
  method: 'PATCH',
  path: '/users/{userId}',
  summary: "Change a user's real name, site rights or lock",
  scope: 'users:write',
  caller: 'user',
  inDomain: true,
  params: userPath,
  body: z.strictObject({
    realname: text.optional(),
    siteRights: siteRightsIn.optional(),
    locked: z.boolean().optional(),
  }),
  answer: userOut,
  handler: (call) =>
    inTurn(call.parts.directory, async () => {
      const { parts, may, caller, body } = call;
      const user = await seeUser(call, call.params.userId);
      may.requireOver(user);
      const locks = body.locked === true || ((body.siteRights ?? 0) & siteRightBits.locked) !== 0;
      if (body.siteRights !== undefined) {
        may.requireSiteRights(body.siteRights);
        const raised = body.siteRights & adminSiteRights & ~user.siteRights;
        if (raised !== 0 && 'user' in caller && caller.user.id === user.id) {
          throw forbidden('nobody gives himself site rights', 'site-rights');
        }
      }
      const demotes = body.siteRights !== undefined && (body.siteRights & adminSiteRights) !== adminSiteRights;
      if (locks || demotes) await requireOtherAdmin(parts.directory, user);
      const after = await parts.directory.users.update(user.id, given(body));
      changed(call, 'user-changed', user.id, Object.keys(body).join(', '));
      return showUser(after);
    }),
});

const setPassword = route({
  method: 'PUT',
  path: '/users/{userId}/password',
  summary: "Set a user's password and end the user's login sessions",
  scope: 'users:write',
  caller: 'user',
  inDomain: true,
  params: userPath,
  body: z.strictObject({ password }),
  async handler(call) {
    const user = await seeUser(call, call.params.userId);
    call.may.requireOver(user);
    if ('user' in call.caller && call.caller.user.id === user.id) {
      throw forbidden('the own password is changed by the old one: PATCH /me', 'own-password');
    }
    await call.parts.directory.users.setPassword(user.id, call.body.password);
    changed(call, 'user-password-set', user.id);
  },
});

const remove = route({
  method: 'DELETE',
  path: '/users/{userId}',
  summary: 'Remove a user, with links, memberships, shares, logins and tokens',
  scope: 'users:write',
  caller: 'user',
  inDomain: true,
  params: userPath,
  handler: (call) =>
    inTurn(call.parts.directory, async () => {
      const user = await seeUser(call, call.params.userId);
      call.may.requireOver(user);
      await requireOtherAdmin(call.parts.directory, user);
      await call.parts.directory.users.remove(user.id);
      changed(call, 'user-removed', user.id);
    }),
});

const logins = route({
  method: 'DELETE',
  path: '/users/{userId}/login-sessions',
  summary: "End all of a user's login sessions",
  scope: 'users:write',
  caller: 'user',
  inDomain: true,
  params: userPath,
  answer: z.object({ ended: z.number().int() }),
  async handler(call) {
    const user = await seeUser(call, call.params.userId);
    call.may.requireOver(user);
    const ended = await call.parts.directory.loginSessions.endAll(user.id);
    changed(call, 'login-session-ended', user.id, `all ${ended}`);
    return { ended };
  },
});

export const userRoutes: readonly Route[] = [list, create, get, update, setPassword, remove, logins];
