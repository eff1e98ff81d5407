import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Half } from '../../src/relay/session.ts';
import { TestApi } from '../api/support.ts';
import { World } from '../api/world.ts';
import { runDirectory } from '../support/directory-cli.ts';
import { admission, deviceIdentity, SocketDouble, userIdentity } from '../support/relay-doubles.ts';
import { type Member, TestCluster } from './cluster-member.ts';

/** A session that nobody routed; it shows the addresses and the device that it names. */
function run(member: Member, id: string, userid = 'user//alice', nodeid = ''): void {
  const identities = [
    { ...userIdentity(), userid },
    { ...deviceIdentity(), userid },
  ];
  for (const identity of identities)
    member.relay.join(new Half(admission(id, identity, { nodeid }), new SocketDouble()));
}

/** The API on the first of three servers, on a directory with people. */
async function setUp(t: Parameters<typeof TestCluster.start>[0]) {
  const cluster = await TestCluster.start(t);
  const [a, b, c] = cluster.members as [Member, Member, Member];
  const api = await TestApi.start(t, { parts: { sessions: a.sessions } });
  const world = await World.make(api);
  return { cluster, a, b, c, api, world };
}

test('[K9] the list on any server is that of the whole cluster, in pages by id', async (t) => {
  const { a, b, c, api, world } = await setUp(t);
  const all = Array.from({ length: 23 }, (_, index) => `s${String(index).padStart(2, '0')}`);
  for (const [index, id] of all.entries()) run([a, b, c][(index * 7) % 3]!, id, world.ids.user);
  // The first and last ids on one server alone: no server may be ahead of another.
  for (const id of ['a1', 'a2', 'a3', 'z1', 'z2', 'z3']) run(b, id, world.ids.user);
  const expected = ['a1', 'a2', 'a3', ...all, 'z1', 'z2', 'z3'];
  for (const limit of [1, 4, 29, 100]) {
    const seen: string[] = [];
    for (;;) {
      const after = seen.length === 0 ? '' : `&after=${seen.at(-1)}`;
      const token = await world.token('user');
      const { body } = await api.call('GET', `/sessions?limit=${limit}${after}`, { token });
      seen.push(...body.sessions.map(({ id }: { id: string }) => id));
      assert.equal(body.missingServers, 0);
      if (body.sessions.length < limit) break;
    }
    assert.deepEqual(seen, expected, `limit ${limit}`);
  }
  const page = await c.sessions.list('', { userid: world.ids.user }, { after: 'a2', limit: 2 });
  assert.deepEqual(
    page.sessions.map(({ id }) => id),
    ['a3', 's00'],
    'another server says the same',
  );
  const { body } = await api.call('GET', '/sessions?limit=1', { token: await world.token('user') });
  const { startedMs, seconds, ...shown } = body.sessions[0];
  assert.ok(startedMs > 0 && seconds >= 0);
  const throttled = (who: string, by: string) => ({ bytes: 0, messages: 0, throttled: { who, by, ms: 0 } });
  assert.deepEqual(shown, {
    ...{ id: 'a1', domain: '', protocol: 0, userid: world.ids.user, username: 'alice' },
    ...{ guestname: null, nodeid: null, userAddress: '10.0.0.1', deviceAddress: '10.0.0.1', recording: null },
    userToDevice: throttled('user', 'device'),
    deviceToUser: throttled('device', 'user'),
  });
});

