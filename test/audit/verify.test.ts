import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { copyFile, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { verifyEventLog } from '../../src/audit/verify.ts';
import { eventsFolder, key, openSink, put } from './support.ts';

const file = (n: number) => `events-0000000${n}.jsonl`;

/** Three complete files: two of one process (rotated), one of the next. */
async function writtenLog(t: TestContext): Promise<string> {
  const folder = await eventsFolder(t);
  const first = await openSink(folder);
  for (let i = 0; i < 4; i++) put(first, `first ${i}`);
  await first.rotate();
  for (let i = 0; i < 3; i++) put(first, `rotated ${i}`);
  await first.close();
  const second = await openSink(folder);
  for (let i = 0; i < 5; i++) put(second, `second ${i}`);
  await second.close();
  return folder;
}

async function heads(folder: string): Promise<string> {
  const name = (await readdir(folder)).find((n) => n.startsWith('heads-'));
  return join(folder, name as string);
}

async function firstProblem(path: string): Promise<string> {
  const [problem] = (await verifyEventLog(path, [key])).problems;
  return problem === undefined ? 'none' : `${problem.file}:${problem.line}`;
}

async function places(path: string, keys = [key]): Promise<string[]> {
  return (await verifyEventLog(path, keys)).problems.map((p) => `${p.file}:${p.line} ${p.kind}`);
}

/** Splits into lines that keep their line feed. */
function split(text: Buffer): Buffer[] {
  return text
    .toString('latin1')
    .split(/(?<=\n)/)
    .map((line) => Buffer.from(line, 'latin1'));
}

test('[R31] an untouched log verifies, as a folder and file by file', async (t) => {
  const folder = await writtenLog(t);
  const report = await verifyEventLog(folder, [key]);
  assert.deepEqual([report.files, report.problems, report.notes], [3, [], []]);
  for (const n of [1, 2, 3]) assert.equal(await firstProblem(join(folder, file(n))), 'none');
});

test('fault 50: every single line deleted, doubled, moved or changed is found at that line', async (t) => {
  const folder = await writtenLog(t);
  let cases = 0;
  for (const n of [1, 2, 3]) {
    const path = join(folder, file(n));
    const original = await readFile(path);
    const lines = split(original);
    const check = async (what: string, at: number, changed: Buffer[]) => {
      cases++;
      await writeFile(path, Buffer.concat(changed));
      for (const target of [folder, path]) {
        assert.equal(await firstProblem(target), `${file(n)}:${at}`, `${what} line ${at} of ${file(n)}`);
      }
    };
    for (let k = 0; k < lines.length; k++) {
      const line = lines[k] as Buffer;
      const next = lines[k + 1];
      await check('delete', k + 1, [...lines.slice(0, k), ...lines.slice(k + 1)]);
      await check('double', k + 2, [...lines.slice(0, k + 1), line, ...lines.slice(k + 1)]);
      if (next !== undefined) await check('swap', k + 1, [...lines.slice(0, k), next, line, ...lines.slice(k + 2)]);
      if (k > 1) await check('move to the front', 1, [line, ...lines.slice(0, k), ...lines.slice(k + 1)]);
      if (k > 0) await check('cut', k + 1, lines.slice(0, k));
      for (const forged of [
        Buffer.from('\n'),
        Buffer.from('{}\n'),
        Buffer.from(line.toString().replace(/[0-9a-f]"}\n$/, 'x"}\n')),
      ]) {
        await check('replace', k + 1, [...lines.slice(0, k), forged, ...lines.slice(k + 1)]);
      }
    }
    await writeFile(path, original);
  }
  assert.ok(cases > 100, `${cases} cases`);
  assert.equal(await firstProblem(folder), 'none');
});

test('fault 50: any byte changed, inserted or taken out is found at its line (random)', async (t) => {
  const folder = await writtenLog(t);
  const originals = new Map<number, Buffer>();
  for (const n of [1, 2, 3]) originals.set(n, await readFile(join(folder, file(n))));
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 3 }),
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      fc.constantFrom('change', 'insert', 'take out'),
      async (n, anywhere, value, how) => {
        const original = originals.get(n) as Buffer;
        const at = anywhere % original.length;
        const changed = Buffer.from([((original[at] as number) + value) % 256]);
        const middle = how === 'change' ? changed : how === 'insert' ? Buffer.from([value]) : Buffer.alloc(0);
        const bytes = Buffer.concat([
          original.subarray(0, at),
          middle,
          original.subarray(how === 'insert' ? at : at + 1),
        ]);
        const line = original.subarray(0, at).filter((byte) => byte === 0x0a).length + 1;
        // What is inserted before a line feed, or takes one away, changes the line that ends there.
        await writeFile(join(folder, file(n)), bytes);
        if (!bytes.equals(original)) assert.equal(await firstProblem(folder), `${file(n)}:${line}`);
        await writeFile(join(folder, file(n)), original);
      },
    ),
    { numRuns: 300, verbose: 1 },
  );
});

test('fault 50: kinds are told apart', async (t) => {
  const folder = await writtenLog(t);
  const path = join(folder, file(3));
  const l = split(await readFile(path));
  const with_ = async (lines: (Buffer | undefined)[]) => {
    await writeFile(path, Buffer.concat(lines as Buffer[]));
    return places(folder);
  };
  const edited = Buffer.from((l[2] as Buffer).toString().replace('second', 'sec0nd'));
  assert.deepEqual(await with_([l[0], l[1], edited, ...l.slice(3)]), [`${file(3)}:3 edited`]);
  assert.deepEqual(await with_([l[0], l[1], ...l.slice(4)]), [`${file(3)}:3 removed`]);
  assert.deepEqual(await with_([l[0], l[2], l[1], ...l.slice(3)]), [`${file(3)}:2 reordered`]);
  assert.deepEqual(await with_([...l, l[3]]), [`${file(3)}:8 added`, `${file(3)}:8 reordered`]);
});

