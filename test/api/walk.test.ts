import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Route } from '../../src/api/route.ts';
import { allRoutes } from '../../src/api/routes/index.ts';
import { covers, scopeWords } from '../../src/api/scopes.ts';
import { adminRights } from '../../src/core/rights.ts';
import { type Answer, TestApi } from './support.ts';
import { type Person, people, World } from './world.ts';

/** What is asked for; made afresh for each attempt, so that none sees what another did. */
interface Asked {
  /** Values of the path's names. */
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: string;
  readonly body?: unknown;
}

type Row = readonly [
  /** Statuses for: other domain's admin, stranger, user, group admin, site manager, site admin. */
  statuses: readonly [number, number, number, number, number, number],
  ask?: (world: World, who: Person) => Promise<Asked>,
];

const everybody = (status: number) => [status, status, status, status, status, status] as const;
const device = async (world: World, body?: unknown): Promise<Asked> => ({
  path: { deviceId: (await world.device()).id },
  ...(body !== undefined && { body }),
});
const user = async (world: World, body?: unknown): Promise<Asked> => ({
  path: { userId: await world.newUser() },
  ...(body !== undefined && { body }),
});
const userGroup = async (world: World, body?: unknown): Promise<Asked> => {
  const group = await world.directory.userGroups.create({ name: world.name() });
  return { path: { userGroupId: group.id }, ...(body !== undefined && { body }) };
};
const member = async (world: World, isIn: boolean): Promise<Asked> => {
  const { path } = await userGroup(world);
  const userId = await world.newUser();
  if (isIn) await world.directory.userGroups.addMember(path!.userGroupId!, userId);
  return { path: { ...path, userId } };
};
const deviceGroup = async (world: World, body?: unknown): Promise<Asked> => {
  const group = await world.directory.deviceGroups.create({ name: world.name() });
  await world.directory.links.grant(world.ids.groupAdmin, group.id, adminRights);
  return { path: { deviceGroupId: group.id }, ...(body !== undefined && { body }) };
};
const domain = async (world: World, body?: unknown): Promise<Asked> => {
  const { id } = await world.directory.domains.put(world.name('domain'));
  return { path: { domainId: id }, ...(body !== undefined && { body }) };
};
const share = async (world: World): Promise<Asked> => {
  const { id: deviceId } = await world.device();
  const terms = { bits: 1, tcpPorts: [], expiresMs: world.api.parts.clock.nowMs() + 60_000 };
  return { path: { id: (await world.directory.shares.create({ deviceId, createdBy: world.ids.user, ...terms })).id } };
};
const link = async (world: World) => {
  const target = (await world.device()).id;
  const subject = await world.newUser();
  return { subject, target };
};

/** Of a stranger, to a device of the group. */
const session = async (world: World): Promise<Asked> => {
  const nodeid = (await world.device()).id;
  return { path: { id: world.runSession({ userid: world.ids.locked, nodeid }).id } };
};
const recording = async (world: World): Promise<Asked> => ({ path: { file: world.record() } });

/** Site right recordings, which other domains' admins have in theirs. */
const ofRecordings = (status: number, otherStatus = 404) => [otherStatus, 403, 403, 403, 403, status] as const;
/** Site right manage-users; other domains' admins have it too, in their domain. */
const managers = (status: number, otherStatus = status) => [otherStatus, 403, 403, 403, status, status] as const;
const overUsers = (status: number) => [404, 404, 404, 404, status, status] as const;
const superOnly = (status: number) => [403, 403, 403, 403, 403, status] as const;
const overDevice = (status: number, userStatus = 403) => [404, 404, userStatus, status, status, status] as const;

