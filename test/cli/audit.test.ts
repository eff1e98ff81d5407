import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Command } from 'commander';
import { type AuditCommandOptions, type AuditDeps, registerAudit } from '../../src/cli/audit.ts';
import { directoryWitness, openKnownHeads } from '../../src/compose/audit-heads.ts';
import { loadConfig } from '../../src/config/load.ts';
import { systemClock } from '../../src/core/clock.ts';
import { DirectoryEventSink } from '../../src/directory/event-sink.ts';
import { openDirectory } from '../../src/directory/open.ts';
import { eventsFolder, key, openSink, put } from '../audit/support.ts';

interface Run {
  readonly lines: string[];
  readonly options: AuditCommandOptions[];
  readonly done: Promise<unknown>;
  stop(): void;
}

function run(
  data: string,
  args: readonly string[],
  onLine: (line: string) => void = () => {},
  openHeads: AuditDeps['openHeads'] = async () => undefined,
): Run {
  const lines: string[] = [];
  const options: AuditCommandOptions[] = [];
  const abort = new AbortController();
  const program = new Command().exitOverride().configureOutput({ writeErr: () => {} });
  registerAudit(program, {
    print: (line) => {
      lines.push(line);
      onLine(line);
    },
    dataFolder: (given) => given.data ?? data,
    eventLogKeys: (given) => {
      options.push(given);
      return [key];
    },
    openHeads,
    signal: abort.signal,
  });
  // commander inherits exitOverride only where it is set before the commands are made.
  const done = program.parseAsync(['node', 'couplet', 'audit', ...args]);
  return { lines, options, done, stop: () => abort.abort() };
}

const notAsked = 'note: the directory was not asked: there is none (directory: none)';
const messages = (lines: readonly string[]) => lines.map((line) => (JSON.parse(line) as { msg: string }).msg);

test('[R31] couplet audit verify: ok, and with tampering an error that names file and line', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  put(sink, 'one');
  put(sink, 'two');
  await sink.close();
  const fine = run(dirname(folder), ['verify', folder, '--login-key-file', 'a', '--login-key-file', 'b']);
  await fine.done;
  assert.deepEqual(fine.lines, [notAsked, 'ok: 4 line(s) in 1 file(s), the chain is whole']);
  assert.deepEqual(fine.options[0]?.loginKeyFile, ['a', 'b']);

  const path = join(folder, 'events-00000001.jsonl');
  await writeFile(path, (await readFile(path, 'utf8')).replace('two', 'tw0'));
  for (const target of [folder, path]) {
    const bad = run(dirname(folder), ['verify', target]);
    await assert.rejects(bad.done, (error: Error & { code: string }) => {
      assert.equal(error.code, 'CPL_AUDIT_TAMPERED');
      assert.match(error.message, /events-00000001\.jsonl:3: line 3 or its MAC was changed/);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
    assert.deepEqual(bad.lines, [
      notAsked,
      'tampering: events-00000001.jsonl:3: edited: line 3 or its MAC was changed',
    ]);
  }
});

test('[R31] couplet audit verify: a crash is a note, not an error', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  put(sink, 'one');
  const crashed = run(dirname(folder), ['verify', folder]);
  await crashed.done;
  assert.match(crashed.lines[1] as string, /^note: events-00000001\.jsonl:3: no closing line/);
  assert.match(crashed.lines[2] as string, /^ok: /);
  await sink.close();
});

/** A directory on a file of its own, as a server and `couplet audit verify` open it. */
async function directoryBeside(t: TestContext, folder: string) {
  const server = { ...loadConfig({ env: {} }).config.server, dataDir: dirname(folder) };
  const file = join(server.dataDir, 'directory.sqlite');
  const directory = await openDirectory({ directory: 'sqlite', file, clock: systemClock, onError: assert.fail });
  t.after(() => directory.close());
  const witness = directoryWitness(directory, new DirectoryEventSink({ events: directory.events }));
  const openHeads = (kind: string) => () => openKnownHeads({ directory: kind, server });
  return { directory, file, witness, openHeads };
}

test('[R31] couplet audit verify: a newest file deleted with all heads is missing, and the directory is the witness', async (t) => {
  const folder = await eventsFolder(t);
  await mkdir(folder, { recursive: true });
  const { witness, openHeads } = await directoryBeside(t, folder);
  for (let n = 0; n < 2; n++) {
    const sink = await openSink(folder, { witness });
    put(sink, 'one');
    await sink.close();
  }
  const verify = (kind: string, ...more: string[]) => run('', ['verify', folder, ...more], undefined, openHeads(kind));
  const fine = verify('sqlite');
  await fine.done;
  assert.deepEqual(fine.lines, ['ok: 6 line(s) in 2 file(s), the chain is whole']);

  for (const name of await readdir(folder)) {
    if (name.startsWith('heads-') || name === 'events-00000002.jsonl') await rm(join(folder, name));
  }
  const missing =
    'tampering: events-00000002.jsonl:1: missing-file: the file is missing; the directory vouches for its line 3';
  const bad = verify('sqlite');
  await assert.rejects(bad.done, { code: 'CPL_AUDIT_TAMPERED' });
  assert.ok(bad.lines.includes(missing), bad.lines.join('\n'));
  const unasked = verify('none');
  await assert.rejects(unasked.done, { code: 'CPL_AUDIT_TAMPERED' }, 'the heads file is gone');
  assert.equal(unasked.lines[0], notAsked);
  assert.equal(unasked.lines.includes(missing), false);
  const copy = verify('sqlite', '--no-directory');
  await assert.rejects(copy.done, { code: 'CPL_AUDIT_TAMPERED' });
  assert.equal(copy.lines[0], 'note: the directory was not asked: --no-directory');
});

