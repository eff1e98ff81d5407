import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createApiEvents } from '../../src/api/audit-events.ts';
import type { Actor } from '../../src/api/parts.ts';
import { Events } from '../../src/audit/events.ts';
import type { EventRecord } from '../../src/audit/sink.ts';
import { systemClock } from '../../src/core/clock.ts';
import { rightBits } from '../../src/core/rights.ts';
import { TestApi } from './support.ts';
import { World } from './world.ts';

function collect() {
  const got: Partial<EventRecord>[] = [];
  const write = ({ time: _, msg: __, etype: ___, ...event }: EventRecord) => void got.push(event);
  const failures: unknown[] = [];
  const events = new Events({
    clock: systemClock,
    sinks: [{ name: 'collector', write }],
    onSinkFailure: (_sink, error) => failures.push(error),
  });
  return { got, failures, api: createApiEvents(events) };
}

const root: Actor = { userid: '', via: 'root', address: '' };

test('[R30] what is done by the API becomes an event with who did it', async (t) => {
  const { got, failures, api: told } = collect();
  const api = await TestApi.start(t, { events: told });
  const world = await World.make(api);
  const { admin, manager } = world.ids;
  const device = await world.device(rightBits['remote-control'] | rightBits['guest-sharing']);
  const bob = await world.newUser({ password: 'right password' });
  const name = bob.split('/')[2]!;
  const token = await world.token('admin');
  const last = () => {
    const [event] = got.splice(0);
    return event;
  };
  const call = async (method: string, path: string, body?: unknown, by = token) => {
    const answer = await api.call(method, path, { token: by, ...(body !== undefined && { body }) });
    assert.ok(answer.status < 300, answer.text);
    assert.deepEqual(failures, []);
    assert.equal(got.length, 1, `${method} ${path}`);
    return { answer: answer.body, event: last() };
  };

  const login = await call('POST', '/login', { user: name, password: 'right password' });
  const loginid = (await api.directory.loginSessions.list(bob))[0]!.id;
  const bobIs = { domain: '', userid: bob, username: name };
  assert.deepEqual(login.event, { code: 'CPL-1501I', action: 'login', ...bobIs, address: '127.0.0.1', loginid });
  await api.call('POST', '/login', { body: { user: name, password: 'wrong' } });
  const failed = { domain: '', username: name, address: '127.0.0.1', reason: 'credentials' };
  assert.deepEqual(last(), { code: 'CPL-1502W', action: 'loginfailed', ...failed });
  const logout = await call('POST', '/logout', undefined, login.answer.token);
  assert.deepEqual(logout.event, { code: 'CPL-1503I', action: 'loginended', ...bobIs, loginid, reason: 'logout' });

  const made = await call('POST', '/tokens', { name: 'ci', scopes: ['events:read'] });
  const adminIs = { domain: '', userid: admin, username: 'admin' };
  const tokenIs = { ...adminIs, tokenid: made.answer.id, tokenname: 'ci' };
  const { scopes } = made.answer;
  assert.deepEqual(made.event, { code: 'CPL-1504I', action: 'tokencreated', ...tokenIs, scopes });
  const revoked = await call('DELETE', `/tokens/${made.answer.id}`);
  assert.deepEqual(revoked.event, { code: 'CPL-1505I', action: 'tokenrevoked', ...tokenIs });

  const userToken = await world.token('user');
  const terms = { device: device.id, protocols: 'terminal', expiresInMs: 60_000, guestName: 'Guest' };
  const share = await call('POST', '/shares', terms, userToken);
  const shareIs = {
    domain: '',
    userid: world.ids.user,
    nodeid: device.id,
    shareid: share.answer.id,
    guestname: 'Guest',
  };
  const { code, shareid, protocols, userid, expires } = share.event!;
  assert.deepEqual([code, shareid, protocols, userid], ['CPL-1305I', share.answer.id, 'terminal', world.ids.user]);
  assert.equal(Date.parse(expires as string), share.answer.expiresMs);
  const shareRevoked = await call('POST', `/shares/${share.answer.id}/revoke`);
  assert.deepEqual(shareRevoked.event, { code: 'CPL-1306I', action: 'sharerevoked', ...shareIs, actorid: admin });

  const inPath = encodeURIComponent;
  const changed = await call('PATCH', `/users/${inPath(bob)}`, { realname: 'Bob' });
  const change = { change: 'user-changed', target: bob, detail: 'realname' };
  assert.deepEqual(changed.event, {
    code: 'CPL-1601I',
    action: 'directorychanged',
    ...adminIs,
    actor: 'api',
    ...change,
  });
  const ended = await call('DELETE', `/users/${inPath(manager)}/login-sessions`);
  assert.deepEqual(
    [ended.event?.code, ended.event?.userid, ended.event?.actorid, ended.event?.loginid],
    ['CPL-1503I', manager, admin, 'all 0'],
  );
  const key = await call('POST', `/devices/${inPath(device.id)}/revoke`);
  assert.deepEqual(key.event, { code: 'CPL-1406I', action: 'devicerevoked', ...adminIs, nodeid: device.id });

  const { id } = world.runSession();
  const killed = await call('DELETE', `/sessions/${id}`);
  assert.deepEqual(
    [killed.event?.code, killed.event?.userid, killed.event?.actorid],
    ['CPL-1003I', world.ids.user, admin],
  );
  const file = world.record();
  const looks: (readonly [string, string, string])[] = [
    ['GET', '/recordings', 'CPL-1211I'],
    ['GET', `/recordings/${file}`, 'CPL-1209I'],
    ['DELETE', `/recordings/${file}`, 'CPL-1206I'],
  ];
  for (const [method, path, expected] of looks) {
    const { event } = await call(method, path);
    assert.deepEqual([event?.code, event?.userid, event?.address], [expected, admin, '127.0.0.1']);
  }
});

test('[R30] what root does in the process is told as done by the CLI, by no user', () => {
  const { got, api } = collect();
  api.directoryChanged({ actor: root, domain: 'd', action: 'user-removed', target: 'user/d/x', detail: '' });
  const none = { userid: '', username: '' };
  const change = { change: 'user-removed', target: 'user/d/x' };
  assert.deepEqual(got, [
    { code: 'CPL-1601I', action: 'directorychanged', domain: 'd', ...none, actor: 'cli', ...change },
  ]);
});

test('[R38] a download is told with its part and whether all of it was sent', () => {
  const { got, api } = collect();
  const actor: Actor = { userid: 'user//ann', via: 'token', address: '192.0.2.1' };
  const facts = { actor, domain: '', file: 'r.mcrec', bytes: 5 };
  api.recordingDownloaded({ ...facts, range: '0-9', complete: false });
  api.recordingDownloaded({ ...facts, range: undefined, complete: true });
  assert.deepEqual(
    got.map(({ code, username, range, bytes, complete }) => [code, username, range, bytes, complete]),
    [
      ['CPL-1210I', 'ann', '0-9', 5, false],
      ['CPL-1210I', 'ann', undefined, 5, true],
    ],
  );
});
