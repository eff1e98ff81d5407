import { join } from 'node:path';
import { errorCode, isMissing, listFolder, type RecordingFs, realFs } from './file-system.ts';
import { type FileGuard, isFresh, whileUnused } from './locks.ts';
import { isRecordingName } from './naming.ts';
import { sidecarPath } from './sidecar.ts';

/** What a folder may hold; absent: no limit. The oldest recordings go first, by the time of their last write. */
export interface RetentionLimits {
  readonly maxAgeMs?: number | undefined;
  readonly maxCount?: number | undefined;
  /** Of the recordings and their sidecars together. */
  readonly maxBytes?: number | undefined;
}

/** Why a file was deleted; `orphan`: a sidecar whose recording is not there any more. */
export type RetentionReason = 'age' | 'count' | 'bytes' | 'orphan';

/** What a sweep did to one file. */
export type SweepResult =
  | { readonly state: 'deleted'; readonly path: string; readonly bytes: number; readonly reason: RetentionReason }
  /** Over the limits, and could not be deleted. */
  | { readonly state: 'failed'; readonly path: string; readonly text: string };

export interface SweepReport {
  /** Recordings and lonely sidecars that were deleted, and those that could not be. */
  readonly deleted: number;
  readonly failed: number;
  /** What is left of the recordings, those in use included. */
  readonly count: number;
  readonly bytes: number;
}

export interface SweepOptions {
  readonly folder: string;
  readonly limits: RetentionLimits;
  /** Tells of files in use: they are never deleted. */
  readonly guard: FileGuard;
  readonly fs?: RecordingFs;
}

interface Candidate {
  readonly name: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/**
 * Deletes what is over the limits in one folder [R38], and sidecars whose recording is gone. Looks at regular files with
 * a recording's name only, follows no link, and goes on where one cannot be deleted. A file in use counts, and stays:
 * each is deleted under its lock. Yields one result for each file deleted or not deleted.
 * @throws what the disk throws where the folder cannot be listed
 */
export function* sweepRecordings(options: SweepOptions): Generator<SweepResult, SweepReport> {
  const { folder, limits, guard, fs: io = realFs } = options;
  const names = listFolder(io, folder);
  let deleted = 0;
  let failed = 0;
  for (const result of sweepOrphans(options, names)) {
    if (result.state === 'deleted') deleted++;
    else failed++;
    yield result;
  }
  const oldestFirst = candidatesIn(folder, names, io);
  let count = oldestFirst.length;
  let bytes = oldestFirst.reduce((sum, file) => sum + file.bytes, 0);
  const nowMs = guard.clock.nowMs();
  for (const file of oldestFirst) {
    const reason = reasonToDelete(limits, nowMs - file.modifiedMs, count, bytes);
    // Those behind it are younger.
    if (reason === undefined) break;
    const path = join(folder, file.name);
    let result: SweepResult | undefined;
    try {
      if (!deleteUnused(path, guard, io)) continue;
      deleted++;
      result = { state: 'deleted', path, bytes: file.bytes, reason };
    } catch (error) {
      if (!isMissing(error)) {
        failed++;
        yield failure(path, error);
        continue;
      }
    }
    count--;
    bytes -= file.bytes;
    if (result !== undefined) yield result;
  }
  return { deleted, failed, count, bytes };
}

/**
 * Deletes a recording and its sidecar; false where it is in use.
 * @throws CoupletError `CPL_RECORDING_FILE`, and what the disk throws
 */
export function deleteUnused(path: string, guard: FileGuard, io: RecordingFs): boolean {
  const work = () => {
    // The sidecar first: killed in between, the next sweep still finds the recording.
    unlinkIfThere(io, sidecarPath(path));
    io.unlinkSync(path);
    return true;
  };
  return whileUnused(path, guard, work, { noFollow: true, fs: io }) === true;
}

/**
 * A sidecar is made after its recording and deleted before it, so one that is alone was left by a power cut or by
 * whoever deleted the recording. No lock is needed: a recorder takes another name where a sidecar's is taken.
 */
function* sweepOrphans({ folder, guard, fs: io = realFs }: SweepOptions, names: readonly string[]) {
  const ending = sidecarPath('');
  const listed = new Set(names);
  for (const name of names) {
    const recording = name.slice(0, -ending.length);
    if (!name.endsWith(ending) || !isRecordingName(recording) || listed.has(recording)) continue;
    const path = join(folder, name);
    try {
      const stats = statIfThere(io, path);
      if (stats === undefined || !stats.isFile() || isFresh(stats, guard.clock)) continue;
      // Not in the listing, which is no single moment's.
      if (statIfThere(io, join(folder, recording)) !== undefined) continue;
      io.unlinkSync(path);
      yield { state: 'deleted', path, bytes: stats.size, reason: 'orphan' } satisfies SweepResult;
    } catch (error) {
      if (!isMissing(error)) yield failure(path, error);
    }
  }
}

function failure(path: string, error: unknown): SweepResult {
  return { state: 'failed', path, text: error instanceof Error ? error.message : errorCode(error) };
}

function reasonToDelete(
  { maxAgeMs, maxCount, maxBytes }: RetentionLimits,
  ageMs: number,
  count: number,
  bytes: number,
): RetentionReason | undefined {
  if (maxAgeMs !== undefined && ageMs > maxAgeMs) return 'age';
  if (maxCount !== undefined && count > maxCount) return 'count';
  if (maxBytes !== undefined && bytes > maxBytes) return 'bytes';
  return undefined;
}

function candidatesIn(folder: string, names: readonly string[], io: RecordingFs): Candidate[] {
  const found: Candidate[] = [];
  for (const name of names) {
    if (!isRecordingName(name)) continue;
    const path = join(folder, name);
    const stats = statIfThere(io, path);
    if (stats === undefined || !stats.isFile()) continue;
    const sidecar = statIfThere(io, sidecarPath(path));
    // What holds nothing goes first, lest it push out what does.
    const modifiedMs = stats.size === 0 ? 0 : stats.mtimeMs;
    found.push({ name, bytes: stats.size + (sidecar?.size ?? 0), modifiedMs });
  }
  return found.sort((a, b) => a.modifiedMs - b.modifiedMs || (a.name < b.name ? -1 : 1));
}

function statIfThere(io: RecordingFs, path: string) {
  try {
    return io.lstatSync(path);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

function unlinkIfThere(io: RecordingFs, path: string): void {
  try {
    io.unlinkSync(path);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

/** Calls back once, later; `node:timers` or a test's own. */
