import { randomUUID } from 'node:crypto';
import { type FileHandle, link, open, readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { parseChainedLine } from './hash-chain.ts';

/** Longest line a reader accepts; events are far shorter because their strings are cut. */
export const MAX_LINE_BYTES = 1024 * 1024;

/** The newest line of an event file that somebody vouches for. `line` 0: only that the file exists. */
export interface Head {
  readonly file: number;
  readonly line: number;
  /** Hex; empty where `line` is 0. */
  readonly mac: string;
  /** The line is the closing one: nothing may follow. */
  readonly closed: boolean;
}

/**
 * Lines of a file that are no events, told by their first key. `open` is the first line of every file, `close` the
 * last one of a file that ended in order, `head` vouches for another file, `heads` says that the heads file was not
 * as this server had left it.
 */
export type FileRecord =
  | {
      readonly record: 'open';
      readonly time: string;
      readonly file: number;
      /** Id of the log, the same in all its files. */
      readonly log: string;
      readonly boot: string;
      readonly pid: number;
      readonly keyid: string;
      /** Head of the file before it, `null` for the first. */
      readonly previous: Head | null;
    }
  | { readonly record: 'close'; readonly time: string; readonly next: number | null }
  | { readonly record: 'head'; readonly time: string; readonly head: Head }
  | { readonly record: 'heads'; readonly time: string; readonly state: string; readonly keyid: string };

export const RECORD_START: Buffer = Buffer.from('{"record":"');
const CLOSE_START = Buffer.from('{"record":"close"');
const fileName = /^events-([0-9]{8,15})\.jsonl$/;

/** A line that is no event; `undefined` for every other line. What it says counts only where its MAC is right. */
export function parseRecord(bytes: Buffer): FileRecord | undefined {
  if (!bytes.subarray(0, RECORD_START.length).equals(RECORD_START)) return undefined;
  try {
    return JSON.parse(bytes.toString('utf8')) as FileRecord;
  } catch {
    return undefined;
  }
}

export function eventFileName(file: number): string {
  return `events-${String(file).padStart(8, '0')}.jsonl`;
}

/** The number in an event file's name; `undefined` for any other name. */
export function eventFileNumber(name: string): number | undefined {
  const digits = fileName.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

const workerFolder = /^worker-([1-9][0-9]{0,2})$/;

/**
 * Numbers of the workers [K8] that have event logs of their own in folders below, in order; `worker-I` is one's name.
 * Throws what the file system throws.
 */
export async function listWorkerFolders(folder: string): Promise<number[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const numbers = entries.map((entry) => (entry.isDirectory() ? workerFolder.exec(entry.name)?.[1] : undefined));
  return numbers
    .filter((number) => number !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
}

/** Numbers of the event files in a folder, ascending. Throws what readdir throws. */
export async function listEventFiles(folder: string): Promise<number[]> {
  const numbers = (await readdir(folder)).map(eventFileNumber).filter((n) => n !== undefined);
  return numbers.sort((a, b) => a - b);
}

export function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}

/**
 * Reads the last whole line of an event file and puts the file on stable storage first, so that a head never claims a
 * line that a power cut could still take away. `undefined` where the file does not exist.
 */
export async function readHead(folder: string, file: number): Promise<Head | undefined> {
  let handle: FileHandle;
  try {
    handle = await open(join(folder, eventFileName(file)), 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  try {
    await handle.sync();
    const { size } = await handle.stat();
    const tail = Buffer.alloc(Math.min(size, 2 * MAX_LINE_BYTES));
    const { bytesRead } = await handle.read(tail, 0, tail.length, size - tail.length);
    let end = tail.lastIndexOf(0x0a, bytesRead - 1);
    while (end > 0) {
      const start = tail.lastIndexOf(0x0a, end - 1) + 1;
      const bytes = tail.subarray(start, end);
      const line = parseChainedLine(bytes);
      if (line !== undefined) {
        const closed = bytes.subarray(0, CLOSE_START.length).equals(CLOSE_START);
        return { file, line: line.line, mac: line.mac.toString('hex'), closed };
      }
      // A last line that is no line of ours was put there by somebody; verification says so, we vouch for the one before.
      end = start - 1;
    }
    return { file, line: 0, mac: '', closed: false };
  } finally {
    await handle.close();
  }
}

/** Puts a folder's entries on stable storage. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

const TEMPORARY = '.new-';
export const isTemporary = (name: string): boolean => name.startsWith(TEMPORARY);

/**
 * Creates a file that appears under its name complete and durable, or not at all, and only if that name is free
 * (mode 0600). With `link` as the one atomic step this is also a compare-and-swap between processes.
 * @returns an append handle, or `undefined` where the name is taken.
 */
export async function createWhole(folder: string, name: string, bytes: Uint8Array): Promise<FileHandle | undefined> {
  const temporary = join(folder, `${TEMPORARY}${randomUUID()}`);
  const handle = await open(temporary, 'ax', 0o600);
  let done = false;
  try {
    await handle.writeFile(bytes);
    await handle.sync();
    await link(temporary, join(folder, name));
    done = true;
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
  } finally {
    if (!done) await handle.close();
    await unlink(temporary);
  }
  if (!done) return undefined;
  await syncFolder(folder);
  return handle;
}
