import { z } from 'zod';
import { hasRights } from '../../core/rights.ts';
import type { Device } from '../../directory/directory.ts';
import type { AgentState } from '../parts.ts';
import { found } from '../permissions.ts';
import { type Call, type Route, route } from '../route.ts';
import { changed, epochMs, given, idOrName, maybeMs, orNull, paging, rightsOut, showRights, text } from '../shapes.ts';

const agentOut = z.object({
  address: z.string(),
  sinceMs: epochMs,
  hostname: z.string(),
  platform: z.string(),
  version: z.string(),
  capabilities: z.array(z.string()),
});

const deviceOut = z.object({
  nodeid: z.string(),
  name: z.string(),
  domain: z.string(),
  deviceGroupId: z.string(),
  online: z.boolean().nullable().describe('null: not here, and whether with another server cannot be found out now.'),
  enrolled: z.boolean(),
  joinExpiresMs: maybeMs.describe('When an unused join code ends.'),
  revokedMs: maybeMs,
  createdMs: epochMs,
  lastSeenMs: maybeMs,
  ...rightsOut,
  agent: agentOut.nullable().describe('Where it is connected; for the right device-details.'),
});

const joinOut = { join: z.string().describe('Shown here and never again.'), joinExpiresMs: epochMs };
const joinForMs = z.number().int().optional().describe('How long the join code is good; 24 hours unless told.');

/** @param rights the caller's over the device, also where it is revoked */
function show(
  { may }: Pick<Call, 'may'>,
  device: Device,
  rights: number,
  state: AgentState,
): z.input<typeof deviceOut> {
  const presence = typeof state === 'string' ? undefined : state;
  const details = hasRights(rights, 'device-details') || may.holdsSite('manage-users');
  return {
    nodeid: device.id,
    name: device.name,
    domain: device.domain,
    deviceGroupId: device.deviceGroupId,
    online: state === 'unknown' ? null : presence !== undefined,
    enrolled: device.publicKey !== undefined,
    joinExpiresMs: orNull(device.joinExpiresMs),
    revokedMs: orNull(device.revokedMs),
    createdMs: device.createdMs,
    lastSeenMs: orNull(device.lastSeenMs),
    ...showRights(rights),
    agent: presence === undefined || !details ? null : { ...presence, capabilities: [...presence.capabilities] },
  };
}

async function showNow(call: Pick<Call, 'parts' | 'may'>, device: Device, rights: number) {
  const [state = 'unknown'] = await call.parts.online([device.id]);
  return show(call, device, rights, state);
}

interface ListQuery {
  readonly name?: string | undefined;
  readonly group?: string | undefined;
  readonly after?: string | undefined;
  readonly limit?: number | undefined;
}

async function listed(call: Call<unknown, ListQuery>): Promise<{ device: Device; rights: number }[]> {
  const { parts, may, domain, caller } = call;
  const { name, group, ...page } = call.query;
  const { devices } = parts.directory;
  const withRights = async (device: Device) => ({ device, rights: await may.deviceRights(device) });
  if (name !== undefined) {
    const seen = await found(may.seeDevice(name));
    const wanted = group === undefined ? undefined : (await may.seeGroup(group)).group.id;
    const fits = seen?.device.name === name && (wanted === undefined || seen.device.deviceGroupId === wanted);
    return seen !== undefined && fits ? [seen] : [];
  }
  if (group !== undefined) {
    // Who has a right over the group reaches all that is in it.
    const { id } = (await may.seeGroup(group)).group;
    return await Promise.all((await devices.list(domain, { ...page, deviceGroupId: id })).map(withRights));
  }
  const own = 'user' in caller ? await parts.directory.devicesOf(caller.user.id, page) : [];
  const rights = new Map(own.map((reach) => [reach.id, reach.rights]));
  const all = may.holdsSite('manage-users')
    ? await devices.list(domain, page)
    : await Promise.all(own.map(({ id }) => devices.get(id)));
  // One that was removed meanwhile is not there any more.
  const there = all.filter((device) => device !== undefined);
  return there.map((device) => ({ device, rights: rights.get(device.id) ?? 0 }));
}

const devicePath = z.strictObject({ deviceId: idOrName });
const shared = { caller: 'user', inDomain: true } as const;

