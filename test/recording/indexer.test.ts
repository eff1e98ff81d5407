import assert from 'node:assert/strict';
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type RecordingFs, realFs } from '../../src/recording/file-system.ts';
import { decodeBlockHeader, encodeBlockHeader, encodeEnd, HEADER_BYTES } from '../../src/recording/format.ts';
import { IndexEntries, parseIndex, type RecordingIndex } from '../../src/recording/index-block.ts';
import { indexRecording } from '../../src/recording/indexer.ts';
import { RecordingReader } from '../../src/recording/reader.ts';
import { repairRecording } from '../../src/recording/repair.ts';
import { TerminalKeyframes } from '../../src/recording/terminal-keyframes.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { Random } from '../support/random.ts';
import { copy, jumbo, PixelPlayer, screenSize, tile } from './desktop-player.ts';
import {
  blockOffsets,
  failingFs,
  headerBlock,
  incumbent,
  Killed,
  killingFs,
  recording,
  startMs,
  type TestBlock,
  temporaryFolder,
} from './support.ts';

const desktop = { protocol: 2 };

/** The index of an indexed file, which its end block names. */
function indexOf(path: string): RecordingIndex {
  const bytes = readFileSync(path);
  const end = bytes.subarray(-32);
  assert.equal(end.toString('latin1', 16), 'MeshCentralMCNDX');
  const at = end.readUIntBE(10, 6);
  const { type, flags, size } = decodeBlockHeader(bytes, at);
  assert.deepEqual([type, flags, at + 16 + size], [4, 0, bytes.length - 32]);
  const parsed = parseIndex(bytes.subarray(at + 16, at + 16 + size), at - blockOffsets(bytes)[1]!);
  assert.ok(typeof parsed !== 'string', String(parsed));
  return parsed;
}

function indexed(path: string, bytes: Buffer): RecordingIndex {
  writeFileSync(path, bytes);
  assert.equal(indexRecording(path).state, 'indexed');
  assert.deepEqual(verifyRecording(path).problems, []);
  // Up to the old end block nothing has changed.
  assert.deepEqual(readFileSync(path).subarray(0, bytes.length - 32), bytes.subarray(0, -32));
  return indexOf(path);
}

function randomDesktop(random: Random): TestBlock[] {
  let ms = 0;
  const blocks: TestBlock[] = [{ flags: 0, ms, data: '{"type":"hello"}' }];
  for (let n = 0; n < 120; n++) {
    ms += random.chance(0.05) ? random.below(60_000) : random.below(3000);
    const xy = () => random.below(90);
    const commands = Array.from({ length: 1 + random.below(3) }, () => {
      if (n === 3 || random.chance(0.01)) return screenSize(40 + xy(), 40 + xy());
      if (random.chance(0.2)) return copy(xy(), xy(), xy(), xy(), 1 + xy(), 1 + xy());
      const one = tile(xy(), xy(), 1 + xy(), 1 + xy(), random.below(1e6));
      return random.chance(0.2) ? jumbo(one) : one;
    });
    const fromUser = random.chance(0.2);
    blocks.push({ flags: fromUser ? 3 : 1, ms, data: Buffer.concat(commands) });
  }
  return blocks;
}

test('[M7] at every entry the blocks named are the screen of its moment, and playing goes on at its pointer', (t) => {
  const path = join(temporaryFolder(t), 'desktop.mcrec');
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  let checked = 0;
  for (let round = 0; round < 25; round++) {
    const blocks = randomDesktop(random);
    const bytes = recording(blocks, desktop, 9_999_999);
    const { indexes, indexInterval, indexStartTime } = indexed(path, bytes);
    assert.deepEqual([indexInterval, indexStartTime], [10, startMs]);
    assert.equal(indexes.length, Math.floor(blocks.at(-1)!.ms / 10_000));
    const offsets = blockOffsets(bytes).slice(1);
    const pointers = offsets.map((offset) => offset - offsets[0]!);
    for (const [n, [pointer, width, height, ...named]] of indexes.entries()) {
      const next = blocks.findIndex(({ ms }) => ms >= (n + 1) * 10_000);
      assert.equal(pointer, pointers[next], `entry ${n}`);
      const player = new PixelPlayer();
      for (const { flags, data } of blocks.slice(0, next)) if (flags === 1) player.play(0, data as Buffer);
      const fromEntry = new PixelPlayer();
      fromEntry.resize(width!, height!);
      for (const one of named) fromEntry.play(0, blocks[pointers.indexOf(one)]!.data as Buffer);
      assert.deepEqual([fromEntry.width, fromEntry.height], [player.width, player.height]);
      assert.deepEqual(fromEntry.values(), player.values(), `round ${round}, entry ${n}`);
      checked++;
    }
  }
  assert.ok(checked > 200, `${checked} entries`);
});

