import { join } from 'node:path';
import { CoupletError } from '../core/errors.ts';
import { parseId } from '../core/ids.ts';
import { listFolder, openRegularFile, type RecordingFs, readFully, realFs } from './file-system.ts';
import {
  blockType,
  decodeBlockHeader,
  decodeEnd,
  END_BYTES,
  HEADER_BYTES,
  parseSessionHeader,
  protocolOf,
} from './format.ts';
import { type FileGuard, isFresh } from './locks.ts';
import { isRecordingName, type RecordingForm } from './naming.ts';
import { SIDECAR_RECORD_BYTES, sidecarPath } from './sidecar.ts';

/** What the beginning and the end of a recording and its sidecar tell [R38], without a walk. */
export interface CatalogEntry {
  /** Name without the folder. */
  readonly file: string;
  readonly folder: string;
  readonly form: RecordingForm;
  /** That of the ids in the recording; `undefined`: they tell none, and the file belongs to no domain. */
  readonly domain: string | undefined;
  readonly sessionId: string;
  readonly userid: string;
  readonly username: string;
  readonly nodeid: string;
  readonly protocol: number;
  /** Epoch ms; 0: not known. */
  readonly startedMs: number;
  /** Whole seconds from the start to the end, or to the last thing recorded; 0: not known. */
  readonly seconds: number;
  readonly bytes: number;
  /** Of the last write. */
  readonly modifiedMs: number;
  /** `running`: it is being recorded into, or worked on; `unfinished`: a crash left it without an end. */
  readonly state: 'running' | 'finished' | 'unfinished';
  readonly indexed: boolean;
  /** 0: there is none. */
  readonly sidecarBytes: number;
  /** Tells this very file from another that gets its name. */
  readonly inode: number;
}

/** As {@link FileGuard}, with a lock that goes with those of other readers. */
export type CatalogGuard = Pick<FileGuard, 'clock'> & { readonly tryLockShared: (fd: number) => boolean };

export interface CatalogQuery {
  readonly folders: readonly string[];
  /** Absent: all recordings, also those of no domain. */
  readonly domain?: string | undefined;
  /** `next` of the page before. */
  readonly after?: string | undefined;
  readonly limit: number;
  /** Most files that are opened; a page may end before `limit` because of it. */
  readonly maxOpened: number;
}

export interface CatalogPage {
  /** By name. */
  readonly entries: CatalogEntry[];
  /** For `after`; `undefined` on the last page. A page may be empty and not the last. */
  readonly next: string | undefined;
}

/** A header is a small object: what is longer tells nothing here. */
const maxHeaderBytes = 64 * 1024;
const firstReadBytes = 2 * 1024;
const maxText = 1_024;
const maxFileBytes = 255;

/**
 * One page of the recordings in some folders, ordered by name. Follows no link and looks at regular files with a
 * recording's name only; what is deleted meanwhile is left out. Of each file at most 64 KiB are read.
 * @throws what the disk throws where a folder cannot be listed
 */
export function listCatalog(query: CatalogQuery, guard: CatalogGuard, io: RecordingFs = realFs): CatalogPage {
  const { domain, after, limit, maxOpened } = query;
  const found = query.folders.flatMap((folder) =>
    listFolder(io, folder)
      .filter((name) => isRecordingName(name) && (after === undefined || name > after))
      .map((name) => ({ name, folder })),
  );
  found.sort((one, other) => (one.name < other.name ? -1 : one.name > other.name ? 1 : 0));
  const entries: CatalogEntry[] = [];
  for (const [index, { name, folder }] of found.entries()) {
    const entry = entryAt(folder, name, guard, io);
    if (entry !== undefined && (domain === undefined || entry.domain === domain)) entries.push(entry);
    const following = found[index + 1]?.name;
    // Two folders may hold a file of one name: a page does not end between them.
    if (following === undefined || following === name) continue;
    if (entries.length >= limit || index + 1 >= maxOpened) return { entries, next: name };
  }
  return { entries, next: undefined };
}

/** One recording by its name; `undefined` where there is none, in this domain, of this name. */
export function findInCatalog(
  folders: readonly string[],
  file: string,
  domain: string | undefined,
  guard: CatalogGuard,
  io: RecordingFs = realFs,
): CatalogEntry | undefined {
  // Longer ones than a disk takes are not asked for.
  if (file.length > maxFileBytes || !isRecordingName(file)) return undefined;
  for (const folder of folders) {
    const entry = entryAt(folder, file, guard, io);
    if (entry !== undefined && (domain === undefined || entry.domain === domain)) return entry;
  }
  return undefined;
}

/** `undefined` where it is none (any more) or cannot be opened: one such file does not keep the others from being listed. */
function entryAt(folder: string, file: string, guard: CatalogGuard, io: RecordingFs): CatalogEntry | undefined {
  const path = join(folder, file);
  let fd: number;
  try {
    // No link, folder or FIFO (fault 35).
    fd = openRegularFile(path, { noFollow: true }, io);
  } catch (error) {
    if (error instanceof CoupletError) return undefined;
    throw error;
  }
  try {
    const { size, mtimeMs, ino } = io.fstatSync(fd);
    const stats = { size, mtimeMs };
    const form: RecordingForm = file.endsWith('.jsonl') ? 'jsonl' : 'mcrec';
    const told = form === 'jsonl' ? linesTell(io, fd, size) : blocksTell(io, fd, size);
    const sidecar = sidecarOf(io, path);
    const isFinished = told.endMs !== undefined;
    const isRunning = !(form === 'mcrec' && isFinished) && inUse(fd, stats, guard);
    const plainState = form === 'jsonl' || isFinished ? 'finished' : 'unfinished';
    const endMs = told.endMs || sidecar.lastMs || (form === 'jsonl' || !isFinished ? mtimeMs : told.startedMs);
    const seconds = told.startedMs === 0 ? 0 : Math.max(0, Math.floor((endMs - told.startedMs) / 1000));
    const { userid, nodeid } = told;
    return {
      file,
      folder,
      form,
      domain: (parseId(userid) ?? parseId(nodeid))?.domain,
      sessionId: told.sessionId,
      userid,
      username: told.username,
      nodeid,
      protocol: told.protocol,
      startedMs: told.startedMs,
      seconds,
      bytes: size,
      modifiedMs: Math.floor(mtimeMs),
      state: isRunning ? 'running' : plainState,
      indexed: told.indexed,
      sidecarBytes: sidecar.bytes,
      inode: ino,
    };
  } finally {
    io.closeSync(fd);
  }
}

