import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { tryLockFile } from '../../src/native/file-lock.ts';
import { RecordingCatalog } from '../../src/recording/catalog.ts';
import { indexRecording } from '../../src/recording/indexer.ts';
import { RecordingJobs } from '../../src/recording/jobs.ts';
import { textLine } from '../../src/recording/text-line.ts';
import { recording, sidecarOf, startMs, temporaryFolder } from './support.ts';

const header = { userid: 'user//ann', username: 'ann', sessionid: 's1', nodeid: 'node//pc', protocol: 1 };
const name = 'relaysession-2026-11-22-09-08-07-ann-s1.mcrec';
const blocks = [
  { flags: 0, ms: 5, data: 'hello' },
  { flags: 2, ms: 4_000, data: 'x'.repeat(100) },
];

/** A catalog over a folder, with a real thread and real locks. */
function setUp(t: TestContext, options: { maxOpened?: number; folders?: number } = {}) {
  const folders = Array.from({ length: options.folders ?? 1 }, () => temporaryFolder(t));
  const problems: Error[] = [];
  const jobs = new RecordingJobs({ onProblem: (error) => problems.push(error) });
  // The thread does not keep this process alive.
  const alive = setInterval(() => undefined, 1000);
  t.after(async () => {
    await jobs.close();
    clearInterval(alive);
    assert.deepEqual(problems, []);
  });
  const catalog = new RecordingCatalog({ folders: () => folders, jobs, maxOpened: options.maxOpened ?? 1_000 });
  const put = (file: string, bytes: Uint8Array | string, folder = folders[0]!) => {
    const path = join(folder, file);
    writeFileSync(path, bytes);
    return path;
  };
  return { catalog, jobs, folders, folder: folders[0]!, put };
}

/** Locks a file as another open file of anybody's would. */
function hold(t: TestContext, path: string, mode: 'shared' | 'exclusive'): () => void {
  const fd = openSync(path, 'r+');
  let open = true;
  const release = () => {
    if (open) closeSync(fd);
    open = false;
  };
  t.after(release);
  assert.ok(tryLockFile(fd, mode));
  return release;
}

async function bytesOf(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const chunk of chunks) {
    assert.ok(chunk.length <= 256 * 1024);
    all.push(Buffer.from(chunk));
  }
  return Buffer.concat(all);
}

test('[R38] a listing tells what header, end and sidecar tell', async (t) => {
  const { catalog, folder, put } = setUp(t);
  const bytes = recording(blocks, header, 61_900);
  const path = put(name, bytes);
  put(`${name}.cpt`, sidecarOf(bytes));
  put('notes.txt', 'none');
  const { entries, next } = await catalog.list();
  assert.equal(next, undefined);
  assert.equal(entries.length, 1);
  const { inode, modifiedMs, ...entry } = entries[0]!;
  assert.ok(inode > 0 && modifiedMs > 0);
  assert.deepEqual(entry, {
    file: name,
    folder,
    form: 'mcrec',
    domain: '',
    sessionId: 's1',
    userid: 'user//ann',
    username: 'ann',
    nodeid: 'node//pc',
    protocol: 1,
    startedMs: startMs,
    seconds: 61,
    bytes: bytes.length,
    state: 'finished',
    indexed: false,
    sidecarBytes: 24 * 4,
  });
  assert.equal(indexRecording(path).state, 'indexed');
  const indexed = await catalog.get(name);
  assert.deepEqual([indexed.indexed, indexed.state, indexed.seconds], [true, 'finished', 61]);
});

test('[R38] running, finished and unfinished recordings are told apart', async (t) => {
  const { catalog, put } = setUp(t);
  const bytes = recording(blocks, header);
  const path = put(name, bytes);
  utimesSync(path, new Date(startMs), new Date(startMs + 9_000));
  const unfinished = await catalog.get(name);
  assert.deepEqual([unfinished.state, unfinished.seconds], ['unfinished', 9]);
  put(`${name}.cpt`, sidecarOf(bytes));
  assert.equal((await catalog.get(name)).seconds, 4, 'by the last block in the sidecar');
  const release = hold(t, path, 'exclusive');
  assert.equal((await catalog.get(name)).state, 'running');
  release();
  assert.equal((await catalog.get(name)).state, 'unfinished');
  const fresh = 'relaysession-2026-11-22-09-08-08-new.mcrec';
  put(fresh, '');
  assert.equal((await catalog.get(fresh)).state, 'running', 'its recorder is about to lock it');
});