test('[M7] where the screen is not known an entry is the last one that was, from where it can be played', (t) => {
  const path = join(temporaryFolder(t), 'unknown.mcrec');
  const blocks: TestBlock[] = [
    { flags: 1, ms: 0, data: Buffer.concat([screenSize(100, 100), tile(0, 0, 100, 100)]) },
    { flags: 1, ms: 10_000, data: Buffer.concat([Buffer.alloc(17_000_000), tile(0, 0, 9, 9)]) },
    { flags: 1, ms: 20_000, data: tile(0, 0, 50, 50) },
    { flags: 1, ms: 30_000, data: tile(0, 0, 100, 100) },
    { flags: 1, ms: 40_000, data: tile(0, 0, 50, 50) },
  ];
  const bytes = recording(blocks, desktop, 50_000);
  const pointers = blockOffsets(bytes)
    .slice(1)
    .map((offset, _, all) => offset - all[0]!);
  const known = [pointers[1], 100, 100, 0];
  assert.deepEqual(indexed(path, bytes).indexes, [known, known, known, [pointers[4], 100, 100, pointers[3]]]);
});

test('[M7] a terminal session has a keyframe at each clear and resize, and entries name the last clear', (t) => {
  const path = join(temporaryFolder(t), 'terminal.mcrec');
  const size = (cols: number, rows: number) => JSON.stringify({ ctrlChannel: '102938', type: 'termsize', cols, rows });
  const blocks: TestBlock[] = [
    { flags: 2, ms: 0, data: size(80, 25) }, // 0: keyframe
    { flags: 1, ms: 1000, data: 'login\r\n' },
    { flags: 1, ms: 12_000, data: 'x\x1b[2Jy' }, // 2: keyframe
    { flags: 2, ms: 13_000, data: size(100, 30) }, // 3: keyframe
    { flags: 2, ms: 14_000, data: size(100, 30) }, // the same size again
    { flags: 1, ms: 22_000, data: 'vi\x1b[?10' }, // 5: keyframe, split
    { flags: 3, ms: 22_500, data: 'i' },
    { flags: 1, ms: 23_000, data: '49h' },
    { flags: 1, ms: 24_000, data: '\x1b[2J~' }, // 8: keyframe, on the alternate screen
    { flags: 1, ms: 33_000, data: '\x1b[?1049l$ ' },
    { flags: 1, ms: 43_000, data: '\x1bc' }, // 10: keyframe
    { flags: 1, ms: 44_000, data: '\x1b[1;1H\x1b[J' }, // 11: keyframe
    { flags: 1, ms: 55_000, data: '.' },
  ];
  for (const protocol of [1, 6, 8, 9]) {
    const bytes = recording(blocks, { protocol }, 60_000);
    const offsets = blockOffsets(bytes).slice(1);
    const at = (n: number) => offsets[n]! - offsets[0]!;
    const { indexes, keyframes } = indexed(path, bytes);
    assert.deepEqual(keyframes, [
      [0, 0, 80, 25],
      [at(2), 12_000, 80, 25],
      [at(3), 13_000, 100, 30],
      [at(5), 23_000, 100, 30],
      [at(8), 24_000, 100, 30],
      [at(10), 43_000, 100, 30],
      [at(11), 44_000, 100, 30],
    ]);
    assert.deepEqual(indexes, [
      [0, 80, 25],
      [at(2), 80, 25],
      [at(8), 100, 30],
      [at(2), 80, 25],
      [at(11), 100, 30],
    ]);
  }
});