const table: Readonly<Record<string, Row>> = {
  'GET /openapi.json': [everybody(200)],
  'POST /login': [
    everybody(200),
    async (world) => {
      const id = await world.newUser({ password: 'right password' });
      return { body: { user: id.split('/')[2], password: 'right password' } };
    },
  ],
  'POST /logout': [everybody(204)],
  'GET /me': [everybody(200)],
  'PATCH /me': [everybody(200), async () => ({ body: { realname: 'Me' } })],
  'GET /login-sessions': [everybody(200)],
  'DELETE /login-sessions/{id}': [
    [404, 204, 404, 404, 404, 404],
    async (world) => {
      const { session } = await world.directory.loginSessions.create(world.ids.stranger, { address: '' });
      return { path: { id: session.id } };
    },
  ],
  'GET /tokens': [everybody(200)],
  'POST /tokens': [everybody(201), async () => ({ body: { name: 'a', scopes: ['users:read'] } })],
  'DELETE /tokens/{id}': [
    [404, 204, 404, 404, 404, 404],
    async (world) => {
      const wanted = { name: 'a', scopes: ['all'] };
      return { path: { id: (await world.directory.apiTokens.create(world.ids.stranger, wanted)).token.id } };
    },
  ],
  'GET /users': [managers(200)],
  'POST /users': [managers(201), async (world) => ({ body: { name: world.name() } })],
  'GET /users/{userId}': [overUsers(200), (world) => user(world)],
  'PATCH /users/{userId}': [overUsers(200), (world) => user(world, { realname: 'X', locked: true })],
  'PUT /users/{userId}/password': [overUsers(204), (world) => user(world, { password: 'another one' })],
  'DELETE /users/{userId}': [overUsers(204), (world) => user(world)],
  'DELETE /users/{userId}/login-sessions': [overUsers(200), (world) => user(world)],
  'GET /user-groups': [managers(200)],
  'POST /user-groups': [managers(201), async (world) => ({ body: { name: world.name() } })],
  'GET /user-groups/{userGroupId}': [managers(200, 404), (world) => userGroup(world)],
  'PATCH /user-groups/{userGroupId}': [managers(200, 404), (world) => userGroup(world, { description: 'X' })],
  'DELETE /user-groups/{userGroupId}': [managers(204, 404), (world) => userGroup(world)],
  'GET /user-groups/{userGroupId}/members': [managers(200, 404), (world) => userGroup(world)],
  'PUT /user-groups/{userGroupId}/members/{userId}': [managers(204, 404), (world) => member(world, false)],
  'DELETE /user-groups/{userGroupId}/members/{userId}': [managers(204, 404), (world) => member(world, true)],
  'GET /domains': [superOnly(200)],
  'GET /domains/{domainId}': [superOnly(200), (world) => domain(world)],
  'PUT /domains/{domainId}': [superOnly(200), (world) => domain(world, { title: 'X' })],
  'DELETE /domains/{domainId}': [superOnly(204), (world) => domain(world)],
  'GET /device-groups': [everybody(200)],
  'POST /device-groups': [managers(201), async (world) => ({ body: { name: world.name() } })],
  'GET /device-groups/{deviceGroupId}': [overDevice(200, 404), (world) => deviceGroup(world)],
  'PATCH /device-groups/{deviceGroupId}': [overDevice(200, 404), (world) => deviceGroup(world, { consent: 1 })],
  'DELETE /device-groups/{deviceGroupId}': [[404, 404, 404, 403, 204, 204], (world) => deviceGroup(world)],
  'GET /devices': [everybody(200)],
  'POST /devices': [
    overDevice(201, 404),
    async (world) => ({ body: { deviceGroup: world.groupId, name: world.name() } }),
  ],
  'GET /devices/{deviceId}': [overDevice(200, 200), (world) => device(world)],
  'PATCH /devices/{deviceId}': [overDevice(200), (world) => device(world, { name: world.name() })],
  'DELETE /devices/{deviceId}': [overDevice(204), (world) => device(world)],
  'POST /devices/{deviceId}/join-code': [overDevice(201), (world) => device(world)],
  'POST /devices/{deviceId}/revoke': [overDevice(204), (world) => device(world)],
  'GET /grants': [
    overDevice(200),
    async (world) => ({ query: `target=${encodeURIComponent((await link(world)).target)}` }),
  ],
  'PUT /grants': [overDevice(200), async (world) => ({ body: { ...(await link(world)), rights: 'remote-control' } })],
  'DELETE /grants': [
    overDevice(204),
    async (world) => {
      const ends = await link(world);
      await world.directory.links.grant(ends.subject, ends.target, 8);
      return { query: new URLSearchParams(ends).toString() };
    },
  ],
  'POST /shares': [
    [404, 404, 201, 201, 403, 403],
    async (world) => ({ body: { device: (await world.device()).id, protocols: 'terminal', expiresInMs: 60_000 } }),
  ],
  'GET /shares': [everybody(200)],
  'GET /shares/{id}': [overDevice(200, 200), share],
  'POST /shares/{id}/revoke': [overDevice(204, 204), share],
  'DELETE /shares/{id}': [overDevice(204, 204), share],
  'POST /tunnels': [
    [404, 404, 200, 200, 403, 403],
    async (world) => ({ body: { nodeid: (await world.device()).id, transport: 'tcp', host: '127.0.0.1', port: 22 } }),
  ],
  'GET /sessions': [everybody(200)],
  'DELETE /sessions/{id}': [overDevice(204, 404), session],
  'GET /recordings': [ofRecordings(200, 200)],
  'GET /recordings/{file}': [ofRecordings(200), recording],
  'GET /recordings/{file}/data': [ofRecordings(200), recording],
  'DELETE /recordings/{file}': [ofRecordings(204), recording],
  'GET /events': [everybody(200)],
  'GET /events/live': [everybody(200)],
};

