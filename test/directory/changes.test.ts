import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import BetterSqlite from 'better-sqlite3';
import { systemClock } from '../../src/core/clock.ts';
import { AccessCache } from '../../src/directory/cache.ts';
import { readChange } from '../../src/directory/changes.ts';
import { openDirectory } from '../../src/directory/open.ts';
import type { SqlDirectory } from '../../src/directory/sql.ts';
import { furnish, Heard, Other, overBoth, place as placeOf, useBackends } from './backends.ts';

useBackends();

overBoth('[T3] processes that start at once on an empty database all find its tables', async (place, t) => {
  const others = [1, 2, 3].map(() => new Other(t, place));
  await Promise.all(others.map((other) => other.ready()));
  await others[0]!.do('users', 'create', { name: 'alice' });
  assert.equal(await others[2]!.do('users', 'count'), 1);
  assert.deepEqual(await Promise.all(others.map((other) => other.end())), [0, 0, 0]);
});

overBoth('[T4] a change by another process is heard, and counts, within 1 s', async (place, t) => {
  const directory = await place.open();
  const { user, group, device } = await furnish(directory);
  const other = await new Other(t, place).ready();
  const ask = async () => (await directory.access(user.id, device.id)).rights;
  const share = await directory.shares.create({
    deviceId: device.id,
    createdBy: user.id,
    bits: 1,
    tcpPorts: [],
    expiresMs: Date.now() + 60_000,
  });
  const ugrp = await directory.userGroups.create({ name: 'ops' });
  await directory.userGroups.addMember(ugrp.id, user.id);

  /** What the other process does, who must be named, and the rights then. */
  const steps: [[string, string, ...unknown[]], 'users' | 'devices' | 'shares', string, number][] = [
    [['links', 'grant', user.id, device.id, 8], 'users', user.id, 8],
    [['links', 'grant', ugrp.id, group.id, 64], 'users', user.id, 72],
    [['links', 'revoke', user.id, device.id], 'users', user.id, 64],
    [['users', 'update', user.id, { locked: true }], 'users', user.id, 0],
    [['users', 'update', user.id, { locked: false }], 'users', user.id, 64],
    [['userGroups', 'removeMember', ugrp.id, user.id], 'users', user.id, 0],
    [['userGroups', 'addMember', ugrp.id, user.id], 'users', user.id, 64],
    [['shares', 'revoke', share.id], 'shares', share.id, 64],
    [['devices', 'revoke', device.id], 'devices', device.id, 0],
    [['userGroups', 'remove', ugrp.id], 'users', user.id, 0],
    [['deviceGroups', 'remove', group.id, { withDevices: true }], 'devices', device.id, 0],
    [['users', 'remove', user.id], 'users', user.id, 0],
  ];
  for (const [command, list, id, rights] of steps) {
    await ask();
    const heard = new Heard(directory);
    await other.do(command[0], command[1], ...command.slice(2));
    const change = await heard.first((told) => told[list].includes(id));
    assert.equal(change.all, false);
    assert.equal(await ask(), rights, `after ${command[0]}.${command[1]}`);
  }
  assert.ok(directory.cache.hits + directory.cache.misses > steps.length);
});

overBoth('[T4] [K4] who catches up has been told of every change that was committed before', async (place, t) => {
  const directory = await place.open();
  const { user, group, device } = await furnish(directory);
  const other = await new Other(t, place).ready();
  for (let round = 0; round < 20; round++) {
    const rights = round % 2 === 0 ? 8 : 64;
    await other.do('links', 'grant', user.id, group.id, rights);
    const told: string[] = [];
    const unlisten = directory.onChange(({ users }) => told.push(...users));
    await directory.catchUp();
    // Or before it was asked: then what is remembered is gone all the same.
    assert.equal((await directory.access(user.id, device.id)).rights, rights, `round ${round}, told of ${told}`);
    unlisten();
  }
  await directory.close();
  await assert.rejects(directory.catchUp(), { code: 'CPL_DIRECTORY_UNAVAILABLE' });
});

