import { spawnSync } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  rmdirSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs';
import { freemem, tmpdir } from 'node:os';
import { join } from 'node:path';

/** Most payload of a recorded run, after which it ends early: its recordings are in memory until then. */
export const maxRecordedBytes = 4e9;
/** What they may take there: at 64 B, block headers and sidecars add two thirds. */
const maxFileBytes = 1.75 * maxRecordedBytes;

const blockHeaderBytes = 16;
const endBlockBytes = 32;
const touchBytes = 4 * 1024 * 1024;

let memory: string | undefined;

/**
 * A folder on a tmpfs: what is measured is the relay's work on a recording, not a disk's. Where this process may mount
 * one it is of huge pages, as allocating page by page costs the kernel more than all the relay's work (README.md).
 */
export function recordingMemory(): string {
  if (memory !== undefined) return memory;
  const folder = mkdtempSync(join(tmpdir(), 'couplet-bench-'));
  const options = `size=${maxFileBytes},mode=0700,huge=within_size`;
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'couplet-bench', folder]).status !== 0) {
    rmdirSync(folder);
    memory = '/dev/shm';
    return memory;
  }
  process.once('exit', () => {
    spawnSync('umount', ['--lazy', folder]);
    rmdirSync(folder);
  });
  memory = folder;
  return memory;
}

/** Why the recordings of a run cannot be kept here; `undefined` where they can. */
export function recordingsUnavailable(): string | undefined {
  if (statSync('/dev/shm', { throwIfNoEntry: false }) === undefined) return 'there is no /dev/shm';
  if (freemem() < maxFileBytes) {
    return `recordings of a run take up to ${maxFileBytes} bytes of memory, ${freemem()} are free`;
  }
  const folder = recordingMemory();
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize >= maxFileBytes) return undefined;
  return `recordings of a run take up to ${maxFileBytes} bytes, ${folder} has room for ${bavail * bsize}`;
}

/** Where a run's recordings go, until it has ended. */
export class RecordingFolder {
  readonly path = mkdtempSync(join(recordingMemory(), 'run-'));
  readonly remove = (): void => {
    process.off('exit', this.remove);
    rmSync(this.path, { recursive: true, force: true });
  };

  constructor() {
    process.once('exit', this.remove);
  }

  /**
   * Right before the load: has the memory at hand that the recordings will take. In a virtual machine that of a few
   * seconds ago may be back at its host, and to touch it again costs up to fifty times as much as to write to it.
   */
  warmMemory(): void {
    const path = join(this.path, 'warm');
    const fd = openSync(path, 'wx');
    const zeros = Buffer.alloc(touchBytes);
    for (let bytes = 0; bytes < maxRecordedBytes; bytes += touchBytes) writeSync(fd, zeros);
    closeSync(fd);
    rmSync(path);
  }

  /**
   * After the relay's end. Throws where the recordings are not exactly as long as blocks of all messages are: a relay
   * that gave up recording would look fast.
   */
  check(messages: number, messageBytes: number): void {
    const found = readdirSync(this.path, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.mcrec'))
      .reduce((bytes, name) => bytes + dataBytes(join(this.path, name)), 0);
    const expected = messages * (blockHeaderBytes + messageBytes);
    if (found !== expected) throw new Error(`recorded were ${found} bytes of ${messages} messages, not ${expected}`);
  }
}

/** Bytes of a recording between its header block and its end block. */
function dataBytes(path: string): number {
  const header = Buffer.alloc(blockHeaderBytes);
  const fd = openSync(path, 'r');
  readSync(fd, header, 0, blockHeaderBytes, 0);
  closeSync(fd);
  return statSync(path).size - (blockHeaderBytes + header.readUInt32BE(4)) - endBlockBytes;
}
