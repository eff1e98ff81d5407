import assert from 'node:assert/strict';
import { request as httpsRequest } from 'node:https';
import { test } from 'node:test';
import { TestApi } from './support.ts';

const password = 'correct horse';

async function start(t: Parameters<typeof TestApi.start>[0], options: Parameters<typeof TestApi.start>[1] = {}) {
  const api = await TestApi.start(t, options);
  await api.directory.domains.put('other');
  await api.directory.users.create({ name: 'alice', password, siteRights: 543 });
  await api.directory.users.create({ name: 'alice', domain: 'other', password: 'another password' });
  return api;
}

const login = (api: TestApi, more: object = {}, headers: Record<string, string> = {}) =>
  api.call('POST', '/login', { body: { user: 'alice', password, ...more }, headers });

test('a login gives a token that is good until it logs out, with events', async (t) => {
  const api = await start(t);
  const { status, body, headers } = await login(api, { user: 'ALICE' });
  assert.equal(status, 200);
  assert.equal(body.user.userid, 'user//alice');
  assert.equal(headers.get('set-cookie'), null);
  assert.equal(headers.get('cache-control'), 'no-store');
  const me = await api.call('GET', '/me', { token: body.token });
  assert.deepEqual([me.body.kind, me.body.scopes, me.body.user.userid], ['session', ['all'], 'user//alice']);
  assert.equal((await api.call('POST', '/logout', { token: body.token })).status, 204);
  assert.equal((await api.call('GET', '/me', { token: body.token })).status, 401);
  const loginId = api.told[0]?.loginId;
  assert.match(String(loginId), /^[\w-]{16}$/);
  const told = { userid: 'user//alice', domain: '', address: '127.0.0.1', loginId };
  assert.deepEqual(api.told, [
    { event: 'loggedIn', ...told },
    { event: 'loggedOut', ...told },
  ]);
  const other = await login(api, { domain: 'other', password: 'another password' });
  assert.equal(other.body.user.userid, 'user/other/alice');
});

test('whatever is wrong with a login, the answer is the same; the event has the reason', async (t) => {
  const api = await start(t);
  await api.directory.users.create({ name: 'carol', password });
  await api.directory.users.update('user//carol', { locked: true });
  await api.directory.users.create({ name: 'dave' });
  const answers = [
    await login(api, { password: 'wrong horse' }),
    await login(api, { user: 'nobody' }),
    await login(api, { user: 'carol' }),
    await login(api, { user: 'dave' }),
    await login(api, { domain: 'nowhere' }),
    await login(api, { user: '../\u0000\u202e' }),
    await login(api, { password: '' }),
  ];
  for (const { status, text, headers } of answers) {
    assert.deepEqual([status, text, headers.get('www-authenticate')], [401, answers[0]!.text, 'Bearer']);
  }
  const reasons = api.told.map(({ event, reason }) => `${event} ${reason}`);
  const failed = 'loginFailed credentials';
  assert.deepEqual(reasons, [failed, failed, 'loginFailed user-locked', failed, failed, failed, failed]);
  assert.ok(!JSON.stringify(api.told).includes('horse'), 'no password in an event');
});

test('fault 12: too many attempts are locked out with 429 and Retry-After, the right password too', async (t) => {
  const api = await start(t, { loginLimits: { perUser: 3 } });
  for (let i = 0; i < 3; i++) assert.equal((await login(api, { password: 'wrong' })).status, 401);
  const out = await login(api);
  assert.equal(out.status, 429);
  assert.equal(out.body.error.code, 'CPL_API_LOCKED_OUT');
  const seconds = Number(out.headers.get('retry-after'));
  assert.ok(seconds > 0 && seconds <= 900, String(seconds));
  assert.equal(api.told.at(-1)!.reason, 'locked-out');
  assert.equal((await login(api, { domain: 'other', password: 'another password' })).status, 200, 'another user');
  // The own password is guessed no faster.
  const token = await api.token('user//alice');
  const guess = await api.call('PATCH', '/me', { token, body: { oldPassword: password, password: 'a new one' } });
  assert.equal(guess.status, 429);
});

