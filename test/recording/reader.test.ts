import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeBlockHeader, decodeEnd, encodeBlock, encodeBlockHeader, encodeEnd } from '../../src/recording/format.ts';
import { type Block, RecordingReader, type WalkEnd } from '../../src/recording/reader.ts';
import { blockOffsets, headerBlock, incumbent, incumbentFile, recording, startMs, temporaryFolder } from './support.ts';

function readAll(path: string, maxDataBytes?: number): { blocks: Block[]; end: WalkEnd; reader: RecordingReader } {
  const reader = RecordingReader.open(path, maxDataBytes === undefined ? {} : { maxDataBytes });
  try {
    return { blocks: [...reader.blocks()], end: reader.end, reader };
  } finally {
    reader.close();
  }
}

test('[M1] [M4] a block header has TYPE, FLAGS, SIZE and TIME in 16 big-endian bytes, of TIME the upper two zero', () => {
  const bytes = encodeBlockHeader({ type: 2, flags: 3, size: 0x01020304, time: 0x0a0b0c0d0e0f });
  assert.equal(bytes.toString('hex'), '000200030102030400000a0b0c0d0e0f');
  assert.throws(() => encodeBlockHeader({ type: 2, flags: 0, size: 0, time: 2 ** 48 }), RangeError);
  const u16 = fc.integer({ min: 0, max: 0xffff });
  const header = fc.record({
    type: u16,
    flags: u16,
    size: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    time: fc.maxSafeNat(),
  });
  fc.assert(
    fc.property(header, (given) => {
      const fitting = { ...given, time: given.time % 2 ** 48 };
      assert.deepEqual(decodeBlockHeader(encodeBlockHeader(fitting)), { ...fitting, reserved: 0 });
    }),
  );
});

test('[M3] the end block is 32 bytes and known by TYPE, SIZE and magic', () => {
  assert.equal(encodeEnd(0).length, 32);
  assert.deepEqual(decodeEnd(encodeEnd(7)), { time: 7, indexed: false });
  assert.deepEqual(decodeEnd(encodeEnd(7, true)), { time: 7, indexed: true });
  for (let at = 16; at < 32; at++) {
    const wrong = encodeEnd(7);
    wrong[at]! ^= 1;
    assert.equal(decodeEnd(wrong), undefined);
  }
  assert.deepEqual(incumbent.subarray(-32), encodeEnd(decodeEnd(incumbent.subarray(-32))!.time));
});

test("[M1] [M2] the incumbent's recording is read whole", () => {
  const { blocks, end, reader } = readAll(incumbentFile);
  assert.equal(blocks.length, 36);
  assert.deepEqual(end, { state: 'complete', offset: 1108, indexed: false, leftoverBytes: 0, time: 1795356191053 });
  assert.deepEqual(
    Buffer.concat(blocks.map(({ type, flags, time, data }) => encodeBlock(type, flags, time, data))),
    incumbent.subarray(0, 1108),
  );
  assert.equal(reader.size, incumbent.length);
});

test('fault 36: [M10] cut at every byte, a recording is readable up to its last whole block', (t) => {
  const path = join(temporaryFolder(t), 'cut.mcrec');
  const offsets = blockOffsets(incumbent);
  for (let length = 0; length < incumbent.length; length++) {
    writeFileSync(path, incumbent.subarray(0, length));
    const { blocks, end } = readAll(path);
    const whole = offsets.filter((_, n) => n > 0 && offsets[n]! <= length).length;
    assert.equal(blocks.length, Math.min(whole, 36), `cut at ${length}`);
    const lastEnd = offsets.findLast((offset) => offset <= length)!;
    assert.deepEqual(
      [end.state, end.offset],
      [lastEnd === length ? 'unfinished' : 'torn', lastEnd],
      `cut at ${length}`,
    );
  }
});

test('[M10] bytes of any kind give blocks that lie in the file one behind the other, and an end in it', (t) => {
  const path = join(temporaryFolder(t), 'fuzz.mcrec');
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes)),
    fc
      .tuple(fc.integer({ min: 0, max: 5 }), fc.uint8Array({ maxLength: 40 }))
      .map(([type, data]) => encodeBlock(type, 1, startMs, data)),
    fc
      .tuple(fc.constantFrom(1, 2, 3, 4, 9), fc.integer({ min: 0, max: 2 ** 32 - 1 }))
      .map(([type, size]) => encodeBlockHeader({ type, flags: 0, size, time: 0 })),
    fc.constantFrom(encodeEnd(1), encodeEnd(40, true), headerBlock(), Buffer.alloc(64)),
  );
  const file = fc.tuple(fc.boolean(), fc.array(piece, { maxLength: 12 }));
  fc.assert(
    fc.property(file, ([withHeader, pieces]) => {
      const bytes = Buffer.concat(withHeader ? [headerBlock(), ...pieces] : pieces);
      writeFileSync(path, bytes);
      const { blocks, end } = readAll(path, 32);
      let at = 0;
      for (const { offset, size, data } of blocks) {
        assert.equal(offset, at);
        assert.deepEqual(data, bytes.subarray(at + 16, at + 16 + Math.min(size, 32)));
        at += 16 + size;
      }
      assert.ok(at <= bytes.length && end.offset >= at && end.offset <= bytes.length);
    }),
    { numRuns: 400 },
  );
});

