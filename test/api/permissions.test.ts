import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Permissions } from '../../src/api/permissions.ts';
import { rootRequest } from '../../src/api/request.ts';
import { adminRights, adminSiteRights, parseRights } from '../../src/core/rights.ts';
import type { Directory, User } from '../../src/directory/directory.ts';
import { TestApi } from './support.ts';
import { type Person, World } from './world.ts';

async function start(t: Parameters<typeof TestApi.start>[0]) {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const as = async (who: Person | string, method: string, target: string, body?: unknown) => {
    const token = await api.token(world.ids[who as Person] ?? who);
    return api.call(method, target, { token, body });
  };
  return { api, world, as };
}

const path = encodeURIComponent;

test('what the caller may not see is answered like what is not there', async (t) => {
  const { world, as } = await start(t);
  const device = await world.device();
  const secret = await world.directory.deviceGroups.create({ name: 'secret group' });
  const stranger = world.ids.stranger;
  const other = await world.newUser({ domain: 'other' });
  const terms = { bits: 1, tcpPorts: [], expiresMs: world.api.parts.clock.nowMs() + 60_000 };
  const share = await world.directory.shares.create({ deviceId: device.id, createdBy: world.ids.user, ...terms });
  const ask: readonly (readonly [
    method: string,
    target: (id: string) => string,
    body: ((id: string) => unknown) | undefined,
    ids: string[],
  ])[] = [
    ['GET', (id) => `/devices/${path(id)}`, undefined, [device.id, device.name]],
    ['DELETE', (id) => `/devices/${path(id)}`, undefined, [device.id, device.name]],
    ['PATCH', (id) => `/devices/${path(id)}`, () => ({ name: 'x' }), [device.id]],
    ['POST', () => '/tunnels', (nodeid) => ({ nodeid, transport: 'none', protocol: 1 }), [device.id, device.name]],
    [
      'POST',
      () => '/shares',
      (id) => ({ device: id, protocols: 'terminal', expiresInMs: 1_000 }),
      [device.id, device.name],
    ],
    ['POST', () => '/devices', (id) => ({ deviceGroup: id, name: 'x' }), [secret.id, secret.name]],
    ['GET', (id) => `/devices?group=${path(id)}`, undefined, [secret.id, secret.name]],
    ['GET', (id) => `/device-groups/${path(id)}`, undefined, [secret.id, secret.name]],
    ['GET', (id) => `/grants?target=${path(id)}`, undefined, [secret.id, device.id, device.name]],
    ['PUT', () => '/grants', (id) => ({ subject: stranger, target: id, rights: 8 }), [secret.id, device.name]],
    ['GET', (id) => `/users/${path(id)}`, undefined, [world.ids.admin, 'admin', other]],
    ['DELETE', (id) => `/users/${path(id)}`, undefined, [world.ids.admin, 'admin', other]],
    ['GET', (id) => `/shares/${path(id)}`, undefined, [share.id]],
    ['GET', (id) => `/users?domain=${path(id)}`, undefined, ['other']],
  ];
  for (const [method, target, body, ids] of ask) {
    for (const id of ids) {
      const unknown = id.replace(/...$/, 'QQQ');
      const there = await as('stranger', method, target(id), body?.(id));
      const notThere = await as('stranger', method, target(unknown), body?.(unknown));
      assert.equal(there.status, 404, `${method} ${target(id)}: ${there.text}`);
      assert.equal(there.text.replaceAll(id, 'ID'), notThere.text.replaceAll(unknown, 'ID'), `${method} ${target(id)}`);
      assert.deepEqual([...there.headers.keys()], [...notThere.headers.keys()]);
    }
  }
  const named = await as('stranger', 'GET', `/devices?name=${path(device.name)}`);
  assert.deepEqual(named.body, { devices: [] });
  assert.deepEqual((await as('stranger', 'GET', '/devices')).body, { devices: [] });
});