test('[R33] a messenger recording is of the domain of its parties', async (t) => {
  const { catalog, put } = setUp(t);
  const file = 'relaysession-d-2026-11-22-09-08-07-x.jsonl';
  const line = (time: number, text: string) => textLine({ time, from: 'user/d/ann', text });
  put(file, line(startMs, 'hi') + line(startMs + 5_100, 'x'.repeat(200)));
  const entry = await catalog.get(file, 'd');
  const { form, domain, userid, protocol, seconds, state } = entry;
  assert.deepEqual([form, domain, userid, protocol, seconds, state], ['jsonl', 'd', 'user/d/ann', 200, 5, 'finished']);
  await assert.rejects(catalog.get(file, ''), { code: 'CPL_RECORDING_UNKNOWN' });
});

test('[R38] a domain sees its own recordings alone; what tells no domain is of none', async (t) => {
  const { catalog, put } = setUp(t);
  put('relaysession-2026-a.mcrec', recording(blocks, header, 1));
  put('relaysession-d-2026-b.mcrec', recording(blocks, { ...header, userid: 'user/d/ann', nodeid: 'node/d/pc' }, 1));
  put('relaysession-d-2026-c.mcrec', 'no header at all');
  put('relaysession-d-2026-d.mcrec', recording(blocks, { userid: 'nobody' }, 1));
  put('relaysession-d-2026-e.jsonl', '');
  const files = async (domain?: string) => (await catalog.list({ domain })).entries.map(({ file }) => file.at(-7));
  assert.deepEqual(await files(''), ['a']);
  assert.deepEqual(await files('d'), ['b']);
  assert.deepEqual(await files(), ['a', 'b', 'c', 'd', 'e']);
  for (const file of ['relaysession-d-2026-b.mcrec', 'relaysession-d-2026-c.mcrec']) {
    await assert.rejects(catalog.get(file, ''), { code: 'CPL_RECORDING_UNKNOWN' });
    await assert.rejects(catalog.remove(file, ''), { code: 'CPL_RECORDING_UNKNOWN' });
    assert.equal((await catalog.get(file)).file, file);
  }
});

test('[R38] pages come by name, over all folders, each file once, and open only so many files', async (t) => {
  const { catalog, folders, put } = setUp(t, { folders: 2, maxOpened: 10 });
  const made: string[] = [];
  for (let number = 100; number < 137; number++) {
    const file = `relaysession-${number}.mcrec`;
    const userid = number % 3 === 0 ? 'user/d/ann' : 'user//ann';
    put(file, recording([], { userid }, 1), folders[number % 2]);
    if (userid === 'user//ann') made.push(file);
  }
  // One name in both folders, at the place where a page ends.
  put('relaysession-101.mcrec', recording([], header, 1), folders[0]);
  const seen: string[] = [];
  const pages: number[] = [];
  for (let after: string | undefined; ; ) {
    const { entries, next } = await catalog.list({ domain: '', after, limit: 2 });
    seen.push(...entries.map(({ file }) => file));
    pages.push(entries.length);
    if (next === undefined) break;
    after = next;
  }
  assert.deepEqual(seen, [...made, 'relaysession-101.mcrec'].sort());
  assert.ok(Math.max(...pages) <= 3);
  const page = await catalog.list({ domain: 'd', limit: 100 });
  assert.equal(page.entries.length, 3, 'ten files were opened');
  assert.notEqual(page.next, undefined);
  for (const limit of [0, 1.5, 1001, Number.NaN]) {
    await assert.rejects(catalog.list({ limit }), { code: 'CPL_RECORDING_VALUE', httpStatus: 400 });
  }
});

