import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Command } from 'commander';
import { registerRecording } from '../../src/cli/recording.ts';
import { encodeEnd } from '../../src/recording/format.ts';
import { textLine } from '../../src/recording/text-line.ts';
import { headerBlock, incumbent, incumbentFile, temporaryFolder } from '../recording/support.ts';
import { couplet } from '../support/serve.ts';

async function run(...args: string[]): Promise<{ lines: string[]; error: (Error & { code: string }) | undefined }> {
  const lines: string[] = [];
  const program = new Command().exitOverride().configureOutput({ writeErr: () => {} });
  registerRecording(program, { print: (line) => void lines.push(line), recordingsFolder: () => args.at(-1)! });
  try {
    await program.parseAsync(['node', 'couplet', 'recording', ...args]);
    return { lines, error: undefined };
  } catch (error) {
    return { lines, error: error as Error & { code: string } };
  }
}

test('[R37] couplet recording verify names the offset, repair mends it, verify is content', async (t) => {
  const path = join(temporaryFolder(t), 'a.mcrec');
  writeFileSync(path, incumbent.subarray(0, 366));
  const bad = await run('verify', incumbentFile, path);
  assert.equal(bad.error?.code, 'CPL_RECORDING_DAMAGED');
  assert.match(bad.error.message, /a\.mcrec: offset 359: the file ends 7 bytes into a block's header/);
  assert.match(bad.lines[0]!, /^ok: .*incumbent-terminal\.mcrec: 36 block\(s\) in 1140 bytes$/);
  assert.match(bad.lines[1]!, /^damaged: .*a\.mcrec: offset 359/);
  const mended = await run('repair', path);
  assert.match(mended.lines[0]!, /^repaired: .*: offset 359: .* 7 byte\(s\) cut, now 391$/);
  assert.equal((await run('verify', path)).error, undefined);
  assert.match((await run('repair', path)).lines[0]!, /^whole: /);
});

test('[M10] couplet recording repair refuses what would lose data, and says how to do it all the same', async (t) => {
  const path = join(temporaryFolder(t), 'a.mcrec');
  const damaged = Buffer.from(incumbent);
  damaged[324 + 4] = 0xff;
  writeFileSync(path, damaged);
  const { error } = await run('repair', path);
  assert.equal(error?.code, 'CPL_RECORDING_REPAIR');
  assert.match(error.message, /offset 324: .*--cut-damaged/);
  assert.deepEqual(readFileSync(path), damaged);
  assert.equal((await run('repair', '--cut-damaged', path)).error, undefined);
  assert.equal((await run('verify', path)).error, undefined);
});

test('[M7] couplet recording index, info and list', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'a.mcrec');
  copyFileSync(incumbentFile, path);
  assert.match((await run('index', path)).lines[0]!, /^indexed: /);
  assert.match((await run('index', path)).lines[0]!, /^already indexed: /);
  const info = JSON.parse((await run('info', path)).lines[0]!);
  assert.deepEqual(
    [info.indexed, info.state, info.fromUser, info.fromDevice, info.header.devicename],
    [true, 'complete', { blocks: 18, bytes: 174 }, { blocks: 17, bytes: 121 }, 'pc1'],
  );
  writeFileSync(join(folder, 'b.mcrec'), 'junk');
  writeFileSync(join(folder, 'c.txt'), 'junk');
  for (const args of [
    ['list', folder],
    ['list', '--json', folder],
  ]) {
    const { lines, error } = await run(...args);
    assert.equal(error, undefined);
    assert.equal(lines.length, 2);
    assert.match(lines.join('\n'), /too short for a header block[\s\S]*pc1/);
  }
  assert.equal((await run('list', join(folder, 'none'))).error?.code, 'CPL_RECORDING_FILE');
  const cut = incumbent.subarray(0, 366);
  writeFileSync(path, cut);
  assert.match((await run('index', path)).error!.message, /offset 359: .*repair comes first/);
  assert.deepEqual(readFileSync(path), cut);
});