overBoth('[T4] a change is told once in the process that made it, after it holds', async (place) => {
  const directory = await place.open();
  const { user, device } = await furnish(directory);
  const seen: number[] = [];
  const asked: Promise<void>[] = [];
  const heard = new Heard(directory);
  directory.onChange(() => {
    asked.push(directory.access(user.id, device.id).then(({ rights }) => void seen.push(rights)));
  });
  await directory.links.grant(user.id, device.id, 8);
  await directory.links.grant(user.id, device.id, 64);
  await Promise.all(asked);
  assert.deepEqual(seen, [8, 64]);
  assert.deepEqual(
    heard.changes.map(({ users }) => users),
    [[user.id], [user.id]],
  );
  await assert.rejects(directory.users.create({ name: 'alice' }));
  assert.equal(heard.changes.length, 2, 'what failed is no change');
  await directory.devices.seen(device.id);
  await directory.shares.list({});
  assert.equal(heard.changes.length, 2);
});

overBoth(
  '[T4] a change of more than can be named is told as all; a listener that throws harms nobody',
  async (place) => {
    const errors: unknown[] = [];
    const directory = await place.open({ onError: (error) => errors.push(error) });
    const { user, device } = await furnish(directory);
    const ugrp = await directory.userGroups.create({ name: 'ops' });
    await directory.userGroups.addMember(ugrp.id, user.id);
    for (let n = 0; n < 25; n++) {
      await directory.userGroups.addMember(ugrp.id, (await directory.users.create({ name: `u${n}` })).id);
    }
    assert.equal((await directory.access(user.id, device.id)).rights, 0);
    const off = directory.onChange(() => {
      throw new Error('a listener');
    });
    const heard = new Heard(directory);
    await directory.links.grant(ugrp.id, device.id, 8);
    assert.deepEqual(
      heard.changes.map(({ all }) => all),
      [true],
    );
    assert.equal((await directory.access(user.id, device.id)).rights, 8);
    assert.equal(errors.length, 1);
    off();
    await directory.links.revoke(ugrp.id, device.id);
    assert.equal(errors.length, 1);
  },
);

test('[T4] SQLite: who missed changes takes everything for changed; what is no change wakes nobody', async (t) => {
  const place = (await placeOf(t, 'sqlite'))!;
  const directory = await place.open();
  await furnish(directory);
  const heard = new Heard(directory);
  const handle = new BetterSqlite(place.options.file);
  t.after(() => handle.close());
  handle.exec("update devices set last_seen_ms = 1; insert into login_failures values ('x', 1, 1)");
  // Longer than the time between two looks.
  await assert.rejects(heard.first(() => true, 400));
  const { seq } = handle.prepare('select max(seq) as seq from changes').get() as { seq: number };
  handle.prepare('insert into changes (seq, body) values (?, ?)').run(seq + 5, '{}');
  assert.equal((await heard.first(() => true)).all, true);
});

test('[T3] SQLite: commits are durable, those of no consequence are not waited for; keys are enforced', async (t) => {
  const place = (await placeOf(t, 'sqlite'))!;
  const levels: unknown[] = [];
  const prepare = BetterSqlite.prototype.prepare;
  t.mock.method(BetterSqlite.prototype, 'prepare', function (this: BetterSqlite.Database, text: string) {
    const statement = prepare.call(this, text);
    if (text !== 'commit') return statement;
    const run = statement.run.bind(statement);
    // Statements are kept: looked at each time one is run.
    statement.run = (...values: unknown[]) => {
      levels.push((prepare.call(this, 'pragma synchronous').get([]) as { synchronous: number }).synchronous);
      return run(...(values as [object]));
    };
    return statement;
  });
  const directory = await place.open();
  const { device, user } = await furnish(directory);
  levels.length = 0;
  for (let n = 0; n < 2; n++) {
    await directory.devices.seen(device.id);
    await directory.users.update(user.id, { realname: `${n}` });
  }
  await directory.shares.list({});
  assert.deepEqual(levels, [1, 2, 1, 2], 'normal, then full');
  const handle = new BetterSqlite(place.options.file);
  t.after(() => handle.close());
  assert.equal(handle.pragma('journal_mode', { simple: true }), 'wal');
});

test('[T4] PostgreSQL: after a lost connection everything is asked again, and nothing is answered from memory', async (t) => {
  const place = await placeOf(t, 'postgres');
  if (place === undefined) return;
  const errors: unknown[] = [];
  const directory = await place.open({ onError: (error) => errors.push(error) });
  const { user, device } = await furnish(directory);
  await directory.links.grant(user.id, device.id, 8);
  assert.equal((await directory.access(user.id, device.id)).rights, 8);
  const heard = new Heard(directory);
  // Those of others are cut, and a right is withdrawn behind everybody's back in the same moment.
  await place.server!.query(
    `delete from links; select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()`,
    place.options.directory,
  );
  await heard.first(({ all }) => all, 5_000);
  assert.equal((await directory.access(user.id, device.id)).rights, 0);
  assert.ok(errors.length > 0, 'the loss is told');
  const { misses } = directory.cache;
  await directory.access(user.id, device.id);
  assert.equal(directory.cache.misses, misses, 'answered from memory again');
});

