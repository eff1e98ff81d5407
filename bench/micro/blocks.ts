import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  blockFlag,
  blockType,
  decodeBlockHeader,
  encodeBlock,
  encodeEnd,
  SESSION_MAGIC,
} from '../../src/recording/format.ts';
import { RecordingReader } from '../../src/recording/reader.ts';
import { runSuite } from './suite.ts';

// Reading a recording block by block, as verifying, salvaging, indexing and playing do, from the page cache.

const folder = mkdtempSync(join(process.env.COUPLET_BENCH_FOLDER ?? tmpdir(), 'couplet-bench-'));
const startMs = 1_700_000_000_000;
const header = { magic: SESSION_MAGIC, ver: 1, userid: 'user//bench', sessionid: 'session', protocol: 1 };

/** A finished recording of these messages, the user's and the device's in turn. */
function recording(name: string, messages: readonly Uint8Array[]): string {
  const blocks = messages.map((data, index) =>
    encodeBlock(blockType.data, index % 2 === 0 ? blockFlag.user : blockFlag.binary, startMs + index, data),
  );
  const first = encodeBlock(blockType.header, 0, startMs, Buffer.from(JSON.stringify(header)));
  const path = join(folder, name);
  writeFileSync(path, Buffer.concat([first, ...blocks, encodeEnd(startMs + messages.length)]));
  return path;
}

/** Walks to the end; the number of bytes in data blocks. */
function walk(path: string): number {
  const reader = RecordingReader.open(path);
  try {
    let bytes = 0;
    for (const block of reader.blocks()) if (block.type === blockType.data) bytes += block.data.length;
    if (reader.end.state !== 'complete') throw new Error(`${path}: ${reader.end.state}`);
    return bytes;
  } finally {
    reader.close();
  }
}

function messages(count: number, make: (index: number) => Uint8Array): Uint8Array[] {
  return Array.from({ length: count }, (_, index) => make(index));
}

/** A key, then what a shell makes of it: colours, a prompt, text. */
function terminalMessage(index: number): Uint8Array {
  if (index % 2 === 0) return Buffer.from('l');
  return Buffer.from(
    `\x1b[01;32muser@device\x1b[00m:\x1b[01;34m~/folder-${index}\x1b[00m$ ${'l'.repeat(index % 40)}\r\n`,
  );
}

const small = recording(
  'small.mcrec',
  messages(1000, () => new Uint8Array(64).fill(120)),
);
const large = recording(
  'large.mcrec',
  messages(64, () => new Uint8Array(65_536).fill(120)),
);
const terminal = recording('terminal.mcrec', messages(1000, terminalMessage));
const incumbent = fileURLToPath(new URL('../../test/data/incumbent-terminal.mcrec', import.meta.url));
const blockHeader = encodeBlock(blockType.data, blockFlag.user, startMs, Buffer.alloc(0));

try {
  assert.equal(walk(small), 64_000);
  assert.equal(walk(large), 64 * 65_536);
  assert.ok(walk(terminal) > 0 && walk(incumbent) > 0);
  assert.equal(decodeBlockHeader(blockHeader).time, startMs);

  await runSuite('block parse', {
    'decode a block header': () => decodeBlockHeader(blockHeader),
    'walk 1,000 blocks of 64 B': () => walk(small),
    'walk 64 blocks of 64 KiB': () => walk(large),
    'walk 1,000 blocks of a terminal session': () => walk(terminal),
    "walk the incumbent's terminal recording": () => walk(incumbent),
  });
} finally {
  rmSync(folder, { recursive: true });
}
