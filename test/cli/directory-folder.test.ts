import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import BetterSqlite from 'better-sqlite3';
import { connectPair } from '../support/client.ts';
import { folderPlace, runDirectory, serverPlace } from '../support/directory-cli.ts';
import { hasPostgres, Postgres } from '../support/postgres.ts';
import { couplet, readEvents, startServe } from '../support/serve.ts';
import { missing } from '../support/services.ts';

async function userNames(address: string, token: string): Promise<unknown> {
  const answer = await fetch(`http://${address}/api/v1/users`, { headers: { authorization: `Bearer ${token}` } });
  return ((await answer.json()) as { users: { name: string }[] }).users.map(({ name }) => name);
}

test('[R31] what commands change over a data folder is in the one hash-chained log, beside a running server', async (t) => {
  const serve = await startServe(t);
  const config = ['--config', serve.configFile];
  // All at once, and with a server that writes its own file.
  const names = Array.from({ length: 4 }, (_, n) => `user${n}`);
  const added = await Promise.all(
    names.map((name) => couplet(['user', 'add', name, '--site-rights', 'manage-users', ...config])),
  );
  assert.deepEqual(
    added.map(({ code, stderr }) => code + stderr),
    names.map(() => '0'),
  );
  const [secret] = await runDirectory(['api-token', 'create', 'test', '--user', 'user0', ...config]);
  assert.deepEqual(await userNames(serve.address, secret!), names);

  const created = serve.events().filter(({ change }) => change === 'user-created');
  assert.deepEqual(
    created.map(({ target }) => target).sort(),
    names.map((name) => `user//${name}`),
  );
  for (const { actor, userid, msg } of created) {
    assert.deepEqual([actor, userid], ['cli', '']);
    assert.match(String(msg), /by the cli/);
  }
  const text = JSON.stringify(serve.events());
  assert.equal(text.includes(secret!), false, 'no secret in the log');
  serve.signal('SIGTERM');
  assert.equal((await serve.exited).code, 0);
  const verified = await serve.verify();
  assert.equal(verified.code, 0, verified.stderr + verified.stdout);
  // R31: also in the database, which the server read them from before it ended.
  const again = await startServe(t, { folder: serve.folder });
  const headers = { authorization: `Bearer ${secret}` };
  const answer = await fetch(`http://${again.address}/api/v1/events?limit=100`, { headers });
  const { events } = (await answer.json()) as { events: { change?: string }[] };
  assert.equal(events.filter(({ change }) => change === 'user-created').length, names.length);
});

test('[R31] heads of server and commands go to the directory: a deleted newest file is found without the heads files', async (t) => {
  const serve = await startServe(t);
  assert.equal((await couplet(['user', 'add', 'bob', '--config', serve.configFile])).code, 0);
  serve.signal('SIGTERM');
  assert.equal((await serve.exited).code, 0);
  const whole = await serve.verify();
  assert.equal(whole.code, 0, whole.stderr);
  assert.doesNotMatch(whole.stdout, /note:/, 'the directory was asked and vouches');

  // The command's own file is the newest; and the server's before it.
  const files = readdirSync(serve.eventsDir).filter((name) => name.startsWith('events-'));
  assert.equal(files.length, 2);
  for (const name of readdirSync(serve.eventsDir)) {
    if (name !== files[0]) rmSync(join(serve.eventsDir, name));
  }
  const found = await serve.verify();
  assert.equal(found.code, 1);
  assert.match(found.stdout, /events-00000002\.jsonl:1: missing-file: the file is missing; the directory vouches for/);
  const unwitnessed = await couplet([
    'audit',
    'verify',
    serve.eventsDir,
    '--config',
    serve.configFile,
    '--no-directory',
  ]);
  assert.doesNotMatch(unwitnessed.stdout, /missing-file/, 'nobody else knows of it');

  const path = join(serve.eventsDir, files[0]!);
  const lines = readFileSync(path, 'utf8').split('\n');
  writeFileSync(path, `${lines.slice(0, -2).join('\n')}\n`);
  const cut = await serve.verify(path);
  assert.equal(cut.code, 1);
  assert.match(cut.stdout, /missing at the end; the directory vouches for line/);
});

test('looking at a data folder leaves no event file', async (t) => {
  const at = await folderPlace(t);
  const files = readEvents(join(at.dataDir, 'events'));
  const count = () => statSync(join(at.dataDir, 'events')).mtimeMs;
  const before = count();
  await at.text('user', 'list');
  await at.text('device', 'list');
  await at.text('grant', 'list', '--user', 'root');
  assert.equal(count(), before);
  assert.deepEqual(readEvents(join(at.dataDir, 'events')), files);
});

