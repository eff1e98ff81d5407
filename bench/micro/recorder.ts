import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  BLOCK_BINARY,
  recorderAppend,
  recorderClose,
  recorderConfigure,
  recorderFlushAll,
  recorderOpen,
  recorderStatistics,
  recorderWriteHeader,
} from '../../src/native/recorder-binding.ts';
import { note, runSuite } from './suite.ts';

// Recording one message as the event loop sees it, beside the naïve way. At full speed it is the disk that limits: the
// queue is emptied once for each 256 MiB, and that counts. On a tmpfs (COUPLET_BENCH_FOLDER=/dev/shm) it is the copying
// on both sides alone.

const folder = mkdtempSync(join(process.env.COUPLET_BENCH_FOLDER ?? tmpdir(), 'couplet-bench-'));
const small = new Uint8Array(64).fill(120);
const large = new Uint8Array(65536).fill(120);
const maxFileBytes = 256 * 1024 * 1024;
recorderConfigure({ maxQueueBytes: 2 ** 31, maxFileQueueBytes: 2 ** 30 });

let files = 0;

function recording(sidecar: boolean): (message: Uint8Array) => void {
  let handle = 0;
  let name = 'none';
  let bytes = maxFileBytes;
  return (message) => {
    if (bytes >= maxFileBytes) {
      recorderClose(handle);
      recorderFlushAll(false, 60_000);
      rmSync(join(folder, name), { force: true });
      rmSync(join(folder, `${name}.cpt`), { force: true });
      name = `${files++}.mcrec`;
      handle = recorderOpen(folder, name, { strict: true, sidecar });
      recorderWriteHeader(handle, '{}');
      bytes = 0;
    }
    bytes += message.length + 16;
    if (!recorderAppend(handle, BLOCK_BINARY, message)) throw new Error('the recording has ended');
  };
}

function naive(message: Uint8Array): () => void {
  const name = join(folder, 'naive');
  let fd = openSync(name, 'w');
  let bytes = 0;
  const header = Buffer.alloc(16);
  return () => {
    header.writeUInt32BE(message.length, 4);
    header.writeBigUInt64BE(BigInt(Date.now()), 8);
    bytes += writeSync(fd, Buffer.concat([header, message]));
    if (bytes < maxFileBytes) return;
    closeSync(fd);
    fd = openSync(name, 'w');
    bytes = 0;
  };
}

/** CPU time that the recorder's writers have used, nanoseconds. */
function writersNs(): number {
  let ns = 0;
  for (const task of readdirSync('/proc/self/task')) {
    const folder = `/proc/self/task/${task}`;
    if (!readFileSync(`${folder}/comm`, 'utf8').startsWith('rec-write')) continue;
    ns += Number(readFileSync(`${folder}/schedstat`, 'utf8').split(' ')[0]);
  }
  return ns;
}

/** What a message costs the event loop, and what it costs the writer beside it, in CPU time there. */
function costs(name: string, sidecar: boolean, message: Uint8Array, bytes: number): void {
  // In rounds, so that the queue is what it is in a running relay and not a pile of fresh memory.
  const perRound = Math.ceil((4 * 1024 * 1024) / (message.length + 16));
  const roundsPerFile = 64;
  let rounds = 0;
  let loopNs = 0;
  const writersBefore = writersNs();
  while (rounds * perRound * message.length < bytes) {
    const file = `${files++}.mcrec`;
    const handle = recorderOpen(folder, file, { strict: true, sidecar });
    recorderWriteHeader(handle, '{}');
    assert.ok(recorderFlushAll(false, 60_000));
    for (let round = 0; round < roundsPerFile; round++, rounds++) {
      const start = process.hrtime.bigint();
      for (let i = 0; i < perRound; i++) recorderAppend(handle, BLOCK_BINARY, message);
      loopNs += Number(process.hrtime.bigint() - start);
      assert.ok(recorderFlushAll(false, 60_000));
    }
    recorderClose(handle);
    assert.ok(recorderFlushAll(true, 60_000));
    rmSync(join(folder, file));
    rmSync(join(folder, `${file}.cpt`), { force: true });
  }
  const perBlock = (ns: number) => `${(ns / (rounds * perRound)).toFixed(0).padStart(6)} ns`;
  note(`  ${name.padEnd(24)} event loop ${perBlock(loopNs)}  writer ${perBlock(writersNs() - writersBefore)}`);
}

const plain = recording(false);
const withSidecar = recording(true);

note('costs of a message');
costs('64 B', true, small, 200e6);
costs('64 KiB', true, large, 2e9);
costs('64 B, no sidecar', false, small, 200e6);
costs('64 KiB, no sidecar', false, large, 2e9);

await runSuite('recorder', {
  'append 64 B': () => withSidecar(small),
  'append 64 KiB': () => withSidecar(large),
  'append 64 B, no sidecar': () => plain(small),
  'append 64 KiB, no sidecar': () => plain(large),
  'fs.writeSync of 64 B': naive(small),
  'fs.writeSync of 64 KiB': naive(large),
});

assert.ok(recorderFlushAll(true, 60_000));
assert.deepEqual(recorderStatistics().failures, {});
rmSync(folder, { recursive: true });