test('[R31] a missing file is found at its place: first, middle, newest, and all of them', async (t) => {
  const folder = await writtenLog(t);
  for (const n of [1, 2, 3]) {
    await rename(join(folder, file(n)), join(folder, 'away'));
    assert.deepEqual(await places(folder), [`${file(n)}:1 missing-file`]);
    await rename(join(folder, 'away'), join(folder, file(n)));
  }
  for (const n of [1, 2, 3]) await rm(join(folder, file(n)));
  assert.deepEqual(
    await places(folder),
    [1, 2, 3].map((n) => `${file(n)}:1 missing-file`),
  );
  await rm(await heads(folder));
  await assert.rejects(verifyEventLog(folder, [key]), { code: 'CPL_AUDIT_NOT_FOUND' });
  await assert.rejects(verifyEventLog(join(folder, 'nothing'), [key]), { code: 'CPL_AUDIT_NOT_FOUND' });
});

test('[R31] a newest file that was deleted stays missing after the next start', async (t) => {
  const folder = await writtenLog(t);
  await rm(join(folder, file(3)));
  const sink = await openSink(folder);
  assert.equal(sink.fileNumber, 4);
  await sink.close();
  assert.deepEqual(await places(folder), [`${file(3)}:1 missing-file`]);
});

test('[R31] files that changed places, and a planted one, are found', async (t) => {
  const folder = await writtenLog(t);
  await rename(join(folder, file(1)), join(folder, 'away'));
  await rename(join(folder, file(2)), join(folder, file(1)));
  await rename(join(folder, 'away'), join(folder, file(2)));
  assert.ok((await places(folder)).includes(`${file(1)}:1 reordered`));
  assert.ok((await places(folder)).includes(`${file(2)}:1 reordered`));
  await writeFile(join(folder, 'events-999999999999999.jsonl'), '{"msg":"planted"}\n');
  const found = await places(folder);
  assert.ok(found.includes('events-999999999999999.jsonl:1 edited'));
  assert.equal(found.filter((place) => place.endsWith('missing-file')).length, 1);
});

test('[R31] a heads file that is missing, changed or older is found, also after the server replaced it', async (t) => {
  const folder = await writtenLog(t);
  const path = await heads(folder);
  const original = await readFile(path, 'utf8');
  await rm(path);
  assert.deepEqual(await places(folder), ['heads-*.json:1 heads']);
  const sink = await openSink(folder);
  assert.deepEqual(await places(folder), [`${file(4)}:2 heads`]);
  const now = await heads(folder);
  await writeFile(now, original.replace('"line":', '"line":1'));
  assert.equal((await places(folder)).length, 2);
  put(sink, 'more');
  await sink.maintain();
  await sink.close();
  assert.deepEqual(await places(folder), [`${file(4)}:2 heads`, `${file(4)}:4 heads`]);
});

test('[R31] a torn last line after a crash is a note, at every byte of it', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  put(sink, 'whole');
  put(sink, 'torn');
  const path = join(folder, file(1));
  const original = await readFile(path);
  const lastStart = original.lastIndexOf(0x0a, original.length - 2) + 1;
  for (let size = original.length; size >= lastStart; size--) {
    await truncate(path, size);
    const { problems, notes, lines } = await verifyEventLog(folder, [key]);
    const torn = size < original.length && size > lastStart;
    assert.deepEqual([problems, lines], [[], size === original.length ? 3 : 2], `cut at ${size}`);
    assert.deepEqual(
      notes.map(({ line, kind }) => `${line} ${kind}`),
      [torn ? '3 torn' : `${size === original.length ? 4 : 3} unclosed`],
    );
  }
  await writeFile(path, original);
  await sink.close();
});

test('[R31] what a server vouched for cannot be passed off as a crash', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  for (let i = 0; i < 5; i++) put(sink, `event ${i}`);
  await sink.maintain();
  const path = join(folder, file(1));
  const original = await readFile(path);
  const lines = split(original);
  await writeFile(path, Buffer.concat(lines.slice(0, 4)));
  assert.deepEqual(await places(folder), [`${file(1)}:5 removed`]);
  await writeFile(path, original.subarray(0, original.length - 3));
  assert.deepEqual(await places(folder), [`${file(1)}:6 removed`]);
  await writeFile(path, '');
  assert.deepEqual(await places(folder), [`${file(1)}:1 removed`]);
  // Cut before the next server starts: its opening line carries on what the heads file knew.
  await writeFile(path, Buffer.concat(lines.slice(0, 4)));
  const next = await openSink(folder);
  await next.close();
  await rm(await heads(folder));
  assert.ok((await places(folder)).includes(`${file(1)}:5 removed`));
  await writeFile(path, original);
  await sink.close();
});

test('[R31] a key that was changed: both keys verify, one alone says which is missing', async (t) => {
  const folder = await writtenLog(t);
  const newKey = randomBytes(32);
  const sink = await openSink(folder, { key: newKey });
  put(sink, 'under the new key');
  await sink.close();
  assert.deepEqual(await places(folder, [newKey, key]), []);
  assert.deepEqual(await places(folder, [key, newKey]), []);
  assert.deepEqual(
    await places(folder, [newKey]),
    [1, 2, 3].map((n) => `${file(n)}:1 unknown-key`).concat(`${file(4)}:2 heads`),
  );
  assert.equal((await places(folder, [randomBytes(32)])).length, 5);
  await copyFile(join(folder, file(3)), join(folder, '..', 'renamed.jsonl'));
  assert.deepEqual(await places(join(folder, '..', 'renamed.jsonl')), []);
});