test('[T4] a right withdrawn over the data folder counts at the running server within 1 s', async (t) => {
  const at = await serverPlace(t);
  const config = ['--config', at.serve!.configFile];
  await runDirectory(['user', 'add', 'bob', ...config]);
  const [secret] = await runDirectory(['api-token', 'create', 'x', '--user', 'bob', ...config]);
  const status = async () =>
    (await fetch(`http://${at.serve!.address}/api/v1/me`, { headers: { authorization: `Bearer ${secret}` } })).status;
  assert.equal(await status(), 200);
  await runDirectory(['user', 'lock', 'bob', ...config]);
  const deadline = performance.now() + 1000;
  while ((await status()) === 200) assert.ok(performance.now() < deadline, 'still let in after 1 s');
});

test("another login key than the server's is refused before anything changes", async (t) => {
  const at = await folderPlace(t);
  const key = join(at.dataDir, '..', 'other.key');
  writeFileSync(key, randomBytes(80).toString('hex'));
  const add = runDirectory(['user', 'add', 'eve', '--login-key-file', key, ...at.flags]);
  await assert.rejects(add, { code: 'CPL_LOGIN_KEY', message: /another login key.*--config or --login-key-file/ });
  assert.deepEqual(
    (await at.json('user', 'list')).map(({ name }) => name),
    ['root'],
  );
});