test('[R34] couplet recording list shows messenger recordings among the others, oldest first', async (t) => {
  const folder = temporaryFolder(t);
  copyFileSync(incumbentFile, join(folder, 'relaysession-2020-01-01-00-00-00-a.mcrec'));
  const line = textLine({ time: 1_600_000_000_123, from: 'user//al "ice"\u202e', text: 'x'.repeat(10_000) });
  const early = join(folder, 'relaysession-d-2001-02-03-04-05-06-alice-bob-meshmessenger_user__alice_user__bob.jsonl');
  writeFileSync(early, line + line);
  const torn = join(folder, 'relaysession-2099-01-01-00-00-00-x.jsonl');
  writeFileSync(torn, line + line.slice(0, -1));
  writeFileSync(join(folder, 'events-00000001.jsonl'), '{}\n');
  const { lines, error } = await run('list', folder);
  assert.equal(error, undefined);
  assert.equal(lines.length, 3);
  const said = `2001-02-03T04:05:06.000Z, ${2 * Buffer.byteLength(line)} bytes, protocol 200, user user//al "ice"`;
  assert.ok(lines[0]!.startsWith(`${early}: ${said}`), lines[0]);
  assert.match(lines[0]!, /, device -, messages$/);
  assert.doesNotMatch(lines[0]!, /\u202e/);
  assert.match(lines[1]!, /\.mcrec: .*, finished$/);
  assert.ok(lines[2]!.startsWith(torn));
  assert.match(lines[2]!, /, messages, the last line is torn$/);
  const shown = JSON.parse((await run('list', '--json', torn)).lines[0]!);
  assert.deepEqual(
    [shown.form, shown.finished, shown.protocol, shown.user, shown.startMs],
    ['jsonl', false, 200, 'user//al "ice"\u202e', Date.UTC(2099, 0, 1)],
  );
  const renamed = join(folder, 'chat.jsonl');
  writeFileSync(renamed, line);
  assert.equal(JSON.parse((await run('list', '--json', renamed)).lines[0]!).startMs, 1_600_000_000_123);
  writeFileSync(renamed, '');
  assert.match((await run('list', renamed)).lines[0]!, /, 0 bytes, .*, messages$/);
  for (const junk of ['junk', '{"time":1,"from":"\\x","text":"', '{"time":1,"from":"a']) {
    writeFileSync(renamed, junk);
    assert.match((await run('list', renamed)).lines[0]!, /, the first line is no message$/);
  }
});

test('[M10] couplet recording info fails with one line on what is no recording, and only on that', async (t) => {
  const path = join(temporaryFolder(t), 'a.mcrec');
  for (const junk of ['', 'junk', 'x'.repeat(5000), Buffer.alloc(64), incumbent.subarray(20)]) {
    writeFileSync(path, junk);
    const { lines, error } = await run('info', path);
    assert.deepEqual(lines, []);
    assert.equal(error?.code, 'CPL_RECORDING_FILE');
    assert.match(error.message, /^[^\n]*a\.mcrec: no recording: [^\n]+$/);
    const { code, stdout, stderr } = await couplet(['recording', 'info', path]);
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(stderr, /^[^\n]*a\.mcrec: no recording: [^\n]+\n$/);
  }
  writeFileSync(path, incumbent.subarray(0, 366));
  assert.equal(JSON.parse((await run('info', path)).lines[0]!).state, 'torn');
});

test('[M10] couplet recording dump prints what can be read and fails where it ends', async (t) => {
  const path = join(temporaryFolder(t), 'a.mcrec');
  const whole = await run('dump', incumbentFile);
  assert.equal(whole.error, undefined);
  assert.equal(whole.lines.length, 37);
  writeFileSync(path, incumbent.subarray(0, 366));
  const cut = await run('dump', '--data-bytes', '4', path);
  assert.equal(cut.error?.code, 'CPL_RECORDING_DAMAGED');
  assert.deepEqual(
    cut.lines.slice(1, -1).map((line) => JSON.parse(line).size),
    [38, 1, 19],
  );
  assert.equal(JSON.parse(cut.lines[1]!).shown, 4);
});

test('couplet recording export --asciicast writes to standard output or NAME.cast, and never over a file', async (t) => {
  const folder = temporaryFolder(t);
  const { lines } = await run('export', '--asciicast', incumbentFile);
  const args = ['export', '--asciicast', '--output-dir', folder, incumbentFile];
  assert.equal((await run(...args)).error, undefined);
  assert.equal(readFileSync(join(folder, 'incumbent-terminal.cast'), 'utf8'), `${lines.join('\n')}\n`);
  assert.equal((await run(...args)).error?.code, 'CPL_RECORDING_EXPORT');
  assert.equal((await run('export', '--asciicast', incumbentFile, incumbentFile)).error?.code, 'CPL_RECORDING_EXPORT');
  const desktop = join(folder, 'desktop.mcrec');
  writeFileSync(desktop, Buffer.concat([headerBlock({ protocol: 2 }), encodeEnd(0)]));
  assert.match(
    (await run('export', '--asciicast', desktop)).error!.message,
    /desktop\.mcrec: protocol 2 is no terminal/,
  );
});

test('fault 34: names in a recording and of files reach the terminal without control characters', async (t) => {
  const folder = temporaryFolder(t);
  const evil = '\x1b[31m\u202e\n';
  const path = join(folder, `a${evil}.mcrec`);
  const header = headerBlock({ username: evil, devicename: evil, sessionid: evil });
  writeFileSync(path, Buffer.concat([header, encodeEnd(0)]));
  const text: string[] = [];
  for (const args of [
    ['list'],
    ['list', '--json'],
    ['info'],
    ['verify'],
    ['dump'],
    ['repair'],
    ['export', '--asciicast'],
  ]) {
    const { lines, error } = await run(...args, path);
    text.push(...lines, error?.message ?? '');
  }
  writeFileSync(path, header);
  text.push((await run('verify', path)).error!.message, (await run('index', path)).error!.message);
  assert.doesNotMatch(text.join(' '), /[\u0000-\u001f\u202e]/);
});
