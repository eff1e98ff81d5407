import { CoupletError } from '../core/errors.ts';
import { isMissing, openRegularFile, type RecordingFs, realFs, writeFully } from './file-system.ts';
import { blockType, decodeEnd, END_BYTES, encodeBlockHeader, encodeEnd, HEADER_BYTES } from './format.ts';
import { type FileGuard, type InUse, isFresh, whileUnused } from './locks.ts';
import { maxSessionHeaderBytes, RecordingReader, type WalkEnd } from './reader.ts';
import { isCovered, SIDECAR_RECORD_BYTES, sidecarPath } from './sidecar.ts';

export type RepairResult =
  /** Finished and without fault; nothing was written. */
  | { readonly state: 'whole'; readonly bytes: number }
  | {
      readonly state: 'repaired';
      readonly bytes: number;
      /** Where the file was cut or finished. */
      readonly offset: number;
      /** Bytes taken off the end, of whatever did not make a whole block. */
      readonly cutBytes: number;
      readonly text: string;
    }
  /** No whole header block: nothing was recorded, the file is gone. */
  | { readonly state: 'removed'; readonly text: string }
  /** Left as it is: no recording, or cutting it would lose more than a crash can have torn. */
  | { readonly state: 'refused'; readonly offset: number; readonly text: string }
  /** Somebody records into it or works on it; left alone. */
  | InUse;

export interface RepairOptions {
  /** Leaves a file in use alone, and locks the file meanwhile. Absent: the caller sees to that. */
  readonly guard?: FileGuard;
  /** Cut a finished file at damage in its middle, which loses all that follows. */
  readonly cutDamaged?: boolean;
  /** Take away a file that has not even a whole header block, unless the guard says that it is fresh. */
  readonly removeEmpty?: boolean;
  readonly noFollow?: boolean;
  readonly fs?: RecordingFs;
}

/**
 * Makes an unfinished recording a good one [R37]: cuts the torn tail and adds an end block with the time of the last
 * whole block; takes away what an interrupted indexing left. Idempotent: the file it ends at is the same however often
 * it is killed on the way. Constant memory.
 * @throws CoupletError `CPL_RECORDING_FILE`, and what the disk throws
 */
export function repairRecording(path: string, options: RepairOptions = {}): RepairResult {
  const { guard } = options;
  return guard === undefined
    ? repairUnused(path, options)
    : whileUnused(path, guard, () => repairUnused(path, options), options);
}

function repairUnused(path: string, options: RepairOptions): RepairResult {
  const io = options.fs ?? realFs;
  const noFollow = options.noFollow ?? false;
  const reader = RecordingReader.open(path, { maxDataBytes: 0, noFollow, fs: io });
  let walked: Walked;
  try {
    walked = walk(reader);
  } finally {
    reader.close();
  }
  const { end, size, blocks } = walked;
  if (end.state === 'complete' && end.leftoverBytes === 0) return { state: 'whole', bytes: size };
  if (blocks === 0) {
    const text = end.state === 'complete' ? 'no header block' : end.text;
    if (!walked.isEmpty || options.removeEmpty !== true) return { state: 'refused', offset: end.offset, text };
    if (options.guard !== undefined && isFresh({ mtimeMs: reader.modifiedMs }, options.guard.clock)) {
      return { state: 'in-use', why: 'fresh' };
    }
    unlinkIfThere(io, sidecarPath(path));
    io.unlinkSync(path);
    return { state: 'removed', text: `nothing was recorded: ${text}` };
  }
  if (end.state !== 'complete' && walked.finished && options.cutDamaged !== true) {
    return { state: 'refused', offset: end.offset, text: `${end.text}; cutting there would lose what follows` };
  }
  // Before the recording is finished: killed in between, the next salvage still finds it unfinished.
  trimSidecar(io, sidecarPath(path), walked.covered, noFollow);
  const fd = openRegularFile(path, { write: true, noFollow }, io);
  try {
    finishAt(io, fd, walked);
  } finally {
    io.closeSync(fd);
  }
  const bytes = walked.dataEnd + END_BYTES;
  const cutBytes = Math.max(0, size - (end.state === 'complete' ? bytes : end.offset));
  const text =
    end.state === 'complete' ? `an interrupted indexing had left ${end.leftoverBytes} bytes` : `${end.text}; finished`;
  return { state: 'repaired', bytes, offset: end.offset, cutBytes, text };
}