test("a data folder of another system user's is left alone", async (t) => {
  let folder = '/';
  if (process.geteuid!() === 0) {
    folder = mkdtempSync(join(tmpdir(), 'couplet-cli-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    chownSync(folder, 65_534, 65_534);
  }
  const list = runDirectory(['user', 'list', '--data', folder]);
  await assert.rejects(list, { code: 'CPL_DATA_DIR', message: /belongs to the user with id \d+.*sudo -u/ });
  assert.equal(existsSync(join(folder, 'directory.sqlite')), false);
});

test('secrets that commands make are for their owner alone', async (t) => {
  const at = await folderPlace(t);
  assert.equal(statSync(at.dataDir).mode & 0o777, 0o700);
  for (const name of ['login.key', 'directory.sqlite']) {
    assert.equal(statSync(join(at.dataDir, name)).mode & 0o777, 0o600, name);
  }
  assert.match(readFileSync(join(at.dataDir, 'login.key'), 'utf8'), /^[0-9a-f]{160}\n$/);
});

test('session list and kill: the running sessions of a server', async (t) => {
  const at = await serverPlace(t);
  await at.text('user', 'add', 'alice');
  assert.deepEqual(await at.json('session', 'list'), []);
  const { user, device } = await connectPair(t, at.serve!, 's1', { user: { p: 2 }, device: { p: 2 } });
  const [session, ...more] = await at.json('session', 'list');
  assert.deepEqual(more, []);
  assert.deepEqual([session!.id, session!.userid, session!.protocol], ['s1', 'user//alice', 2]);
  const [heading, row] = await at.text('session', 'list');
  assert.match(heading!, /^SESSION +PROTOCOL +USER/);
  assert.match(row!, /^s1 +2 +user\/\/alice/);
  assert.deepEqual(await at.text('session', 'kill', 's1'), ['killed: s1']);
  assert.equal((await user.closed).code, 4410);
  assert.equal((await device.closed).code, 4410);
  await assert.rejects(at.text('session', 'kill', 's1'), {
    code: 'CPL_CLIENT_API',
    message: /there is no session "s1"/,
  });
});

test('the commands of the program: exit codes 0, 1 and 2, one line on stderr, --help of each', async (t) => {
  const at = await folderPlace(t);
  const cases: [number, string[], RegExp][] = [
    [0, ['user', 'add', 'zoe', ...at.flags], /^added: user\/\/zoe\n$/],
    [1, ['user', 'add', 'zoe', ...at.flags], /^couplet: there is a user .*\n$/],
    [1, ['user', 'remove', 'a\u001b[31m\u202eb\nc', ...at.flags], /^couplet: [\x20-\x7e]*\n$/],
    [2, ['user', 'add', ...at.flags], /^couplet: missing required argument 'NAME'.*\n$/],
    [2, ['user', 'list', '--directory', 'none', ...at.flags], /^couplet: there is no directory.*\n$/],
    [
      2,
      ['user', 'list', '--directory', 'mysql', ...at.flags],
      /^couplet: directory .* must be none, sqlite or postgres:.*\n$/,
    ],
    [2, ['session', 'list', ...at.flags], /^couplet: .*--url.*\n$/],
    [2, ['user', 'list', '--wrong\u202e'], /^couplet: unknown option[\x20-\x7e]*\n$/],
  ];
  for (const [code, args, output] of cases) {
    const done = await couplet(args);
    assert.equal(done.code, code, `${args.join(' ')}: ${done.stderr}`);
    assert.match(code === 0 ? done.stdout : done.stderr, output);
    assert.equal(code === 0 ? done.stderr : done.stdout, '');
  }
  const leaves = [
    'user add',
    'group add',
    'device add',
    'grant',
    'grant list',
    'revoke',
    'share create',
    'session kill',
  ];
  await Promise.all(
    leaves.map(async (leaf) => {
      const { code, stdout } = await couplet([...leaf.split(' '), '--help']);
      assert.equal(code, 0);
      assert.ok(stdout.startsWith(`Usage: couplet ${leaf} [options]`), stdout);
      assert.match(stdout, /--data <DIR>[\s\S]*--url <URL>[\s\S]*--token-file <FILE>/);
    }),
  );
});

test('[T3] --directory postgres:URL: the same commands over a PostgreSQL database', { timeout: 60_000 }, async (t) => {
  if (!hasPostgres()) return missing(t, 'PostgreSQL is not installed; scripts/test-services says how');
  const postgres = await Postgres.start();
  t.after(() => postgres.stop());
  const folder = mkdtempSync(join(tmpdir(), 'couplet-cli-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const flags = ['--directory', `postgres:${await postgres.database()}`, '--data', folder];
  await runDirectory(['user', 'add', 'alice', '--admin', ...flags]);
  await runDirectory(['group', 'add', 'Office', ...flags]);
  const [device] = await runDirectory(['device', 'add', 'pc', '--group', 'Office', ...flags]);
  await runDirectory(['grant', 'alice', 'pc', 'admin', ...flags]);
  const lines = await runDirectory(['grant', 'list', '--user', 'alice', '--json', ...flags]);
  const [grant] = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual([grant!.targetId, grant!.rights], [(JSON.parse(device!) as { nodeid: string }).nodeid, 'admin']);
  assert.equal(existsSync(join(folder, 'directory.sqlite')), false);
  assert.equal(readEvents(join(folder, 'events')).length, 4);
});

test('a mistyped data folder is told, and nothing is made', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-cli-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const typo = join(folder, 'dta');
  const empty = join(folder, 'empty');
  mkdirSync(empty);
  const commands = [
    ['user', 'list'],
    ['user', 'lock', 'a'],
    ['group', 'remove', 'a'],
    ['device', 'add', 'a', '--group', 'b'],
    ['device', 'revoke', 'a'],
    ['grant', 'a', 'b', '8'],
    ['grant', 'list'],
    ['share', 'list'],
    ['api-token', 'create', 'a', '--user', 'b'],
    ['usergroup', 'add-member', 'a', 'b'],
  ];
  for (const command of commands) {
    const gone = runDirectory([...command, '--data', typo]);
    await assert.rejects(gone, { code: 'CPL_DATA_DIR', message: /dta" is not there; .*"couplet user add"/ });
    const unmade = runDirectory([...command, '--data', empty]);
    await assert.rejects(unmade, { code: 'CPL_DATA_DIR', message: /empty" holds no directory/ });
  }
  const elsewhere = runDirectory(['user', 'list', '--directory', 'postgres://u@127.0.0.1:1/d', '--data', empty]);
  await assert.rejects(elsewhere, { code: 'CPL_DATA_DIR', message: /empty" holds no login key/ });
  assert.deepEqual([readdirSync(folder), readdirSync(empty)], [['empty'], []]);
  const done = await couplet(['user', 'list', '--data', typo]);
  assert.deepEqual([done.code, done.stderr.split('\n').length], [1, 2]);
  for (const command of ['user', 'group', 'usergroup']) {
    await runDirectory([command, 'add', 'first', '--data', join(folder, command)]);
  }
});

test('a full disk is told in one line, without the stack of a bug', async (t) => {
  const disk = mkdtempSync(join(tmpdir(), 'couplet-cli-'));
  let other: BetterSqlite.Database | undefined;
  t.after(() => {
    other?.close();
    spawnSync('umount', [disk]);
    rmSync(disk, { recursive: true });
  });
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk]).status !== 0) {
    return t.skip('no file system can be mounted here');
  }
  const flags = ['--data', join(disk, 'data')];
  await runDirectory(['user', 'add', 'root', ...flags]);
  // As beside a running server: SQLite's own files are there already.
  other = new BetterSqlite(join(disk, 'data', 'directory.sqlite'));
  other.prepare('select count(*) from users').get();
  const rest = openSync(join(disk, 'rest'), 'w');
  try {
    while (writeSync(rest, Buffer.alloc(4096)) > 0);
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
  }
  closeSync(rest);
  const { code, stderr } = await couplet(['user', 'add', 'eve', ...flags]);
  assert.equal(code, 1);
  assert.match(stderr, /^couplet: nothing was changed: the event log "[^"]*\/events" cannot be written: ENOSPC: .*\n$/);
  assert.doesNotMatch(stderr, / at |\.[jt]s:/);
  rmSync(join(disk, 'rest'));
  const [, ...users] = await runDirectory(['user', 'list', ...flags]);
  assert.equal(users.length, 1);
});
