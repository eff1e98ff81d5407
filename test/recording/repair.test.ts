import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { encodeBlock, encodeEnd } from '../../src/recording/format.ts';
import { repairRecording } from '../../src/recording/repair.ts';
import { salvageFolder } from '../../src/recording/salvage.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { guardWith } from './guard.ts';
import {
  blockOffsets,
  headerBlock,
  incumbent,
  Killed,
  killingFs,
  recording,
  sidecarOf,
  startMs,
  temporaryFolder,
} from './support.ts';

/** What a cut recording is after repair: its whole blocks and an end block with the last one's time. */
function expectedAfterCut(bytes: Buffer, length: number): Buffer {
  const offsets = blockOffsets(bytes);
  const end = offsets.findLast((offset) => offset <= length)!;
  const last = offsets[offsets.indexOf(end) - 1]!;
  return Buffer.concat([bytes.subarray(0, end), encodeEnd(bytes.readUIntBE(last + 10, 6))]);
}

test('[R37] fault 36: cut at every byte, a recording is repaired to its last whole block, and only once', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-cut.mcrec');
  const headerEnd = blockOffsets(incumbent)[1]!;
  for (let length = headerEnd; length < incumbent.length; length++) {
    writeFileSync(path, incumbent.subarray(0, length));
    writeFileSync(`${path}.cpt`, sidecarOf(incumbent));
    const result = repairRecording(path);
    assert.equal(result.state, 'repaired', `cut at ${length}`);
    const expected = expectedAfterCut(incumbent, length);
    assert.deepEqual(readFileSync(path), expected, `cut at ${length}`);
    assert.deepEqual(readFileSync(`${path}.cpt`), sidecarOf(expected), `cut at ${length}`);
    assert.equal(repairRecording(path).state, 'whole');
    const report = verifyRecording(path);
    assert.deepEqual([report.problemCount, report.notes], [0, []]);
  }
});

test('[R37] [M11] a finished recording keeps every byte', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-whole.mcrec');
  writeFileSync(path, incumbent);
  assert.deepEqual(repairRecording(path), { state: 'whole', bytes: incumbent.length });
  assert.deepEqual(readFileSync(path), incumbent);
});

test('[R37] bytes behind the end block are cut, and its time stays', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-longer.mcrec');
  for (const extra of [1, 15, 31, 32, 100]) {
    writeFileSync(path, Buffer.concat([incumbent, Buffer.alloc(extra, 7)]));
    assert.equal(repairRecording(path).state, 'repaired');
    assert.deepEqual(readFileSync(path), incumbent);
  }
});

test('[R37] a tail of zeros, as a power cut leaves it, is cut', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-zeros.mcrec');
  const bytes = incumbent.subarray(0, 324);
  writeFileSync(path, Buffer.concat([bytes, Buffer.alloc(70_000)]));
  assert.equal(repairRecording(path).state, 'repaired');
  assert.deepEqual(readFileSync(path), expectedAfterCut(incumbent, 324));
});

test('[R37] damage in the middle of a finished recording is not cut off with all behind it unless asked', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-middle.mcrec');
  for (const at of [4, 9]) {
    const damaged = Buffer.from(incumbent);
    damaged[324 + at] = 0xff;
    writeFileSync(path, damaged);
    const refused = repairRecording(path);
    assert.deepEqual([refused.state, 'offset' in refused && refused.offset], ['refused', 324]);
    assert.deepEqual(readFileSync(path), damaged);
    assert.equal(repairRecording(path, { cutDamaged: true }).state, 'repaired');
    assert.deepEqual(readFileSync(path), expectedAfterCut(incumbent, 324));
  }
});

test('[R37] fault 36: repair killed at any step ends at the same bytes when it is run again', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-killed.mcrec');
  let kills = 0;
  // Lengths that put the end block on both sides of a page's border.
  for (const pad of [10, 3700, 3750, 3770, 3790, 9000]) {
    const whole = recording(
      [
        { flags: 1, ms: 1, data: 'a'.repeat(pad) },
        { flags: 3, ms: 9, data: 'torn' },
      ],
      {},
      20,
    );
    const torn = whole.subarray(0, blockOffsets(whole)[2]! + 18);
    const interrupted = Buffer.concat([
      whole.subarray(0, -32),
      encodeBlock(3, 0, startMs + 20, Buffer.alloc(5000, '{')),
    ]);
    const expected = new Map([
      [torn, expectedAfterCut(whole, torn.length)],
      [Buffer.concat([interrupted, encodeEnd(startMs + 20)]), whole],
      [Buffer.concat([whole, Buffer.alloc(77, 1)]), whole],
    ]);
    for (const [before, after] of expected) {
      for (let step = 0; ; step++) {
        writeFileSync(path, before);
        const { fs, steps } = killingFs(step);
        try {
          repairRecording(path, { fs });
        } catch (error) {
          assert.ok(error instanceof Killed);
          kills++;
        }
        const wasFinished = before.subarray(-16).equals(encodeEnd(0).subarray(16));
        if (wasFinished) assert.equal(readFileSync(path).toString('latin1').slice(-16), 'MeshCentralMCREC');
        repairRecording(path);
        assert.deepEqual(readFileSync(path), after, `pad ${pad}, killed at step ${step}`);
        if (steps() <= step) break;
      }
    }
  }
  assert.ok(kills > 50, `${kills} kills`);
});

