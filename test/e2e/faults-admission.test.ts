import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { IdSigner } from '../../src/auth/signed-id.ts';
import { CookieSealer, LoginKey, systemClock } from '../../src/index.ts';
import { connect } from '../support/client.ts';
import { deviceCookie, relayPath, status, upgradeAnswer, userCookie } from '../support/raw-answer.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';

const refusals = (relay: TestRelay) => relay.events().filter(({ action }) => action === 'halfrefused');

/** Status of an upgrade with these query parameters. */
function ask(
  t: TestContext,
  relay: TestRelay,
  parameters: Record<string, string | number>,
  path?: string,
): Promise<number> {
  return status(upgradeAnswer(t, relay, relayPath(parameters, path)));
}

test('[R1] both names of the path work, with and without a domain; every other path is 404', async (t) => {
  const relay = await startRelay(t, { settings: { directory: 'none' } });
  const auth = userCookie(relay);
  const inDomain = userCookie(relay, {}, 'alice', 'acme');
  assert.equal(await ask(t, relay, { auth, id: 'a' }, '/meshrelay.ashx'), 101);
  assert.equal(await ask(t, relay, { auth, id: 'b' }, '/relay'), 101);
  assert.equal(await ask(t, relay, { auth: inDomain, id: 'c' }, '/acme/meshrelay.ashx'), 101);
  assert.equal(await ask(t, relay, { auth: inDomain, id: 'd' }, '/acme/relay'), 101);
  for (const path of [
    '/',
    '/healthz',
    '/metrics',
    '/x',
    '/a/b/relay',
    '/relay/',
    '//relay',
    '/%61cme/relay',
    '/../relay',
  ]) {
    assert.equal(await ask(t, relay, { auth, id: 'e' }, path), 404, path);
  }
  for (const path of ['/meshrelay.ashx', '/acme/relay']) {
    assert.equal((await fetch(`http://127.0.0.1:${relay.port}${path}`)).status, 426, 'no upgrade');
  }
});

test('[R1] path, cookie and user id must be of one domain: 401; halves meet by domain and id', async (t) => {
  const relay = await startRelay(t, { settings: { directory: 'none' } });
  const cases = [
    ['/relay', userCookie(relay, {}, 'alice', 'acme')],
    ['/acme/relay', userCookie(relay)],
    ['/acme/relay', relay.sealer.seal({ userid: 'user//alice', domainid: 'acme' })],
    ['/acme/relay', relay.sealer.seal({ userid: 'user/acme/alice', domainid: '' })],
    ['/Acme/relay', userCookie(relay, {}, 'alice', 'acme')],
  ] as const;
  for (const [path, auth] of cases) assert.equal(await ask(t, relay, { auth, id: 'x' }, path), 401, path);
  assert.equal(await ask(t, relay, { rauth: deviceCookie(relay), id: 'x' }, '/acme/relay'), 401);
  assert.deepEqual(new Set(refusals(relay).map(({ reason }) => reason)), new Set(['domain-mismatch']));

  const base = `ws://127.0.0.1:${relay.port}`;
  const here = await connect(t, base + relayPath({ auth: userCookie(relay), id: 'same' }));
  const there = await connect(
    t,
    base + relayPath({ rauth: deviceCookie(relay, {}, 'alice', 'acme'), id: 'same' }, '/acme/relay'),
  );
  assert.equal(await relay.metric('couplet_halves{state="waiting"}'), 2);
  const mate = await connect(
    t,
    base + relayPath({ auth: userCookie(relay, {}, 'bob', 'acme'), id: 'same' }, '/acme/relay'),
  );
  assert.equal((await mate.closed).code, 4403);
  assert.equal(here.isClosed || there.isClosed, false);
});

test('[R2] auth goes before rauth, unknown parameters are ignored, neither id nor routing is 400', async (t) => {
  const relay = await startRelay(t);
  const auth = userCookie(relay);
  const rauth = deviceCookie(relay);
  assert.equal(await ask(t, relay, { rauth, auth: 'bad', id: 'x' }), 401, 'a good rauth does not save a bad auth');
  assert.equal(await ask(t, relay, { rauth: 'bad', auth, id: 'x', extra: 'y', 'a[b]': 'c' }), 101);
  assert.equal(await ask(t, relay, { rauth }), 400);
  assert.equal(await ask(t, relay, { auth }), 400);
  assert.equal(await ask(t, relay, {}), 400);
  for (const path of ['/relay', '/relay?', '/relay?&&=&', '/relay?id', '/relay?id=']) {
    assert.equal(await status(upgradeAnswer(t, relay, path)), 400, path);
  }
  assert.equal(await ask(t, relay, { auth: rauth, id: 'x' }), 401, 'a device cookie as auth');
  assert.equal(await ask(t, relay, { rauth: auth, id: 'x' }), 401, 'a user cookie as rauth');
});

