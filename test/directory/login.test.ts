import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { type Algorithm, hash } from '@node-rs/argon2';
import BetterSqlite from 'better-sqlite3';
import { networkOf } from '../../src/directory/login.ts';
import { Passwords } from '../../src/directory/passwords.ts';
import { furnish, MovableClock, overBoth, place as placeOf, refused, useBackends } from './backends.ts';

useBackends();

const password = 'correct horse battery';

overBoth('[T1] a login needs name and password, and a user who is not locked', async (place) => {
  const clock = new MovableClock();
  const directory = await place.open({ clock });
  const user = await directory.users.create({ name: 'alice', password });
  await directory.users.create({ name: 'nopass' });
  const login = async (name: string, text: string, domain = '') => {
    const result = await directory.login({ domain, name, password: text, address: '192.0.2.1' });
    return result.ok ? 'ok' : result.refusal;
  };
  assert.equal(user.hasPassword, true);
  assert.equal(await login('Alice', password), 'ok');
  assert.ok((await directory.users.get(user.id))!.lastLoginMs! >= user.createdMs);
  assert.equal(await login('alice', `${password} `), 'credentials');
  assert.equal(await login('alice', ''), 'credentials');
  assert.equal(await login('alice', 'x'.repeat(100_000)), 'credentials');
  assert.equal(await login('nopass', ''), 'credentials');
  assert.equal(await login('nopass', password), 'credentials');
  assert.equal(await login('nobody', password), 'credentials');
  assert.equal(await login('alice', password, 'other'), 'credentials');
  assert.equal(await login("a'; --\0", password), 'credentials');
  await directory.users.update(user.id, { locked: true });
  assert.equal(await login('alice', password), 'user-locked');
  assert.equal(await login('alice', 'wrong'), 'credentials', 'only who knows the password learns that');
  await directory.users.update(user.id, { locked: false });
  await directory.users.setPassword(user.id, 'another password');
  assert.equal(await login('alice', password), 'credentials');
  assert.equal(await login('alice', 'another password'), 'ok');
  for (const bad of ['short', 'x'.repeat(1025), '1234567', 'lone \ud800 surrogate']) {
    const message = await refused('CPL_DIRECTORY_VALUE', directory.users.setPassword(user.id, bad));
    assert.ok(!message.includes(bad), 'a password stands in no error');
  }
});

overBoth(
  '[T1] too many attempts lock a name out, known or not, also those made at once, until the time is over',
  async (place) => {
    const clock = new MovableClock();
    const limits = { perUser: 4, perUserAnywhere: 12, perAddress: 1_000, windowMs: 60_000 };
    const directory = await place.open({ clock, loginLimits: limits });
    await directory.users.create({ name: 'alice', password });
    const login = async (name: string, text: string, address = '192.0.2.1') =>
      await directory.login({ domain: '', name, password: text, address });
    for (const name of ['alice', 'nobody']) {
      const tries = await Promise.all(Array.from({ length: 8 }, () => login(name, 'wrong one')));
      const looked = tries.filter((result) => !result.ok && result.refusal === 'credentials');
      assert.equal(looked.length, 4, name);
      const last = await login(name, password);
      assert.ok(!last.ok && last.refusal === 'locked-out', name);
      assert.ok(last.retryAfterMs > 50_000 && last.retryAfterMs <= 60_000, String(last.retryAfterMs));
    }
    assert.equal((await login('alice', password, '198.51.100.7')).ok, true, 'from elsewhere the user gets in');
    clock.aheadMs = 30_000;
    const knock = await login('alice', password);
    assert.ok(!knock.ok && knock.retryAfterMs <= 30_000, 'knocking does not make it longer');
    const second = await place.open({ clock, loginLimits: limits });
    const there = await second.login({ domain: '', name: 'alice', password, address: '192.0.2.1' });
    assert.ok(!there.ok && there.refusal === 'locked-out', 'it holds for every server');
    clock.aheadMs = 61_000;
    assert.equal((await login('alice', password)).ok, true);
    for (let n = 0; n < 3; n++) await login('alice', 'wrong one');
    assert.equal((await login('alice', password)).ok, true);
    for (let n = 0; n < 3; n++) await login('alice', 'wrong one');
    assert.equal((await login('alice', password)).ok, true, 'a login clears the count');
    for (let n = 0; n < 12; n++) await login('alice', 'wrong one', `203.0.113.${n}`);
    const last = await login('alice', password, '198.51.100.7');
    assert.ok(!last.ok && last.refusal === 'locked-out', 'from everywhere together');
  },
);

