import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { crc32c } from '../../src/recording/crc32c.ts';
import { type RecordingFs, realFs } from '../../src/recording/file-system.ts';
import { decodeBlockHeader, encodeBlock, encodeEnd, HEADER_BYTES } from '../../src/recording/format.ts';

export const incumbentFile = fileURLToPath(new URL('../data/incumbent-terminal.mcrec', import.meta.url));
export const incumbent: Buffer = readFileSync(incumbentFile);
export const startMs = Date.UTC(2026, 10, 22, 9, 8, 7);

export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-recording-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface TestBlock {
  readonly flags: number;
  /** Milliseconds from the start. */
  readonly ms: number;
  readonly data: Uint8Array | string;
  readonly type?: number;
}

export function headerBlock(fields: Record<string, unknown> = {}): Buffer {
  const json = { magic: 'MeshCentralRelaySession', ver: 1, sessionid: 'x', protocol: 1, ...fields };
  return encodeBlock(1, 0, startMs, Buffer.from(JSON.stringify(json)));
}

/** A recording; without `endMs` an unfinished one. */
export function recording(blocks: readonly TestBlock[], fields: Record<string, unknown> = {}, endMs?: number): Buffer {
  const bytes = blocks.map(({ type = 2, flags, ms, data }) =>
    encodeBlock(type, flags, startMs + ms, Buffer.from(data)),
  );
  return Buffer.concat([headerBlock(fields), ...bytes, ...(endMs === undefined ? [] : [encodeEnd(startMs + endMs)])]);
}

/** Offsets of the blocks in good bytes, the end block's last. */
export function blockOffsets(bytes: Buffer): number[] {
  const offsets: number[] = [];
  for (let at = 0; at < bytes.length; at += HEADER_BYTES + decodeBlockHeader(bytes, at).size) offsets.push(at);
  return offsets;
}

/** The sidecar as `native/mcrec.h` lays it out. `micros`: within the millisecond, for each block. */
export function sidecarOf(bytes: Buffer, micros = 123): Buffer {
  const header = Buffer.alloc(24);
  header.write('MCRECCPT', 'latin1');
  header.writeUInt16BE(1, 8);
  header.writeUInt16BE(24, 10);
  header.writeBigUInt64BE(BigInt(startMs) * 1_000_000n, 16);
  header.writeUInt32BE(crc32c(header.subarray(16), crc32c(header.subarray(0, 12))), 12);
  const records = blockOffsets(bytes)
    .map((at) => ({ at, ...decodeBlockHeader(bytes, at) }))
    .filter(({ type }) => type === 1 || type === 2)
    .map(({ at, time, size }, number) => {
      const record = Buffer.alloc(24);
      record.writeBigUInt64BE(BigInt(time) * 1000n + BigInt(micros), 0);
      record.writeUInt32BE(number, 8);
      record.writeUInt32BE(size, 12);
      record.writeUInt32BE(crc32c(bytes.subarray(at + HEADER_BYTES, at + HEADER_BYTES + size)), 16);
      record.writeUInt32BE(crc32c(record.subarray(0, 20)), 20);
      return record;
    });
  return Buffer.concat([header, ...records]);
}

/** Thrown where the process would have been killed. */
export class Killed extends Error {}

const changing = new Set<keyof RecordingFs>(['writeSync', 'ftruncateSync', 'unlinkSync', 'fsyncSync']);
const pageBytes = 4096;

/**
 * A file system that "kills" at one of its steps. A write that crosses a page has a step of its own at each crossing,
 * as a kill may come there and nowhere else within a write. From the kill on nothing is done any more.
 */
export function killingFs(killAt: number): { fs: RecordingFs; steps: () => number } {
  let step = 0;
  let dead = false;
  const tick = () => {
    if (dead || step++ === killAt) {
      dead = true;
      throw new Killed();
    }
  };
  const fs: RecordingFs = {
    ...Object.fromEntries(
      [...changing].map((name) => [
        name,
        (...args: unknown[]) => {
          tick();
          return (realFs[name] as (...args: unknown[]) => unknown)(...args);
        },
      ]),
    ),
    writeSync: (fd: number, buffer: Uint8Array, offset: number, length: number, position: number) => {
      tick();
      return realFs.writeSync(fd, buffer, offset, Math.min(length, pageBytes - (position % pageBytes)), position);
    },
    openSync: realFs.openSync,
    closeSync: realFs.closeSync,
    fstatSync: realFs.fstatSync,
    lstatSync: realFs.lstatSync,
    readSync: realFs.readSync,
    readdirSync: realFs.readdirSync,
  } as RecordingFs;
  return { fs, steps: () => step };
}

/** A file system that fails with an errno from the n-th write on. */
export function failingFs(failAt: number, code: string): RecordingFs {
  let writes = 0;
  return {
    ...realFs,
    writeSync: (fd, buffer, offset, length, position) => {
      if (writes++ >= failAt) throw Object.assign(new Error(code), { code });
      return realFs.writeSync(fd, buffer, offset, length, position);
    },
  };
}