test('[R4] session ids are 1 to 256 bytes of printable ASCII, else 400', async (t) => {
  const relay = await startRelay(t);
  const auth = userCookie(relay);
  assert.equal(await ask(t, relay, { auth, id: 'x'.repeat(256) }), 101);
  assert.equal(await ask(t, relay, { auth, id: '~ !"#$&\'()*+,/:;<=>?@[\\]^`{|}' }), 101);
  for (const id of ['x'.repeat(257), 'ä', 'a\nb', 'a\0b', '\x7f', '\u202e', 'x'.repeat(2000)]) {
    assert.equal(await ask(t, relay, { auth, id }), 400, JSON.stringify(id.slice(0, 20)));
  }
  assert.equal(await ask(t, relay, { auth, id: 'y', nodeid: 'ä' }), 400);
  assert.equal(await relay.metric('couplet_refused_total{reason="bad-id"}'), 7);
});

test('[R8] every bad cookie gets the same bytes as answer, and one event with the true reason', async (t) => {
  const relay = await startRelay(t, { settings: { directory: 'none', auth: { allowNoUser: true } } });
  const other = new CookieSealer(LoginKey.generate(), systemClock, 'base64');
  const nowSeconds = Math.floor(Date.now() / 1000);
  const seal = (content: object) => relay.sealer.seal(content as Record<string, unknown>);
  const user = { userid: 'user//alice', domainid: '' };
  const good = seal(user);
  const flip = (at: number) => good.slice(0, at) + (good[at] === 'A' ? 'B' : 'A') + good.slice(at + 1);
  const cases: [string, string, 'auth' | 'rauth'][] = [
    ['cookie-encoding', 'x', 'auth'],
    ['cookie-encoding', good.replace(/.$/, '%'), 'auth'],
    ['cookie-forged', 'A'.repeat(3000), 'auth'],
    ['cookie-forged', flip(0), 'auth'],
    ['cookie-forged', flip(20), 'auth'],
    ['cookie-forged', flip(60), 'auth'],
    ['cookie-forged', good.slice(0, -4), 'auth'],
    ['cookie-forged', other.seal(user), 'auth'],
    ['cookie-content', relay.sealer.sealBytes(Buffer.from('not json')), 'auth'],
    ['cookie-content', relay.sealer.sealBytes(Buffer.from('[]')), 'auth'],
    ['cookie-content', seal({ ...user, time: 'now' }), 'auth'],
    ['cookie-content', seal({ userid: 7, domainid: '' }), 'auth'],
    ['cookie-early', seal({ ...user, time: nowSeconds + 3600 }), 'auth'],
    ['cookie-expired', seal({ ...user, time: nowSeconds - 3602 }), 'auth'],
    ['cookie-expired', seal({ ...user, expire: Date.now() - 1 }), 'auth'],
    ['cookie-kind', seal({}), 'auth'],
    ['cookie-kind', seal({ ...user, ruserid: 'user//alice' }), 'auth'],
    ['cookie-parameter', seal({ ruserid: 'user//alice' }), 'auth'],
    ['cookie-parameter', good, 'rauth'],
    ['once-forever', seal({ ...user, once: 1, expire: 0 }), 'auth'],
    ['cookie-address', seal({ ...user, ip: '10.9.8.7' }), 'auth'],
    ['cookie-id', seal({ ruserid: 'user//alice', id: 'other' }), 'rauth'],
    ['cookie-id', seal({ nouser: 1, id: 'other' }), 'rauth'],
    ['domain-mismatch', seal({ userid: 'user/acme/alice', domainid: 'acme' }), 'auth'],
    ['share-unavailable', seal({ nid: 'node//a', pid: 'p', p: 1, gn: 'g', expire: 5, vo: 0 }), 'auth'],
  ];
  const answers = new Set<string>();
  for (const [, cookie, parameter] of cases) {
    const answer = await upgradeAnswer(t, relay, relayPath({ [parameter]: cookie, id: 'x' }));
    answers.add(answer.replace(/\r\ndate: [^\r]*/i, ''));
  }
  answers.add((await upgradeAnswer(t, relay, relayPath({ id: 'x' }))).replace(/\r\ndate: [^\r]*/i, ''));
  assert.deepEqual([...answers].length, 1, [...answers].join('\n---\n'));
  assert.match([...answers][0]!, /^HTTP\/1\.1 401 Unauthorized\r\n/);
  await until(() => refusals(relay).length >= cases.length + 1, 'the events');
  assert.deepEqual(
    refusals(relay).map(({ reason }) => reason),
    [...cases.map(([reason]) => reason), 'no-credential'],
  );
  assert.ok(refusals(relay).every((event) => event.status === 401));
});

