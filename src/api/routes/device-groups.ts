import { z } from 'zod';
import type { DeviceGroup } from '../../directory/directory.ts';
import { type Call, type Route, route } from '../route.ts';
import { changed, epochMs, given, idOrName, paging, rightsOut, showRights, text } from '../shapes.ts';

const consent = z.number().int().describe('Consent flags of tunnel commands, 0 to 65535.');

const groupOut = z.object({
  deviceGroupId: z.string(),
  name: z.string(),
  domain: z.string(),
  description: z.string(),
  consent,
  createdMs: epochMs,
  ...rightsOut,
});

function show({ id: deviceGroupId, ...rest }: DeviceGroup, rights: number): z.input<typeof groupOut> {
  return { deviceGroupId, ...rest, ...showRights(rights) };
}

/** Ids of the device groups that links of the caller reach, with the rights. */
async function reached({ parts, may }: Call<unknown, unknown>): Promise<Map<string, number>> {
  const rights = new Map<string, number>();
  for (const subjectId of await may.subjects()) {
    for (const link of await parts.directory.links.list({ subjectId })) {
      if (!link.targetId.startsWith('mesh/')) continue;
      rights.set(link.targetId, (rights.get(link.targetId) ?? 0) | link.rights);
    }
  }
  return rights;
}

const groupPath = z.strictObject({ deviceGroupId: idOrName });
const shared = { caller: 'user', inDomain: true } as const;

const list = route({
  ...shared,
  method: 'GET',
  path: '/device-groups',
  summary: 'List the device groups over which the caller has a right; all of them for who manages users',
  scope: 'device-groups:read',
  query: z.strictObject(paging),
  answer: z.object({ deviceGroups: z.array(groupOut) }),
  async handler(call) {
    const { parts, may, domain, query } = call;
    const { deviceGroups } = parts.directory;
    const rights = await reached(call);
    if (may.holdsSite('manage-users')) {
      const all = await deviceGroups.list(domain, query);
      return { deviceGroups: all.map((group) => show(group, rights.get(group.id) ?? 0)) };
    }
    const ids = [...rights.keys()].sort().filter((id) => id > (query.after ?? ''));
    const groups = await Promise.all(ids.slice(0, query.limit ?? 100).map((id) => deviceGroups.get(id)));
    // One that was removed meanwhile is not there any more.
    const there = groups.filter((group) => group !== undefined);
    return { deviceGroups: there.map((group) => show(group, rights.get(group.id)!)) };
  },
});

const create = route({
  ...shared,
  method: 'POST',
  path: '/device-groups',
  summary: 'Add a device group',
  scope: 'device-groups:write',
  body: z.strictObject({ name: text, description: text.optional(), consent: consent.optional() }),
  status: 201,
  answer: groupOut,
  async handler(call) {
    const { parts, may, domain, body } = call;
    may.requireSite('manage-users');
    const group = await parts.directory.deviceGroups.create({ domain, name: body.name, ...given(body) });
    changed(call, 'device-group-created', group.id, `"${group.name}"`);
    return show(group, 0);
  },
});

const get = route({
  ...shared,
  method: 'GET',
  path: '/device-groups/{deviceGroupId}',
  summary: 'Show a device group',
  scope: 'device-groups:read',
  params: groupPath,
  answer: groupOut,
  async handler({ may, params }) {
    const { group, rights } = await may.seeGroup(params.deviceGroupId);
    return show(group, rights);
  },
});

const update = route({
  ...shared,
  method: 'PATCH',
  path: '/device-groups/{deviceGroupId}',
  summary: 'Change the name, description or consent flags of a device group',
  scope: 'device-groups:write',
  params: groupPath,
  body: z.strictObject({ name: text.optional(), description: text.optional(), consent: consent.optional() }),
  answer: groupOut,
  async handler(call) {
    const { parts, may, params, body } = call;
    const { group, rights } = await may.seeGroup(params.deviceGroupId);
    may.requireRight(rights, 'edit-group');
    const after = await parts.directory.deviceGroups.update(group.id, given(body));
    changed(call, 'device-group-changed', group.id, Object.keys(body).join(', '));
    return show(after, rights);
  },
});

const remove = route({
  ...shared,
  method: 'DELETE',
  path: '/device-groups/{deviceGroupId}',
  summary: 'Remove a device group',
  scope: 'device-groups:write',
  params: groupPath,
  query: z.strictObject({
    withDevices: z.enum(['true', 'false']).optional().describe('Without it a group that has devices stays (409).'),
  }),
  async handler(call) {
    const { parts, may, params, query } = call;
    const { group } = await may.seeGroup(params.deviceGroupId);
    may.requireSite('manage-users');
    await parts.directory.deviceGroups.remove(group.id, { withDevices: query.withDevices === 'true' });
    changed(call, 'device-group-removed', group.id, `"${group.name}"`);
  },
});

export const deviceGroupRoutes: readonly Route[] = [list, create, get, update, remove];
