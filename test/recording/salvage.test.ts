import assert from 'node:assert/strict';
import { existsSync, openSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../src/core/clock.ts';
import { realFs } from '../../src/recording/file-system.ts';
import { type FileGuard, freshMs, whileUnused } from '../../src/recording/locks.ts';
import { repairRecording } from '../../src/recording/repair.ts';
import { type SalvageResult, salvageFolder } from '../../src/recording/salvage.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { guardWith } from './guard.ts';
import { headerBlock, incumbent, sidecarOf, temporaryFolder } from './support.ts';

function salvage(folder: string, guard: FileGuard): { results: SalvageResult[]; fresh: number } {
  const results: SalvageResult[] = [];
  const salvaging = salvageFolder(folder, { guard });
  for (;;) {
    const { done, value } = salvaging.next();
    if (done) return { results, fresh: value };
    results.push(value);
  }
}

test('[R37] files locked by a recorder, of this server or another, are left alone whatever they hold', (t) => {
  const folder = temporaryFolder(t);
  const live = {
    'relaysession-a.mcrec': incumbent.subarray(0, 500),
    'relaysession-b.mcrec': headerBlock().subarray(0, 20),
    'relaysession-c.jsonl': Buffer.from('{"time":1}\n{"ti'),
  };
  for (const [name, bytes] of Object.entries(live)) writeFileSync(join(folder, name), bytes);
  assert.deepEqual(
    salvage(
      folder,
      guardWith(() => true),
    ),
    { results: [], fresh: 0 },
  );
  for (const [name, bytes] of Object.entries(live)) assert.deepEqual(readFileSync(join(folder, name)), bytes);
  assert.equal(salvage(folder, guardWith()).results.length, 3);
});

test('[R37] a file without a header is in use while it is fresh, and an empty one is not even locked', (t) => {
  const folder = temporaryFolder(t);
  const names = ['relaysession-empty.mcrec', 'relaysession-half.mcrec', 'relaysession-zeros.mcrec'];
  const put = (name: string, bytes: Uint8Array) => {
    writeFileSync(join(folder, name), bytes);
    utimesSync(join(folder, name), 1000, 1000);
  };
  put('relaysession-empty.mcrec', Buffer.alloc(0));
  put('relaysession-half.mcrec', headerBlock().subarray(0, 20));
  put('relaysession-zeros.mcrec', Buffer.alloc(100));
  const tried: string[] = [];
  const at = (nowMs: number) => guardWith((path) => tried.push(path) === 0, { ...systemClock, nowMs: () => nowMs });
  assert.deepEqual(salvage(folder, at(1_000_000 + freshMs - 1)), { results: [], fresh: 3 });
  assert.deepEqual(readdirSync(folder).sort(), names);
  assert.ok(tried.every((path) => !path.endsWith('relaysession-empty.mcrec')));
  const { results, fresh } = salvage(folder, at(1_000_000 + freshMs));
  assert.deepEqual([results.map(({ state }) => state), fresh], [['removed', 'removed', 'removed'], 0]);
  assert.deepEqual(readdirSync(folder), []);
});

test('[R37] a fresh file with a header is repaired at once: a server that comes back does not wait', (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'relaysession-a.mcrec'), incumbent.subarray(0, 500));
  const { results, fresh } = salvage(
    folder,
    guardWith(() => false, systemClock),
  );
  assert.deepEqual([results.map(({ state }) => state), fresh], [['repaired'], 0]);
});

test('[R37] the lock is held until the repair is done', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-a.mcrec');
  writeFileSync(path, incumbent.subarray(0, 500));
  let locked: number | undefined;
  let writes = 0;
  const fs = {
    ...realFs,
    writeSync: (...args: Parameters<typeof realFs.writeSync>) => {
      assert.notEqual(locked, undefined);
      writes++;
      return realFs.writeSync(...args);
    },
    closeSync: (fd: number) => {
      if (fd === locked) locked = undefined;
      realFs.closeSync(fd);
    },
  };
  const guard = {
    ...guardWith(),
    tryLock: (fd: number) => {
      locked = fd;
      return true;
    },
  };
  assert.equal(repairRecording(path, { guard, fs }).state, 'repaired');
  assert.deepEqual([writes > 0, locked], [true, undefined]);
});

test('[R37] a file deleted by who had the lock before is not worked on under its name', (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'relaysession-a.mcrec');
  writeFileSync(path, incumbent.subarray(0, 500));
  const guard = {
    ...guardWith(),
    tryLock: () => {
      rmSync(path);
      writeFileSync(path, 'of somebody else');
      return true;
    },
  };
  assert.throws(() => whileUnused(path, guard, () => assert.fail('ran')), { code: 'CPL_RECORDING_FILE' });
  assert.deepEqual(salvage(folder, guard).results, []);
  assert.equal(readFileSync(path, 'utf8'), 'of somebody else');
});

test('[R37] the lock ends with the work, also when it throws', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-a.mcrec');
  writeFileSync(path, 'x');
  let used = -1;
  const work = (fd: number) => {
    used = fd;
    throw new Error('work');
  };
  assert.throws(() => whileUnused(path, guardWith(), work), /^Error: work$/);
  // The lowest number is given out again first: it was closed.
  assert.equal(openSync(path, 'r'), used);
  realFs.closeSync(used);
});

test('[R37] [M8] the sidecar of a salvaged file, however a crash has cut it, is a note at most', (t) => {
  const path = join(temporaryFolder(t), 'relaysession-a.mcrec');
  const whole = sidecarOf(incumbent);
  const tails: Buffer[] = [Buffer.alloc(0), Buffer.alloc(24), Buffer.alloc(4096)];
  for (let length = 1; length <= whole.length; length += 5) tails.push(whole.subarray(0, length));
  for (const sidecar of tails) {
    // Finished, too: the sidecar's records are written after the blocks.
    for (const bytes of [incumbent, incumbent.subarray(0, 500)]) {
      writeFileSync(path, bytes);
      writeFileSync(`${path}.cpt`, sidecar);
      repairRecording(path, { guard: guardWith() });
      const { problems } = verifyRecording(path);
      assert.deepEqual(problems, [], `sidecar of ${sidecar.length} bytes`);
    }
  }
  assert.equal(existsSync(`${path}.cpt`), true);
});