test('the login cookie: HttpOnly, SameSite, never in the body; Secure under TLS', async (t) => {
  const api = await start(t);
  const { body, headers, text } = await login(api, { cookie: true }, { origin: api.origin });
  const set = headers.get('set-cookie')!;
  const token = /^couplet_session=([A-Za-z0-9_-]{43}); HttpOnly; SameSite=Strict; Path=\/; Max-Age=86400$/.exec(
    set,
  )?.[1];
  assert.ok(token !== undefined, set);
  assert.equal(body.token, undefined);
  assert.ok(!text.includes(token));
  assert.equal((await api.call('GET', '/me', { cookie: token })).body.kind, 'cookie');
  const spare = { headers: { cookie: `a=b; couplet_session=${token}; couplet_session=x` } };
  assert.equal((await api.call('GET', '/me', spare)).status, 200);
  const out = await api.call('POST', '/logout', { cookie: token, headers: { origin: api.origin } });
  assert.equal(out.status, 204);
  assert.match(out.headers.get('set-cookie')!, /^couplet_session=; HttpOnly; .*Max-Age=0$/);
  assert.equal((await api.call('GET', '/me', { cookie: token })).status, 401);

  const secure = await start(t, { tls: true });
  const cookie = await new Promise<string>((resolve, reject) => {
    const headers = { 'content-type': 'application/json' };
    const request = httpsRequest(
      `${secure.origin}/api/v1/login`,
      { method: 'POST', headers, rejectUnauthorized: false },
      (response) => {
        response.resume();
        resolve(String(response.headers['set-cookie']));
      },
    );
    request.on('error', reject);
    request.end(JSON.stringify({ user: 'alice', password, cookie: true }));
  });
  assert.match(cookie, /; HttpOnly; SameSite=Strict; Path=\/; Max-Age=86400; Secure$/);
});

test('[R10] fault 13: with the login cookie all but reading needs an Origin of this server or of the list', async (t) => {
  const allowed = 'https://console.example.org';
  const api = await start(t, { allowedOrigins: [allowed] });
  const cookie = await api.token('user//alice');
  const change = (origin: string | undefined, how: object = { cookie }) =>
    api.call('PATCH', '/me', { ...how, body: { realname: 'A' }, headers: origin === undefined ? {} : { origin } });
  const { port } = new URL(api.origin);
  const foreign = [
    undefined,
    'null',
    'https://evil.example',
    `https://127.0.0.1:${port}`,
    `http://127.0.0.1:${Number(port) + 1}`,
    'http://127.0.0.1',
    `http://127.0.0.1:${port}.evil.example`,
    `http://evil.example/http://127.0.0.1:${port}`,
    `${api.origin}, https://evil.example`,
    `${allowed}.evil.example`,
    'http://console.example.org',
  ];
  for (const origin of foreign) assert.equal((await change(origin)).status, 403, String(origin));
  for (const origin of [api.origin, allowed]) assert.equal((await change(origin)).status, 200, origin);
  for (const origin of foreign) {
    assert.equal((await change(origin, { token: cookie })).status, 200, 'a Bearer token is sent by no other site');
  }
  assert.equal((await login(api, { cookie: true }, { origin: 'https://evil.example' })).status, 403);
  const form = { 'content-type': 'text/plain' };
  const posted = await api.call('POST', '/login', { body: JSON.stringify({ user: 'alice', password }), headers: form });
  assert.equal(posted.status, 415, 'no form of another site logs anybody in');
});

test('a bad Authorization is not made good by a good cookie', async (t) => {
  const api = await start(t);
  const cookie = await api.token('user//alice');
  for (const authorization of [
    'Bearer x',
    'Basic YTpi',
    'Bearer',
    `Bearer ${cookie} ${cookie}`,
    `Bearer cplt_${cookie}`,
  ]) {
    assert.equal((await api.call('GET', '/me', { cookie, headers: { authorization } })).status, 401, authorization);
  }
});