test('[R37] fault 35: the salvage of a folder: what it does with each file', (t) => {
  const folder = temporaryFolder(t);
  const put = (name: string, bytes: Uint8Array | string) => writeFileSync(join(folder, name), bytes);
  put('relaysession-a-whole.mcrec', incumbent);
  put('relaysession-b-torn.mcrec', incumbent.subarray(0, 500));
  put('relaysession-c-empty.mcrec', '');
  put('relaysession-d-half-header.mcrec', headerBlock().subarray(0, 60));
  put('relaysession-d-half-header.mcrec.cpt', 'x');
  put('relaysession-e-zeros.mcrec', Buffer.alloc(4096));
  put('relaysession-f-strange.mcrec', 'no recording at all');
  put('relaysession-g-live.mcrec', incumbent.subarray(0, 500));
  put('relaysession-h-chat.jsonl', '{"time":1}\n{"time":2}\n{"ti');
  put('relaysession-i-chat.jsonl', '{"time":1}\n');
  put('j-notes.txt', 'torn');
  put('outside', incumbent.subarray(0, 500));
  symlinkSync(join(folder, 'outside'), join(folder, 'relaysession-k-link.mcrec'));
  put('outside-lines', '{"ti');
  symlinkSync(join(folder, 'outside-lines'), join(folder, 'relaysession-k-link.jsonl'));
  mkdirSync(join(folder, 'relaysession-l-folder.mcrec'));
  const guard = guardWith((path) => path.endsWith('relaysession-g-live.mcrec'));
  const salvage = () => [...salvageFolder(folder, { guard })];
  const results = salvage().map(({ path, state }) => `${path.slice(folder.length + 1)} ${state}`);
  assert.deepEqual(results, [
    'relaysession-b-torn.mcrec repaired',
    'relaysession-c-empty.mcrec removed',
    'relaysession-d-half-header.mcrec removed',
    'relaysession-e-zeros.mcrec removed',
    'relaysession-f-strange.mcrec refused',
    'relaysession-h-chat.jsonl repaired',
    'relaysession-k-link.jsonl failed',
    'relaysession-k-link.mcrec failed',
    'relaysession-l-folder.mcrec failed',
  ]);
  assert.deepEqual(readFileSync(join(folder, 'relaysession-b-torn.mcrec')), expectedAfterCut(incumbent, 500));
  assert.equal(readFileSync(join(folder, 'relaysession-h-chat.jsonl'), 'utf8'), '{"time":1}\n{"time":2}\n');
  for (const name of ['outside', 'relaysession-g-live.mcrec']) {
    assert.deepEqual(readFileSync(join(folder, name)), incumbent.subarray(0, 500), name);
  }
  assert.equal(readFileSync(join(folder, 'outside-lines'), 'utf8'), '{"ti');
  assert.equal(existsSync(join(folder, 'relaysession-d-half-header.mcrec.cpt')), false);
  assert.deepEqual(
    salvage().map(({ state }) => state),
    ['refused', 'failed', 'failed', 'failed'],
  );
});

test('[R37] fault 36: salvage killed with SIGKILL at random moments, then run to its end', {
  timeout: 60_000,
}, async (t) => {
  const folder = temporaryFolder(t);
  const seed = Math.floor(Math.random() * 1e9);
  t.diagnostic(`seed ${seed}`);
  let state = seed;
  const random = (limit: number) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state % limit;
  };
  const blocks = Array.from({ length: 40 }, (_, n) => ({ flags: n % 2, ms: n, data: 'x'.repeat(1 + random(3000)) }));
  const whole = recording(blocks, {}, 99);
  const firstData = blockOffsets(whole)[1]!;
  const cuts = Array.from({ length: 400 }, () => firstData + random(whole.length - firstData));
  for (const [n, cut] of cuts.entries()) writeFileSync(join(folder, `relaysession-${n}.mcrec`), whole.subarray(0, cut));
  copyFileSync(join(folder, 'relaysession-0.mcrec'), join(folder, 'relaysession-again.mcrec'));
  const script = fileURLToPath(new URL('./salvage-child.ts', import.meta.url));
  let killed = 0;
  for (let round = 0; round < 6; round++) {
    const child = fork(script, [folder], { execArgv: ['--import', 'tsx'] });
    const exited = once(child, 'exit');
    await Promise.race([once(child, 'message'), exited]);
    await delay(random(6));
    child.kill('SIGKILL');
    const [, signal] = (await exited) as [number | null, string | null];
    if (signal === 'SIGKILL') killed++;
  }
  assert.ok(killed > 0, 'a kill came before the end');
  for (const _ of salvageFolder(folder, { guard: guardWith() }));
  cuts.forEach((cut, n) => {
    assert.deepEqual(
      readFileSync(join(folder, `relaysession-${n}.mcrec`)),
      expectedAfterCut(whole, cut),
      `file ${n}, cut at ${cut}`,
    );
  });
  assert.equal(readdirSync(folder).length, cuts.length + 1);
});

test('[R37] what has not the name of a recording is left alone by salvage', (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'notes.jsonl'), 'text without a line feed');
  writeFileSync(join(folder, 'notours.mcrec'), Buffer.alloc(10));
  for (const name of readdirSync(folder)) utimesSync(join(folder, name), 0, 0);
  assert.deepEqual([...salvageFolder(folder, { guard: guardWith(() => false) })], []);
  assert.deepEqual(readdirSync(folder).sort(), ['notes.jsonl', 'notours.mcrec']);
  assert.equal(readFileSync(join(folder, 'notes.jsonl'), 'utf8'), 'text without a line feed');
});
