import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rightBits } from '../../src/core/rights.ts';
import { TestApi } from './support.ts';
import { type Person, World } from './world.ts';

const ids = (body: { sessions: { id: string }[] }) => body.sessions.map(({ id }) => id).sort();

test('a session is told of with its counters, and who throttled whom for how long', async (t) => {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const { id } = world.runSession({ guestname: 'Bob', recording: 'r.mcrec', startedMs: 1_000.7 });
  const { body } = await api.call('GET', '/sessions', { token: await world.token('user') });
  assert.deepEqual(body, {
    missingServers: 0,
    sessions: [
      {
        id,
        domain: '',
        protocol: 1,
        userid: world.ids.user,
        username: 'user',
        guestname: 'Bob',
        nodeid: null,
        userAddress: '192.0.2.1',
        deviceAddress: '192.0.2.2',
        startedMs: 1_001,
        seconds: 61,
        userToDevice: { bytes: 1, messages: 3, throttled: { who: 'user', by: 'device', ms: 5 } },
        deviceToUser: { bytes: 2, messages: 4, throttled: { who: 'device', by: 'user', ms: 6 } },
        recording: 'r.mcrec',
      },
    ],
  });
});

test('everybody sees and ends own sessions, who manages a device those to it, and site managers all of the domain', async (t) => {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const { links } = api.directory;
  const reached = await world.device(rightBits['remote-control']);
  const userManaged = await world.device(rightBits['manage-users']);
  const deviceManaged = await world.device(rightBits['manage-devices']);
  const { stranger } = world.ids;
  const make = () => ({
    own: world.runSession().id,
    reached: world.runSession({ userid: stranger, nodeid: reached.id }).id,
    userManaged: world.runSession({ userid: stranger, nodeid: userManaged.id }).id,
    deviceManaged: world.runSession({ userid: stranger, nodeid: deviceManaged.id }).id,
    other: world.runSession({ userid: world.ids.other, domain: 'other' }).id,
  });
  type Kind = keyof ReturnType<typeof make>;
  const table: Record<Person, Record<Kind, 204 | 403 | 404>> = {
    user: { own: 204, reached: 404, userManaged: 403, deviceManaged: 204, other: 404 },
    stranger: { own: 404, reached: 204, userManaged: 204, deviceManaged: 204, other: 404 },
    groupAdmin: { own: 404, reached: 204, userManaged: 204, deviceManaged: 204, other: 404 },
    manager: { own: 204, reached: 204, userManaged: 204, deviceManaged: 204, other: 404 },
    admin: { own: 204, reached: 204, userManaged: 204, deviceManaged: 204, other: 404 },
    other: { own: 404, reached: 404, userManaged: 404, deviceManaged: 404, other: 204 },
  };
  for (const [who, row] of Object.entries(table) as [Person, Record<Kind, number>][]) {
    api.sessions.clear();
    const sessions = make();
    const token = await world.token(who);
    const kinds = Object.keys(row) as Kind[];
    const seen = kinds.filter((kind) => row[kind] !== 404).map((kind) => sessions[kind]);
    assert.deepEqual(ids((await api.call('GET', '/sessions', { token })).body), seen.sort(), who);
    for (const kind of kinds) {
      const { status } = await api.call('DELETE', `/sessions/${sessions[kind]}`, { token });
      assert.equal(status, row[kind], `${who} ends ${kind}`);
    }
    const left = kinds.filter((kind) => row[kind] !== 204).length;
    assert.equal(api.sessions.size, left, `${who} ended those and no other`);
  }
  const admin = await world.token('admin');
  api.sessions.clear();
  const { other } = make();
  assert.deepEqual(ids((await api.call('GET', '/sessions?domain=other', { token: admin })).body), [other]);

  await links.revoke(world.ids.user, deviceManaged.id);
  const after = await api.call('GET', '/sessions', { token: await world.token('user') });
  assert.equal(after.body.sessions.length, 2, 'own, and the one to the device whose users are managed');
});

test('a session that was ended leaves an event with who did it, and one that is gone is unknown', async (t) => {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const id = 'meshmessenger/user//a/user//b @$';
  world.runSession({ id, nodeid: 'node//x', protocol: 200 });
  const token = await world.token('manager');
  const path = `/sessions/${encodeURIComponent(id)}`;
  assert.equal((await api.call('DELETE', path, { token })).status, 204);
  const actor = { userid: world.ids.manager, via: 'session', address: '127.0.0.1' };
  const facts = { domain: '', id, userid: world.ids.user, nodeid: 'node//x', protocol: 200 };
  assert.deepEqual(api.told, [{ event: 'sessionKilled', actor, ...facts }]);
  const { status, body } = await api.call('DELETE', path, { token });
  assert.deepEqual([status, body.error.code], [404, 'CPL_API_UNKNOWN']);
  assert.equal(api.told.length, 1);
});

test('sessions come in pages', async (t) => {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const all = Array.from({ length: 7 }, () => world.runSession().id).sort();
  world.runSession({ userid: world.ids.stranger });
  const token = await world.token('user');
  const seen: string[] = [];
  for (;;) {
    const after = seen.length === 0 ? '' : `&after=${seen.at(-1)}`;
    const { body } = await api.call('GET', `/sessions?limit=3${after}`, { token });
    seen.push(...body.sessions.map(({ id }: { id: string }) => id));
    if (body.sessions.length < 3) break;
  }
  assert.deepEqual(seen, all);
  for (const limit of ['0', '1001', 'x', '1.5']) {
    assert.equal((await api.call('GET', `/sessions?limit=${limit}`, { token })).status, 400);
  }
});