test("[M7] the incumbent's recording is indexed, and sessions of other protocols by time", (t) => {
  const path = join(temporaryFolder(t), 'incumbent.mcrec');
  const { keyframes, indexes, indexStartTime } = indexed(path, incumbent);
  const offsets = blockOffsets(incumbent);
  const clear = incumbent.indexOf('\x1b[2J');
  const pointer = offsets.findLast((offset) => offset < clear)! - offsets[1]!;
  assert.ok(keyframes!.some(([at, , columns, rows]) => at === pointer && columns === 80 && rows === 25));
  assert.ok(keyframes!.some(([, , columns, rows]) => columns === 120 && rows === 40));
  assert.equal(indexStartTime, decodeBlockHeader(incumbent, offsets[1]).time);
  assert.ok(indexes.every(([at, columns, rows]) => at === pointer && columns === 80 && rows === 25));
  const blocks = [0, 4000, 12_000, 41_000].map((ms) => ({ flags: 1, ms, data: 'file' }));
  assert.deepEqual(indexed(path, recording(blocks, { protocol: 5 }, 50_000)).indexes, [
    [40, 0, 0],
    [60, 0, 0],
    [60, 0, 0],
    [60, 0, 0],
  ]);
});

test('[M7] an index stays small: the interval doubles, whatever the times are', (t) => {
  const path = join(temporaryFolder(t), 'long.mcrec');
  const blocks = Array.from({ length: 100 }, (_, n) => ({ flags: 1, ms: n * 10_000, data: 'x' }));
  writeFileSync(path, recording(blocks, { protocol: 5 }, 1_000_000));
  const result = indexRecording(path, { limits: { maxEntries: 30, maxNumbers: 1000 } });
  assert.deepEqual([result.state, 'entries' in result && result.entries], ['indexed', 24]);
  const { indexInterval, indexes } = indexOf(path);
  assert.equal(indexInterval, 40);
  assert.deepEqual(
    indexes.map(([pointer]) => pointer),
    Array.from({ length: 24 }, (_, n) => (n + 1) * 4 * 17),
  );

  const few = new IndexEntries(0, { maxEntries: 1000, maxNumbers: 100 });
  for (let n = 1; n <= 64; n++) few.advance(n * 10_000, () => [n, 0, 0, ...Array<number>(7).fill(n)]);
  assert.equal(few.intervalSeconds, 80);
  assert.deepEqual(
    few.list.map(([n]) => n),
    [8, 16, 24, 32, 40, 48, 56, 64],
  );

  const leap = new IndexEntries(0);
  leap.advance(5000, () => assert.fail('no entry is due'));
  leap.advance(2 ** 48 - 1, () => [1, 0, 0]);
  leap.advance(1, () => assert.fail('no entry is due'));
  assert.equal(leap.elapsedMs, 2 ** 48 - 1);
  assert.ok(leap.list.length <= 50_000 && leap.list.length >= 25_000);
  const huge = new IndexEntries(0, { maxEntries: 10, maxNumbers: 5 });
  huge.advance(100_000, () => Array<number>(20).fill(0));
  assert.deepEqual([huge.list, huge.intervalSeconds], [[], 160]);
});

test('[M7] of very many keyframes the last of each second, two seconds … remains', () => {
  const keyframes = new TerminalKeyframes(100);
  const data = Buffer.from('\x1bc');
  const block = { offset: 0, type: 2, flags: 1, size: data.length, time: 0, data };
  for (let n = 0; n < 10_000; n++) keyframes.feed(block, n * 18, n * 50, [data]);
  assert.ok(keyframes.list.length <= 100 && keyframes.list.length > 50, `${keyframes.list.length}`);
  const times = keyframes.list.map(([, ms]) => ms!);
  assert.deepEqual(
    times,
    Array.from({ length: 63 }, (_, n) => Math.min(n * 8000 + 7950, 499_950)),
  );
});

