import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { CoupletError } from '../../src/core/errors.ts';
import { exportAsciicast } from '../../src/recording/asciicast.ts';
import { dumpBlocks } from '../../src/recording/dump.ts';
import { encodeBlock, encodeBlockHeader, encodeEnd } from '../../src/recording/format.ts';
import { indexRecording } from '../../src/recording/indexer.ts';
import { describe, summarize } from '../../src/recording/info.ts';
import { RecordingReader } from '../../src/recording/reader.ts';
import { repairRecording } from '../../src/recording/repair.ts';
import { SidecarReader } from '../../src/recording/sidecar.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { Random } from '../support/random.ts';
import { copy, jumbo, screenSize, tile } from './desktop-player.ts';
import { blockOffsets, incumbent, recording, sidecarOf, startMs, temporaryFolder } from './support.ts';

const files = Number(process.env.COUPLET_TEST_ROUNDS ?? 40) * 20;
/** Far more than any of these small files takes, far less than a hang. */
const maxMsPerFile = 20_000;
const maxGrowthBytes = 400e6;
const strangeNumbers = [0, 1, 15, 16, 17, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_ffff];

function desktopRecording(random: Random): Buffer {
  const xy = () => random.below(200);
  const blocks = Array.from({ length: 30 }, (_, n) => {
    const commands = [
      tile(xy(), xy(), xy(), xy()),
      copy(xy(), xy(), xy(), xy(), xy(), xy()),
      jumbo(tile(0, 0, xy(), 9)),
    ];
    if (n === 0 || random.chance(0.1)) commands.unshift(screenSize(xy(), xy()));
    return { flags: random.chance(0.9) ? 1 : 2, ms: n * random.below(9000), data: Buffer.concat(commands) };
  });
  return recording(blocks, { protocol: 2 }, 300_000);
}

function indexedForm(path: string, bytes: Buffer): Buffer {
  writeFileSync(path, bytes);
  assert.equal(indexRecording(path).state, 'indexed');
  return readFileSync(path);
}

/** One change: what a disk, an editor or an attacker does to a file. */
function mutate(random: Random, bytes: Buffer): Buffer {
  const at = random.below(bytes.length + 1);
  const head = bytes.subarray(0, at);
  const tail = bytes.subarray(at);
  const number = () => (random.chance(0.5) ? random.pick(strangeNumbers) : random.below(bytes.length + 100));
  switch (random.below(9)) {
    case 0:
      return Buffer.from(head);
    case 1:
      return Buffer.concat([head, random.bytes(random.below(100)), tail]);
    case 2:
      return Buffer.concat([head, tail.subarray(random.below(100))]);
    case 3: {
      const header = { type: random.below(6), flags: random.below(4), size: number(), time: number() };
      return Buffer.concat([head, encodeBlockHeader(header), tail]);
    }
    case 4:
      return Buffer.concat([
        bytes,
        random.pick([encodeEnd(startMs), encodeEnd(number(), true), Buffer.alloc(number() % 5000)]),
      ]);
    case 5:
      return Buffer.concat([
        head,
        encodeBlock(2, random.below(4), startMs + number(), random.bytes(1 + random.below(60))),
        tail,
      ]);
    case 6: {
      // A field of a block's header, where it hurts most.
      const copyOf = Buffer.from(bytes);
      const block = random.below(bytes.length - 16);
      copyOf.writeUInt32BE(number() >>> 0, block + 4 * random.below(4));
      return copyOf;
    }
    default: {
      const copyOf = Buffer.from(bytes);
      for (let n = 1 + random.below(4); n > 0; n--) copyOf[random.below(bytes.length)]! ^= 1 << random.below(8);
      return copyOf;
    }
  }
}

/** Whatever a tool throws at a strange file must be an error that is meant for it. */
function tolerant<T>(run: () => T): T | undefined {
  try {
    return run();
  } catch (error) {
    if (error instanceof CoupletError) return undefined;
    throw error;
  }
}