/** Where the file system knows no locks nobody can tell. */
function inUse(fd: number, stats: { size: number; mtimeMs: number }, guard: CatalogGuard): boolean {
  // Not even tried on a fresh one: its recorder is about to lock it, and must not find it locked.
  if (stats.size === 0) return isFresh(stats, guard.clock);
  try {
    return !guard.tryLockShared(fd);
  } catch (error) {
    if ((error as { code?: string }).code === 'CPL_FILE_LOCK') return false;
    throw error;
  }
}

interface Told {
  readonly sessionId: string;
  readonly userid: string;
  readonly username: string;
  readonly nodeid: string;
  readonly protocol: number;
  readonly startedMs: number;
  /** `undefined`: it has no end; 0: it has, and does not tell when. */
  readonly endMs: number | undefined;
  readonly indexed: boolean;
}

const nothingTold = { sessionId: '', userid: '', username: '', nodeid: '', startedMs: 0, indexed: false };

function blocksTell(io: RecordingFs, fd: number, size: number): Told {
  const finish = decodeEnd(read(io, fd, Math.max(0, size - END_BYTES), END_BYTES));
  const endMs = finish?.indexed === true ? indexTime(io, fd, finish.time) : finish?.time;
  const end = { endMs, indexed: finish?.indexed === true };
  let bytes = read(io, fd, 0, firstReadBytes);
  const block = bytes.length < HEADER_BYTES ? undefined : decodeBlockHeader(bytes);
  if (block?.type !== blockType.header || block.size > maxHeaderBytes) return { ...nothingTold, ...end, protocol: 0 };
  const headerBytes = HEADER_BYTES + block.size;
  if (bytes.length < headerBytes) bytes = read(io, fd, 0, headerBytes);
  const header = parseSessionHeader(bytes.subarray(HEADER_BYTES, headerBytes));
  if (typeof header === 'string') return { ...nothingTold, ...end, protocol: 0 };
  const { sessionid, userid, username, nodeid } = header;
  return {
    sessionId: textOf(sessionid),
    userid: textOf(userid),
    username: textOf(username),
    nodeid: textOf(nodeid),
    protocol: protocolOf(header),
    startedMs: block.time,
    ...end,
  };
}

/** TIME of the block of the index is the session's end; 0 where it does not tell. */
function indexTime(io: RecordingFs, fd: number, offset: number): number {
  const bytes = read(io, fd, offset, HEADER_BYTES);
  if (bytes.length < HEADER_BYTES) return 0;
  const { type, time } = decodeBlockHeader(bytes);
  return type === blockType.metadata ? time : 0;
}

/** A messenger recording: the first line names a party, the last one tells the end [R33]. */
function linesTell(io: RecordingFs, fd: number, size: number): Told {
  const start = read(io, fd, 0, maxHeaderBytes).toString('utf8');
  const end = read(io, fd, Math.max(0, size - maxHeaderBytes), maxHeaderBytes).toString('utf8');
  const [first] = start.split('\n', 1);
  const { time, from } = lineOf(first ?? '');
  const { time: endMs } = lineOf(end.trimEnd().split('\n').at(-1) ?? '');
  const kind = parseId(from)?.kind;
  return {
    ...nothingTold,
    userid: kind === 'user' ? from : '',
    nodeid: kind === 'node' ? from : '',
    protocol: 200,
    startedMs: time,
    endMs: endMs === 0 ? undefined : endMs,
  };
}

function lineOf(line: string): { time: number; from: string } {
  try {
    const { time, from } = JSON.parse(line) as Record<string, unknown>;
    return { time: Number.isSafeInteger(time) ? (time as number) : 0, from: textOf(from) };
  } catch {
    return { time: 0, from: '' }; // cut, or longer than is read here
  }
}

/** Its size and when the last block came; zeros where there is none that can be opened. */
function sidecarOf(io: RecordingFs, recording: string): { bytes: number; lastMs: number } {
  const path = sidecarPath(recording);
  let fd: number | undefined;
  try {
    fd = openRegularFile(path, { noFollow: true }, io);
    const { size } = io.fstatSync(fd);
    const records = Math.floor(size / SIDECAR_RECORD_BYTES) - 1;
    if (records < 1) return { bytes: size, lastMs: 0 };
    const record = read(io, fd, records * SIDECAR_RECORD_BYTES, 8);
    return { bytes: size, lastMs: record.length < 8 ? 0 : Number(record.readBigUInt64BE(0) / 1000n) };
  } catch (error) {
    if (error instanceof CoupletError) return { bytes: 0, lastMs: 0 };
    throw error;
  } finally {
    if (fd !== undefined) io.closeSync(fd);
  }
}

function read(io: RecordingFs, fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  return bytes.subarray(0, readFully(io, fd, bytes, position));
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, maxText) : '';
}