test('[T4] PostgreSQL: a connection that is dead without a word is noticed within 1 s', async (t) => {
  const place = await placeOf(t, 'postgres');
  if (place === undefined) return;
  // Between the directory and the server, so that the wire can be cut without a sign on either side.
  const sockets: Socket[] = [];
  let frozen: Socket | undefined;
  const proxy = createServer((client) => {
    const upstream = connectTcp(place.server!.port, '127.0.0.1');
    sockets.push(client, upstream);
    client.on('data', (bytes) => {
      if (bytes.includes('listen couplet')) frozen = client;
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => client.write(bytes));
    for (const socket of [client, upstream]) socket.on('error', () => socket.destroy());
    client.on('close', () => upstream.destroy());
    upstream.on('close', () => client.destroy());
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    proxy.close();
  });
  const { port } = proxy.address() as { port: number };
  const url = place.options.directory.replace(/:[0-9]+\//, `:${port}/`);
  const errors: unknown[] = [];
  const options = { file: '', clock: systemClock, onError: (error: unknown) => errors.push(error) };
  const directory = (await openDirectory({ ...options, directory: url })) as SqlDirectory;
  t.after(() => directory.close());
  const straight = await place.open();
  const { user, device } = await furnish(straight);
  await straight.links.grant(user.id, device.id, 8);
  while ((await directory.access(user.id, device.id)).rights !== 8);
  const heard = new Heard(directory);
  frozen!.pause();
  for (const socket of sockets) if (socket === frozen) socket.removeAllListeners('data');
  const cut = frozen!;
  cut.write = (() => true) as never;
  await straight.links.revoke(user.id, device.id);
  const deadlineMs = systemClock.monotonicMs() + 1_000;
  for (;;) {
    const { rights } = await directory.access(user.id, device.id);
    if (rights === 0) break;
    assert.ok(systemClock.monotonicMs() < deadlineMs, 'a withdrawn right still counts after 1 s');
    await new Promise((resolve) => setImmediate(resolve));
  }
  await heard.first(({ all }) => all, 10_000);
  assert.match(String(errors[0]), /no answer/);
});

test('[T4] the memory keeps no answer that a change overtook, is bounded, and rests while news may be missed', async () => {
  let current = true;
  const cache = new AccessCache<number>(2, () => current);
  let reads = 0;
  const read = async () => ++reads;
  const change = (users: string[]) => cache.forget({ all: false, users, devices: [], shares: [], domains: [] });
  assert.equal(await cache.get('u', 'd', read), 1);
  assert.equal(await cache.get('u', 'd', read), 1);
  change(['other']);
  assert.equal(await cache.get('u', 'd', read), 1);
  change(['u']);
  assert.equal(await cache.get('u', 'd', read), 2);
  const slow = cache.get('u2', 'd', async () => {
    change(['u2']);
    return 0;
  });
  assert.equal(await slow, 0);
  assert.equal(await cache.get('u2', 'd', read), 3, 'an answer from before the change is not kept');
  await cache.get('u3', 'd', read);
  assert.equal(cache.size, 2);
  assert.equal(await cache.get('u2', 'd', read), 3, 'the one not asked for the longest went');
  current = false;
  assert.equal(await cache.get('u2', 'd', read), 5);
  current = true;
  assert.equal(await cache.get('u2', 'd', read), 3);
  cache.forget({ all: true, users: [], devices: [], shares: [], domains: [] });
  assert.equal(cache.size, 0);
});

test('[T4] a message that is no change stands for everything', () => {
  for (const text of ['', 'null', '1', '{}', '{"all":false,"users":"x"}', '[]', '{"all":false,"users":[1]}']) {
    assert.equal(readChange(text).all, true, text);
  }
  const change = { all: false, users: ['a'], devices: [], shares: [], domains: [] };
  assert.deepEqual(readChange(JSON.stringify({ from: 'x', ...change })), change);
});