test('[R9] a half without any credential is refused, also under a default user [R11]', async (t) => {
  const relay = await startRelay(t, { settings: { auth: { defaultUser: 'admin' } } });
  assert.equal(await ask(t, relay, { id: 'x' }), 401);
  assert.equal(await ask(t, relay, { id: 'x', browser: 1, p: 2, user: 'admin' }), 401);
  const user = await connect(t, relay.url('user', 'meets'));
  const device = await connect(t, relay.url('device', 'meets', {}, 'bob'));
  assert.equal(await user.nextText(), 'c', 'two users are one under the default user');
  assert.equal(await device.nextText(), 'c');
});

test('[R10] a half with a cookie in its URL needs no Origin, and none is held against it', async (t) => {
  const relay = await startRelay(t);
  for (const headers of [{}, { Origin: 'https://evil.example' }, { Origin: 'null' }, { Origin: '' }]) {
    const path = relayPath({ auth: userCookie(relay), id: `o${JSON.stringify(headers)}` });
    assert.equal(await status(upgradeAnswer(t, relay, path, headers as Record<string, string>)), 101);
  }
});

test('[R13] messenger: each half must be one of the two parties', async (t) => {
  const relay = await startRelay(t);
  const id = 'meshmessenger/user//alice/user//bob';
  const base = `ws://127.0.0.1:${relay.port}`;
  const as = (user: string, session = id) => relayPath({ auth: userCookie(relay, {}, user), id: session });
  assert.equal(await status(upgradeAnswer(t, relay, as('mallory'))), 401);
  assert.equal(await ask(t, relay, { id }), 401, 'nobody');
  assert.equal(await ask(t, relay, { rauth: deviceCookie(relay), id }), 401, "alice's device is not alice");
  const alice = await connect(t, base + as('alice'));
  const again = await connect(t, base + as('alice'));
  assert.equal((await again.closed).code, 4403, 'alice twice');
  const bob = await connect(t, base + as('bob'));
  assert.equal(await alice.nextText(), 'c');
  assert.equal(await bob.nextText(), 'c');
  await until(() => relay.events().some(({ msgid, protocol }) => msgid === 162 && protocol === 200), 'the start event');

  const toNode = 'meshmessenger/node//pc/user//alice';
  const node = (more: object) => relayPath({ rauth: deviceCookie(relay, more, 'bob'), id: toNode });
  assert.equal(await status(upgradeAnswer(t, relay, node({}))), 401, 'no device named');
  assert.equal(await status(upgradeAnswer(t, relay, node({ nodeid: 'node//other' }))), 401);
  assert.equal(await status(upgradeAnswer(t, relay, as('bob', toNode))), 401);
  assert.equal(await ask(t, relay, { id: toNode }), 401, 'anonymous devices are off');
  const device = await connect(t, base + node({ nodeid: 'node//pc' }));
  const user = await connect(t, base + as('alice', toNode));
  assert.equal(await device.nextText(), 'c');
  assert.equal(await user.nextText(), 'c');
  for (const bad of [
    'meshmessenger/user//alice/user//alice',
    'meshmessenger/node//a/node//b',
    'meshmessenger/',
    'meshmessenger/user//alice',
  ]) {
    assert.equal(await status(upgradeAnswer(t, relay, as('alice', bad))), 401, bad);
  }
});