test('[R38] any range of a recording is read as it is in the file', async (t) => {
  const { catalog, put } = setUp(t);
  const bytes = recording([{ flags: 0, ms: 1, data: randomBytes(700_000) }], header, 10);
  put(name, bytes);
  const entry = await catalog.get(name);
  const last = bytes.length - 1;
  for (const [from, to] of [
    [0, last],
    [0, 0],
    [last, last],
    [262_143, 262_145],
    [5, 600_000],
  ] as const) {
    assert.ok((await bytesOf(catalog.read(entry, from, to))).equals(bytes.subarray(from, to + 1)), `${from}-${to}`);
  }
  assert.ok((await bytesOf(catalog.read(entry))).equals(bytes));
});

test('[R38] while a recording is read nobody deletes it or writes to it, and it is free after the end, an error and a break', async (t) => {
  const { catalog, jobs, folder, put } = setUp(t);
  const bytes = recording([{ flags: 0, ms: 1, data: randomBytes(700_000) }], header, 10);
  const path = put(name, bytes);
  const isFree = () => {
    const fd = openSync(path, 'r+');
    try {
      return tryLockFile(fd, 'exclusive');
    } finally {
      closeSync(fd);
    }
  };
  const entry = await catalog.get(name);
  const unread = catalog.read(entry);
  assert.ok(isFree(), 'not held before the first byte is asked for');
  await unread.return();

  const reading = catalog.read(entry);
  await reading.next();
  assert.ok(!isFree());
  await assert.rejects(catalog.remove(name), { code: 'CPL_RECORDING_IN_USE', httpStatus: 409 });
  const swept = await jobs.sweep(folder, { maxCount: 0 });
  assert.deepEqual([swept.deleted, swept.count], [0, 1]);
  assert.ok(existsSync(path));
  const other = catalog.read(entry, 0, 9);
  assert.equal((await bytesOf(other)).length, 10, 'a second reader is let in');
  await reading.return();
  assert.ok(isFree(), 'after a break');

  await bytesOf(catalog.read(entry));
  assert.ok(isFree(), 'after the end');

  await assert.rejects(bytesOf(catalog.read(entry, 0, bytes.length + 10)), { code: 'CPL_RECORDING_FILE' });
  assert.ok(isFree(), 'after an error');
  assert.equal(await catalog.remove(name), bytes.length);
  assert.ok(!existsSync(path));
});

test('[R38] a recording that is being recorded into is neither read nor deleted', async (t) => {
  const { catalog, put } = setUp(t);
  const path = put(name, recording(blocks, header));
  put(`${name}.cpt`, 'x');
  hold(t, path, 'exclusive');
  const entry = await catalog.get(name);
  await assert.rejects(bytesOf(catalog.read(entry)), { code: 'CPL_RECORDING_IN_USE', httpStatus: 409 });
  await assert.rejects(catalog.remove(name), { code: 'CPL_RECORDING_IN_USE' });
  assert.ok(existsSync(path) && existsSync(`${path}.cpt`));
});

test('[R38] a recording that was replaced, written to or deleted since it was looked up is not read', async (t) => {
  const { catalog, folder, put } = setUp(t);
  const bytes = recording(blocks, header, 10);
  const path = put(name, bytes);
  const entry = await catalog.get(name);
  put('other', recording(blocks, { ...header, userid: 'user//eve' }, 10));
  renameSync(join(folder, 'other'), path);
  await assert.rejects(bytesOf(catalog.read(entry)), { code: 'CPL_RECORDING_UNKNOWN' });
  const again = await catalog.get(name);
  appendFileSync(path, 'x');
  await assert.rejects(bytesOf(catalog.read(again)), { code: 'CPL_RECORDING_UNKNOWN' });
  rmSync(path);
  await assert.rejects(bytesOf(catalog.read(again)), { code: 'CPL_RECORDING_UNKNOWN', httpStatus: 404 });
  await assert.rejects(catalog.remove(name), { code: 'CPL_RECORDING_UNKNOWN' });
});

test('[R38] deleting takes the sidecar along and nothing else', async (t) => {
  const { catalog, folder, put } = setUp(t);
  const bytes = recording(blocks, header, 10);
  put(name, bytes);
  put(`${name}.cpt`, sidecarOf(bytes));
  const other = name.replace('s1', 's2');
  put(other, bytes);
  assert.equal(await catalog.remove(name, ''), bytes.length + 24 * 4);
  assert.deepEqual(readdirSync(folder), [other]);
});