test('[M7] a clear in a block longer than what is read at once is found', (t) => {
  const path = join(temporaryFolder(t), 'long-block.mcrec');
  const long = Buffer.alloc(17_000_000, 'a');
  long.write('\x1b[2J', 16_900_000);
  const blocks = [
    { flags: 1, ms: 0, data: 'a' },
    { flags: 1, ms: 1, data: long },
  ];
  assert.deepEqual(indexed(path, recording(blocks, {}, 2)).keyframes, [[17, 1, 80, 25]]);
});

/** A recording whose end block is at `offset`, and whose index has as many entries as `tens` of seconds. */
function placed(offset: number, tens: number): Buffer {
  const last = { flags: 1, ms: tens * 10_000, data: 'b' };
  const without = recording([{ flags: 1, ms: 0, data: '' }, last], { protocol: 5 }).length;
  return recording([{ flags: 1, ms: 0, data: Buffer.alloc(offset - without, 'x') }, last], { protocol: 5 }, 1e9);
}

/** The old and the new end block in every way over a border of pages and sectors, and so with SIZE of a large index. */
function* placedAtBorders(): Generator<Buffer> {
  for (let past = -150; past <= 2; past += past < -33 ? 3 : 1) yield placed(8192 + past, 2);
  for (let past = -8; past <= -4; past++) {
    yield placed(8192 + past, 50);
    yield placed(8192 + past, 10_000);
  }
}

test('[M7] fault 36: killed at any step of indexing the file is a good recording; again it ends at the same bytes', (t) => {
  const path = join(temporaryFolder(t), 'killed.mcrec');
  let kills = 0;
  const wide: TestBlock[] = Array.from({ length: 600 }, (_, n) => ({ flags: 1, ms: n * 10_000, data: 'x' }));
  for (const before of [...placedAtBorders(), incumbent, recording(wide, { protocol: 5 }, 9_000_000)]) {
    writeFileSync(path, before);
    indexRecording(path);
    const after = readFileSync(path);
    for (let step = 0; ; step++) {
      writeFileSync(path, before);
      const { fs, steps } = killingFs(step);
      try {
        indexRecording(path, { fs });
      } catch (error) {
        assert.ok(error instanceof Killed);
        kills++;
      }
      const what = `end block at ${before.length - 32}, killed at step ${step}`;
      assert.match(readFileSync(path).toString('latin1').slice(-16), /^MeshCentralMC(REC|NDX)$/, what);
      const reader = RecordingReader.open(path);
      const blocks = [...reader.blocks()].filter(({ type }) => type === 2);
      reader.close();
      assert.deepEqual([reader.end.state, blocks.length], ['complete', blockOffsets(before).length - 2], what);
      assert.deepEqual(verifyRecording(path).problems, [], what);
      copyFileSync(path, `${path}.copy`);
      assert.match(indexRecording(path).state, /^(already-)?indexed$/, what);
      assert.deepEqual(readFileSync(path), after, what);
      // Repair instead: without index as before, or with a whole one.
      repairRecording(`${path}.copy`);
      const repaired = readFileSync(`${path}.copy`);
      assert.ok(repaired.equals(before) || repaired.subarray(0, -32).equals(after.subarray(0, -32)), what);
      assert.deepEqual(verifyRecording(`${path}.copy`).problems, [], what);
      if (steps() <= step) break;
    }
  }
  assert.ok(kills > 300, `${kills} kills`);
});

test('[M7] fault 36: the same where the old end block has flags', (t) => {
  const path = join(temporaryFolder(t), 'flags.mcrec');
  const before = Buffer.from(incumbent);
  before.writeUInt16BE(1, before.length - 30);
  for (let step = 0; ; step++) {
    writeFileSync(path, before);
    const { fs, steps } = killingFs(step);
    try {
      indexRecording(path, { fs });
    } catch (error) {
      assert.ok(error instanceof Killed);
    }
    assert.deepEqual(verifyRecording(path).problems, [], `killed at step ${step}`);
    if (steps() <= step) break;
  }
  assert.equal(indexRecording(path).state, 'already-indexed');
});