test('[R31] couplet audit verify: a directory that cannot be opened, or knows nothing, is a note and no error', async (t) => {
  const folder = await eventsFolder(t);
  await mkdir(folder, { recursive: true });
  await (await openSink(folder)).close();
  const { directory, file, openHeads } = await directoryBeside(t, folder);
  const lines = async (kind: string) => {
    const verify = run('', ['verify', folder], undefined, openHeads(kind));
    await verify.done;
    assert.match(verify.lines.at(-1)!, /^ok: /);
    return verify.lines.slice(0, -1);
  };
  assert.deepEqual(await lines('sqlite'), ['note: the directory does not vouch: it knows no heads of this event log']);
  const [unreachable] = await lines('postgres://couplet:secret@127.0.0.1:1/couplet');
  assert.match(unreachable!, /^note: the directory was not asked: the directory database couplet at 127\.0\.0\.1:1 /);
  assert.doesNotMatch(unreachable!, /secret/);
  await directory.close();
  for (const name of await readdir(dirname(file))) {
    if (name.startsWith('directory.sqlite')) await rm(join(dirname(file), name));
  }
  assert.match((await lines('sqlite'))[0]!, /^note: the directory was not asked: there is no directory file ".*"$/);
  assert.equal(existsSync(file), false, 'looking makes none');
});

test('couplet audit: errors are one line', async (t) => {
  const folder = await eventsFolder(t);
  await assert.rejects(run(dirname(folder), ['verify', folder]).done, { code: 'CPL_AUDIT_NOT_FOUND' });
  await assert.rejects(run(dirname(folder), ['tail']).done, { code: 'CPL_AUDIT_NOT_FOUND' });
  await assert.rejects(run(dirname(folder), ['tail', '-n', '1x']).done, { code: 'commander.invalidArgument' });
});

test('couplet audit tail -n: the newest events across files, oldest first, without records of the log itself', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  const sent: string[] = [];
  for (let i = 0; i < 900; i++) {
    // Longer than one block of the backward reader.
    sent.push(`${i} ${'x'.repeat(i % 400)}`);
    put(sink, sent[i] as string);
    if (i === 890) await sink.rotate();
  }
  for (const [count, expected] of [
    ['0', []],
    ['1', sent.slice(-1)],
    ['9', sent.slice(-9)],
    ['12', sent.slice(-12)],
    ['600', sent.slice(-600)],
    ['5000', sent],
  ] as const) {
    const tail = run('', ['tail', '--data', dirname(folder), '-n', count]);
    await tail.done;
    assert.deepEqual(messages(tail.lines), expected, `-n ${count}`);
  }
  const plain = run(dirname(folder), ['tail']);
  await plain.done;
  assert.deepEqual(messages(plain.lines), sent.slice(-10));
  await sink.close();
});

test('couplet audit tail -n: the newest events of several processes that write at once, by time', async (t) => {
  const folder = await eventsFolder(t);
  const [one, two] = [await openSink(folder), await openSink(folder)];
  const written = Array.from({ length: 20 }, (_, n) => `event ${n}`);
  for (const [n, msg] of written.entries()) {
    const time = new Date(Date.UTC(2024, 4, 6, 7, 8, n)).toISOString();
    const event = { time, code: 'CPL-1001I', etype: 't', action: 't', msg } as const;
    // The second file holds the oldest, and one in the middle.
    (n < 5 || n === 12 ? two : one).write(event, JSON.stringify(event));
  }
  const tail = run(dirname(folder), ['tail', '-n', '12']);
  await tail.done;
  assert.deepEqual(messages(tail.lines), written.slice(-12));
  await Promise.all([one.close(), two.close()]);
});

test('fault 34: couplet audit tail shows a tampered line as text', async (t) => {
  const folder = await eventsFolder(t);
  await (await openSink(folder)).close();
  await writeFile(join(folder, 'events-00000001.jsonl'), '\u001b[2J\u202eevil\r\n');
  const tail = run(dirname(folder), ['tail']);
  await tail.done;
  assert.deepEqual(tail.lines, ['\\u001b[2J\\u202eevil\\u000d']);
});

test('couplet audit tail -f: goes on with new lines and new files until interrupted', {
  timeout: 20_000,
}, async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  put(sink, 'old');
  let wake = () => {};
  const tail = run(dirname(folder), ['tail', '-f', '-n', '1'], () => wake());
  const until = async (count: number) => {
    while (tail.lines.length < count) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  await until(1);
  put(sink, 'new');
  await until(2);
  await sink.rotate();
  put(sink, 'in the next file');
  await until(3);
  tail.stop();
  await tail.done;
  assert.deepEqual(messages(tail.lines), ['old', 'new', 'in the next file']);
  await sink.close();
  await rm(folder, { recursive: true });
});
