import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode, eventFileName, parseRecord } from './event-file.ts';
import { CHAIN_START, type ChainKey, lineMac, parseChainedLine } from './hash-chain.ts';

/*
 * The id of an event log: what its heads are kept under in the directory, which the logs of several servers may share.
 *
 * It is drawn by the process that makes the log's first file, and stands in the opening line of every file, each taking
 * it from the one before. So whatever is left of a log says which log it is, also in a copy or after a move to another
 * folder or host (of which the id therefore holds nothing); nobody can make it say something else without the key, for
 * an opening line is under its MAC; and two folders are never taken for one, not even two with one login key.
 */
const form = /^[A-Za-z0-9_-]{1,64}$/;

export function newLogId(): string {
  return randomBytes(16).toString('hex');
}

/** The id in one file's opening line; `undefined` where the file is gone or the line is not intact. */
async function logIdIn(path: string, keys: readonly ChainKey[]): Promise<string | undefined> {
  const bytes = await firstLine(path);
  const line = bytes && parseChainedLine(bytes);
  if (bytes === undefined || line === undefined || line.line !== 1) return undefined;
  if (!keys.some((key) => lineMac(key, CHAIN_START, line.body).equals(line.mac))) return undefined;
  const record = parseRecord(bytes);
  return record?.record === 'open' && form.test(record.log) ? record.log : undefined;
}

/** The id of the log in a folder, from its newest file that tells it. Throws what the file system throws. */
export async function logIdOf(folder: string, files: readonly number[], key: ChainKey): Promise<string | undefined> {
  for (const file of files.toReversed()) {
    const id = await logIdIn(join(folder, eventFileName(file)), [key]);
    if (id !== undefined) return id;
  }
  return undefined;
}

/** Every id that files of a folder tell: more than one where the login key was changed, or all old files lost. */
export async function logIdsIn(paths: readonly string[], keys: readonly ChainKey[]): Promise<string[]> {
  const ids = new Set<string>();
  for (const path of paths) {
    const id = await logIdIn(path, keys);
    if (id !== undefined) ids.add(id);
  }
  return [...ids];
}

async function firstLine(path: string): Promise<Buffer | undefined> {
  try {
    const handle = await open(path, 'r');
    try {
      // An opening line is far shorter than this; what is longer is none.
      const bytes = Buffer.alloc(4_096);
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0);
      const end = bytes.subarray(0, bytesRead).indexOf(0x0a);
      return end < 0 ? undefined : bytes.subarray(0, end);
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined; // Moved away since the listing.
    throw error;
  }
}