test('lists show what the caller reaches, page by page', async (t) => {
  const { world, as } = await start(t);
  const seen: string[] = [];
  for (let i = 0; i < 5; i++) seen.push((await world.device()).id);
  const { id: hidden } = await world.directory.deviceGroups.create({ name: 'hidden' });
  const { device: apart } = await world.directory.devices.create({ deviceGroupId: hidden, name: 'apart' });
  seen.sort();
  for (const [who, expected] of [
    ['user', seen],
    ['groupAdmin', seen],
    ['manager', [...seen, apart.id].sort()],
    ['stranger', []],
  ] as const) {
    const found: string[] = [];
    for (let after = ''; ; ) {
      const { body } = await as(who, 'GET', `/devices?limit=2&after=${path(after)}`);
      assert.ok(body.devices.length <= 2);
      found.push(...body.devices.map(({ nodeid }: { nodeid: string }) => nodeid));
      if (body.devices.length < 2) break;
      after = found.at(-1)!;
    }
    assert.deepEqual(found, expected, who);
  }
  const { body } = await as('user', 'GET', '/devices?limit=1');
  assert.equal(body.devices[0].rights, 'remote-control,guest-sharing');
  assert.equal(body.devices[0].agent, null, 'without device-details');
  assert.equal((await as('groupAdmin', 'GET', '/devices?limit=1')).body.devices[0].agent.hostname, 'host');
  const groups = async (who: Person) =>
    (await as(who, 'GET', '/device-groups')).body.deviceGroups.map(({ name }: { name: string }) => name).sort();
  assert.deepEqual(await groups('groupAdmin'), ['group']);
  assert.deepEqual(await groups('user'), []);
  assert.deepEqual(await groups('manager'), ['group', 'hidden']);
  assert.equal((await as('groupAdmin', 'GET', '/devices?group=group')).body.devices.length, 5);
});

/** Whether a holder of rights over a device may turn a link of somebody else from one set into another. */
const grants: readonly (readonly [holder: string, before: string, after: string, status: 200 | 403])[] = [
  ['manage-users,remote-control', 'none', 'remote-control', 200],
  ['manage-users', 'none', 'remote-control', 403],
  ['remote-control', 'none', 'remote-control', 403],
  ['manage-users,remote-control', 'none', 'remote-control,no-files', 200],
  ['manage-users,remote-control', 'none', 'admin', 403],
  ['admin', 'none', 'admin', 200],
  ['admin', 'wake', 'none', 200],
  // As restricted as one's own.
  ['manage-users,remote-control,no-terminal', 'none', 'remote-control', 403],
  ['manage-users,remote-control,no-terminal', 'none', 'remote-control,no-terminal', 200],
  ['manage-users,remote-control,no-terminal', 'none', 'remote-control,no-terminal,no-files', 200],
  ['manage-users,remote-control,view-only', 'none', 'remote-control,no-files', 403],
  // A restriction that one is under is not lifted from others.
  ['manage-users,remote-control,no-terminal', 'no-terminal', 'none', 403],
  ['manage-users,remote-control', 'no-terminal', 'none', 200],
  // What one does not hold is not taken from others either.
  ['manage-users,remote-control', 'remote-control,wake', 'remote-control', 403],
  ['manage-users,remote-control', 'wake', 'none', 403],
  // All restrictions make, with the right other links, all rights.
  [
    'manage-users,remote-control',
    'none',
    'view-only,no-terminal,no-files,no-amt,limited-input,limit-events,no-desktop',
    403,
  ],
];

test('[T1][T2] grants give and take only what the grantor holds, as restricted as it is held', async (t) => {
  const { world, as } = await start(t);
  const { links } = world.directory;
  for (const [holder, before, after, status] of grants) {
    const device = await world.device(parseRights(holder));
    const subject = await world.newUser();
    if (before !== 'none') await links.grant(subject, device.id, parseRights(before));
    const ends = { subject, target: device.id };
    const answer =
      after === 'none'
        ? await as('user', 'DELETE', `/grants?${new URLSearchParams(ends)}`)
        : await as('user', 'PUT', '/grants', { ...ends, rights: after });
    const what = `${holder}: ${before} → ${after}: ${answer.text}`;
    assert.equal(answer.status, after === 'none' && status === 200 ? 204 : status, what);
    const left = (await links.list({ subjectId: subject, targetId: device.id }))[0]?.rights ?? 0;
    assert.equal(left, parseRights(status === 200 ? after : before), what);
  }
});