test('[R13] messenger.allowAnonymousDevice lets a device half in, a user half never', async (t) => {
  const relay = await startRelay(t, { settings: { messenger: { allowAnonymousDevice: true } } });
  const id = 'meshmessenger/user//alice/node//pc';
  const base = `ws://127.0.0.1:${relay.port}`;
  assert.equal(await ask(t, relay, { id: 'meshmessenger/user//alice/user//bob' }), 401);
  const device = await connect(t, base + relayPath({ id }));
  const second = await connect(t, base + relayPath({ id }));
  assert.equal((await second.closed).code, 4403, 'two anonymous halves');
  const user = await connect(t, base + relayPath({ auth: userCookie(relay), id }));
  assert.equal(await user.nextText(), 'c');
  assert.equal(await device.nextText(), 'c');
});

test('[R14] signed ids: only fresh ones of this relay; pairing uses RANDOM', async (t) => {
  const relay = await startRelay(t, { settings: { relay: { signedIds: true, upgradesPerAddressPerSecond: 0 } } });
  let offsetMs = 0;
  const clock = { ...systemClock, nowMs: () => Date.now() + offsetMs };
  const signer = new IdSigner(relay.loginKey, clock);
  const auth = userCookie(relay);
  const signedAt = (ms: number) => {
    offsetMs = ms;
    return signer.sign();
  };
  assert.equal(await ask(t, relay, { auth, id: 'plain' }), 401);
  assert.equal(await ask(t, relay, { auth, id: signedAt(-122_000) }), 401, 'too old');
  assert.equal(await ask(t, relay, { auth, id: signedAt(33_000) }), 401, 'too far ahead');
  assert.equal(await ask(t, relay, { auth, id: signedAt(-115_000) }), 101);
  assert.equal(await ask(t, relay, { auth, id: signedAt(27_000) }), 101);
  const id = signedAt(0);
  assert.equal(await ask(t, relay, { auth, id: id.replace(/.$/, (c) => (c === '0' ? '1' : '0')) }), 401);
  assert.equal(await ask(t, relay, { auth, id: `x${id}` }), 401);
  assert.equal(await ask(t, relay, { auth, id: new IdSigner(LoginKey.generate(), clock).sign() }), 401);

  const random = id.slice(0, id.indexOf(':'));
  offsetMs = 1000;
  const sameRandom = signer.sign(random);
  assert.notEqual(sameRandom, id);
  const user = await connect(t, `ws://127.0.0.1:${relay.port}${relayPath({ auth, id })}`);
  const device = await connect(
    t,
    `ws://127.0.0.1:${relay.port}${relayPath({ rauth: deviceCookie(relay), id: sameRandom })}`,
  );
  assert.equal(await user.nextText(), 'c');
  assert.equal(await device.nextText(), 'c');
  await until(() => relay.events().some(({ msgArgs }) => Array.isArray(msgArgs) && msgArgs[0] === random), 'the event');
});

test('[R7] fault 7: a single-use cookie works once, also across a restart', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-once-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const loginKey = randomBytes(80).toString('hex');
  const settings = {
    server: { dataDir: join(folder, 'data') },
    auth: { loginKey },
  };
  const first = await startRelay(t, { settings });
  const sealer = new CookieSealer(LoginKey.parse(loginKey), systemClock, 'base64');
  const once = sealer.seal({ userid: 'user//alice', domainid: '', once: 1 });
  const unused = sealer.seal({ ruserid: 'user//alice', once: true });
  assert.equal(await ask(t, first, { auth: once, id: 'a' }), 101);
  assert.equal(await ask(t, first, { auth: once, id: 'b' }), 401);
  // The same sealed bytes in another spelling are the same cookie.
  const path = `/relay?id=c&auth=${once.replace('=', '%3D').replace(/^(.)/, (c) => `%${c.charCodeAt(0).toString(16)}`)}`;
  assert.equal(await status(upgradeAnswer(t, first, path)), 401);
  const racers = sealer.seal({ userid: 'user//alice', domainid: '', once: 1 });
  const race = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(t, first, { auth: racers, id: `r${i}` })));
  assert.equal(race.filter((code) => code === 101).length, 1, String(race));
  await first.server.close();

  const second = await startRelay(t, { settings });
  assert.equal(await ask(t, second, { auth: once, id: 'a' }), 401);
  assert.equal(await ask(t, second, { auth: racers, id: 'a' }), 401);
  assert.equal(await ask(t, second, { rauth: unused, id: 'a' }), 101);
  assert.equal(await ask(t, second, { rauth: unused, id: 'a' }), 401);
});