interface Walked {
  readonly end: WalkEnd;
  readonly size: number;
  /** The file's last 32 bytes are an end block. */
  readonly finished: boolean;
  /** Whole blocks, and those among them that the sidecar covers. */
  readonly blocks: number;
  readonly covered: number;
  /** Where the end block belongs: behind the last whole block. */
  readonly dataEnd: number;
  /** TIME of the end block, milliseconds. */
  readonly endMs: number;
  /** A good end block stands there, and only what follows it is too much. */
  readonly ended: boolean;
  /** Less than a header block, as a crash right after the file's creation leaves it. */
  readonly isEmpty: boolean;
}

function walk(reader: RecordingReader): Walked {
  let dataEnd = 0;
  let endMs = 0;
  let blocks = 0;
  let covered = 0;
  for (const block of reader.blocks()) {
    blocks++;
    if (isCovered(block)) covered++;
    endMs = block.time;
    dataEnd = block.offset + HEADER_BYTES + block.size;
  }
  const { end } = reader;
  const { size } = reader;
  // The indexer's first end block repeats the session's real end [M11].
  if (end.state === 'complete' && !end.indexed) endMs = end.time;
  return {
    end,
    size,
    finished: reader.finish() !== undefined,
    blocks,
    covered,
    dataEnd,
    endMs,
    ended: decodeEnd(reader.bytesAt(dataEnd, END_BYTES)) !== undefined,
    isEmpty: blocks === 0 && isEmpty(reader),
  };
}

/** The beginning of a header block, or zeros: a power cut leaves them where data had not reached the disk. */
function isEmpty(reader: RecordingReader): boolean {
  if (reader.size > HEADER_BYTES + maxSessionHeaderBytes) return false;
  const bytes = reader.bytesAt(0, reader.size);
  const begins = bytes.subarray(0, 4).equals(headerStart.subarray(0, Math.min(4, bytes.length)));
  return begins || bytes.every((byte) => byte === 0);
}

const headerStart = encodeBlockHeader({ type: blockType.header, flags: 0, size: 0, time: 0 });

/**
 * Cuts the file behind its last whole block and adds the end block. Where the file is finished already, its last 32
 * bytes stay an end block until the new one stands, so that players open it at every moment.
 */
function finishAt(io: RecordingFs, fd: number, { dataEnd, endMs, ended, finished }: Walked): void {
  const end = encodeEnd(endMs);
  if (ended) io.ftruncateSync(fd, dataEnd + END_BYTES);
  else if (finished) {
    writeFully(io, fd, end.subarray(HEADER_BYTES), dataEnd + HEADER_BYTES);
    writeFully(io, fd, end.subarray(0, HEADER_BYTES), dataEnd);
    io.fsyncSync(fd);
    io.ftruncateSync(fd, dataEnd + END_BYTES);
  } else {
    io.ftruncateSync(fd, dataEnd);
    writeFully(io, fd, end, dataEnd);
  }
  io.fsyncSync(fd);
}

/** Takes the records of blocks that were cut off the sidecar's end. */
function trimSidecar(io: RecordingFs, path: string, records: number, noFollow: boolean): void {
  let fd: number;
  try {
    fd = openRegularFile(path, { write: true, noFollow }, io);
  } catch (error) {
    // None there, or something that is no sidecar: the recording is good without.
    if (error instanceof CoupletError) return;
    throw error;
  }
  try {
    const bytes = (records + 1) * SIDECAR_RECORD_BYTES;
    const { size } = io.fstatSync(fd);
    if (size > bytes) io.ftruncateSync(fd, bytes);
    else if (size % SIDECAR_RECORD_BYTES !== 0) io.ftruncateSync(fd, size - (size % SIDECAR_RECORD_BYTES));
  } finally {
    io.closeSync(fd);
  }
}

function unlinkIfThere(io: RecordingFs, path: string): void {
  try {
    io.unlinkSync(path);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}