test('nobody but a site manager touches a link that reaches himself', async (t) => {
  const { world, as } = await start(t);
  const { userGroups, links } = world.directory;
  const device = await world.device(adminRights);
  const group = await userGroups.create({ name: 'mine' });
  await userGroups.addMember(group.id, world.ids.user);
  await links.grant(group.id, device.id, parseRights('no-terminal'));
  for (const subject of [world.ids.user, 'user', group.id, 'mine']) {
    assert.equal((await as('user', 'PUT', '/grants', { subject, target: device.id, rights: 'wake' })).status, 403);
    const ends = new URLSearchParams({ subject, target: device.id });
    assert.equal((await as('user', 'DELETE', `/grants?${ends}`)).status, 403);
  }
  const ends = new URLSearchParams({ subject: 'mine', target: device.name });
  assert.equal((await as('manager', 'DELETE', `/grants?${ends}`)).status, 204);
});

test('a device is not moved to where the mover has more rights over it', async (t) => {
  const { world, as } = await start(t);
  const { deviceGroups, links } = world.directory;
  const mine = await deviceGroups.create({ name: 'mine' });
  await links.grant(world.ids.user, mine.id, adminRights);
  const wide = await deviceGroups.create({ name: 'managed' });
  await links.grant(world.ids.user, wide.id, parseRights('manage-devices'));
  const device = await world.device(parseRights('manage-devices'));
  const move = (who: Person, deviceGroup: string) => as(who, 'PATCH', `/devices/${path(device.id)}`, { deviceGroup });
  assert.equal((await move('user', 'mine')).status, 403);
  assert.equal((await move('groupAdmin', 'mine')).status, 404, 'a group that he does not see');
  assert.equal((await move('user', 'managed')).body.deviceGroupId, wide.id);
  assert.equal((await move('manager', 'mine')).body.deviceGroupId, mine.id);
});

test('site rights: nobody gives what he does not hold, acts on who holds more, or raises himself', async (t) => {
  const { world, as } = await start(t);
  const { admin, manager } = world.ids;
  const name = () => world.name();
  for (const siteRights of ['admin', 'backup', 'manage-users,recordings', 543, adminSiteRights | 32]) {
    assert.equal((await as('manager', 'POST', '/users', { name: name(), siteRights })).status, 403, String(siteRights));
  }
  const made = await as('manager', 'POST', '/users', { name: name(), siteRights: 'manage-users' });
  assert.equal(made.body.siteRights, 'manage-users');
  for (const [method, more, body] of [
    ['PATCH', '', { locked: true }],
    ['PATCH', '', { realname: 'x' }],
    ['PUT', '/password', { password: 'long enough' }],
    ['DELETE', '', undefined],
    ['DELETE', '/login-sessions', undefined],
  ] as const) {
    const answer = await as('manager', method, `/users/${path(admin)}${more}`, body);
    assert.equal(answer.status, 403, `${method} ${more}: ${answer.text}`);
  }
  const own = await as('manager', 'PATCH', `/users/${path(manager)}`, { siteRights: 'manage-users,recordings' });
  assert.equal(own.status, 403);
  assert.equal((await as('manager', 'PATCH', `/users/${path(manager)}`, { siteRights: 'none' })).status, 200);
  assert.equal((await as('manager', 'GET', '/users')).status, 403, 'and at once');
});

test('the last user with all site rights of the default domain stays, also where two go at once', async (t) => {
  const { world, as } = await start(t);
  const { admin, locked } = world.ids;
  await world.directory.users.update(locked, { locked: true });
  for (const body of [{ locked: true }, { siteRights: 'manage-users' }, { siteRights: adminSiteRights | 32 }]) {
    assert.equal((await as('admin', 'PATCH', `/users/${path(admin)}`, body)).status, 409, JSON.stringify(body));
  }
  assert.equal((await as('admin', 'DELETE', `/users/${path(admin)}`)).status, 409);
  assert.equal((await as('admin', 'PATCH', `/users/${path(admin)}`, { realname: 'Still here' })).status, 200);
  assert.equal((await as('admin', 'DELETE', `/users/${path(world.ids.other)}?domain=other`)).status, 204);

  for (let round = 0; round < 5; round++) {
    const { users } = world.directory;
    const admins = async () =>
      (await users.list('')).filter((user) => user.siteRights === adminSiteRights && !user.locked);
    const second = await world.newUser({ siteRights: adminSiteRights });
    const [first] = (await admins()).filter(({ id }) => id !== second);
    // In-process, so that both are asked for in one turn.
    const done = await Promise.all([
      world.api.router.dispatch(rootRequest('DELETE', `/users/${path(second)}`)),
      world.api.router.dispatch(rootRequest('PATCH', `/users/${path(first!.id)}`, { locked: true })),
    ]);
    assert.deepEqual(
      done.map(({ status }) => status).sort(),
      [done[0].status === 409 ? 200 : 204, 409],
      `round ${round}`,
    );
    assert.equal((await admins()).length, 1);
  }
});