const nameOf = ({ method, path }: Route) => `${method} ${path}`;

test('every route is in the table, and the table has no other', () => {
  assert.deepEqual(Object.keys(table).sort(), allRoutes.map(nameOf).sort());
});

test('every route answers every kind of caller as the table says', { timeout: 120_000 }, async (t) => {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const lockedToken = (await api.directory.apiTokens.create(world.ids.locked, { name: 'a', scopes: ['all'] })).secret;
  await api.directory.users.update(world.ids.locked, { locked: true });

  for (const route of allRoutes) {
    const [statuses, make = async () => ({})] = table[nameOf(route)]!;
    const attempt = async (who: Person, how: Parameters<TestApi['call']>[2], more = ''): Promise<Answer> => {
      const { path = {}, query = '', body }: Asked = await make(world, who);
      const target = route.path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(path[name]!));
      const search = [query, more].filter((part) => part !== '').join('&');
      const call = route.answer === 'events' ? api.head.bind(api) : api.call.bind(api);
      return call(route.method, `${target}${search === '' ? '' : `?${search}`}`, { ...how, body });
    };
    const expect = async (what: string, status: number, work: Promise<Answer>) => {
      const answer = await work;
      assert.equal(answer.status, status, `${nameOf(route)} by ${what}: ${answer.text}`);
      if (status < 400) return;
      assert.match(answer.body.error.code, /^CPL_[A-Z_]+$/);
      assert.match(answer.body.error.message, /^[\x20-\x7e]+$/);
    };
    for (const [index, who] of people.entries()) {
      await expect(who, statuses[index]!, attempt(who, { token: await world.token(who) }));
    }
    const { admin } = world.ids;
    const adminStatus = statuses.at(-1)!;
    const cookie = async () => (await api.directory.loginSessions.create(admin, { address: '' })).token;
    if (route.caller === 'public') {
      for (const token of [undefined, 'nonsense', lockedToken]) {
        await expect(`nobody with ${token}`, adminStatus, attempt('admin', { token }));
      }
      continue;
    }
    await expect('nobody', 401, attempt('admin', {}));
    await expect('a made-up token', 401, attempt('admin', { token: 'x'.repeat(43) }));
    await expect('a locked user', 401, attempt('admin', { token: lockedToken }));
    await expect(
      'a made-up cookie',
      401,
      attempt('admin', { cookie: 'x'.repeat(43), headers: { origin: api.origin } }),
    );
    const rest = scopeWords.filter((scope) => !covers([scope], route.scope));
    const token = (await api.directory.apiTokens.create(admin, { name: 'a', scopes: rest })).secret;
    await expect('a token without the scope', 403, attempt('admin', { token }));
    const withoutOrigin = route.method === 'GET' ? adminStatus : 403;
    await expect('a cookie without Origin', withoutOrigin, attempt('admin', { cookie: await cookie() }));
    const headers = { origin: api.origin };
    await expect('a cookie with Origin', adminStatus, attempt('admin', { cookie: await cookie(), headers }));
    if (route.inDomain === true) {
      const foreign = { token: await world.token('other') };
      await expect("other domain's admin in the default one", 404, attempt('other', foreign, 'domain=~'));
      await expect(
        'a site manager in another domain',
        404,
        attempt('manager', { token: await world.token('manager') }, 'domain=other'),
      );
    }
  }
  assert.deepEqual(api.failures, []);
});