test('[M10] any one byte of a recording changed: an end, and no exception', (t) => {
  const path = join(temporaryFolder(t), 'flip.mcrec');
  const seed = Math.floor(Math.random() * 256);
  t.diagnostic(`xor ${seed | 1}`);
  for (let at = 0; at < incumbent.length; at++) {
    const bytes = Buffer.from(incumbent);
    bytes[at]! ^= seed | 1;
    writeFileSync(path, bytes);
    const { end } = readAll(path);
    assert.ok(end.offset <= bytes.length);
  }
});

test('[M10] a 10 GB file is read in constant memory', (t) => {
  const path = join(temporaryFolder(t), 'large.mcrec');
  const fd = openSync(path, 'w');
  const first = headerBlock();
  writeSync(fd, first, 0, first.length, 0);
  let at = first.length;
  const size = 3_500_000_000;
  for (let n = 0; n < 3; n++) {
    const header = encodeBlockHeader({ type: 2, flags: 1, size, time: startMs + n });
    writeSync(fd, header, 0, 16, at);
    at += 16 + size;
  }
  ftruncateSync(fd, at);
  writeSync(fd, encodeEnd(startMs), 0, 32, at);
  closeSync(fd);
  const before = process.memoryUsage().arrayBuffers;
  const reader = RecordingReader.open(path, { maxDataBytes: 1024 * 1024 });
  t.after(() => reader.close());
  assert.ok(reader.size > 10_000_000_000);
  let highest = 0;
  let blocks = 0;
  for (const block of reader.blocks()) {
    blocks++;
    assert.ok(block.data.length <= 1024 * 1024);
    highest = Math.max(highest, process.memoryUsage().arrayBuffers);
  }
  assert.deepEqual([blocks, reader.end.state], [4, 'complete']);
  assert.ok(highest - before < 16 * 1024 * 1024, `${highest - before} bytes more`);
});

test('[M10] a hole of 10 GB where blocks should be is one error with its offset', (t) => {
  const path = join(temporaryFolder(t), 'hole.mcrec');
  const bytes = recording([{ flags: 1, ms: 1, data: 'a' }]);
  writeFileSync(path, bytes);
  const fd = openSync(path, 'r+');
  ftruncateSync(fd, 10_000_000_000);
  closeSync(fd);
  assert.deepEqual(readAll(path).end, {
    state: 'damaged',
    offset: bytes.length,
    text: 'no block begins here (type 0)',
  });
});

test('[M6] blocks of unknown types are stepped over, [M5] and empty ones do not stop the reading', (t) => {
  const path = join(temporaryFolder(t), 'types.mcrec');
  const blocks = [
    { flags: 1, ms: 1, data: 'a' },
    { type: 77, flags: 0, ms: 2, data: 'unknown' },
    { flags: 1, ms: 3, data: '' },
    { flags: 1, ms: 4, data: 'b' },
  ];
  writeFileSync(path, recording(blocks, {}, 5));
  const read = readAll(path);
  assert.deepEqual(read.blocks.map(({ type, data }) => [type, data.toString()]).slice(1), [
    [2, 'a'],
    [77, 'unknown'],
    [2, ''],
    [2, 'b'],
  ]);
  assert.equal(read.end.state, 'complete');
});

test('[M4] a block whose TIME reaches into bytes 8-9 is no block', (t) => {
  const path = join(temporaryFolder(t), 'time.mcrec');
  const bytes = recording([{ flags: 1, ms: 1, data: 'a' }], {}, 5);
  const offset = blockOffsets(bytes)[1]!;
  bytes[offset + 9] = 1;
  writeFileSync(path, bytes);
  const { end } = readAll(path);
  assert.deepEqual([end.state, end.offset], ['damaged', offset]);
});

test('a FIFO, a folder and a missing file are errors at once, a link where links are not followed too', (t) => {
  const folder = temporaryFolder(t);
  execFileSync('mkfifo', [join(folder, 'fifo.mcrec')]);
  symlinkSync(incumbentFile, join(folder, 'link.mcrec'));
  const notOpened = { code: 'CPL_RECORDING_FILE' };
  for (const name of ['fifo.mcrec', '.', 'none.mcrec']) {
    assert.throws(() => RecordingReader.open(join(folder, name)), notOpened, name);
  }
  assert.throws(() => RecordingReader.open(join(folder, 'link.mcrec'), { noFollow: true }), notOpened);
  RecordingReader.open(join(folder, 'link.mcrec')).close();
});
