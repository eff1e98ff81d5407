import { join } from 'node:path';
import {
  errorCode,
  isMissing,
  listFolder,
  openRegularFile,
  type RecordingFs,
  readFully,
  realFs,
} from './file-system.ts';
import { type FileGuard, whileUnused } from './locks.ts';
import { isRecordingName } from './naming.ts';
import { RecordingReader } from './reader.ts';
import { type RepairResult, repairRecording } from './repair.ts';

export interface SalvageOptions {
  /** Tells of files that somebody is recording into or works on, in this process or another: they are left alone. */
  readonly guard: FileGuard;
  readonly fs?: RecordingFs;
}

/** What was done to one file that needed it. */
export type SalvageResult = { readonly path: string } & (
  | Exclude<RepairResult, { state: 'whole' | 'in-use' }>
  /** It could not be looked at or written; the next salvage tries again. */
  | { readonly state: 'failed'; readonly text: string }
);

/**
 * Salvages a folder's recordings at start [R37]: files without an end block are repaired, messenger recordings lose
 * a torn last line, files in which nothing was recorded yet are removed. Only a file's last 32 bytes are read where it
 * is finished. Yields one result for each file that was not in order, so that the caller can tell of it in an event
 * and let other work in between; a file that cannot be salvaged holds up none of the others.
 * @returns how many files were too fresh to tell whether somebody records into them: a later salvage can
 */
export function* salvageFolder(folder: string, options: SalvageOptions): Generator<SalvageResult, number> {
  const { guard, fs: io = realFs } = options;
  let fresh = 0;
  for (const name of listFolder(io, folder).sort()) {
    if (!isRecordingName(name)) continue;
    const salvage = name.endsWith('.mcrec') ? salvageBlocks : salvageLines;
    const path = join(folder, name);
    let result: RepairResult | { state: 'failed'; text: string };
    try {
      result = salvage(path, guard, io);
    } catch (error) {
      if (isMissing(error)) continue; // Deleted since the listing.
      result = { state: 'failed', text: error instanceof Error ? error.message : errorCode(error) };
    }
    if (result.state === 'in-use') fresh += result.why === 'fresh' ? 1 : 0;
    else if (result.state !== 'whole') yield { path, ...result };
  }
  return fresh;
}

function salvageBlocks(path: string, guard: FileGuard, io: RecordingFs): RepairResult {
  const reader = RecordingReader.open(path, { maxDataBytes: 0, noFollow: true, fs: io });
  try {
    if (reader.finish() !== undefined) return { state: 'whole', bytes: reader.size };
  } finally {
    reader.close();
  }
  return repairRecording(path, { removeEmpty: true, noFollow: true, guard, fs: io });
}

const chunkBytes = 64 * 1024;
const newline = 0x0a;

/** Cuts a messenger recording behind its last whole line. */
function salvageLines(path: string, guard: FileGuard, io: RecordingFs): RepairResult {
  const fd = openRegularFile(path, { noFollow: true }, io);
  try {
    const { size } = io.fstatSync(fd);
    if (lastLineEnd(io, fd, size) === size) return { state: 'whole', bytes: size };
  } finally {
    io.closeSync(fd);
  }
  return whileUnused(path, guard, (locked) => cutLines(locked, io), { noFollow: true, fs: io });
}

function cutLines(fd: number, io: RecordingFs): RepairResult {
  const { size } = io.fstatSync(fd);
  const end = lastLineEnd(io, fd, size);
  if (end === size) return { state: 'whole', bytes: size };
  io.ftruncateSync(fd, end);
  io.fsyncSync(fd);
  return { state: 'repaired', bytes: end, offset: end, cutBytes: size - end, text: 'the last line was torn' };
}

/** Offset behind the last line feed; 0 where there is none. */
function lastLineEnd(io: RecordingFs, fd: number, size: number): number {
  const chunk = Buffer.allocUnsafe(chunkBytes);
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - chunkBytes);
    const length = readFully(io, fd, chunk.subarray(0, end - start), start);
    const at = chunk.subarray(0, length).lastIndexOf(newline);
    if (at >= 0) return start + at + 1;
    end = start;
  }
  return 0;
}
