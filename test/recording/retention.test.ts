import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Clock } from '../../src/core/clock.ts';
import { realFs } from '../../src/recording/file-system.ts';
import {
  type SweepOptions,
  type SweepReport,
  type SweepResult,
  sweepRecordings,
} from '../../src/recording/retention.ts';
import { guardWith } from './guard.ts';
import { temporaryFolder } from './support.ts';

const nowMs = Date.UTC(2026, 0, 31);
const dayMs = 86_400_000;
const clock: Clock = { nowMs: () => nowMs, monotonicMs: () => 0 };
const unused = guardWith(() => false, clock);

function sweep(options: SweepOptions): { results: SweepResult[]; report: SweepReport } {
  const results: SweepResult[] = [];
  const sweeping = sweepRecordings(options);
  for (;;) {
    const { done, value } = sweeping.next();
    if (done) return { results, report: value };
    results.push(value);
  }
}

/** Five recordings of 100 bytes, 1 to 5 days old, each with a sidecar of 20 bytes. */
function fill(folder: string): void {
  for (let days = 1; days <= 5; days++) {
    for (const [ending, bytes] of [
      ['', 100],
      ['.cpt', 20],
    ] as const) {
      const path = join(folder, `relaysession-${days}.mcrec${ending}`);
      writeFileSync(path, Buffer.alloc(bytes));
      utimesSync(path, nowMs / 1000, (nowMs - days * dayMs) / 1000);
    }
  }
}

const left = (folder: string) =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.mcrec'))
    .sort();
const names = (...days: number[]) => days.map((day) => `relaysession-${day}.mcrec`);

for (const [what, limits, kept, reason] of [
  ['age', { maxAgeMs: 3 * dayMs }, names(1, 2, 3), 'age'],
  ['count', { maxCount: 2 }, names(1, 2), 'count'],
  ['total bytes, sidecars too', { maxBytes: 240 }, names(1, 2), 'bytes'],
  ['no limit', {}, names(1, 2, 3, 4, 5), undefined],
] as const) {
  test(`[R38] retention by ${what}: the oldest go, with their sidecars`, (t) => {
    const folder = temporaryFolder(t);
    fill(folder);
    const { results, report } = sweep({ folder, limits, guard: unused });
    assert.deepEqual(left(folder), kept);
    assert.equal(readdirSync(folder).length, kept.length * 2);
    assert.deepEqual(report, { deleted: 5 - kept.length, failed: 0, count: kept.length, bytes: kept.length * 120 });
    assert.equal(results.length, report.deleted);
    assert.ok(results.every((file) => file.state === 'deleted' && file.reason === reason && file.bytes === 120));
  });
}

test('[R38] a file in use is never deleted, nor its sidecar; it counts, and holds up no other', (t) => {
  const folder = temporaryFolder(t);
  fill(folder);
  const guard = guardWith((path) => path.endsWith('-4.mcrec'), clock);
  const { report } = sweep({ folder, limits: { maxCount: 0 }, guard });
  assert.deepEqual(readdirSync(folder).sort(), ['relaysession-4.mcrec', 'relaysession-4.mcrec.cpt']);
  assert.deepEqual(report, { deleted: 4, failed: 0, count: 1, bytes: 120 });
});

test('[R38] a recording is deleted under its lock, which is held until it is gone', (t) => {
  const folder = temporaryFolder(t);
  fill(folder);
  const open = new Set<number>();
  let unlinked = 0;
  const fs = {
    ...realFs,
    closeSync: (fd: number) => {
      open.delete(fd);
      realFs.closeSync(fd);
    },
    unlinkSync: (path: string) => {
      assert.equal(open.size, 1, path);
      unlinked++;
      realFs.unlinkSync(path);
    },
  };
  const guard = { ...unused, tryLock: (fd: number) => open.add(fd).size === 1 };
  sweep({ folder, limits: { maxCount: 0 }, guard, fs });
  assert.equal(unlinked, 10);
});