test('[M7] fault 36: with the power cut while two sectors are written, either of them may be the old one', (t) => {
  const path = join(temporaryFolder(t), 'power.mcrec');
  let cuts = 0;
  for (const before of placedAtBorders()) {
    for (let write = 0; ; write++) {
      writeFileSync(path, before);
      let writes = 0;
      const fs: RecordingFs = {
        ...realFs,
        writeSync: (fd, buffer, offset, length, position) => {
          if (writes++ !== write) return realFs.writeSync(fd, buffer, offset, length, position);
          // Only what lies behind the first border comes to the disk.
          const first = Math.min(length, 512 - (position % 512));
          if (first < length) realFs.writeSync(fd, buffer, offset + first, length - first, position + first);
          throw new Killed();
        },
        ftruncateSync: () => {
          throw new Killed();
        },
      };
      try {
        indexRecording(path, { fs });
        break;
      } catch (error) {
        assert.ok(error instanceof Killed);
      }
      cuts++;
      assert.deepEqual(verifyRecording(path).problems, [], `end block at ${before.length - 32}, write ${write}`);
    }
  }
  assert.ok(cuts > 150, `${cuts} cuts`);
});

test('[M7] fault 30: without room on the disk the file is as it was, and the error tells', (t) => {
  const path = join(temporaryFolder(t), 'full.mcrec');
  for (const failAt of [0, 1]) {
    writeFileSync(path, incumbent);
    assert.throws(() => indexRecording(path, { fs: failingFs(failAt, 'ENOSPC') }), { code: 'ENOSPC' });
    assert.deepEqual(readFileSync(path), incumbent);
  }
  for (let failAt = 2; failAt < 5; failAt++) {
    writeFileSync(path, incumbent);
    assert.throws(() => indexRecording(path, { fs: failingFs(failAt, 'EIO') }), { code: 'EIO' });
    assert.deepEqual(verifyRecording(path).problems, []);
  }
});

test('[M7] fault 31: short writes make the same index', (t) => {
  const path = join(temporaryFolder(t), 'short.mcrec');
  indexed(path, incumbent);
  const expected = readFileSync(path);
  writeFileSync(path, incumbent);
  const fs: RecordingFs = {
    ...realFs,
    writeSync: (fd, buffer, offset, length, position) =>
      realFs.writeSync(fd, buffer, offset, Math.min(length, 3), position),
    readSync: (fd, buffer, offset, length, position) =>
      realFs.readSync(fd, buffer, offset, Math.min(length, 100), position),
  };
  indexRecording(path, { fs });
  assert.deepEqual(readFileSync(path), expected);
});

test('[M7] an indexed file is left alone, also with an index that is not ours; so is one that changes', (t) => {
  const path = join(temporaryFolder(t), 'twice.mcrec');
  indexed(path, incumbent);
  const once = readFileSync(path);
  assert.deepEqual(indexRecording(path), { state: 'already-indexed' });
  assert.deepEqual(readFileSync(path), once);
  const json = Buffer.from('{"anything":true}');
  const foreign = Buffer.concat([
    incumbent.subarray(0, -32),
    encodeBlockHeader({ type: 4, flags: 0, size: json.length, time: 0 }),
    json,
    encodeEnd(incumbent.length - 32, true),
  ]);
  writeFileSync(path, foreign);
  assert.deepEqual(indexRecording(path), { state: 'already-indexed' });
  assert.deepEqual(readFileSync(path), foreign);

  writeFileSync(path, incumbent);
  let opened = 0;
  const fs: RecordingFs = {
    ...realFs,
    openSync: (name, flags) => {
      if (++opened === 2) writeFileSync(path, Buffer.concat([incumbent.subarray(0, -32), Buffer.alloc(9)]));
      return realFs.openSync(name, flags);
    },
  };
  assert.throws(() => indexRecording(path, { fs }), { code: 'CPL_RECORDING_INDEX' });
  assert.equal(readFileSync(path).length, incumbent.length - 23);
});

