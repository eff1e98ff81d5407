import assert from 'node:assert/strict';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { recordingFileName } from '../../src/recording/naming.ts';
import { connect, Refused } from '../support/client.ts';
import { assertGood, echo, eventsOf, recordedPair, serveRecording, textsIn } from '../support/recorded-pairs.ts';
import { readRecording, recordingsIn } from '../support/recordings.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import { type ServeChild, startServe } from '../support/serve.ts';

/** Everything below a server's folder but its recordings, so that a file in a wrong place shows. */
function elsewhere(serve: ServeChild): string[] {
  return readdirSync(serve.folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => !name.startsWith(`${join('data', 'recordings')}/`))
    .sort();
}

const hostile = [
  '../../../../../../tmp/couplet-escaped',
  '/etc/passwd',
  '..',
  '.',
  '-rf',
  'a/b\\c:d*e?f"g<h>i|j',
  '%2e%2e%2f%00.mcrec',
  '$(reboot)`reboot`;reboot',
  "' OR 1=1 --",
  '{"a":"b"}',
  '<script>alert(1)</script>',
  'CON.mcrec.cpt',
  ' leading and trailing ',
  'x'.repeat(240),
  `${'x'.repeat(239)}y`,
];
/** Not printable ASCII: no half with such a name comes in (R4). */
const refused = [
  'zero\0byte',
  'line\nfeed\r\n',
  '\x1b[2J\x1b]0;title\x07',
  'right\u202eleft',
  'z\u200bw',
  '🙂',
  'x'.repeat(257),
  '',
];

test('[R34] fault 34: hostile ids and names of users and devices are harmless in files and events', async (t) => {
  const serve = await serveRecording(t, { mode: 'strict' });
  const before = elsewhere(serve);
  for (const name of hostile) {
    const user = await connect(t, serve.url('user', name, { p: 1, nodeid: `node//${name}`.slice(0, 256) }, name));
    const device = await connect(t, serve.url('device', name, {}, name));
    assert.deepEqual([await user.nextText(), await device.nextText()], ['cr', 'cr'], name);
    await echo(user, device, name);
    user.ws.close(1000);
    assert.equal((await device.closed).code, 1000);
  }
  const status = (opening: Promise<unknown>) =>
    opening.then(
      () => 101,
      (error: unknown) => (error instanceof Refused ? error.status : -1),
    );
  for (const name of refused) {
    if (name !== '')
      assert.equal(await status(connect(t, serve.url('user', name, { p: 1 }))), 400, JSON.stringify(name));
    assert.equal(await status(connect(t, serve.url('user', 'id', { p: 1 }, name))), 401, JSON.stringify(name));
  }
  await until(() => eventsOf(serve, 'CPL-1203I').length === hostile.length, 'the recordings end');

  const paths = recordingsIn(serve.folder);
  assert.equal(paths.length, hostile.length);
  const folder = join(serve.dataDir, 'recordings');
  const names = readdirSync(folder);
  assert.equal(names.length, 2 * hostile.length, 'recordings and sidecars, nothing else');
  for (const name of names) {
    assert.match(name, /^relaysession-[A-Za-z0-9._-]+\.mcrec(\.cpt)?$/);
    assert.ok(name.replace(/\.cpt$/, '').length <= 200, name);
    assert.ok(lstatSync(join(folder, name)).isFile());
    assert.equal(lstatSync(join(folder, name)).mode & 0o077, 0, 'for the server alone');
  }
  for (const path of paths) assertGood(path);
  const recorded = paths.map((path) => ({ ...readRecording(path).header, texts: textsIn(path), path }));
  for (const { code, file, id } of [...eventsOf(serve, 'CPL-1201I'), ...eventsOf(serve, 'CPL-1203I')]) {
    const found = recorded.find(({ path }) => basename(path) === file);
    assert.equal(found?.sessionid, id, `${code} names the file of its session`);
    assert.equal(found?.userid, `user//${id}`);
    assert.deepEqual(found?.texts, [id]);
  }
  assert.deepEqual(recorded.map(({ sessionid }) => sessionid).sort(), hostile.toSorted());
  assert.deepEqual(elsewhere(serve), before, 'no file anywhere else');
  assert.equal(existsSync('/tmp/couplet-escaped'), false);
  for (const name of readdirSync(serve.eventsDir)) {
    const lines = readFileSync(join(serve.eventsDir, name), 'utf8').split('\n');
    for (const line of lines) assert.doesNotMatch(line, /[\x00-\x1f\x7f-\x9f\u202a-\u202e\u200b]/);
  }
  assert.deepEqual(serve.strayLines, []);
  assert.equal((await serve.verify()).code, 0);
});

test('[R34] fault 34: ids that give one file name get files of their own', async (t) => {
  const serve = await serveRecording(t, {});
  const ids = ['a/b', 'a_b', 'a:b', 'a b', `${'l'.repeat(64)}1`, `${'l'.repeat(64)}2`];
  const pairs = await Promise.all(ids.map((id) => recordedPair(t, serve, id)));
  await Promise.all(pairs.map(({ user, device }, i) => echo(user, device, ids[i]!)));
  for (const { user } of pairs) user.ws.close(1000);
  await until(() => eventsOf(serve, 'CPL-1203I').length === ids.length, 'the recordings end');
  const byId = recordingsIn(serve.folder).map((path) => [readRecording(path).header.sessionid, ...textsIn(path)]);
  assert.deepEqual(
    byId.toSorted(([a], [b]) => String(a).localeCompare(String(b))),
    ids.map((id) => [id, id]).toSorted(([a], [b]) => a!.localeCompare(b!)),
  );
});