test('fault 34: a name from outside that is no recording is unknown, whatever it holds', async (t) => {
  const { catalog, folder, put } = setUp(t);
  mkdirSync(join(folder, 'relaysession-sub'));
  put('relaysession-sub/relaysession-x.mcrec', recording(blocks, header, 10));
  put('secret.mcrec', recording(blocks, header, 10));
  const names = [
    '',
    '.',
    '..',
    '../etc/passwd',
    `../${folder.split('/').at(-1)}/${name}`,
    join(folder, name),
    'relaysession-sub/relaysession-x.mcrec',
    'relaysession-/../../secret.mcrec',
    'secret.mcrec',
    `${name}\0`,
    `${name}\n`,
    `${name}.cpt`,
    'relaysession-..mcrec',
    `relaysession-${'x'.repeat(5_000)}.mcrec`,
    'relaysession-\u202e.mcrec',
    '%2e%2e%2frelaysession-x.mcrec',
  ];
  put(name, recording(blocks, header, 10));
  for (const file of names) {
    for (const call of [catalog.get(file), catalog.remove(file)]) {
      await assert.rejects(call, ({ code, message }: Error & { code: string }) => {
        assert.equal(code, 'CPL_RECORDING_UNKNOWN', file);
        assert.match(message, /^[\x20-\x7e]{1,300}$/);
        return true;
      });
    }
  }
  assert.equal(readdirSync(folder).length, 3);
  assert.ok(existsSync(join(folder, 'relaysession-sub/relaysession-x.mcrec')));
});

test('fault 35: links, folders and FIFOs with the name of a recording are none', async (t) => {
  const { catalog, folder, put } = setUp(t, { folders: 1 });
  const elsewhere = temporaryFolder(t);
  const target = join(elsewhere, name);
  writeFileSync(target, recording(blocks, header, 10));
  const link = 'relaysession-link.mcrec';
  symlinkSync(target, join(folder, link));
  symlinkSync(join(elsewhere, 'nothing'), join(folder, 'relaysession-dangling.mcrec'));
  mkdirSync(join(folder, 'relaysession-folder.mcrec'));
  put(name, recording(blocks, header, 10));
  assert.deepEqual(
    (await catalog.list()).entries.map(({ file }) => file),
    [name],
  );
  for (const file of [link, 'relaysession-folder.mcrec', 'relaysession-dangling.mcrec']) {
    await assert.rejects(catalog.get(file), { code: 'CPL_RECORDING_UNKNOWN' });
    await assert.rejects(catalog.remove(file), { code: 'CPL_RECORDING_UNKNOWN' });
  }
  // Put in the place of a recording after it was looked up.
  const entry = await catalog.get(name);
  rmSync(join(folder, name));
  symlinkSync(target, join(folder, name));
  await assert.rejects(bytesOf(catalog.read(entry)), { code: 'CPL_RECORDING_FILE' });
  assert.ok(readFileSync(target).length > 0);
});

test('a recording with a hostile header is listed, with its texts cut', async (t) => {
  const { catalog, put } = setUp(t);
  const evil = '\u001b[2J\n'.repeat(1_000);
  put(
    name,
    recording(blocks, { userid: 'user//x', username: evil, sessionid: { a: 1 }, nodeid: 7, protocol: 'x' }, 10),
  );
  const huge = name.replace('s1', 's2');
  put(huge, recording(blocks, { ...header, padding: 'x'.repeat(70_000) }, 10));
  const { entries } = await catalog.list();
  const [first, second] = entries;
  assert.deepEqual(
    [first?.username.length, first?.sessionId, first?.nodeid, first?.protocol, first?.domain],
    [1_024, '', '', 0, ''],
  );
  assert.deepEqual([second?.domain, second?.state], [undefined, 'finished']);
});

test('no folder yet is an empty catalog', async (t) => {
  const { catalog, folder } = setUp(t);
  rmSync(folder, { recursive: true });
  assert.deepEqual(await catalog.list(), { entries: [], next: undefined });
});
