import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import type { SqlDirectory } from '../../src/directory/sql.ts';
import { joinCodeId } from '../../src/protocol/agent-proofs.ts';
import { furnish, MovableClock, overBoth, refused, useBackends } from './backends.ts';

useBackends();

const hostile = [
  '../../etc/passwd\0',
  'a\0b',
  'line\nfeed',
  '\u001b[31mred',
  '\u202egnp.exe',
  'x'.repeat(300),
  '\ud800',
  ' space ',
  "'; drop table users; --",
  '__proto__',
  '%00',
  '',
];

overBoth('[T1] users, groups and devices are made, read, changed and listed', async (place) => {
  const directory = await place.open();
  const user = await directory.users.create({ name: 'Alice', realname: 'Alice Ångström', siteRights: 514 });
  assert.equal(user.id, 'user//alice');
  const { createdMs, ...rest } = user;
  assert.ok(createdMs > 1e12);
  assert.deepEqual(rest, {
    id: 'user//alice',
    domain: '',
    name: 'alice',
    realname: 'Alice Ångström',
    siteRights: 514,
    locked: false,
    hasPassword: false,
    lastLoginMs: undefined,
  });
  assert.deepEqual(await directory.users.get(user.id), user);
  assert.deepEqual(await directory.users.find('', 'ALICE'), user);
  assert.deepEqual(await directory.users.find('', user.id), user);
  const locked = await directory.users.update(user.id, { siteRights: 32 | 2 });
  assert.deepEqual([locked.siteRights, locked.locked], [2, true]);
  assert.equal((await directory.users.update(user.id, { siteRights: 2 })).locked, true, 'rights do not unlock');
  assert.equal((await directory.users.update(user.id, { locked: false })).locked, false);
  assert.deepEqual(await directory.users.update(user.id, {}), await directory.users.get(user.id));

  const group = await directory.deviceGroups.create({ name: 'Büro', description: 'two\nlines', consent: 3 });
  assert.match(group.id, /^mesh\/\/[A-Za-z0-9_-]{24}$/);
  assert.deepEqual(await directory.deviceGroups.find('', 'Büro'), group);
  assert.equal((await directory.deviceGroups.update(group.id, { name: 'Office' })).name, 'Office');
  const { device, join } = await directory.devices.create({ deviceGroupId: group.id, name: 'pc ☕' });
  assert.match(device.id, /^node\/\/[A-Za-z0-9_-]{24}$/);
  assert.equal(device.joinExpiresMs, join.expiresMs);
  assert.deepEqual(await directory.devices.find('', 'pc ☕'), device);
  assert.deepEqual(await directory.devices.list('', { deviceGroupId: group.id }), [device]);
  assert.deepEqual(await directory.devices.list('', { deviceGroupId: 'mesh//other' }), []);
  await directory.devices.seen(device.id);
  assert.ok((await directory.devices.get(device.id))!.lastSeenMs! >= createdMs);

  const ugrp = await directory.userGroups.create({ name: 'ops' });
  await directory.userGroups.addMember(ugrp.id, user.id);
  await directory.userGroups.addMember(ugrp.id, user.id);
  assert.deepEqual(await directory.userGroups.members(ugrp.id), [user.id]);
  assert.deepEqual(await directory.userGroups.groupsOf(user.id), [ugrp.id]);
  await directory.userGroups.removeMember(ugrp.id, user.id);
  await refused('CPL_DIRECTORY_UNKNOWN', directory.userGroups.removeMember(ugrp.id, user.id));

  for (let n = 0; n < 25; n++) await directory.users.create({ name: `user-${String(n).padStart(2, '0')}` });
  const first = await directory.users.list('', { limit: 10 });
  const second = await directory.users.list('', { limit: 10, after: first.at(-1)!.id });
  const third = await directory.users.list('', { limit: 10, after: second.at(-1)!.id });
  const ids = [...first, ...second, ...third].map(({ id }) => id);
  assert.deepEqual([ids.length, new Set(ids).size, await directory.users.count()], [26, 26, 26]);
});