test('a site admin of the default domain acts in other domains by ?domain=, and only there', async (t) => {
  const { world, as } = await start(t);
  const user = await world.newUser({ domain: 'other' });
  assert.equal((await as('admin', 'GET', `/users/${path(user)}`)).status, 404, 'not without it');
  assert.equal((await as('admin', 'GET', `/users/${path(user)}?domain=other`)).body.userid, user);
  assert.equal((await as('admin', 'GET', '/users?domain=nowhere')).status, 404);
  const group = await as('admin', 'POST', '/device-groups?domain=other', { name: 'theirs' });
  assert.match(group.body.deviceGroupId, /^mesh\/other\//);
  const crossed = await as('admin', 'PUT', '/grants?domain=other', {
    subject: world.ids.user,
    target: 'theirs',
    rights: 8,
  });
  assert.equal(crossed.status, 404, 'a subject of another domain is none');
  const { body } = await as('other', 'GET', '/users');
  assert.ok(body.users.every(({ domain }: { domain: string }) => domain === 'other'));
});

test('who is nobody holds nothing', () => {
  const nobody = new Permissions({} as Directory, { kind: 'nobody', address: '' }, '');
  assert.equal(nobody.isSuper, false);
  assert.equal(nobody.siteRights, 0);
  const user = { domain: 'other', siteRights: adminSiteRights, locked: false } as User;
  const other = { kind: 'session', user, scopes: ['all'], credentialId: '', address: '' } as const;
  assert.equal(new Permissions({} as Directory, other, '').isSuper, false);
});

test('[T1] links without a subject or target: the own ones, those on what one manages, all of the domain', async (t) => {
  const { world, as } = await start(t);
  const { links, deviceGroups, devices, userGroups } = world.directory;
  const device = await world.device();
  const elsewhere = await deviceGroups.create({ name: 'elsewhere' });
  const { device: far } = await devices.create({ deviceGroupId: elsewhere.id, name: 'far' });
  const helpers = await userGroups.create({ name: 'helpers' });
  await userGroups.addMember(helpers.id, world.ids.user);
  await links.grant(helpers.id, elsewhere.id, 8);
  await links.grant(world.ids.stranger, far.id, parseRights('remote-control'));
  const theirs = await deviceGroups.create({ name: 'theirs', domain: 'other' });
  await links.grant(world.ids.other, theirs.id, adminRights);
  const seen = async (who: Person, query = '') => {
    const { status, body } = await as(who, 'GET', `/grants${query}`);
    assert.equal(status, 200);
    const { grants } = body as { grants: { subjectId: string; targetId: string }[] };
    return grants.map(({ subjectId, targetId }) => `${subjectId} ${targetId}`).sort();
  };
  const onGroup = `${world.ids.groupAdmin} ${world.groupId}`;
  const onDevice = `${world.ids.user} ${device.id}`;
  const ofHelpers = `${helpers.id} ${elsewhere.id}`;
  const ofStranger = `${world.ids.stranger} ${far.id}`;
  const inOther = `${world.ids.other} ${theirs.id}`;
  assert.deepEqual(await seen('stranger'), [ofStranger]);
  assert.deepEqual(await seen('user'), [onDevice, ofHelpers].sort());
  assert.deepEqual(await seen('groupAdmin'), [onGroup, onDevice].sort());
  for (const who of ['manager', 'admin'] as const) {
    assert.deepEqual(await seen(who), [onGroup, onDevice, ofHelpers, ofStranger].sort());
  }
  assert.deepEqual(await seen('admin', '?domain=other'), [inOther]);
  assert.deepEqual(await seen('other'), [inOther]);
});
