import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../src/core/clock.ts';
import { openDirectory } from '../../src/directory/open.ts';
import { Other, overBoth, refused, useBackends } from './backends.ts';

useBackends();

const mac = (n: number) => n.toString(16).padStart(64, '0');
const head = (file: number, line: number, closed = false) => ({ file, line, mac: mac(line), closed });

overBoth('[R31] heads of an event log are kept in the directory, and none is ever lowered', async (place) => {
  const directory = await place.open();
  const { auditHeads } = directory;
  assert.deepEqual(await auditHeads.list('log-a'), []);
  await auditHeads.note('log-a', []);
  await auditHeads.note('log-a', [head(1, 9), head(2, 1), head(1, 3)]);
  assert.deepEqual(await auditHeads.list('log-a'), [head(2, 1), head(1, 9)], 'the highest of one call, newest first');
  await auditHeads.note('log-a', [head(1, 3, true), head(2, 7, true)]);
  assert.deepEqual(await auditHeads.list('log-a'), [head(2, 7, true), head(1, 9)], 'raised, not lowered');
  await auditHeads.note('log-a', [{ ...head(1, 9), mac: mac(1234), closed: true }]);
  assert.deepEqual(await auditHeads.list('log-a'), [head(2, 7, true), head(1, 9)], 'what was noted first stays');
  await auditHeads.note('log-a', [{ file: 3, line: 0, mac: '', closed: false }]);
  assert.equal((await auditHeads.list('log-a')).length, 3, 'a head may say no more than that the file is there');
});

overBoth(
  '[R31] logs of several servers share a database, each with the heads of its newest 256 files',
  async (place) => {
    const { auditHeads } = await place.open();
    await auditHeads.note('log-b', [head(1, 5)]);
    await auditHeads.note(
      'log-a',
      Array.from({ length: 200 }, (_, n) => head(n + 1, 1)),
    );
    await auditHeads.note(
      'log-a',
      Array.from({ length: 100 }, (_, n) => head(n + 201, 1)),
    );
    const kept = await auditHeads.list('log-a');
    assert.deepEqual([kept.length, kept[0]?.file, kept.at(-1)?.file], [256, 300, 45]);
    await auditHeads.note(
      'log-a',
      Array.from({ length: 700 }, (_, n) => head(n + 1, 2)),
    );
    const newer = await auditHeads.list('log-a');
    assert.deepEqual([newer.length, newer[0]?.file, newer.at(-1)?.file], [256, 700, 445]);
    assert.deepEqual(await auditHeads.list('log-b'), [head(1, 5)]);
    assert.deepEqual(await auditHeads.list("' or 1=1 --"), []);
  },
);

overBoth('[R31] processes that note heads at once lose none and lower none', async (place, t) => {
  const here = await place.open();
  const other = await new Other(t, place).ready();
  const lines = 25;
  // Both note both files, in opposite order, the one up from line 1 and the other down to it.
  const writers = [
    async (line: number) => await here.auditHeads.note('log-a', [head(1, line), head(2, lines - line + 1)]),
    async (line: number) =>
      await other.do('auditHeads', 'note', 'log-a', [head(2, line), head(1, lines - line + 1), head(3, line)]),
  ];
  await Promise.all(
    writers.map(async (note) => {
      for (let line = 1; line <= lines; line++) {
        await note(line);
        const now = await here.auditHeads.list('log-a');
        for (const file of [1, 2]) assert.ok(now.find((found) => found.file === file)!.line >= line);
      }
    }),
  );
  assert.deepEqual(await here.auditHeads.list('log-a'), [head(3, lines), head(2, lines), head(1, lines)]);
  assert.equal(await other.end(), 0);
});

overBoth('[R31] what is no head is refused', async (place) => {
  const { auditHeads } = await place.open();
  for (const log of ['', 'a b', '\0', 'x'.repeat(65)]) {
    await refused('CPL_DIRECTORY_VALUE', auditHeads.note(log, [head(1, 1)]));
  }
  for (const wrong of [head(0, 1), head(1.5, 1), head(1, -1), { ...head(1, 1), mac: 'no' }]) {
    await refused('CPL_DIRECTORY_VALUE', auditHeads.note('log-a', [head(1, 1), wrong]));
  }
  assert.deepEqual(await auditHeads.list('log-a'), []);
});

test('[T3] without a directory no head is kept, and none is refused', async () => {
  const directory = await openDirectory({ directory: 'none', file: '', clock: systemClock, onError: assert.fail });
  await directory.auditHeads.note('log-a', [head(1, 1)]);
  assert.deepEqual(await directory.auditHeads.list('log-a'), []);
});