overBoth('[R1] a domain must be there before its users, and empty when it goes; policies are kept', async (place) => {
  const directory = await place.open();
  assert.equal(await directory.domains.isKnown(''), true);
  assert.equal(await directory.domains.isKnown('acme'), false);
  await refused('CPL_DIRECTORY_UNKNOWN', directory.users.create({ domain: 'acme', name: 'bob' }));
  await refused('CPL_DIRECTORY_UNKNOWN', directory.userGroups.create({ domain: 'acme', name: 'bob' }));
  const selection = { users: ['user/acme/bob'], userGroups: ['ugrp/acme/x'] };
  await directory.domains.put('acme', { title: 'ACME', consent: 5, recording: selection });
  const changed = await directory.domains.put('acme', { privacyBarText: 'You are watched.\nReally.' });
  assert.deepEqual(
    { ...changed, createdMs: 0 },
    {
      id: 'acme',
      title: 'ACME',
      consent: 5,
      privacyBarText: 'You are watched.\nReally.',
      recording: selection,
      createdMs: 0,
    },
  );
  assert.deepEqual(
    (await directory.domains.list()).map(({ id }) => id),
    ['', 'acme'],
  );
  const bob = await directory.users.create({ domain: 'acme', name: 'bob' });
  assert.equal(bob.id, 'user/acme/bob');
  await refused('CPL_DIRECTORY_UNKNOWN', directory.users.find('', bob.id));
  await refused('CPL_DIRECTORY_IN_USE', directory.domains.remove('acme'));
  await refused('CPL_DIRECTORY_VALUE', directory.domains.remove(''));
  await directory.users.remove(bob.id);
  await directory.domains.remove('acme');
  await refused('CPL_DIRECTORY_UNKNOWN', directory.domains.remove('acme'));
  assert.equal(await directory.domains.isKnown('acme'), false);
});

overBoth('names that are taken and ids that are not there are refused in one line', async (place) => {
  const directory = await place.open();
  const { user, group, device } = await furnish(directory);
  const other = await directory.deviceGroups.create({ name: 'other' });
  const ugrp = await directory.userGroups.create({ name: 'ops' });
  await directory.userGroups.create({ name: 'dev' });
  const taken = [
    () => directory.users.create({ name: 'ALICE' }),
    () => directory.deviceGroups.create({ name: group.name }),
    () => directory.deviceGroups.update(other.id, { name: group.name }),
    () => directory.devices.create({ deviceGroupId: other.id, name: device.name }),
    () => directory.userGroups.create({ name: 'ops' }),
    () => directory.userGroups.update(ugrp.id, { name: 'dev' }),
  ];
  for (const work of taken) await refused('CPL_DIRECTORY_EXISTS', work());

  const nowMs = Date.now();
  const terms = { bits: 1, tcpPorts: [], expiresMs: nowMs + 60_000 };
  for (const id of ['node//gone', 'mesh//gone', 'ugrp//gone', 'user//gone', 'x', ...hostile]) {
    const unknown: (() => Promise<unknown>)[] = [
      () => directory.users.update(id, { realname: 'x' }),
      () => directory.users.setPassword(id, 'long enough'),
      () => directory.users.remove(id),
      () => directory.users.find('', id),
      () => directory.userGroups.update(id, { name: 'x' }),
      () => directory.userGroups.remove(id),
      () => directory.userGroups.addMember(id, user.id),
      () => directory.userGroups.addMember(ugrp.id, id),
      () => directory.userGroups.removeMember(id, user.id),
      () => directory.deviceGroups.update(id, { name: 'x' }),
      () => directory.deviceGroups.remove(id),
      () => directory.devices.create({ deviceGroupId: id, name: 'x' }),
      () => directory.devices.update(id, { name: 'x' }),
      () => directory.devices.remove(id),
      () => directory.devices.newJoinCode(id),
      () => directory.devices.revoke(id),
      () => directory.links.grant(id, device.id, 8),
      () => directory.links.grant(user.id, id, 8),
      () => directory.links.revoke(id, device.id),
      () => directory.links.findTarget('', id),
      () => directory.links.findSubject('', id),
      () => directory.shares.create({ ...terms, deviceId: id, createdBy: user.id }),
      () => directory.shares.create({ ...terms, deviceId: device.id, createdBy: id }),
      () => directory.shares.revoke(id),
      () => directory.shares.countUse(id),
      () => directory.loginSessions.create(id, { address: '' }),
      () => directory.loginSessions.end(id),
      () => directory.apiTokens.create(id, { name: 'x', scopes: ['read'] }),
      () => directory.apiTokens.revoke(id),
    ];
    for (const work of unknown) await refused('CPL_DIRECTORY_UNKNOWN', work());
    const nothing = [
      directory.users.get(id),
      directory.userGroups.get(id),
      directory.deviceGroups.get(id),
      directory.devices.get(id),
      directory.shares.get(id),
      directory.loginSessions.verify(id),
      directory.apiTokens.verify(id),
    ];
    assert.deepEqual(new Set(await Promise.all(nothing)), new Set([undefined]));
    await directory.devices.seen(id);
    const lists = [directory.links.list({ subjectId: id }), directory.userGroups.members(id), directory.usersOf(id)];
    assert.deepEqual(await Promise.all(lists), [[], [], []]);
    assert.equal((await directory.access(id, device.id)).refusal, 'user-unknown');
    assert.equal((await directory.access(user.id, id)).refusal, 'device-unknown');
  }
});

