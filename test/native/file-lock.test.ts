import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import type { CoupletError } from '../../src/core/errors.ts';
import { tryLockFile } from '../../src/native/file-lock.ts';
import {
  onRecorderEvent,
  type RecorderEvent,
  recorderAppend,
  recorderClose,
  recorderOpen,
  recorderWriteHeader,
} from '../../src/native/recorder-binding.ts';

function folderFor(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-lock-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

function opener(t: TestContext, path: string): (flags: string) => number {
  return (flags) => {
    const fd = openSync(path, flags);
    t.after(() => closeSync(fd));
    return fd;
  };
}

/** The recorder does not keep the process alive by itself. */
async function eventOf(type: RecorderEvent['type'], handle: number): Promise<RecorderEvent> {
  const alive = setInterval(() => {}, 1000);
  const event = await new Promise<RecorderEvent>((resolve) => {
    const off = onRecorderEvent((event) => {
      if (event.type !== type || event.handle !== handle) return;
      off();
      resolve(event);
    });
  });
  clearInterval(alive);
  return event;
}

interface Heard {
  readonly locked: boolean;
  readonly refused: string;
}

/** A worker thread loads the addon, tries to lock a file and to record, and ends. */
async function tryInWorker(path: string, flags: string, mode: string): Promise<Heard> {
  // A worker thread does not take tsx over from its parent.
  const script = `
    import('tsx/esm/api').then(({ register }) => {
      register();
      return import(${JSON.stringify(new URL('file-lock-worker.ts', import.meta.url))});
    });`;
  const worker = new Worker(script, { eval: true, workerData: { path, flags, mode } });
  const exited = once(worker, 'exit');
  const [heard] = (await once(worker, 'message')) as [Heard];
  assert.deepEqual(await exited, [0]);
  return heard;
}

test('[R37] [R38] a recording is locked for worker threads too, which come and go while it is recorded', async (t) => {
  const folder = folderFor(t);
  // The first ones have the addon to themselves: it is unloaded with them.
  const free = join(folder, 'free');
  closeSync(openSync(free, 'w'));
  for (let i = 0; i < 2; i++) assert.equal((await tryInWorker(free, 'r+', 'exclusive')).locked, true);
  const handle = recorderOpen(folder, 'a.mcrec');
  await eventOf('opened', handle);
  recorderWriteHeader(handle, '{}');
  const path = join(folder, 'a.mcrec');
  let appended = 0;
  const recording = setInterval(() => {
    if (recorderAppend(handle, 0, 'message')) appended++;
  }, 1);
  t.after(() => clearInterval(recording));
  for (const [flags, mode] of [
    ['r', 'shared'],
    ['r+', 'exclusive'],
  ] as const) {
    const { locked, refused } = await tryInWorker(path, flags, mode);
    assert.equal(locked, false, mode);
    assert.equal(refused, 'CPL_RECORDER_MISSING');
  }
  assert.equal((await tryInWorker(free, 'r+', 'exclusive')).locked, true);
  clearInterval(recording);
  const closed = eventOf('closed', handle);
  recorderClose(handle);
  const { bytes, complete } = (await closed) as RecorderEvent & { type: 'closed' };
  assert.equal(complete, true);
  assert.ok(appended > 0);
  assert.equal(bytes, 18 + appended * (16 + 'message'.length) + 32);
  assert.equal(readFileSync(path).length, bytes);
  assert.equal((await tryInWorker(path, 'r+', 'exclusive')).locked, true);
  assert.equal(tryLockFile(opener(t, path)('r'), 'shared'), true);
});

test('shared locks go together, exclusive ones with none, until the descriptor is closed', (t) => {
  const path = join(folderFor(t), 'a');
  const open = opener(t, path);
  const first = open('a+');
  assert.equal(tryLockFile(first, 'shared'), true);
  const second = openSync(path, 'r+');
  assert.equal(tryLockFile(second, 'shared'), true);
  assert.equal(tryLockFile(first, 'exclusive'), false);
  closeSync(second);
  assert.equal(tryLockFile(first, 'exclusive'), true);
  assert.equal(tryLockFile(open('r'), 'shared'), false);
});

test('what cannot be locked is an error that names the errno', (t) => {
  const path = join(folderFor(t), 'a');
  const open = opener(t, path);
  open('w');
  assert.throws(
    () => tryLockFile(open('r'), 'exclusive'),
    (error: CoupletError) =>
      error.code === 'CPL_FILE_LOCK' &&
      error.message.endsWith('(exclusive): EBADF') &&
      (error.cause as { code: string }).code === 'EBADF',
  );
});
