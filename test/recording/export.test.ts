import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type AsciicastOptions, exportAsciicast } from '../../src/recording/asciicast.ts';
import { dumpBlocks } from '../../src/recording/dump.ts';
import { RecordingReader } from '../../src/recording/reader.ts';
import { SidecarReader } from '../../src/recording/sidecar.ts';
import { blockOffsets, incumbentFile, recording, sidecarOf, startMs, temporaryFolder } from './support.ts';

function lines(path: string, options: AsciicastOptions = {}): unknown[] {
  const reader = RecordingReader.open(path);
  const sidecar = SidecarReader.open(path);
  try {
    return [...exportAsciicast(reader, options, sidecar)];
  } finally {
    reader.close();
    sidecar?.close();
  }
}

test("an asciicast of the incumbent's recording: size, output and resize with their times", () => {
  const cast = lines(incumbentFile);
  assert.deepEqual(cast[0], { version: 2, width: 80, height: 25, timestamp: 1795356189, title: 'admin on pc1' });
  assert.deepEqual(cast[1], [0.101, 'o', '\x1b[2J\x1b[Hroot@pc1:~# ']);
  assert.deepEqual(
    cast.find((line) => (line as unknown[])[1] === 'r'),
    [1.151, 'r', '120x40'],
  );
  const output = cast.filter((line) => (line as unknown[])[1] === 'o').map((line) => (line as string[])[2]);
  assert.match(output.join(''), /^.*# uname -a\r\nLinux pc1 .*\r\n.*# exit\r\nlogout\r\n$/);
  const typed = lines(incumbentFile, { input: true }).filter((line) => (line as unknown[])[1] === 'i');
  assert.equal(typed.map((line) => (line as string[])[2]).join(''), 'uname -a\rexit\r');
});

test('an asciicast: characters split between blocks, control messages left out, time never stepping back', (t) => {
  const path = join(temporaryFolder(t), 'a.mcrec');
  const blocks = [
    { flags: 3, ms: 0, data: 'secret' },
    { flags: 1, ms: 10, data: Buffer.from('a\xe2\x82', 'latin1') },
    { flags: 0, ms: 20, data: '{"ctrlChannel":"102938","type":"ping"}' },
    { flags: 1, ms: 15, data: Buffer.from('\xacb', 'latin1') },
    { flags: 1, ms: 12, data: 'c' },
    { flags: 0, ms: 30, data: '{plain text}' },
  ];
  writeFileSync(path, recording(blocks, { protocol: 9, username: 'ann' }, 40));
  assert.deepEqual(lines(path), [
    { version: 2, width: 80, height: 25, timestamp: Math.floor(startMs / 1000), title: 'ann' },
    [0.01, 'o', 'a'],
    [0.015, 'o', '€b'],
    [0.015, 'o', 'c'],
    [0.03, 'o', '{plain text}'],
  ]);
});

test('[M8] where there is a sidecar, asciicast and dump have its microseconds', (t) => {
  const path = join(temporaryFolder(t), 'us.mcrec');
  const bytes = recording(
    [
      { flags: 1, ms: 0, data: 'a' },
      { flags: 1, ms: 5, data: 'b' },
    ],
    {},
    9,
  );
  writeFileSync(path, bytes);
  const sidecar = sidecarOf(bytes);
  // The second data block, 400 µs later within its millisecond than the first within its own.
  const other = sidecarOf(bytes, 523);
  other.copy(sidecar, 24 * 3, 24 * 3);
  writeFileSync(`${path}.cpt`, sidecar);
  assert.deepEqual(lines(path).slice(1), [
    [0, 'o', 'a'],
    [0.0054, 'o', 'b'],
  ]);
  const reader = RecordingReader.open(path);
  const open = SidecarReader.open(path);
  const dumped = [...dumpBlocks(reader, open)];
  reader.close();
  open?.close();
  assert.deepEqual(
    dumped.map((line) => line.timeUs),
    [startMs * 1000 + 123, startMs * 1000 + 123, (startMs + 5) * 1000 + 523, undefined],
  );
});

test('a dump shows each block with its offset, text or base64, and how the file ends', (t) => {
  const path = join(temporaryFolder(t), 'dump.mcrec');
  const bytes = recording([
    { flags: 2, ms: 1, data: 'hé' },
    { flags: 1, ms: 2, data: Buffer.alloc(9, 255) },
  ]);
  writeFileSync(path, Buffer.concat([bytes, Buffer.alloc(5)]));
  const reader = RecordingReader.open(path, { maxDataBytes: 3 });
  const [, first, second, end, none] = [...dumpBlocks(reader)];
  reader.close();
  const offsets = blockOffsets(bytes);
  const time = startMs + 1;
  assert.deepEqual(first, { offset: offsets[1], type: 'data', from: 'user', flags: 2, size: 3, time, text: 'hé' });
  assert.deepEqual(second, {
    offset: offsets[2],
    type: 'data',
    from: 'device',
    flags: 1,
    size: 9,
    time: time + 1,
    shown: 3,
    base64: '////',
  });
  assert.deepEqual(end, { end: 'torn', offset: bytes.length, text: "the file ends 5 bytes into a block's header" });
  assert.equal(none, undefined);
});

test('what is no terminal session is not exported as one', (t) => {
  const path = join(temporaryFolder(t), 'desktop.mcrec');
  for (const bytes of [recording([], { protocol: 2 }, 1), Buffer.from('x')]) {
    writeFileSync(path, bytes);
    assert.throws(() => lines(path), { code: 'CPL_RECORDING_PROTOCOL' });
  }
});
