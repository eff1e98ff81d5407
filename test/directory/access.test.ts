import assert from 'node:assert/strict';
import { adminRights, effectiveRights } from '../../src/core/rights.ts';
import type { SqlDirectory } from '../../src/directory/sql.ts';
import { Random } from '../support/random.ts';
import { furnish, overBoth, useBackends } from './backends.ts';

useBackends();

/** The directory as sets and maps: what it should answer is worked out the long way. */
class Model {
  readonly users = new Map<string, boolean>();
  readonly userGroups = new Map<string, Set<string>>();
  readonly deviceGroups = new Set<string>();
  readonly devices = new Map<string, { group: string; revoked: boolean }>();
  readonly links = new Map<string, number>();

  linked(userId: string, deviceId: string): number[] {
    const group = this.devices.get(deviceId)?.group;
    return [...this.links].flatMap(([key, rights]) => {
      const [subject, target] = key.split(' ') as [string, string];
      const mine = subject === userId || this.userGroups.get(subject)?.has(userId) === true;
      return mine && (target === deviceId || target === group) ? [rights] : [];
    });
  }

  rights(userId: string, deviceId: string): number {
    if (this.users.get(userId) !== false || this.devices.get(deviceId)?.revoked !== false) return 0;
    return effectiveRights(this.linked(userId, deviceId));
  }

  drop(id: string): void {
    for (const key of this.links.keys()) {
      const [subject, target] = key.split(' ');
      if (subject === id || target === id) this.links.delete(key);
    }
    this.users.delete(id);
    this.userGroups.delete(id);
    this.deviceGroups.delete(id);
    this.devices.delete(id);
    for (const members of this.userGroups.values()) members.delete(id);
  }
}

/** One random change, to the directory and to the model. */
async function change(directory: SqlDirectory, model: Model, random: Random): Promise<string> {
  const pick = (from: Iterable<string>) => {
    const all = [...from];
    return all.length === 0 ? undefined : random.pick(all);
  };
  const subject = pick([...model.users.keys(), ...model.userGroups.keys()]);
  const target = pick([...model.deviceGroups, ...model.devices.keys()]);
  const [user, ugrp] = [pick(model.users.keys()), pick(model.userGroups.keys())];
  const [mesh, node] = [pick(model.deviceGroups), pick(model.devices.keys())];
  const name = `n${random.below(1e9)}`;
  switch (random.below(16)) {
    case 0: {
      if (model.users.size >= 6) return 'nothing';
      model.users.set((await directory.users.create({ name })).id, false);
      return 'a user';
    }
    case 1: {
      if (model.userGroups.size >= 4) return 'nothing';
      model.userGroups.set((await directory.userGroups.create({ name })).id, new Set());
      return 'a user group';
    }
    case 2: {
      if (model.deviceGroups.size >= 4) return 'nothing';
      model.deviceGroups.add((await directory.deviceGroups.create({ name })).id);
      return 'a device group';
    }
    case 3: {
      if (mesh === undefined || model.devices.size >= 6) return 'nothing';
      const { device } = await directory.devices.create({ deviceGroupId: mesh, name });
      model.devices.set(device.id, { group: mesh, revoked: false });
      return 'a device';
    }
    case 4: {
      if (user === undefined) return 'nothing';
      const locked = random.chance(0.3);
      await directory.users.update(user, { locked });
      model.users.set(user, locked);
      return 'a lock';
    }
    case 5: {
      if (node === undefined || random.chance(0.7)) return 'nothing';
      await directory.devices.revoke(node);
      model.devices.get(node)!.revoked = true;
      return 'a revoked device';
    }
    case 6: {
      if (node === undefined || mesh === undefined) return 'nothing';
      await directory.devices.update(node, { deviceGroupId: mesh });
      model.devices.get(node)!.group = mesh;
      return 'a move';
    }
    case 7:
    case 8: {
      if (user === undefined || ugrp === undefined) return 'nothing';
      await directory.userGroups.addMember(ugrp, user);
      model.userGroups.get(ugrp)!.add(user);
      return 'a member';
    }
    case 9: {
      if (user === undefined || ugrp === undefined || !model.userGroups.get(ugrp)!.has(user)) return 'nothing';
      await directory.userGroups.removeMember(ugrp, user);
      model.userGroups.get(ugrp)!.delete(user);
      return 'no member';
    }
    case 10: {
      const gone = random.chance(0.3) ? pick([user, ugrp, mesh, node].filter((id) => id !== undefined)) : undefined;
      if (gone === undefined) return 'nothing';
      if (gone === mesh) {
        await directory.deviceGroups.remove(gone, { withDevices: true });
        for (const [id, { group }] of model.devices) if (group === gone) model.drop(id);
      } else if (gone === user) await directory.users.remove(gone);
      else if (gone === ugrp) await directory.userGroups.remove(gone);
      else await directory.devices.remove(gone);
      model.drop(gone);
      return 'a removal';
    }
    case 11: {
      const key = pick(model.links.keys());
      if (key === undefined) return 'nothing';
      const [from, to] = key.split(' ') as [string, string];
      await directory.links.revoke(from, to);
      model.links.delete(key);
      return 'no link';
    }
    default: {
      if (subject === undefined || target === undefined) return 'nothing';
      const rights = 1 << random.below(22);
      assert.equal((await directory.links.grant(subject, target, rights)).rights, rights);
      model.links.set(`${subject} ${target}`, rights);
      return 'a link';
    }
  }
}

