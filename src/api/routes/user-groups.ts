import { z } from 'zod';
import type { User, UserGroup } from '../../directory/directory.ts';
import { notFound } from '../errors.ts';
import { found } from '../permissions.ts';
import { type Call, type Route, route } from '../route.ts';
import { changed, epochMs, given, idOrName, paging, text } from '../shapes.ts';

const groupOut = z.object({
  userGroupId: z.string(),
  name: z.string(),
  domain: z.string(),
  description: z.string(),
  createdMs: epochMs,
});

function show({ id: userGroupId, ...rest }: UserGroup): z.input<typeof groupOut> {
  return { userGroupId, ...rest };
}

const groupPath = z.strictObject({ userGroupId: idOrName });
const memberPath = z.strictObject({ userGroupId: idOrName, userId: idOrName });

/** The group of the path, for who manages users. @throws CoupletError 403, 404 */
async function groupOf(call: Call, id: string): Promise<UserGroup> {
  call.may.requireSite('manage-users');
  const group = await found(call.parts.directory.userGroups.find(call.domain, id));
  if (group === undefined) throw notFound('user group', id);
  return group;
}

async function memberOf(call: Call, id: string): Promise<User> {
  const user = await found(call.parts.directory.users.find(call.domain, id));
  if (user === undefined) throw notFound('user', id);
  return user;
}

const shared = { caller: 'user', inDomain: true } as const;

const list = route({
  ...shared,
  method: 'GET',
  path: '/user-groups',
  summary: 'List the user groups of the domain',
  scope: 'user-groups:read',
  query: z.strictObject(paging),
  answer: z.object({ userGroups: z.array(groupOut) }),
  async handler({ parts, may, domain, query }) {
    may.requireSite('manage-users');
    return { userGroups: (await parts.directory.userGroups.list(domain, query)).map(show) };
  },
});

const create = route({
  ...shared,
  method: 'POST',
  path: '/user-groups',
  summary: 'Add a user group',
  scope: 'user-groups:write',
  body: z.strictObject({ name: text, description: text.optional() }),
  status: 201,
  answer: groupOut,
  async handler(call) {
    const { parts, may, domain, body } = call;
    may.requireSite('manage-users');
    const group = await parts.directory.userGroups.create({ domain, name: body.name, ...given(body) });
    changed(call, 'user-group-created', group.id, `"${group.name}"`);
    return show(group);
  },
});

const get = route({
  ...shared,
  method: 'GET',
  path: '/user-groups/{userGroupId}',
  summary: 'Show a user group',
  scope: 'user-groups:read',
  params: groupPath,
  answer: groupOut,
  handler: async (call) => show(await groupOf(call, call.params.userGroupId)),
});

const update = route({
  ...shared,
  method: 'PATCH',
  path: '/user-groups/{userGroupId}',
  summary: 'Change the name or description of a user group',
  scope: 'user-groups:write',
  params: groupPath,
  body: z.strictObject({ name: text.optional(), description: text.optional() }),
  answer: groupOut,
  async handler(call) {
    const { id } = await groupOf(call, call.params.userGroupId);
    const group = await call.parts.directory.userGroups.update(id, given(call.body));
    changed(call, 'user-group-changed', id, Object.keys(call.body).join(', '));
    return show(group);
  },
});

const remove = route({
  ...shared,
  method: 'DELETE',
  path: '/user-groups/{userGroupId}',
  summary: 'Remove a user group, with its links',
  scope: 'user-groups:write',
  params: groupPath,
  async handler(call) {
    const group = await groupOf(call, call.params.userGroupId);
    await call.parts.directory.userGroups.remove(group.id);
    changed(call, 'user-group-removed', group.id, `"${group.name}"`);
  },
});

const members = route({
  ...shared,
  method: 'GET',
  path: '/user-groups/{userGroupId}/members',
  summary: 'List the users in a user group',
  scope: 'user-groups:read',
  params: groupPath,
  query: z.strictObject(paging),
  answer: z.object({ members: z.array(z.string().describe('Id of a user.')) }),
  async handler(call) {
    const { id } = await groupOf(call, call.params.userGroupId);
    return { members: await call.parts.directory.userGroups.members(id, call.query) };
  },
});

const addMember = route({
  ...shared,
  method: 'PUT',
  path: '/user-groups/{userGroupId}/members/{userId}',
  summary: 'Put a user into a user group',
  scope: 'user-groups:write',
  params: memberPath,
  async handler(call) {
    const group = await groupOf(call, call.params.userGroupId);
    const user = await memberOf(call, call.params.userId);
    await call.parts.directory.userGroups.addMember(group.id, user.id);
    changed(call, 'member-added', group.id, user.id);
  },
});

const removeMember = route({
  ...shared,
  method: 'DELETE',
  path: '/user-groups/{userGroupId}/members/{userId}',
  summary: 'Take a user out of a user group',
  scope: 'user-groups:write',
  params: memberPath,
  async handler(call) {
    const group = await groupOf(call, call.params.userGroupId);
    const user = await memberOf(call, call.params.userId);
    await call.parts.directory.userGroups.removeMember(group.id, user.id);
    changed(call, 'member-removed', group.id, user.id);
  },
});

export const userGroupRoutes: readonly Route[] = [list, create, get, update, remove, members, addMember, removeMember];