overBoth('[T1] too many attempts lock an address out, whatever names it tries; others go on', async (place) => {
  const directory = await place.open({ loginLimits: { perUser: 100, perAddress: 5, windowMs: 60_000 } });
  await directory.users.create({ name: 'alice', password });
  const login = async (name: string, text: string, address: string) =>
    await directory.login({ domain: '', name, password: text, address });
  for (let n = 0; n < 20; n++) {
    assert.equal((await login('alice', password, '2001:db8::1')).ok, true, 'those that succeed do not count');
  }
  for (let n = 0; n < 5; n++) await login(`guess${n}`, password, `2001:db8::${n + 2}`);
  const out = await login('alice', password, '2001:db8::ffff');
  assert.ok(!out.ok && out.refusal === 'locked-out', 'a /64 is one address');
  assert.equal((await login('alice', password, '2001:db8:0:1::1')).ok, true);
  assert.equal((await login('alice', password, '192.0.2.1')).ok, true);
});

test('[R12] addresses count as networks', () => {
  assert.equal(networkOf('::ffff:192.0.2.1'), networkOf('192.0.2.1'));
  assert.notEqual(networkOf('192.0.2.1'), networkOf('192.0.2.2'));
  assert.equal(networkOf('2001:db8::1'), networkOf('2001:0db8:0:0:ffff::'));
  assert.notEqual(networkOf('2001:db8::1'), networkOf('2001:db8:0:1::1'));
  assert.equal(networkOf('nonsense\0'), networkOf('nonsense\0'));
});