function readEverything(path: string, length: number): void {
  const reader = RecordingReader.open(path, { maxDataBytes: 4096 });
  try {
    let at = 0;
    for (const block of reader.blocks()) {
      assert.equal(block.offset, at);
      at += 16 + block.size;
    }
    assert.ok(at <= length && reader.end.offset <= length);
    const sidecar = tolerant(() => SidecarReader.open(path));
    for (const line of dumpBlocks(reader, sidecar)) assert.ok(JSON.stringify(line).length < 100_000);
    sidecar?.close();
    for (const input of [true, false]) tolerant(() => [...exportAsciicast(reader, { input })]);
  } finally {
    reader.close();
  }
  assert.ok(describe(path).endOffset <= length);
  assert.equal(summarize(path).bytes, length);
}

function changeEverything(path: string, random: Random): void {
  copyFileSync(path, `${path}.1`);
  const before = readFileSync(path);
  const whole = verifyRecording(path).state === 'complete';
  const result = tolerant(() => indexRecording(path));
  assert.notEqual(result, undefined);
  if (result?.state === 'indexed') {
    assert.ok(whole);
    const report = verifyRecording(path);
    assert.equal(report.state, 'complete');
    assert.deepEqual(indexRecording(path), { state: 'already-indexed' });
    assert.equal(repairRecording(path).state, 'whole');
  } else assert.deepEqual(readFileSync(path), before);
  const repaired = repairRecording(`${path}.1`, { cutDamaged: random.chance(0.5), removeEmpty: random.chance(0.5) });
  if (repaired.state === 'repaired') {
    assert.equal(repairRecording(`${path}.1`).state, 'whole');
    assert.equal(verifyRecording(`${path}.1`).state, 'complete');
  } else if (repaired.state === 'refused') assert.deepEqual(readFileSync(`${path}.1`), before);
}

test('[M10] fault 36: files changed at random: an answer from every tool, in bounded time and memory', (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'fuzz.mcrec');
  const random = new Random();
  t.diagnostic(`seed ${random.seed}, ${files} files`);
  const desktop = desktopRecording(random);
  const sources = [incumbent, indexedForm(path, incumbent), desktop, indexedForm(path, desktop)];
  sources.push(Buffer.concat([incumbent, Buffer.alloc(500), incumbent.subarray(-32)]));
  sources.push(incumbent.subarray(0, blockOffsets(incumbent)[20]));
  const before = process.memoryUsage();
  const states = new Map<string, number>();
  for (let n = 0; n < files; n++) {
    let bytes = random.chance(0.03) ? random.bytes(1 + random.below(300)) : random.pick(sources);
    for (let changes = random.below(4); changes > 0 && bytes.length > 40; changes--) bytes = mutate(random, bytes);
    writeFileSync(path, bytes);
    if (random.chance(0.5)) {
      const sidecar = sidecarOf(incumbent);
      writeFileSync(`${path}.cpt`, random.chance(0.5) ? sidecar : mutate(random, sidecar));
    } else rmSync(`${path}.cpt`, { force: true });
    const cpu = process.cpuUsage();
    try {
      readEverything(path, bytes.length);
      const { state } = verifyRecording(path);
      states.set(state, (states.get(state) ?? 0) + 1);
      changeEverything(path, random);
    } catch (error) {
      throw new Error(`seed ${random.seed}, file ${n}: ${bytes.toString('base64')}`, { cause: error });
    }
    const { user, system } = process.cpuUsage(cpu);
    assert.ok((user + system) / 1000 < maxMsPerFile, `seed ${random.seed}, file ${n}: ${(user + system) / 1000} ms`);
    const { arrayBuffers, heapUsed } = process.memoryUsage();
    const growth = arrayBuffers + heapUsed - before.arrayBuffers - before.heapUsed;
    assert.ok(growth < maxGrowthBytes, `seed ${random.seed}, file ${n}: ${growth} bytes`);
  }
  t.diagnostic(JSON.stringify(Object.fromEntries(states)));
  for (const state of ['complete', 'unfinished', 'torn', 'damaged']) assert.ok(states.has(state), `none is ${state}`);
});
