import { randomBytes } from 'node:crypto';
import { chmod, type FileHandle, readdir, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../core/clock.ts';
import { CoupletError } from '../../core/errors.ts';
import { ensureFolder } from '../../core/lifecycle.ts';
import {
  createWhole,
  eventFileName,
  type FileRecord,
  type Head,
  isTemporary,
  listEventFiles,
  readHead,
} from '../event-file.ts';
import { type ChainKey, HashChain } from '../hash-chain.ts';
import { makeHeads, noteHeads, readHeads } from '../heads.ts';
import { logIdOf, newLogId } from '../log-id.ts';

/** A temporary file this old was left by a process that is gone. */
const STALE_MS = 60 * 60 * 1000;

/** What a process needs to open event files; `boot` is new for each process. */
export interface FolderContext {
  readonly folder: string;
  readonly key: ChainKey;
  readonly clock: Clock;
  readonly boot: string;
}

/** An event file that this process writes. */
export interface OpenEventFile {
  readonly number: number;
  /** Id of the log. */
  readonly log: string;
  readonly handle: FileHandle;
  readonly chain: HashChain;
  /** Its opening line. */
  readonly opening: Head;
  bytes: number;
}

export function newBoot(): string {
  return randomBytes(8).toString('hex');
}

export function recordJson(record: FileRecord): string {
  return JSON.stringify(record);
}

export function timeOf(clock: Clock): string {
  return new Date(clock.nowMs()).toISOString();
}

export function headOf(file: OpenEventFile, closed: boolean): Head {
  return { file: file.number, line: file.chain.line, mac: file.chain.mac, closed };
}

/**
 * Makes the events folder (0700) with an empty heads file, so that from now on a missing heads file means that
 * somebody removed it. Throws CPL_EVENT_LOG where the folder cannot be used.
 */
export async function prepareFolder({ folder, key, clock }: FolderContext): Promise<void> {
  try {
    ensureFolder(folder, 'audit.dir');
    await chmod(folder, 0o700);
    for (const name of (await readdir(folder)).filter(isTemporary)) {
      const info = await stat(join(folder, name)).catch(() => undefined);
      if (info !== undefined && info.mtimeMs < clock.nowMs() - STALE_MS) await unlink(join(folder, name));
    }
    // In this order: another process writes the heads file before its first event file.
    const files = await listEventFiles(folder);
    if (files.length === 0) await makeHeads(folder, key);
  } catch (error) {
    throw new CoupletError('CPL_EVENT_LOG', `${folder}: the event log cannot be opened: ${(error as Error).message}`, {
      cause: error,
      level: 'error',
    });
  }
}

/** The head that a new file must start with: that of the file before it, also where that one was deleted or cut. */
async function headBefore(folder: string, file: number, noted: readonly Head[]): Promise<Head | null> {
  if (file === 1) return null;
  const before = file - 1;
  const known = noted.filter((head) => head.file === before).sort((a, b) => b.line - a.line)[0];
  const found = await readHead(folder, before);
  const none: Head = { file: before, line: 0, mac: '', closed: false };
  if (found === undefined) return known ?? none;
  return known !== undefined && known.line > found.line ? known : found;
}

/**
 * Creates the next event file with its opening line, durable and noted in the heads file, while an earlier file may
 * still be written. The number is allocated by creating the file, so two processes on one folder never share one.
 * @param before the file that this process wrote before: it stays the same log and its numbers go on, whatever became
 * of the folder
 * @param witnessed heads of a log that somebody else knows: the number of a file that was deleted with its heads is not
 * given again, for a new file under it would take the place of what is known of the old one. Must not reject.
 * Throws what the file system throws.
 */
export async function createEventFile(
  context: FolderContext,
  before?: OpenEventFile,
  witnessed?: (log: string) => Promise<readonly Head[]>,
): Promise<OpenEventFile> {
  const { folder, key, clock, boot } = context;
  for (let attempt = 0; attempt < 100; attempt++) {
    const heads = await readHeads(folder, [key]);
    const files = await listEventFiles(folder);
    // In each attempt anew: another process may have made the log's first file meanwhile.
    const known = before?.log ?? (await logIdOf(folder, files, key));
    const log = known ?? newLogId();
    const noted = [...heads.heads, ...(known === undefined ? [] : ((await witnessed?.(log)) ?? []))];
    const number = Math.max(0, before?.number ?? 0, ...files, ...noted.map(({ file }) => file)) + 1;
    const previous = await headBefore(folder, number, noted);
    const chain = new HashChain(key);
    const time = timeOf(clock);
    const record: FileRecord = {
      record: 'open',
      time,
      file: number,
      log,
      boot,
      pid: process.pid,
      keyid: key.id,
      previous,
    };
    const line = chain.append(recordJson(record));
    const handle = await createWhole(folder, eventFileName(number), line);
    if (handle === undefined) continue;
    const opening: Head = { file: number, line: chain.line, mac: chain.mac, closed: false };
    const file: OpenEventFile = { number, log, handle, chain, opening, bytes: line.length };
    try {
      await noteAndRecord(context, file, [opening]);
    } catch (error) {
      await handle.close();
      throw error;
    }
    return file;
  }
  throw new CoupletError('CPL_EVENT_LOG', `${folder}: no free number for an event file`);
}

/** Notes heads; if the heads file was tampered with meanwhile, that goes on record as a line of this file. */
export async function noteAndRecord(
  context: FolderContext,
  file: OpenEventFile,
  heads: readonly Head[],
  write: (json: string) => Promise<void> | void = (json) => writeRecord(file, json),
): Promise<void> {
  const found = await noteHeads(context.folder, context.key, heads);
  if (found.state === 'valid') return;
  await write(recordJson({ record: 'heads', time: timeOf(context.clock), state: found.state, keyid: found.keyid }));
}

async function writeRecord(file: OpenEventFile, json: string): Promise<void> {
  const line = file.chain.append(json);
  await file.handle.writeFile(line);
  file.bytes += line.length;
}