test('[T1] passwords are argon2id, each with a salt, and older ones are made anew', async (t) => {
  const passwords = new Passwords();
  const [a, b] = await Promise.all([passwords.hash(password), passwords.hash(password)]);
  assert.match(a!, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
  assert.notEqual(a, b);
  assert.equal(await passwords.verify(a, password), true);
  assert.equal(await passwords.verify(a, 'x'), false);
  assert.equal(await passwords.verify(undefined, password), false);
  assert.equal(await passwords.verify(await passwords.hash('p\u0061\u0308sswort'), 'p\u00e4sswort'), true);

  const place = (await placeOf(t, 'sqlite'))!;
  const directory = await place.open();
  const { user } = await furnish(directory);
  const handle = new BetterSqlite(place.options.file);
  t.after(() => handle.close());
  const weak = await hash('oldone', { algorithm: 2 as Algorithm, memoryCost: 1024, timeCost: 1 });
  handle.prepare('update users set password_hash = ? where id = ?').run(weak, user.id);
  const login = () => directory.login({ domain: '', name: 'alice', password: 'oldone', address: '' });
  assert.equal((await login()).ok, true);
  assert.match(
    (handle.prepare('select password_hash as h from users').get() as { h: string }).h,
    /^\$argon2id\$v=19\$m=19456/,
  );
  assert.equal((await login()).ok, true);
});

test('[T1] an unknown user takes as much work as a known one; more than can wait are turned away', async () => {
  const passwords = new Passwords();
  const stored = await passwords.hash(password);
  await passwords.verify(undefined, password);
  const median = async (hashed: string | undefined) => {
    const times: number[] = [];
    for (let n = 0; n < 7; n++) {
      const before = performance.now();
      await passwords.verify(hashed, 'wrong');
      times.push(performance.now() - before);
    }
    return times.sort((a, b) => a - b)[3]!;
  };
  const [known, unknown] = [await median(stored), await median(undefined)];
  assert.ok(unknown > known / 2 && unknown < known * 2, `${unknown} ms against ${known} ms`);
  const many = await Promise.allSettled(Array.from({ length: 100 }, () => passwords.verify(stored, password)));
  const busy = many.filter((one) => one.status === 'rejected');
  assert.equal(busy.length, 100 - 2 - 64);
  assert.ok(busy.every((one) => one.reason.code === 'CPL_DIRECTORY_BUSY'));
  assert.equal(await passwords.verify(stored, password), true, 'and then there is room again');
});

overBoth('[T1] login sessions are verified by a token that is kept as a hash, and end', async (place) => {
  const clock = new MovableClock();
  const directory = await place.open({ clock });
  const { user } = await furnish(directory);
  const { loginSessions } = directory;
  const { token, session } = await loginSessions.create(user.id, { address: '192.0.2.1', lifetimeMs: 7_200_000 * 3 });
  const there = async (text = token) => (await loginSessions.verify(text)) !== undefined;
  assert.deepEqual((await loginSessions.verify(token))!.session, session);
  assert.equal((await loginSessions.verify(token))!.user.id, user.id);
  for (const bad of ['', `${token}x`, token.slice(1), session.id, `${token.slice(0, -1)}\0`, token.toLowerCase()]) {
    assert.equal(await there(bad), false, JSON.stringify(bad));
  }
  clock.aheadMs = 7_100_000;
  assert.equal(await there(), true);
  clock.aheadMs += 7_100_000;
  assert.equal(await there(), true, 'used in between');
  assert.ok((await loginSessions.list(user.id))[0]!.lastUseMs >= session.lastUseMs + clock.aheadMs);
  clock.aheadMs += 7_210_000;
  assert.equal(await there(), false, 'unused for too long');
  assert.deepEqual(await loginSessions.list(user.id), []);
  clock.aheadMs = 0;

  const ends: [string, (id: string) => Promise<unknown>][] = [
    ['end', (id) => loginSessions.end(id)],
    ['endAll', () => loginSessions.endAll(user.id)],
    ['a lock', () => directory.users.update(user.id, { locked: true })],
    ['a new password', () => directory.users.setPassword(user.id, 'another password')],
  ];
  for (const [what, end] of ends) {
    const made = await loginSessions.create(user.id, { address: '\0'.repeat(500) });
    assert.equal(await there(made.token), true, what);
    await end(made.session.id);
    await directory.users.update(user.id, { locked: false });
    assert.equal(await there(made.token), false, what);
  }
  const short = await loginSessions.create(user.id, { address: '', lifetimeMs: 1_000 });
  clock.aheadMs = 1_001;
  assert.equal(await there(short.token), false, 'over');
  await directory.sweep();
  clock.aheadMs = 0;
  assert.equal(await there(short.token), false, 'swept');
});

overBoth('[T1] API tokens have scopes and an end, and rest while their user is locked', async (place) => {
  const clock = new MovableClock();
  const directory = await place.open({ clock });
  const { user } = await furnish(directory);
  const { apiTokens } = directory;
  const expiresMs = clock.nowMs() + 60_000;
  const scopes = ['devices:read', 'events:read'];
  const { secret, token } = await apiTokens.create(user.id, { name: 'ci', scopes, expiresMs });
  const forever = await apiTokens.create(user.id, { name: 'for ever', scopes: ['read'] });
  assert.match(secret, /^cplt_[A-Za-z0-9_-]{43}$/);
  const verified = (await apiTokens.verify(secret))!;
  assert.deepEqual({ ...verified.token, lastUseMs: undefined }, token);
  assert.ok(verified.token.lastUseMs! >= token.createdMs);
  assert.equal(verified.user.id, user.id);
  assert.deepEqual((await apiTokens.list(user.id)).map(({ name }) => name).sort(), ['ci', 'for ever']);
  await directory.users.update(user.id, { locked: true });
  assert.equal(await apiTokens.verify(secret), undefined);
  await directory.users.update(user.id, { locked: false });
  assert.ok((await apiTokens.verify(secret)) !== undefined);
  clock.aheadMs = 60_001;
  assert.equal(await apiTokens.verify(secret), undefined);
  assert.ok((await apiTokens.verify(forever.secret)) !== undefined);
  await directory.sweep();
  assert.equal((await apiTokens.list(user.id)).length, 1);
  await apiTokens.revoke(forever.token.id);
  assert.equal(await apiTokens.verify(forever.secret), undefined);
  for (const bad of [[], ['A'], ['a b'], ['a\0'], Array.from({ length: 33 }, (_, n) => `s${n}`)]) {
    await refused('CPL_DIRECTORY_VALUE', apiTokens.create(user.id, { name: 'x', scopes: bad }));
  }
});

test('[R8] no token, join code or password is in the database', async (t) => {
  const place = (await placeOf(t, 'sqlite'))!;
  const directory = await place.open();
  const { user, device, code } = await furnish(directory);
  await directory.users.setPassword(user.id, password);
  const { token } = await directory.loginSessions.create(user.id, { address: '' });
  const { secret } = await directory.apiTokens.create(user.id, { name: 'x', scopes: ['read'] });
  await directory.login({ domain: '', name: 'alice', password: 'a wrong password', address: '192.0.2.1' });
  const folder = dirname(place.options.file);
  const bytes = Buffer.concat(readdirSync(folder).map((name) => readFileSync(join(folder, name))));
  assert.ok(bytes.includes(device.id), 'the files are looked into');
  for (const text of [password, token, secret, code.code, 'a wrong password']) assert.ok(!bytes.includes(text));
});