overBoth('[T1][T4] rights are those of a brute-force model after every change, from memory too', async (place, t) => {
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  const directory = await place.open();
  const model = new Model();
  for (let step = 0; step < 300; step++) {
    const done = await change(directory, model, random);
    for (const userId of model.users.keys()) {
      const reached = new Map<string, number>();
      for (const deviceId of model.devices.keys()) {
        const access = await directory.access(userId, deviceId);
        assert.equal(access.rights, model.rights(userId, deviceId), `seed ${random.seed}, step ${step}: ${done}`);
        const linked = effectiveRights(model.linked(userId, deviceId));
        if (linked > 0) reached.set(deviceId, linked);
      }
      if (step % 5 > 0) continue;
      const devices = await directory.devicesOf(userId);
      assert.deepEqual(new Map(devices.map(({ id, rights }) => [id, rights])), reached, `seed ${random.seed}`);
    }
    if (step % 5 > 0) continue;
    for (const deviceId of model.devices.keys()) {
      const linked = [...model.users.keys()].map(
        (userId) => [userId, effectiveRights(model.linked(userId, deviceId))] as const,
      );
      const users = await directory.usersOf(deviceId);
      const expected = new Map(linked.filter(([, rights]) => rights > 0));
      assert.deepEqual(new Map(users.map(({ id, rights }) => [id, rights])), expected, `seed ${random.seed}`);
    }
  }
  assert.ok(directory.cache.hits > directory.cache.misses / 4, 'some of it came from memory');
});

overBoth('[T1][T6] one answer has all that a tunnel command needs, and says why there are no rights', async (place) => {
  const directory = await place.open();
  const { user, group, device } = await furnish(directory);
  const ask = () => directory.access(user.id, device.id);
  assert.equal((await ask()).refusal, 'no-link');
  const ugrps = [];
  for (const name of ['b', 'a']) {
    const { id } = await directory.userGroups.create({ name });
    await directory.userGroups.addMember(id, user.id);
    ugrps.push(id);
  }
  await directory.users.update(user.id, { realname: 'Alice A.' });
  await directory.links.grant(user.id, device.id, 8);
  await directory.links.grant(ugrps[0]!, group.id, 1024);
  await directory.links.grant(ugrps[1]!, device.id, 64);
  await directory.links.grant(user.id, group.id, 16);
  await directory.deviceGroups.update(group.id, { consent: 1 });
  await directory.domains.put('', { consent: 6, privacyBarText: 'Watched' });
  assert.deepEqual(await ask(), {
    userId: user.id,
    deviceId: device.id,
    rights: 8 | 1024 | 64 | 16,
    refusal: undefined,
    username: 'alice',
    realname: 'Alice A.',
    userGroupIds: ugrps.sort(),
    deviceName: device.name,
    deviceGroupId: group.id,
    consent: 7,
    privacyBarText: 'Watched',
  });
  await directory.devices.revoke(device.id);
  assert.deepEqual([(await ask()).refusal, (await ask()).rights], ['device-revoked', 0]);
  await directory.users.update(user.id, { locked: true });
  assert.deepEqual([(await ask()).refusal, (await ask()).rights], ['user-locked', 0]);
});

overBoth('[T1] a link is within one domain, has rights, and can be changed', async (place) => {
  const directory = await place.open();
  await directory.domains.put('acme');
  const { user, device } = await furnish(directory);
  const mesh = await directory.deviceGroups.create({ domain: 'acme', name: 'theirs' });
  const theirs = await directory.devices.create({ deviceGroupId: mesh.id, name: 'theirs' });
  const wrong = { code: 'CPL_DIRECTORY_VALUE' };
  await assert.rejects(directory.links.grant(user.id, mesh.id, 8), wrong);
  await assert.rejects(directory.links.grant(user.id, theirs.device.id, 8), wrong);
  await assert.rejects(directory.links.grant(user.id, device.id, 0), wrong);
  await assert.rejects(directory.links.grant(user.id, device.id, 1 << 22), { code: 'CPL_RIGHTS' });
  await assert.rejects(directory.devices.update(device.id, { deviceGroupId: mesh.id }), wrong);
  const group = await directory.userGroups.create({ domain: 'acme', name: 'theirs' });
  await assert.rejects(directory.userGroups.addMember(group.id, user.id), wrong);
  assert.equal((await directory.access(user.id, theirs.device.id)).refusal, 'other-domain');
  await directory.links.grant(user.id, device.id, 8);
  await directory.links.grant(user.id, device.id, adminRights);
  const links = await directory.links.list({ subjectId: user.id });
  assert.deepEqual(
    links.map(({ subjectId, targetId, rights }) => [subjectId, targetId, rights]),
    [[user.id, device.id, adminRights]],
  );
  await directory.links.revoke(user.id, device.id);
  await assert.rejects(directory.links.revoke(user.id, device.id), { code: 'CPL_DIRECTORY_UNKNOWN' });
});

overBoth('[T1] long lists of devices and users come in pages', async (place) => {
  const directory = await place.open();
  const { user, group, device } = await furnish(directory);
  await directory.links.grant(user.id, group.id, 8);
  for (let n = 0; n < 24; n++) await directory.devices.create({ deviceGroupId: group.id, name: `d${n}` });
  const seen: string[] = [];
  for (let after: string | undefined; ; ) {
    const page = await directory.devicesOf(user.id, { after, limit: 10 });
    seen.push(...page.map(({ id }) => id));
    if (page.length < 10) break;
    after = page.at(-1)!.id;
  }
  assert.deepEqual([seen.length, new Set(seen).size], [25, 25]);
  assert.deepEqual(await directory.usersOf(device.id, { limit: 1 }), [{ id: user.id, name: 'alice', rights: 8 }]);
  assert.deepEqual(await directory.usersOf(device.id, { after: user.id }), []);
});