const list = route({
  ...shared,
  method: 'GET',
  path: '/devices',
  summary: 'List the devices that the caller reaches; all of them for who manages users',
  scope: 'devices:read',
  query: z.strictObject({
    name: z.string().max(512).optional().describe('Exactly this name.'),
    group: idOrName.optional().describe('Those of this device group.'),
    ...paging,
  }),
  answer: z.object({ devices: z.array(deviceOut) }),
  async handler(call) {
    const found = await listed(call);
    const states = await call.parts.online(found.map(({ device }) => device.id));
    return { devices: found.map(({ device, rights }, at) => show(call, device, rights, states[at] ?? 'unknown')) };
  },
});

const create = route({
  ...shared,
  method: 'POST',
  path: '/devices',
  summary: 'Add a device; its agent enrols with the join code',
  scope: 'devices:write',
  body: z.strictObject({ deviceGroup: idOrName, name: text, joinForMs }),
  status: 201,
  answer: deviceOut.extend(joinOut),
  async handler(call) {
    const { parts, may, body } = call;
    const { group, rights } = await may.seeGroup(body.deviceGroup);
    may.requireRight(rights, 'manage-devices');
    const wanted = { deviceGroupId: group.id, name: body.name, ...given({ joinForMs: body.joinForMs }) };
    const { device, join } = await parts.directory.devices.create(wanted);
    changed(call, 'device-created', device.id, `"${device.name}"`);
    return { ...(await showNow(call, device, rights)), join: join.code, joinExpiresMs: join.expiresMs };
  },
});

const get = route({
  ...shared,
  method: 'GET',
  path: '/devices/{deviceId}',
  summary: 'Show a device',
  scope: 'devices:read',
  params: devicePath,
  answer: deviceOut,
  async handler(call) {
    const { device, rights } = await call.may.seeDevice(call.params.deviceId);
    return showNow(call, device, rights);
  },
});

const update = route({
  ...shared,
  method: 'PATCH',
  path: '/devices/{deviceId}',
  summary: 'Rename a device, or move it to another device group',
  scope: 'devices:write',
  params: devicePath,
  body: z.strictObject({ name: text.optional(), deviceGroup: idOrName.optional() }),
  answer: deviceOut,
  async handler(call) {
    const { parts, may, params, body } = call;
    const { device, rights } = await may.seeDevice(params.deviceId);
    may.requireRight(rights, 'manage-devices');
    let deviceGroupId: string | undefined;
    if (body.deviceGroup !== undefined) {
      const { group, rights: there } = await may.seeGroup(body.deviceGroup);
      may.requireRight(there, 'manage-devices');
      await may.requireMove(device, group.id);
      deviceGroupId = group.id;
    }
    const after = await parts.directory.devices.update(device.id, given({ name: body.name, deviceGroupId }));
    changed(call, 'device-changed', device.id, Object.keys(body).join(', '));
    return showNow(call, after, await may.deviceRights(after));
  },
});

const remove = route({
  ...shared,
  method: 'DELETE',
  path: '/devices/{deviceId}',
  summary: 'Remove a device, with its links and shares',
  scope: 'devices:write',
  params: devicePath,
  async handler(call) {
    const { device, rights } = await call.may.seeDevice(call.params.deviceId);
    call.may.requireRight(rights, 'manage-devices');
    await call.parts.directory.devices.remove(device.id);
    changed(call, 'device-removed', device.id, `"${device.name}"`);
  },
});

const joinCode = route({
  ...shared,
  method: 'POST',
  path: '/devices/{deviceId}/join-code',
  summary: 'Make a new join code; the key of an enrolled device is good until the code is used',
  scope: 'devices:write',
  params: devicePath,
  body: z.strictObject({ joinForMs }),
  status: 201,
  answer: z.object({ nodeid: z.string(), ...joinOut }),
  async handler(call) {
    const { device, rights } = await call.may.seeDevice(call.params.deviceId);
    call.may.requireRight(rights, 'manage-devices');
    const { code, expiresMs } = await call.parts.directory.devices.newJoinCode(device.id, call.body.joinForMs);
    changed(call, 'device-join-code-made', device.id);
    return { nodeid: device.id, join: code, joinExpiresMs: expiresMs };
  },
});

const revoke = route({
  ...shared,
  method: 'POST',
  path: '/devices/{deviceId}/revoke',
  summary: "Take a device's key and join code away; a new join code lets it in again",
  scope: 'devices:write',
  params: devicePath,
  async handler(call) {
    const { device, rights } = await call.may.seeDevice(call.params.deviceId);
    call.may.requireRight(rights, 'manage-devices');
    await call.parts.directory.devices.revoke(device.id);
    changed(call, 'device-revoked', device.id);
  },
});

export const deviceRoutes: readonly Route[] = [list, create, get, update, remove, joinCode, revoke];
