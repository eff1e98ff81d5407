import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { nothingYet } from '../../src/metrics/docs.ts';
import { createRelayMetrics } from '../../src/metrics/relay-metrics.ts';
import {
  BLOCK_BINARY,
  onRecorderEvent,
  recorderAppend,
  recorderClose,
  recorderOpen,
  recorderStatistics,
  recorderWriteHeader,
} from '../../src/native/recorder-binding.ts';

const own = { startFailures: {}, finished: 1, salvaged: 0, deleted: { age: 0, count: 0, bytes: 0, orphan: 0 } };

test("the native recorder's statistics are the source, read while it records and after", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-recording-metrics-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const sources = { ...nothingYet, recording: () => ({ ...recorderStatistics(), ...own }) };
  const metrics = createRelayMetrics(sources, { version: '0.1.0', nodeVersion: process.version });
  const scrape = async () => {
    const lines = (await metrics.scrape()).body.split('\n').filter((line) => line.startsWith('couplet_recording'));
    return new Map(lines.map((line) => [line.split(' ')[0]!, Number(line.split(' ')[1])]));
  };

  const closed = new Promise<void>((resolve) => {
    const alive = setInterval(() => {}, 1000); // the recorder does not keep the process alive by itself
    const off = onRecorderEvent(({ type }) => {
      if (type !== 'closed') return;
      off();
      clearInterval(alive);
      resolve();
    });
  });
  const handle = recorderOpen(folder, 'relaysession-a.mcrec', { sidecar: false });
  recorderWriteHeader(handle, '{"magic":"MeshCentralRelaySession"}');
  recorderAppend(handle, BLOCK_BINARY, new Uint8Array(10_000));
  assert.equal((await scrape()).get('couplet_recordings_open'), 1);
  recorderClose(handle);
  await closed;

  const after = await scrape();
  assert.equal(after.get('couplet_recordings_open'), 0);
  assert.equal(after.get('couplet_recording_queue_bytes'), 0);
  assert.deepEqual(readdirSync(folder), ['relaysession-a.mcrec']);
  assert.equal(after.get('couplet_recording_bytes_total'), statSync(join(folder, 'relaysession-a.mcrec')).size);
  for (const name of ['couplet_recording_write_seconds', 'couplet_recording_sync_seconds']) {
    const buckets = [...after].filter(([sample]) => sample.startsWith(`${name}_bucket`)).map(([, count]) => count);
    assert.equal(buckets.length, 15, 'every bound of the recorder, and +Inf');
    assert.deepEqual(
      buckets,
      buckets.toSorted((a, b) => a - b),
      'each bucket includes those below it',
    );
    assert.ok(after.get(`${name}_count`)! >= 1, name);
    assert.equal(buckets.at(-1), after.get(`${name}_count`));
    assert.ok(after.get(`${name}_sum`)! >= 0 && after.get(`${name}_sum`)! < 60, 'seconds');
  }
});