test('[R34] fault 35: symbolic links planted in the folder are not followed by a recording', async (t) => {
  const serve = await serveRecording(t, {});
  const folder = join(serve.dataDir, 'recordings');
  const outside = temporaryFolder(t);
  const target = (name: string) => join(outside, `target-${name}`);
  writeFileSync(join(outside, 'precious'), 'precious');
  // The names of the next seconds, each in another way.
  const planted: string[] = [];
  const nowMs = Date.now();
  for (let second = -1; second < 30; second++) {
    const parts = { domain: '', startMs: nowMs + second * 1000, userName: 'alice', form: 'mcrec' } as const;
    const plant = (id: string, ...links: ((name: string) => [at: string, to: string])[]) => {
      const name = recordingFileName({ ...parts, sessionId: id });
      for (const link of links) {
        const [at, to] = link(name);
        symlinkSync(to, join(folder, at));
        planted.push(at);
      }
    };
    plant('dangling', (name) => [name, target(name)]);
    plant('precious', (name) => [name, join(outside, 'precious')]);
    plant('sidecar', (name) => [`${name}.cpt`, target(name)]);
    plant('folder', (name) => [name, outside]);
    plant(
      'both',
      (name) => [name, target(name)],
      (name) => [name.replace('.mcrec', '-2.mcrec.cpt'), target(`2-${name}`)],
    );
  }
  const ids = ['dangling', 'precious', 'sidecar', 'folder', 'both'];
  for (const id of ids) {
    const { user, device } = await recordedPair(t, serve, id);
    await echo(user, device, `recorded ${id}`);
    user.ws.close(1000);
  }
  await until(() => eventsOf(serve, 'CPL-1203I').length === ids.length, 'the recordings end');
  assert.deepEqual(readdirSync(outside), ['precious']);
  assert.equal(readFileSync(join(outside, 'precious'), 'utf8'), 'precious');
  for (const { file, id } of eventsOf(serve, 'CPL-1203I')) {
    assert.match(String(file), id === 'both' ? /-both-3\.mcrec$/ : new RegExp(`-${id}-2\\.mcrec$`));
    const path = join(folder, String(file));
    assert.ok(lstatSync(path).isFile());
    assertGood(path);
    assert.deepEqual(textsIn(path), [`recorded ${id}`]);
  }
  const left = readdirSync(folder).filter((name) => !lstatSync(join(folder, name)).isSymbolicLink());
  assert.equal(left.length, 2 * ids.length, 'of names that were taken nothing is left');
  for (const name of planted) assert.ok(lstatSync(join(folder, name)).isSymbolicLink());
  assert.deepEqual(eventsOf(serve, 'CPL-1202E'), []);
});

test('[R37] fault 35: nor are they by salvage, indexing and retention', async (t) => {
  const first = await serveRecording(t, {});
  const { user, device } = await recordedPair(t, first, 'torn');
  await echo(user, device, 'some words');
  await until(() => eventsOf(first, 'CPL-1201I').length === 1, 'its event');
  const [source] = recordingsIn(first.folder);
  await until(() => lstatSync(source!).size > 200, 'it is written');
  process.kill(first.pid, 'SIGKILL');
  await first.exited;
  const torn = readFileSync(source!);

  const outside = temporaryFolder(t);
  const folder = join(first.dataDir, 'recordings');
  const names = ['a', 'b', 'c'].map((id) => `relaysession-2020-01-01-00-00-00-alice-${id}`);
  const files: Record<string, Buffer> = {
    'torn.mcrec': torn,
    'empty.mcrec': Buffer.alloc(0),
    'torn.jsonl': Buffer.from('{"text":"whole"}\n{"te'),
  };
  for (const [i, [name, content]] of Object.entries(files).entries()) {
    writeFileSync(join(outside, name), content);
    utimesSync(join(outside, name), 1, 1);
    symlinkSync(join(outside, name), join(folder, `${names[i]}${name.slice(name.lastIndexOf('.'))}`));
  }
  mkdirSync(join(outside, 'kept'));
  symlinkSync(join(outside, 'kept'), join(folder, `${names[0]!}-folder.mcrec`));

  const settings = { recording: { mode: 'best-effort', index: true, maxAgeHours: 1, sweepSeconds: 1 } };
  const second = await startServe(t, { folder: first.folder, settings });
  await until(() => eventsOf(second, 'CPL-1204W').length === 1, 'the torn one is repaired');
  assert.equal(eventsOf(second, 'CPL-1204W')[0]?.file, basename(source!));
  // A recording that is old enough to be deleted: once it is, the links have been looked at.
  const old = join(folder, 'relaysession-2019-01-01-00-00-00-alice-z.mcrec');
  writeFileSync(old, readFileSync(source!));
  utimesSync(old, 1, 1);
  await until(() => !existsSync(old), 'retention has been here');
  for (const [name, content] of Object.entries(files)) {
    assert.ok(readFileSync(join(outside, name)).equals(content), `${name} is as it was`);
    assert.equal(lstatSync(join(outside, name)).mtimeMs, 1000);
  }
  assert.deepEqual(readdirSync(outside).sort(), [...Object.keys(files), 'kept'].sort());
});
