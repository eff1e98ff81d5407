import type { Stats } from 'node:fs';
import { type Clock, systemClock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { openRegularFile, type RecordingFs, realFs } from './file-system.ts';

/**
 * Locks an open file exclusively, at once or not at all: false where another open file description, of this process or
 * of another, holds a lock. The lock goes with the descriptor. A recorder holds one on each file it writes; whoever
 * only reads a file and wants it to stay holds a shared one.
 */
export type TryLock = (fd: number) => boolean;

/** What tells whether a file is in use. */
export interface FileGuard {
  readonly tryLock: TryLock;
  readonly clock: Clock;
}

/** `locked`: somebody holds a lock. `fresh`: it may have been made a moment ago, and its lock be about to come. */
export interface InUse {
  readonly state: 'in-use';
  readonly why: 'locked' | 'fresh';
}

/**
 * A file without a whole header block that was last written less than this ago counts as in use: between making a file
 * and locking it a recorder needs some microseconds, and where a file system has no locks its header a flush.
 */
export const freshMs = 60_000;

/** Whether a file was written less than {@link freshMs} ago; one from the future too. */
export function isFresh({ mtimeMs }: Pick<Stats, 'mtimeMs'>, clock: Clock): boolean {
  return clock.nowMs() - mtimeMs < freshMs;
}

/** The guard of every program: locks of the kernel, the system's clock. @throws CoupletError where there is no addon */
export async function systemGuard(): Promise<FileGuard> {
  const { tryLockFile } = await import('../native/file-lock.ts');
  return { tryLock: (fd) => tryLockFile(fd, 'exclusive'), clock: systemClock };
}

/** How whoever only reads a file holds it: goes with other readers, not with a recorder, repair, indexer or sweep. */
export async function systemSharedLock(): Promise<TryLock> {
  const { tryLockFile } = await import('../native/file-lock.ts');
  return (fd) => tryLockFile(fd, 'shared');
}

export interface WhileUnusedOptions {
  readonly noFollow?: boolean;
  readonly fs?: RecordingFs;
}

/**
 * Runs `work` while holding the file's lock, with the descriptor that holds it, open for reading and writing; or not at
 * all where the file is in use.
 * @throws CoupletError `CPL_RECORDING_FILE` where the file cannot be opened for writing, is no regular file, or was
 * deleted meanwhile (its cause has the code `ENOENT`); what `work` throws
 */
export function whileUnused<T>(
  path: string,
  guard: FileGuard,
  work: (fd: number) => T,
  { noFollow = false, fs: io = realFs }: WhileUnusedOptions = {},
): T | InUse {
  const fd = openRegularFile(path, { write: true, noFollow }, io);
  try {
    // Not even tried on a fresh one: its recorder is about to lock it, and must not find it locked.
    const stats = io.fstatSync(fd);
    if (stats.size === 0 && isFresh(stats, guard.clock)) return { state: 'in-use', why: 'fresh' };
    if (!guard.tryLock(fd)) return { state: 'in-use', why: 'locked' };
    // Who had the lock before may have deleted the file, and another one may have its name now.
    if (io.fstatSync(fd).nlink === 0) {
      const cause = Object.assign(new Error('deleted'), { code: 'ENOENT' });
      throw new CoupletError('CPL_RECORDING_FILE', `${path}: was deleted meanwhile`, { cause });
    }
    return work(fd);
  } finally {
    io.closeSync(fd);
  }
}
