import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connect, type Refused } from '../support/client.ts';
import { startRelay } from '../support/relay.ts';
import { startSite } from '../support/site.ts';

test('[R10] fault 13: a login session that a hook vouches for needs an allowed Origin; a cookie in the URL needs none', async (t) => {
  const relay = await startRelay(t, {
    settings: { server: { allowedOrigins: ['https://good.example'] } },
    hooks: {
      authenticate: ({ cookie }) =>
        cookie === 'session=alice'
          ? { kind: 'user', side: 'user', userid: 'user//alice', username: 'alice' }
          : undefined,
    },
  });
  let next = 0;
  const status = (headers: Record<string, string>, query = '') =>
    connect(t, `ws://127.0.0.1:${relay.port}/relay?id=x${next++}${query}`, { headers }).then(
      () => 101,
      (error: Refused) => error.status,
    );
  const session = { cookie: 'session=alice' };
  for (const origin of [
    'https://evil.example',
    'null',
    'https://good.example.evil',
    'https://good.example:8443',
    'http://good.example',
  ]) {
    assert.equal(await status({ ...session, origin }), 403, origin);
  }
  assert.equal(await status(session), 403, 'none');
  assert.equal(await status({ ...session, origin: 'https://good.example' }), 101);
  assert.equal(await status({ ...session, origin: `http://127.0.0.1:${relay.port}` }), 101, 'its own');
  const sealed = encodeURIComponent(relay.sealer.seal({ userid: 'user//alice', domainid: '' }));
  assert.equal(await status({ origin: 'https://evil.example' }, `&auth=${sealed}`), 101);
  assert.equal(relay.events().filter(({ reason }) => reason === 'origin').length, 6);
});

test('[R10] [R9] fault 13: a login session of the directory opens a half with an allowed Origin alone, until it ends', async (t) => {
  const site = await startSite(t, { settings: { server: { allowedOrigins: ['https://good.example'] } } });
  const api = `http://127.0.0.1:${site.relay.port}/api/v1`;
  const login = await fetch(`${api}/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', connection: 'close' },
    body: JSON.stringify({ user: 'alice', password: 'correct horse', cookie: true }),
  });
  const cookie = login.headers.get('set-cookie')!.split(';')[0]!;
  let next = 0;
  const status = (headers: Record<string, string>, query = '') =>
    connect(t, `${site.url}/relay?id=y${next++}${query}`, { headers }).then(
      () => 101,
      (error: Refused) => error.status,
    );
  const own = `http://127.0.0.1:${site.relay.port}`;
  assert.equal(await status({ cookie, origin: own }), 101);
  assert.equal(await status({ cookie: `a=b; ${cookie}; c=d`, origin: 'https://good.example' }), 101);
  for (const origin of ['https://evil.example', 'null', own.replace('http:', 'https:'), `${own}0`]) {
    assert.equal(await status({ cookie, origin }), 403, origin);
  }
  assert.equal(await status({ cookie }), 403, 'no Origin at all');
  assert.equal(await status({ cookie: `${cookie}x`, origin: own }), 401);
  assert.equal(await status({ cookie, origin: own }, '&auth=rubbish'), 401, 'a cookie in the URL goes first');
  const device = await site.directory.devices.create({ deviceGroupId: site.group.id, name: 'off' });
  const routed = await connect(t, `${site.url}/relay?nodeid=${encodeURIComponent(device.device.id)}&p=1`, {
    headers: { cookie, origin: own },
  });
  assert.equal((await routed.closed).code, 4404, 'it is routed like any other half of the user');
  await fetch(`${api}/logout`, { method: 'POST', headers: { cookie, origin: own, connection: 'close' } });
  assert.equal(await status({ cookie, origin: own }), 401);
});