test('[M7] [M10] fault 36: a file cut at any byte is not indexed, and told with the offset', (t) => {
  const path = join(temporaryFolder(t), 'cut.mcrec');
  writeFileSync(path, incumbent);
  for (let length = incumbent.length - 1; length >= 0; length -= length > 1000 ? 1 : 13) {
    truncateSync(path, length);
    const result = indexRecording(path);
    assert.equal(result.state, 'not-whole', `cut at ${length}`);
    assert.ok('offset' in result && result.offset <= length && result.text.length > 10);
    assert.equal(readFileSync(path).length, length);
  }
  writeFileSync(path, Buffer.concat([headerBlock(), encodeEnd(startMs)]));
  assert.equal(indexRecording(path).state, 'unsuitable');
  writeFileSync(path, recording([{ flags: 1, ms: 0, data: 'a' }], { magic: 'x' }, 1));
  assert.equal(indexRecording(path).state, 'unsuitable');
});

test('[M10] a 10 GB recording is indexed in constant memory', (t) => {
  const path = join(temporaryFolder(t), 'large.mcrec');
  const fd = openSync(path, 'w');
  const first = headerBlock(desktop);
  writeSync(fd, first, 0, first.length, 0);
  let at = first.length;
  const size = 3_500_000_000;
  for (let n = 0; n < 3; n++) {
    writeSync(fd, encodeBlockHeader({ type: 2, flags: 1, size, time: startMs + n * 10_000 }), 0, HEADER_BYTES, at);
    at += HEADER_BYTES + size;
  }
  ftruncateSync(fd, at);
  writeSync(fd, encodeEnd(startMs + 30_000), 0, 32, at);
  closeSync(fd);
  const before = process.memoryUsage().arrayBuffers;
  const result = indexRecording(path);
  assert.deepEqual([result.state, 'entries' in result && result.entries], ['indexed', 2]);
  assert.ok(process.memoryUsage().arrayBuffers - before < 100e6);
  const reader = RecordingReader.open(path, { maxDataBytes: 1000 });
  t.after(() => reader.close());
  assert.equal([...reader.blocks()].length, 5);
  assert.deepEqual([reader.end.state, 'indexed' in reader.end && reader.end.indexed], ['complete', true]);
});

test('[M10] an index is not trusted: verify names one that is not of this recording, or would take much memory', (t) => {
  const path = join(temporaryFolder(t), 'index.mcrec');
  const blocks = [0, 1].map((ms) => ({ flags: 1, ms, data: 'aaaa' }));
  const good = { indexInterval: 10, indexStartTime: startMs };
  const cases: [unknown, RegExp | undefined][] = [
    [{ ...good, indexes: [[20, 640, 480, 0]] }, undefined],
    [{ ...good, indexes: [[20, 640, 480, 0, 3]] }, /names 3, where no data block begins/],
    [{ ...good, indexes: [[21, 0, 0]] }, /names 21/],
    [{ ...good, indexes: [[20, 0, 0]], keyframes: [[1, 0, 0, 0]] }, /names 1,/],
    [{ ...good, indexes: [[40, 0, 0]] }, /bad entry, number 1/],
    [
      {
        ...good,
        indexes: [
          [0, 0, 0],
          [-1, 0, 0],
        ],
      },
      /bad entry, number 2/,
    ],
    [{ ...good, indexes: [[0, 0]] }, /bad entry/],
    [{ ...good, indexes: ['x'] }, /bad entry/],
    [{ ...good, indexes: [], keyframes: [[0, 0, 0]] }, /bad keyframe/],
    [{ ...good, indexes: 5 }, /no entries/],
    [{ ...good, indexInterval: 0, indexes: [] }, /no interval/],
    [{ indexInterval: 10, indexes: [] }, /no start time/],
    [[], /no interval/],
    [null, /no object/],
    [Array(300_000).fill([]), /more parts/],
  ];
  for (const [index, text] of cases) {
    const data = Buffer.from(JSON.stringify(index));
    const bytes = recording([...blocks, { type: 4, flags: 0, ms: 2, data }], desktop);
    writeFileSync(path, Buffer.concat([bytes, encodeEnd(blockOffsets(bytes)[3]!, true)]));
    const [first] = verifyRecording(path).problems;
    if (text === undefined) assert.equal(first, undefined);
    else assert.match(first?.text ?? '', text);
  }
});