test('[R38] an empty file made a moment ago, which a recorder has not locked yet, is neither deleted nor locked', (t) => {
  const folder = temporaryFolder(t);
  const tried: number[] = [];
  const guard = { clock, tryLock: (fd: number) => tried.push(fd) > 0 };
  for (const ending of ['mcrec', 'mcrec.cpt', 'jsonl']) {
    const path = join(folder, `relaysession-new.${ending}`);
    writeFileSync(path, '');
    utimesSync(path, nowMs / 1000, (nowMs - 59_000) / 1000);
  }
  const { report } = sweep({ folder, limits: { maxCount: 0 }, guard });
  assert.deepEqual([report.count, readdirSync(folder).length, tried], [2, 3, []]);
  const later = { ...guard, clock: { ...clock, nowMs: () => nowMs + 2000 } };
  assert.deepEqual(sweep({ folder, limits: { maxCount: 0 }, guard: later }).report.count, 0);
  assert.deepEqual([readdirSync(folder), tried.length], [[], 2]);
});

test('[R38] sidecars whose recording is gone are deleted whatever the limits; fresh and strange ones stay', (t) => {
  const folder = temporaryFolder(t);
  const put = (name: string, ageMs: number) => {
    writeFileSync(join(folder, name), 'sidecar');
    utimesSync(join(folder, name), nowMs / 1000, (nowMs - ageMs) / 1000);
  };
  put('relaysession-a.mcrec', dayMs);
  put('relaysession-a.mcrec.cpt', dayMs);
  put('relaysession-lonely.mcrec.cpt', dayMs);
  put('relaysession-fresh.mcrec.cpt', 1000);
  put('notes.mcrec.cpt', dayMs);
  symlinkSync(join(folder, 'notes.mcrec.cpt'), join(folder, 'relaysession-link.mcrec.cpt'));
  const before = readdirSync(folder);
  const { results, report } = sweep({ folder, limits: {}, guard: unused });
  const lonely = 'relaysession-lonely.mcrec.cpt';
  assert.deepEqual(results, [{ state: 'deleted', path: join(folder, lonely), bytes: 7, reason: 'orphan' }]);
  assert.deepEqual(report, { deleted: 1, failed: 0, count: 1, bytes: 14 });
  assert.deepEqual(
    readdirSync(folder),
    before.filter((name) => name !== lonely),
  );
});

test('[R38] a sidecar whose recording comes into being during the listing stays', (t) => {
  const folder = temporaryFolder(t);
  fill(folder);
  const names = readdirSync(folder).filter((name) => name !== 'relaysession-5.mcrec');
  const { report } = sweep({ folder, limits: {}, guard: unused, fs: { ...realFs, readdirSync: () => names } });
  assert.deepEqual([report.deleted, readdirSync(folder).length], [0, 10]);
});

test('[R38] what is no recording, links and folders are not touched', (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'notes.mcrec'), 'x');
  writeFileSync(join(folder, 'target'), 'x');
  symlinkSync(join(folder, 'target'), join(folder, 'relaysession-link.mcrec'));
  mkdirSync(join(folder, 'relaysession-folder.mcrec'));
  const before = readdirSync(folder);
  const { results } = sweep({ folder, limits: { maxCount: 0, maxBytes: 0 }, guard: unused });
  assert.deepEqual([results, readdirSync(folder)], [[], before]);
});

test('[R38] a recording that cannot be deleted is told of and holds up no other', (t) => {
  const folder = temporaryFolder(t);
  fill(folder);
  mkdirSync(join(folder, 'relaysession-6.mcrec.cpt'));
  const path = join(folder, 'relaysession-6.mcrec');
  writeFileSync(path, 'x');
  utimesSync(path, 0, 0);
  const { results, report } = sweep({ folder, limits: { maxCount: 0 }, guard: unused });
  assert.deepEqual(left(folder), names(6));
  const failed = results.filter(({ state }) => state === 'failed');
  assert.deepEqual([failed.map((file) => file.path), report.failed, report.count], [[path], 1, 1]);
});

test('[R38] fault 30: files in which nothing is recorded go first, and push out no recording', (t) => {
  const folder = temporaryFolder(t);
  const put = (name: string, text: string, ageMs: number) => {
    writeFileSync(join(folder, name), text);
    utimesSync(join(folder, name), nowMs / 1000, (nowMs - ageMs) / 1000);
  };
  for (const n of [1, 2, 3]) put(`relaysession-good-${n}.mcrec`, 'recording', (10 + n) * dayMs);
  for (const n of [1, 2, 3]) put(`relaysession-empty-${n}.mcrec`, '', n * dayMs);
  sweep({ folder, limits: { maxCount: 3 }, guard: guardWith(() => false, clock) });
  assert.deepEqual(
    readdirSync(folder).sort(),
    [1, 2, 3].map((n) => `relaysession-good-${n}.mcrec`),
  );
});