overBoth('fault 34: hostile names are refused in one line, or kept as they are', async (place) => {
  const directory = await place.open();
  const { group, user } = await furnish(directory);
  const harmless = new Set(["'; drop table users; --", '__proto__', '%00']);
  for (const [n, name] of hostile.entries()) {
    const texts = {
      deviceGroup: () => directory.deviceGroups.create({ name }),
      userGroup: () => directory.userGroups.create({ name }),
      device: () => directory.devices.create({ deviceGroupId: group.id, name }),
    };
    for (const [what, make] of Object.entries(texts)) {
      if (harmless.has(name)) await make();
      else assert.match(await refused('CPL_DIRECTORY_VALUE', make()), /^name "/, `${what} ${n}`);
    }
    if (name !== '' && !harmless.has(name)) {
      await refused('CPL_DIRECTORY_VALUE', directory.users.update(user.id, { realname: name }));
      await refused('CPL_DIRECTORY_VALUE', directory.domains.put('', { title: name }));
    }
    if (!['__proto__', '%00'].includes(name)) await refused('CPL_DIRECTORY_VALUE', directory.users.create({ name }));
    if (name !== '') await refused('CPL_DIRECTORY_VALUE', directory.domains.put(name, {}));
  }
  assert.equal((await directory.devices.find('', "'; drop table users; --")).name, "'; drop table users; --");
  await refused('CPL_DIRECTORY_VALUE', directory.deviceGroups.create({ name: 'node//looks-like-an-id' }));
});

overBoth('a name of two things must be told apart by id', async (place) => {
  const directory = await place.open();
  const { group } = await furnish(directory);
  const both = await directory.deviceGroups.create({ name: 'both' });
  const { device } = await directory.devices.create({ deviceGroupId: group.id, name: 'both' });
  await refused('CPL_DIRECTORY_AMBIGUOUS', directory.links.findTarget('', 'both'));
  assert.equal((await directory.links.findTarget('', both.id)).id, both.id);
  assert.equal((await directory.links.findTarget('', device.id)).id, device.id);
  assert.equal((await directory.links.findSubject('', 'Alice')).id, 'user//alice');
});

/** How many rows name these. */
async function leftovers(directory: SqlDirectory, ids: { user: string; device: string; share: string }) {
  return {
    links: (await directory.links.list({ subjectId: ids.user })).length,
    linksTo: (await directory.links.list({ targetId: ids.device })).length,
    share: await directory.shares.get(ids.share),
    groups: (await directory.userGroups.groupsOf(ids.user)).length,
    sessions: (await directory.loginSessions.list(ids.user)).length,
    tokens: (await directory.apiTokens.list(ids.user)).length,
  };
}

overBoth('what is removed takes its links, memberships, shares, sessions and tokens along', async (place) => {
  const directory = await place.open();
  const { user, group, device } = await furnish(directory);
  const ugrp = await directory.userGroups.create({ name: 'ops' });
  const share = async () => {
    const made = await directory.shares.create({
      deviceId: device.id,
      createdBy: user.id,
      bits: 1,
      tcpPorts: [22],
      expiresMs: Date.now() + 60_000,
    });
    return made.id;
  };
  const furnishUser = async () => {
    await directory.userGroups.addMember(ugrp.id, user.id);
    await directory.links.grant(user.id, device.id, 8);
    await directory.links.grant(user.id, group.id, 8);
    const { token } = await directory.loginSessions.create(user.id, { address: '127.0.0.1' });
    const { secret } = await directory.apiTokens.create(user.id, { name: 'x', scopes: ['read'] });
    return { token, secret, share: await share() };
  };
  const { token, secret, share: first } = await furnishUser();
  const ids = { user: user.id, device: device.id, share: first };
  const nothing = { links: 0, linksTo: 0, share: undefined, groups: 0, sessions: 0, tokens: 0 };
  assert.ok((await directory.loginSessions.verify(token)) !== undefined);
  await directory.users.remove(user.id);
  assert.deepEqual(await leftovers(directory, ids), nothing);
  assert.equal(await directory.loginSessions.verify(token), undefined);
  assert.equal(await directory.apiTokens.verify(secret), undefined);
  await directory.users.create({ name: user.name });
  assert.deepEqual(await leftovers(directory, ids), nothing, 'a new user of the name starts with nothing');
  assert.equal((await directory.access(user.id, device.id)).rights, 0);

  ids.share = (await furnishUser()).share;
  await directory.links.grant(ugrp.id, device.id, 8);
  await directory.userGroups.remove(ugrp.id);
  assert.deepEqual((await leftovers(directory, ids)).groups, 0);
  assert.equal(
    (await directory.links.list({ targetId: device.id })).length,
    1,
    "the group's link is gone, the user's not",
  );
  await directory.devices.remove(device.id);
  const left = await leftovers(directory, ids);
  assert.deepEqual([left.linksTo, left.share, left.links, left.sessions], [0, undefined, 1, 1]);

  await directory.devices.create({ deviceGroupId: group.id, name: 'another' });
  await refused('CPL_DIRECTORY_IN_USE', directory.deviceGroups.remove(group.id));
  await directory.deviceGroups.remove(group.id, { withDevices: true });
  assert.deepEqual(await directory.devices.list(''), []);
  assert.equal((await leftovers(directory, ids)).links, 0);
});

overBoth('[T9] a join code lets one agent in, once, in time', async (place) => {
  const clock = new MovableClock();
  const directory = await place.open({ clock });
  const { device, code } = await furnish(directory);
  const key = (n: number) => Buffer.alloc(32, n).toString('base64url');
  await refused('CPL_DIRECTORY_VALUE', directory.devices.enrol(joinCodeId(code.code), 'short'));
  assert.equal(await directory.devices.enrol('', key(1)), undefined);
  assert.equal(await directory.devices.enrol('\0', key(1)), undefined);
  const tries = await Promise.all([1, 2, 3, 4].map((n) => directory.devices.enrol(joinCodeId(code.code), key(n))));
  const won = tries.filter((one) => one !== undefined);
  assert.equal(won.length, 1);
  const stored = await directory.devices.get(device.id);
  assert.deepEqual(stored, won[0]);
  assert.deepEqual([stored!.publicKey !== undefined, stored!.joinExpiresMs], [true, undefined]);
  assert.equal(await directory.devices.enrol(joinCodeId(code.code), key(9)), undefined, 'used');

  const late = await directory.devices.newJoinCode(device.id, 1_000);
  assert.equal(
    (await directory.devices.get(device.id))!.publicKey,
    stored!.publicKey,
    'the old key is good until then',
  );
  clock.aheadMs = 1_001;
  assert.equal(await directory.devices.enrol(joinCodeId(late.code), key(9)), undefined, 'over');
  const next = await directory.devices.newJoinCode(device.id);
  await directory.devices.revoke(device.id);
  const revoked = (await directory.devices.get(device.id))!;
  assert.deepEqual([revoked.publicKey, revoked.joinExpiresMs, revoked.revokedMs! > 0], [undefined, undefined, true]);
  assert.equal(await directory.devices.enrol(joinCodeId(next.code), key(9)), undefined, 'revoked with its device');
  const again = await directory.devices.newJoinCode(device.id);
  const back = await directory.devices.enrol(joinCodeId(again.code), key(7));
  assert.deepEqual([back!.publicKey, back!.revokedMs], [key(7), undefined]);
});

overBoth(
  '[T15] shares are made, counted, listed, revoked, and open what they say as long as who made them may',
  async (place) => {
    const clock = new MovableClock();
    const directory = await place.open({ clock });
    const { user, device } = await furnish(directory);
    const terms = { deviceId: device.id, createdBy: user.id, bits: 1, tcpPorts: [443, 22, 22], guestName: 'Gästin' };
    const share = await directory.shares.create({ ...terms, expiresMs: clock.nowMs() + 60_000, viewOnly: true });
    assert.deepEqual([share.tcpPorts, share.viewOnly, share.guestName, share.uses], [[22, 443], true, 'Gästin', 0]);
    assert.deepEqual(await directory.shares.get(share.id), share);
    assert.ok(Buffer.from(share.id, 'base64url').length >= 16);
    const state = async (id = share.id, deviceId = device.id) => {
      const checked = await directory.shares.check(id, deviceId);
      return checked.ok ? 'ok' : checked.refusal;
    };
    assert.equal(await state(), 'no-right');
    await directory.links.grant(user.id, device.id, 8);
    assert.equal(await state(), 'no-right', 'guest sharing is a right of its own');
    await directory.links.grant(user.id, device.id, 8 | 524_288);
    assert.equal(await state(), 'ok');
    assert.equal(await state('nothing'), 'unknown');
    assert.equal(await state(share.id, 'node//other'), 'unknown');
    await Promise.all(Array.from({ length: 20 }, () => directory.shares.countUse(share.id)));
    assert.equal((await directory.shares.get(share.id))!.uses, 20);
    await directory.users.update(user.id, { locked: true });
    assert.equal(await state(), 'no-right');
    await directory.users.update(user.id, { locked: false });
    clock.aheadMs = 60_001;
    assert.equal(await state(), 'expired');
    clock.aheadMs = 0;
    await directory.shares.revoke(share.id);
    const { revokedMs } = (await directory.shares.get(share.id))!;
    clock.aheadMs = 5_000;
    await directory.shares.revoke(share.id);
    assert.equal((await directory.shares.get(share.id))!.revokedMs, revokedMs);
    assert.equal(await state(), 'revoked');
    for (const of of [{ deviceId: device.id }, { createdBy: user.id }, { domain: '' }]) {
      assert.deepEqual(
        (await directory.shares.list(of)).map(({ id }) => id),
        [share.id],
      );
    }
    assert.deepEqual(await directory.shares.list({ domain: 'other' }), []);
    await directory.shares.remove(share.id);
    await refused('CPL_DIRECTORY_UNKNOWN', directory.shares.remove(share.id));

    const bad = [{ bits: 8 }, { bits: 0, tcpPorts: [] }, { tcpPorts: [0] }, { guestName: 'a\0' }, { expiresMs: 1 }];
    for (const wrong of bad) {
      const work = directory.shares.create({ ...terms, expiresMs: clock.nowMs() + 60_000, ...wrong });
      await refused('CPL_DIRECTORY_VALUE', work);
    }
  },
);

overBoth('[T3] what was written is there when the directory is opened again', async (place) => {
  const first = await place.open();
  const { user, device } = await furnish(first);
  await first.links.grant(user.id, device.id, 8);
  await first.close();
  await first.close();
  await refused('CPL_DIRECTORY_UNAVAILABLE', first.users.get(user.id));
  const second = await place.open();
  assert.deepEqual(await second.users.get(user.id), user);
  assert.equal((await second.access(user.id, device.id)).rights, 8);
  if (place.kind === 'sqlite') assert.equal(statSync(place.options.file).mode & 0o077, 0, "the owner's alone");
});

overBoth('[T4] what was issued to a user who was locked, removed or made anew is told apart', async (place) => {
  const clock = new MovableClock();
  const directory = await place.open({ clock });
  const unknown = { known: false, locked: false, sinceMs: 0 };
  assert.deepEqual(await directory.standing('user//carol'), unknown);
  const { id, createdMs } = await directory.users.create({ name: 'carol' });
  assert.deepEqual(await directory.standing(id), { known: true, locked: false, sinceMs: createdMs });
  assert.deepEqual(directory.standing(id), { known: true, locked: false, sinceMs: createdMs }, 'remembered');
  await directory.users.update(id, { locked: true });
  assert.deepEqual(await directory.standing(id), { known: true, locked: true, sinceMs: createdMs });
  clock.aheadMs += 5000;
  await directory.users.remove(id);
  const gone = await directory.standing(id);
  assert.ok(gone.sinceMs >= createdMs + 6000 && !gone.known, JSON.stringify(gone));
  clock.aheadMs += 5000;
  const again = await directory.users.create({ name: 'carol' });
  assert.deepEqual(await directory.standing(id), { known: true, locked: false, sinceMs: again.createdMs });
  for (const id of hostile) assert.deepEqual(await directory.standing(id), unknown);
});
