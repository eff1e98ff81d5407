import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { crc32c } from '../../src/recording/crc32c.ts';
import { encodeEnd } from '../../src/recording/format.ts';
import { indexRecording } from '../../src/recording/indexer.ts';
import { SidecarReader } from '../../src/recording/sidecar.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { blockOffsets, incumbent, incumbentFile, recording, sidecarOf, startMs, temporaryFolder } from './support.ts';

test('[M8] CRC-32C of known texts, in one piece and in two', () => {
  const known: [string, number][] = [
    ['', 0],
    ['123456789', 0xe3069283],
    ['a', 0xc1d04330],
    ['The quick brown fox jumps over the lazy dog', 0x22620404],
  ];
  for (const [text, crc] of known) {
    const bytes = Buffer.from(text);
    for (let at = 0; at <= bytes.length; at++) {
      assert.equal(crc32c(bytes.subarray(at), crc32c(bytes.subarray(0, at))), crc, `${text} ${at}`);
    }
  }
  assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa);
});

test("[M3] the incumbent's recording verifies, plain and indexed", (t) => {
  assert.deepEqual(verifyRecording(incumbentFile).problems, []);
  const path = join(temporaryFolder(t), 'indexed.mcrec');
  writeFileSync(path, incumbent);
  indexRecording(path);
  const report = verifyRecording(path);
  assert.deepEqual([report.problems, report.notes, report.blocks], [[], [], 37]);
});

test('[M8] with a sidecar any changed byte of a covered block is found, at the block or where reading stops', (t) => {
  const path = join(temporaryFolder(t), 'flip.mcrec');
  writeFileSync(`${path}.cpt`, sidecarOf(incumbent));
  writeFileSync(path, incumbent);
  assert.deepEqual([verifyRecording(path).problems, verifyRecording(path).checkedBlocks], [[], 36]);
  const offsets = blockOffsets(incumbent);
  for (let at = 0; at < offsets.at(-1)!; at += at < 400 ? 1 : 3) {
    const inHeader = at - offsets.findLast((offset) => offset <= at)!;
    // FLAGS are not covered by the CRC.
    if (inHeader === 2 || inHeader === 3) continue;
    const bytes = Buffer.from(incumbent);
    bytes[at]! ^= 0x10;
    writeFileSync(path, bytes);
    const { problems } = verifyRecording(path);
    const block = offsets.findLast((offset) => offset <= at)!;
    assert.ok(problems.length > 0, `byte ${at}`);
    assert.ok(
      problems.some(({ offset }) => offset >= block),
      `byte ${at}: ${JSON.stringify(problems)}`,
    );
  }
});

test('[M8] the data of a long block is compared too', (t) => {
  const path = join(temporaryFolder(t), 'long.mcrec');
  const bytes = recording([{ flags: 1, ms: 1, data: Buffer.alloc(1_000_003, 'ab') }], {}, 2);
  writeFileSync(`${path}.cpt`, sidecarOf(bytes));
  writeFileSync(path, bytes);
  assert.deepEqual(verifyRecording(path).problems, []);
  bytes[900_000]! ^= 1;
  writeFileSync(path, bytes);
  const { problems } = verifyRecording(path);
  assert.deepEqual(problems, [
    { where: 'recording', offset: blockOffsets(bytes)[1], text: 'the data does not match its CRC-32C in the sidecar' },
  ]);
});

test('[M8] a sidecar cut at any byte harms nothing; one with another header is told of', (t) => {
  const path = join(temporaryFolder(t), 'cut.mcrec');
  writeFileSync(path, incumbent);
  const sidecar = sidecarOf(incumbent);
  // Every remainder of a record's 24 bytes comes up.
  for (let length = 24; length < sidecar.length; length += 7) {
    writeFileSync(`${path}.cpt`, sidecar.subarray(0, length));
    const { problems, checkedBlocks } = verifyRecording(path);
    assert.deepEqual([problems, checkedBlocks], [[], Math.floor(length / 24) - 1]);
  }
  for (const at of [0, 9, 11, 14, 20]) {
    const wrong = Buffer.from(sidecar);
    wrong[at]! ^= 1;
    writeFileSync(`${path}.cpt`, wrong);
    const { problems } = verifyRecording(path);
    assert.deepEqual([problems.length, problems[0]?.where, problems[0]?.offset], [1, 'sidecar', 0]);
  }
  rmSync(`${path}.cpt`);
  assert.equal(SidecarReader.open(path), undefined);
  mkdirSync(`${path}.cpt`);
  assert.throws(() => SidecarReader.open(path), { code: 'CPL_RECORDING_FILE' });
});

test('[M5] [M6] [M7] what breaks a rule of the format is named with its offset', (t) => {
  const path = join(temporaryFolder(t), 'wrong.mcrec');
  const a = { flags: 1, ms: 1, data: 'a' };
  const good = recording([a], {}, 2);
  const second = blockOffsets(good)[1]!;
  const index = Buffer.from('{"indexInterval":10,"indexStartTime":1,"indexes":[[9999,1,1]]}');
  const withIndex = recording([a, { type: 4, flags: 0, ms: 1, data: index }]);
  const indexAt = second + 17;
  const cases: [Buffer, number, RegExp][] = [
    [recording([{ ...a, data: '' }], {}, 2), second, /\[M5\]/],
    [recording([{ ...a, type: 9 }, a], {}, 2), second, /type 9 stands before the first data block \[M6\]/],
    [recording([a], { magic: 'Other' }, 2), 0, /magic/],
    [recording([a], { ver: 2 }, 2), 0, /version is 2/],
    [recording([a]), second + 17, /without an end block/],
    [Buffer.concat([recording([a]), encodeEnd(3, true)]), second + 17, /names offset 3/],
    [Buffer.concat([withIndex, encodeEnd(indexAt, true)]), indexAt, /bad entry/],
    [Buffer.concat([good, recording([a], {}, 3)]), good.length, /after the end block/],
  ];
  for (const [bytes, offset, text] of cases) {
    writeFileSync(path, bytes);
    const first = verifyRecording(path).problems[0];
    assert.equal(first?.offset, offset, String(text));
    assert.match(first.text, text);
  }
  writeFileSync(path, recording([a, { ...a, ms: 0 }], {}, 2));
  assert.deepEqual(verifyRecording(path).notes, [
    { where: 'recording', offset: second + 17, text: 'time steps back by 1 ms' },
  ]);
  assert.equal(verifyRecording(path).header?.sessionid, 'x');
  assert.ok(startMs > 0);
});
