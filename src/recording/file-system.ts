import * as fs from 'node:fs';
import { CoupletError } from '../core/errors.ts';

/**
 * The file operations of reader, repair, retention and indexer, synchronous because these run in a process or thread of
 * their own and never on the server's event loop. Tests pass one that fails at a chosen step.
 */
export interface RecordingFs {
  openSync(path: string, flags: number, mode?: number): number;
  closeSync(fd: number): void;
  fstatSync(fd: number): fs.Stats;
  lstatSync(path: string): fs.Stats;
  readSync(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number;
  writeSync(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number;
  ftruncateSync(fd: number, length: number): void;
  fsyncSync(fd: number): void;
  unlinkSync(path: string): void;
  readdirSync(path: string): string[];
}

export const realFs: RecordingFs = fs;

const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = fs.constants;

export interface OpenOptions {
  readonly write?: boolean;
  /** Refuse a symbolic link (fault 35): for files that are found in a folder, not named by somebody. */
  readonly noFollow?: boolean;
}

/**
 * Opens a regular file. Without waiting: a FIFO of that name would otherwise hold the process.
 * @throws CoupletError `CPL_RECORDING_FILE` where it cannot be opened or is no regular file
 */
export function openRegularFile(path: string, options: OpenOptions = {}, io: RecordingFs = realFs): number {
  const flags = (options.write ? O_RDWR : O_RDONLY) | O_NONBLOCK | (options.noFollow ? O_NOFOLLOW : 0);
  let fd: number;
  try {
    fd = io.openSync(path, flags);
  } catch (cause) {
    throw new CoupletError('CPL_RECORDING_FILE', `${path}: cannot be opened (${errorCode(cause)})`, { cause });
  }
  if (!io.fstatSync(fd).isFile()) {
    io.closeSync(fd);
    throw new CoupletError('CPL_RECORDING_FILE', `${path}: is no regular file`);
  }
  return fd;
}

/** Names in a folder; none where it is not there, as before the first recording. */
export function listFolder(io: RecordingFs, folder: string): string[] {
  try {
    return io.readdirSync(folder);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
}

/** Fills `into` from `position`; the count is smaller only at the end of the file. */
export function readFully(io: RecordingFs, fd: number, into: Uint8Array, position: number): number {
  let done = 0;
  while (done < into.length) {
    const count = io.readSync(fd, into, done, into.length - done, position + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}

/** Writes all of `bytes` at `position`, however short the single writes are. */
export function writeFully(io: RecordingFs, fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += io.writeSync(fd, bytes, done, bytes.length - done, position + done);
  }
}

/** True for what is not there: an `ENOENT` of the disk, or an error caused by one. */
export function isMissing(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return errorCode(error) === 'ENOENT' || (error.cause !== undefined && isMissing(error.cause));
}

export function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : String(error);
}
