import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import BetterSqlite from 'better-sqlite3';
import { systemClock } from '../../src/core/clock.ts';
import { openDirectory } from '../../src/directory/open.ts';
import { overBoth, place as placeOf, refused, useBackends } from './backends.ts';

useBackends();

const folder = mkdtempSync(join(tmpdir(), 'couplet-open-'));
after(() => rmSync(folder, { recursive: true }));
const open = (directory: string, file = join(folder, 'x.db')) =>
  openDirectory({ directory, file, clock: systemClock, onError: (error) => assert.fail(String(error)) });

test('[T3] none: every domain is known, nobody has rights, nothing can be kept', async () => {
  const directory = await open('none');
  assert.equal(directory.kind, 'none');
  assert.equal(await directory.domains.isKnown('anything'), true);
  assert.equal((await directory.access('user//a', 'node//b')).rights, 0);
  assert.deepEqual(
    [await directory.users.get('user//a'), await directory.users.list(''), await directory.devices.list('')],
    [undefined, [], []],
  );
  assert.deepEqual(await directory.events.query({}), { events: [], next: undefined });
  assert.equal((await directory.shares.check('x', 'node//b')).ok, false);
  await refused('CPL_DIRECTORY_NONE', directory.users.create({ name: 'a' }));
  await refused('CPL_DIRECTORY_NONE', directory.links.grant('user//a', 'node//b', 8));
  await refused('CPL_DIRECTORY_NONE', directory.devices.enrol('x', 'y'));
  await refused('CPL_DIRECTORY_NONE', directory.login({ domain: '', name: 'a', password: 'b', address: '' }));
  await directory.ping();
  directory.onChange(() => assert.fail())();
  await directory.close();
});

test('[R40] what cannot be opened is one line that says what is allowed, and no password', async () => {
  const text = join(folder, 'text');
  writeFileSync(text, 'This is no database, but it is longer than a header of one would be. '.repeat(20));
  assert.match(await refused('CPL_DIRECTORY_FILE', open('sqlite', text)), /SQLITE_NOTADB/);
  await refused('CPL_DIRECTORY_FILE', open('sqlite', join(folder, 'no', 'such', 'folder')));
  await refused('CPL_DIRECTORY_FILE', open('sqlite', folder));
  for (const directory of [
    '',
    'mysql://u:secret@h/d',
    'postgres',
    'postgres:',
    'x\n',
    'postgres://u:secret@h:port/d',
  ]) {
    const message = await refused('CPL_DIRECTORY_URL', open(directory));
    assert.ok(!message.includes('secret'), message);
  }
  const server = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const url = `postgres://user:secret@127.0.0.1:${port}/database`;
  const message = await refused('CPL_DIRECTORY_UNAVAILABLE', open(url));
  server.close();
  assert.match(message, new RegExp(`database at 127.0.0.1:${port} cannot be used`));
  assert.ok(!message.includes('secret'), message);
  assert.ok(!(await refused('CPL_DIRECTORY_UNAVAILABLE', open(url))).includes('secret'));
});

test('[T3] a database of a newer version is left alone', async (t) => {
  const place = (await placeOf(t, 'sqlite'))!;
  await (await place.open()).close();
  const handle = new BetterSqlite(place.options.file);
  handle.exec("insert into kysely_migration values ('999-future', '2100-01-01T00:00:00.000Z')");
  handle.close();
  assert.match(await refused('CPL_DIRECTORY_MIGRATION', place.open()), /newer version/);
});

test('[T3] PostgreSQL: it answers again after the server was restarted', async (t) => {
  const place = await placeOf(t, 'postgres');
  if (place === undefined) return;
  const directory = await place.open({ onError: () => {} });
  const user = await directory.users.create({ name: 'alice' });
  const told = new Promise<void>((resolve) => directory.onChange(({ all }) => all && resolve()));
  await place.server!.restart();
  await told;
  await directory.ping();
  assert.deepEqual(await directory.users.get(user.id), user);
});

test('[T3] SQLite: while another process writes, it is opened and read at once, and written when that is over', async (t) => {
  const place = (await placeOf(t, 'sqlite'))!;
  const before = await place.open();
  await before.users.create({ name: 'alice' });
  const writer = new BetterSqlite(place.options.file);
  t.after(() => writer.close());
  writer.exec('begin immediate');
  const startMs = performance.now();
  const directory = await place.open();
  assert.equal((await directory.users.list('')).length, 1);
  assert.ok(performance.now() - startMs < 2_000, 'nobody is waited for');
  let isMade = false;
  const made = directory.deviceGroups.create({ name: 'lab' }).then(() => {
    isMade = true;
  });
  // Longer than SQLite itself would wait, and the event loop turns meanwhile.
  let turns = 0;
  while (performance.now() - startMs < 3_000) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    turns++;
  }
  assert.equal(isMade, false);
  assert.ok(turns > 5, `${turns} turns`);
  writer.exec('commit');
  await made;
});

test('[T3] SQLite: several opens of a new file at once, in one process, do not keep each other from it', async (t) => {
  const place = (await placeOf(t, 'sqlite'))!;
  const startMs = performance.now();
  const opened = await Promise.all(Array.from({ length: 6 }, () => place.open()));
  assert.ok(performance.now() - startMs < 5_000);
  await opened[0]!.users.create({ name: 'alice' });
  for (const directory of opened) assert.equal((await directory.users.list('')).length, 1);
});

overBoth('[K8] two that open one database find the same identity, and another one in another', async (here, t) => {
  const [one, two] = [await here.open(), await here.open()];
  const there = await (await placeOf(t, here.kind))!.open();
  assert.match(await one.identity(), new RegExp(`^${here.kind} \\S+ \\S+ \\S+$`));
  assert.equal(await two.identity(), await one.identity());
  assert.notEqual(await there.identity(), await one.identity());
});