test('a user changes the own password by the old one, which ends all logins', async (t) => {
  const api = await start(t);
  const token = await api.token('user//alice');
  const change = (body: object) => api.call('PATCH', '/me', { token, body });
  assert.equal((await change({ password: 'a new password' })).status, 400);
  assert.equal((await change({ password: 'a new password', oldPassword: 'wrong horse' })).status, 403);
  assert.equal((await change({ password: 'short', oldPassword: password })).status, 400);
  const straight = await api.call('PUT', '/users/alice/password', { token, body: { password: 'a new password' } });
  assert.equal(straight.status, 403, 'not without the old one, whatever the site rights');
  assert.equal((await change({ password: 'a new password', oldPassword: password })).status, 200);
  assert.equal((await api.call('GET', '/me', { token })).status, 401);
  assert.equal((await login(api)).status, 401);
  assert.equal((await login(api, { password: 'a new password' })).status, 200);
});

test('login sessions are listed and ended, the own ones alone', async (t) => {
  const api = await start(t);
  const [token, second] = [await api.token('user//alice'), await api.token('user//alice')];
  await api.token('user/other/alice');
  const { body } = await api.call('GET', '/login-sessions', { token });
  assert.equal(body.loginSessions.length, 2);
  const current = body.loginSessions.filter((session: { current: boolean }) => session.current);
  assert.equal(current.length, 1);
  const rest = body.loginSessions.find((session: { current: boolean }) => !session.current);
  assert.ok(!JSON.stringify(body).includes(token));
  assert.equal((await api.call('DELETE', `/login-sessions/${rest.id}`, { token })).status, 204);
  assert.equal((await api.call('GET', '/me', { token: second })).status, 401);
});

test('an API token does what its scopes say, and makes none that does more or lasts longer', async (t) => {
  const api = await start(t);
  const session = await api.token('user//alice');
  const make = (token: string, scopes: readonly string[], expiresMs?: number) =>
    api.call('POST', '/tokens', { token, body: { name: 'a token', scopes, ...(expiresMs && { expiresMs }) } });
  const soon = api.parts.clock.nowMs() + 60_000;
  const made = await make(session, ['account:write', 'devices:read', 'users:write'], soon);
  assert.equal(made.status, 201);
  const { secret, id } = made.body;
  assert.match(secret, /^cplt_/);
  const listed = await api.call('GET', '/tokens', { token: session });
  assert.equal(listed.body.tokens[0].id, id);
  assert.ok(!listed.text.includes(secret), 'shown once');
  assert.ok(!JSON.stringify(api.told).includes(secret), 'in no event');

  assert.equal((await api.call('GET', '/devices', { token: secret })).status, 200);
  assert.equal((await api.call('GET', '/users', { token: secret })).status, 200, 'writing covers reading');
  assert.equal((await api.call('GET', '/domains', { token: secret })).status, 403);
  assert.equal((await api.call('POST', '/devices', { token: secret, body: {} })).status, 403, 'reading no writing');
  for (const scopes of [['all'], ['devices:write'], ['devices:read', 'tunnels:write']]) {
    assert.equal((await make(secret, scopes, soon)).status, 403, scopes.join());
  }
  assert.equal((await make(secret, ['devices:read'], soon + 1)).status, 403);
  assert.equal((await make(secret, ['devices:read'])).status, 403, 'for ever is longer');
  assert.equal((await make(secret, ['devices:read', 'users:read'], soon)).status, 201);
  assert.equal((await make(session, ['everything'])).status, 400);
  assert.equal((await api.call('POST', '/logout', { token: secret })).status, 409);
  assert.equal((await api.call('DELETE', `/tokens/${id}`, { token: session })).status, 204);
  assert.equal((await api.call('GET', '/devices', { token: secret })).status, 401);
});