test('[K9] the rights are those of each session, wherever it runs', async (t) => {
  const { cluster, a, b, c, api, world } = await setUp(t);
  run(b, 'own', world.ids.user);
  run(c, 'others', world.ids.stranger);
  const { body } = await api.call('GET', '/sessions', { token: await world.token('user') });
  assert.deepEqual(
    body.sessions.map(({ id }: { id: string }) => id),
    ['own'],
  );
  const manager = await api.call('GET', '/sessions', { token: await world.token('manager') });
  assert.deepEqual(
    manager.body.sessions.map(({ id }: { id: string }) => id),
    ['others', 'own'],
  );
  const other = await api.call('GET', '/sessions', { token: await world.token('other') });
  assert.deepEqual(other.body.sessions, []);
  const kill = await api.call('DELETE', '/sessions/others', { token: await world.token('user') });
  assert.equal(kill.status, 404);
  assert.equal(c.relay.sessionCount, 1);
  // Who manages a device sees what runs to it, and a page is filled with what is seen.
  const { device } = await cluster.device();
  for (const id of ['m1', 'm3']) run(b, id, world.ids.stranger, device.id);
  run(c, 'm2', world.ids.stranger, 'node//other');
  run(c, 'm4', world.ids.stranger, device.id);
  const seen = await a.sessions.list('', { userid: cluster.alice.id }, { after: '', limit: 3 });
  assert.deepEqual(
    seen.sessions.map(({ id }) => id),
    ['m1', 'm3', 'm4'],
  );
});

test('[K9] a session on another server is ended from here, with one event, told here', async (t) => {
  const { a, b, c, api, world } = await setUp(t);
  run(a, 'here', world.ids.user);
  run(b, 'there', world.ids.user);
  const token = await world.token('user');
  for (const [id, member] of [
    ['there', b],
    ['here', a],
  ] as const) {
    assert.equal((await api.call('DELETE', `/sessions/${id}`, { token })).status, 204);
    assert.deepEqual(member.forwarder.pairs[0]!.ended?.code, 4410);
  }
  assert.deepEqual(
    api.told.map(({ event, id }) => `${event} ${id}`),
    ['sessionKilled there', 'sessionKilled here'],
  );
  assert.equal((await api.call('DELETE', '/sessions/there', { token })).status, 404);
  assert.equal(await c.sessions.end('', 'there'), false);
  assert.equal(api.told.length, 2);
});

test('[K9] servers that do not answer, or not properly, are counted in the answer, and nothing is called unknown for them', async (t) => {
  const { cluster, a, b, c, api, world } = await setUp(t);
  run(a, 'here', world.ids.user);
  run(b, 'there', world.ids.user);
  const token = await world.token('user');
  cluster.network.silent.add('B');
  c.peers.serve('sessions', () => ({ sessions: [{ id: 'x' }] }));
  const { body } = await api.call('GET', '/sessions', { token });
  assert.deepEqual([body.sessions.map(({ id }: { id: string }) => id), body.missingServers], [['here'], 2]);
  const kill = await api.call('DELETE', '/sessions/there', { token });
  assert.deepEqual([kill.status, kill.body.error.code], [503, 'CPL_API_SERVERS']);
  assert.equal((await api.call('DELETE', '/sessions/here', { token })).status, 204);
  // The failure is told to the log, and was meant.
  assert.equal(api.failures.splice(0).length, 1);
});

test('[K9] what another server asks about sessions is checked', async (t) => {
  const { a } = await setUp(t);
  for (const [method, body] of [
    ['sessions', { domain: '', after: '', limit: 1_001 }],
    ['sessions', { domain: '', after: '', limit: 0 }],
    ['find-session', { domain: '' }],
    ['end-session', { domain: '', id: 7 }],
  ] as const) {
    await assert.rejects(a.peers.ask('B', method, body), { name: 'ZodError' }, method);
  }
});

test('[K9] the command line lists and ends the sessions of all servers, and says where the list is not whole', async (t) => {
  const { cluster, b, c, api, world } = await setUp(t);
  run(b, 'one', world.ids.user);
  run(c, 'two', world.ids.user);
  const at = ['--url', api.origin, '--token', await world.token('user')];
  const listed = async () => {
    const lines = await runDirectory(['session', 'list', ...at, '--json']);
    return lines.map((line) => (JSON.parse(line) as { id: string }).id);
  };
  assert.deepEqual(await listed(), ['one', 'two']);
  await runDirectory(['session', 'kill', 'two', ...at]);
  assert.equal(c.forwarder.pairs[0]!.ended?.code, 4410);
  assert.deepEqual(await listed(), ['one']);
  cluster.network.silent.add('C');
  await assert.rejects(listed(), { code: 'CPL_CLIENT_SERVERS', message: /^1 of the cluster's servers/ });
});
