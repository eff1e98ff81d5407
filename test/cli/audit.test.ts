import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { Command } from 'commander';
import { type AuditCommandOptions, registerAudit } from '../../src/cli/audit.ts';
import { eventsFolder, key, openSink, put } from '../audit/support.ts';

interface Run {
  readonly lines: string[];
  readonly options: AuditCommandOptions[];
  readonly done: Promise<unknown>;
  stop(): void;
}

function run(data: string, args: readonly string[], onLine: (line: string) => void = () => {}): Run {
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
    signal: abort.signal,
  });
  // commander inherits exitOverride only where it is set before the commands are made.
  const done = program.parseAsync(['node', 'couplet', 'audit', ...args]);
  return { lines, options, done, stop: () => abort.abort() };
}

const messages = (lines: readonly string[]) => lines.map((line) => (JSON.parse(line) as { msg: string }).msg);

test('[R31] couplet audit verify: ok, and with tampering an error that names file and line', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  put(sink, 'one');
  put(sink, 'two');
  await sink.close();
  const fine = run(dirname(folder), ['verify', folder, '--login-key-file', 'a', '--login-key-file', 'b']);
  await fine.done;
  assert.deepEqual(fine.lines, ['ok: 4 line(s) in 1 file(s), the chain is whole']);
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
    assert.deepEqual(bad.lines, ['tampering: events-00000001.jsonl:3: edited: line 3 or its MAC was changed']);
  }
});

test('[R31] couplet audit verify: a crash is a note, not an error', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  put(sink, 'one');
  const crashed = run(dirname(folder), ['verify', folder]);
  await crashed.done;
  assert.match(crashed.lines[0] as string, /^note: events-00000001\.jsonl:3: no closing line/);
  assert.match(crashed.lines[1] as string, /^ok: /);
  await sink.close();
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
