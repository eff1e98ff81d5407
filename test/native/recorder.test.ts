import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { CoupletError } from '../../src/core/errors.ts';
import {
  BLOCK_BINARY,
  BLOCK_FROM_USER,
  onRecorderEvent,
  type RecorderEvent,
  recorderAppend,
  recorderClose,
  recorderConfigure,
  recorderFlushAll,
  recorderHoldsBack,
  recorderOpen,
  recorderStartNs,
  recorderStatistics,
  recorderSync,
  recorderWriteHeader,
} from '../../src/native/recorder-binding.ts';

const header = JSON.stringify({ magic: 'MeshCentralRelaySession', ver: 1 });

function folderFor(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-recorder-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

function nextEvent(type: RecorderEvent['type'], handle: number): Promise<RecorderEvent> {
  return new Promise((resolve) => {
    const alive = setInterval(() => {}, 1000); // the recorder does not keep the process alive by itself
    const off = onRecorderEvent((event) => {
      if (event.type !== type || event.handle !== handle) return;
      off();
      clearInterval(alive);
      resolve(event);
    });
  });
}

interface Block {
  readonly type: number;
  readonly flags: number;
  readonly data: string;
}

function blocksOf(file: Buffer): Block[] {
  const blocks: Block[] = [];
  for (let at = 0; at < file.length; ) {
    const size = file.readUInt32BE(at + 4);
    assert.equal(file.readUInt16BE(at + 8), 0);
    blocks.push({
      type: file.readUInt16BE(at),
      flags: file.readUInt16BE(at + 2),
      data: file.toString('utf8', at + 16, at + 16 + size),
    });
    at += 16 + size;
  }
  return blocks;
}

test('[M1] [M3] text, ArrayBuffer and Uint8Array are recorded byte for byte, and closed says when', async (t) => {
  const folder = folderFor(t);
  const startedMs = Date.now();
  const handle = recorderOpen(folder, 'a.mcrec', { strict: true });
  const opened = nextEvent('opened', handle);
  assert.ok(Math.abs(Number(recorderStartNs(handle) / 1_000_000n) - startedMs) < 1000);
  assert.equal(recorderAppend(handle, 0, 'too early'), false);
  assert.equal(recorderWriteHeader(handle, header), true);
  const durable = nextEvent('durable', handle);
  recorderSync(handle);
  assert.deepEqual(await opened, { type: 'opened', handle, file: 'a.mcrec' });
  assert.deepEqual(await durable, { type: 'durable', handle, bytes: 16 + header.length });
  const bytes = new TextEncoder().encode('xbinaryx');
  const texts = ['plain', 'ü€𝄞', '€'.repeat(1364), `${'a'.repeat(4090)}€`, '𝄞'.repeat(200_000), 'a'.repeat(4095), ''];
  for (const text of texts) assert.equal(recorderAppend(handle, BLOCK_FROM_USER, text), true);
  assert.equal(recorderAppend(handle, BLOCK_BINARY, bytes.subarray(1, 7)), true);
  assert.equal(recorderAppend(handle, BLOCK_BINARY, bytes.buffer), true);
  assert.equal(recorderHoldsBack(handle), false);
  const closed = nextEvent('closed', handle);
  recorderClose(handle);
  recorderClose(handle);
  assert.equal(recorderAppend(handle, 0, 'too late'), false);
  const file = (await closed) as RecorderEvent & { type: 'closed' };
  const content = readFileSync(join(folder, 'a.mcrec'));
  assert.deepEqual(file, { type: 'closed', handle, bytes: content.length, complete: true, file: 'a.mcrec' });
  const blocks = blocksOf(content);
  assert.deepEqual(blocks.at(0), { type: 1, flags: 0, data: header });
  assert.deepEqual(blocks.at(-1), { type: 3, flags: 0, data: 'MeshCentralMCREC' });
  assert.deepEqual(
    blocks.slice(1, -1).map(({ data }) => data),
    [...texts.filter((text) => text !== ''), 'binary', 'xbinaryx'],
  );
  assert.equal(readFileSync(join(folder, 'a.mcrec.cpt')).length, 24 * blocks.length);
  const figures = recorderStatistics();
  assert.equal(figures.bytesWritten, content.length);
  assert.equal(figures.queueBytes, 0);
  assert.equal(figures.openFiles, 0);
  assert.ok(figures.writeLatency.counts.reduce((sum, count) => sum + count) >= 2);
  assert.equal(figures.writeLatency.counts.length, figures.writeLatency.boundsUs.length + 1);
});

test('[R34] a file that cannot be made fails by an event that names the errno, and leaves nothing', async (t) => {
  const folder = folderFor(t);
  const before = recorderStatistics().failures;
  const taken = recorderOpen(folder, 'a', { sidecar: false });
  assert.deepEqual(await nextEvent('opened', taken), { type: 'opened', handle: taken, file: 'a' });
  for (const [errno, path] of [
    ['ENOENT', join(folder, 'none')],
    ['EEXIST', folder],
  ] as const) {
    const handle = recorderOpen(path, 'a');
    recorderWriteHeader(handle, header);
    const events = await Promise.all([nextEvent('failed', handle), nextEvent('closed', handle)]);
    assert.deepEqual(events, [
      { type: 'failed', handle, errno, file: 'a', sidecar: false },
      { type: 'closed', handle, bytes: 0, complete: false, file: 'a' },
    ]);
    recorderClose(handle);
  }
  recorderClose(taken);
  assert.deepEqual(readdirSync(folder), ['a']);
  assert.deepEqual(recorderStatistics().failures, { ...before, ENOENT: (before.ENOENT ?? 0) + 1 });
  assert.throws(
    () => recorderOpen(folder, '../a'),
    (error: CoupletError) =>
      error.code === 'CPL_RECORDING_OPEN' &&
      error.message.endsWith('EINVAL') &&
      (error.cause as { code: string }).code === 'EINVAL',
  );
});

test('limits outside their range are refused by name', () => {
  for (const limits of [{ flushMs: 0 }, { maxQueueBytes: 1.5 }, { maxQueueBytes: 10, lowQueueBytes: 11 }]) {
    assert.throws(
      () => recorderConfigure(limits),
      (error: CoupletError) =>
        error.code === 'CPL_RECORDER_LIMITS' && error.message.includes(Object.keys(limits).at(-1)!),
    );
  }
});

test('[R37] recorderFlushAll returns when what is queued is in the file', (t) => {
  const folder = folderFor(t);
  const handle = recorderOpen(folder, 'a');
  recorderWriteHeader(handle, header);
  recorderAppend(handle, 0, 'message');
  assert.equal(recorderFlushAll(), true);
  assert.equal(blocksOf(readFileSync(join(folder, 'a'))).length, 2);
  assert.equal(recorderFlushAll(true), true);
  assert.equal(blocksOf(readFileSync(join(folder, 'a'))).length, 3);
  recorderClose(handle);
});

test('an event listener that throws is an uncaught exception, and costs no other event', async (t) => {
  const folder = folderFor(t);
  const thrown: string[] = [];
  t.mock.method(globalThis, 'setImmediate', (run: () => void) => {
    try {
      run();
    } catch (error) {
      thrown.push((error as Error).message);
    }
  });
  const handles = ['a', 'b', 'c'].map((name) => recorderOpen(folder, name));
  const off = onRecorderEvent(({ type, handle }) => {
    if (type === 'closed' && handles.includes(handle)) throw new Error('listener');
  });
  const closed = handles.map((handle) => nextEvent('closed', handle));
  for (const handle of handles) recorderClose(handle);
  await Promise.all(closed);
  off();
  assert.deepEqual(thrown, ['listener', 'listener', 'listener']);
});

test('fault 38: at an exception nobody caught, and at process.exit, what is queued is written and ended', (t) => {
  const folder = folderFor(t);
  const binding = fileURLToPath(new URL('../../src/native/recorder-binding.ts', import.meta.url));
  for (const [name, way, code] of [
    ['thrown', 'setImmediate(() => { throw new Error("nobody catches this"); });', 1],
    ['exited', 'process.exit(3);', 3],
    ['run-out', '', 0],
  ] as const) {
    const script = `
      const recorder = await import(${JSON.stringify(binding)});
      recorder.onRecorderEvent(({ type, complete }) => type === 'opened' || console.log(type, complete));
      const handle = recorder.recorderOpen(${JSON.stringify(folder)}, ${JSON.stringify(name)});
      recorder.recorderWriteHeader(handle, ${JSON.stringify(header)});
      for (let i = 0; i < 1000; i++) recorder.recorderAppend(handle, 0, 'message ' + i);
      ${way}`;
    const child = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
      cwd: fileURLToPath(new URL('../..', import.meta.url)),
      encoding: 'utf8',
    });
    assert.equal(child.status, code, child.stderr);
    assert.equal(child.stdout, 'closed true\n');
    const blocks = blocksOf(readFileSync(join(folder, name)));
    assert.equal(blocks.length, 1002, name);
    assert.equal(blocks.at(-1)!.data, 'MeshCentralMCREC');
  }
});
