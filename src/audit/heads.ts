import { createHmac } from 'node:crypto';
import { readdir, readFile, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CoupletError } from '../core/errors.ts';
import { createWhole, errorCode, type Head } from './event-file.ts';
import type { ChainKey } from './hash-chain.ts';

/**
 * The heads file: one signed list of how far each event file is known to reach. It is how a deleted newest file, or a
 * tail cut off a file that no later file vouches for, is found. Every update is a new version `heads-N.json` that
 * replaces the one before it; to hide a deletion one must have kept an old version, because none can be made without
 * the key. (Against that only a copy elsewhere helps.)
 */

/** Newest files whose heads are kept here; older ones are vouched for by the files after them. */
const MAX_HEADS = 256;
const headsName = /^heads-([0-9]{8,15})\.json$/;
const suffix = /^(.*),"mac":"([0-9a-f]{64})"\}\n$/s;

export type HeadsState = 'valid' | 'missing' | 'invalid' | 'other-key';

export interface Heads {
  readonly state: HeadsState;
  /** Name of the newest version, where there is one. */
  readonly name: string;
  readonly version: number;
  /** Id of the key it says it was signed with. */
  readonly keyid: string;
  /** Empty unless `valid`. */
  readonly heads: readonly Head[];
}

function macOf(key: ChainKey, body: string): string {
  return createHmac('sha256', key.secret).update('couplet event heads\n').update(body).digest('hex');
}

async function versions(folder: string): Promise<number[]> {
  const found = (await readdir(folder)).map((name) => headsName.exec(name)?.[1]).filter((n) => n !== undefined);
  return found.map(Number).sort((a, b) => b - a);
}

function nameOf(version: number): string {
  return `heads-${String(version).padStart(8, '0')}.json`;
}

function parse(text: string, version: number, keys: readonly ChainKey[]): Heads {
  const name = nameOf(version);
  const invalid: Heads = { state: 'invalid', name, version, keyid: '', heads: [] };
  const parts = suffix.exec(text);
  if (parts === null) return invalid;
  const body = parts[1] as string;
  let content: { version?: unknown; keyid?: unknown; heads?: unknown };
  try {
    content = JSON.parse(`${body}}`);
  } catch {
    return invalid;
  }
  const keyid = typeof content.keyid === 'string' ? content.keyid : '';
  const key = keys.find(({ id }) => id === keyid);
  if (key === undefined) return { ...invalid, state: 'other-key', keyid };
  if (macOf(key, body) !== parts[2] || content.version !== version) return invalid;
  return { state: 'valid', name, version, keyid, heads: content.heads as Head[] };
}

/** A version can be replaced between listing and reading, and a listing may miss both the old and the new name. */
const sureListings = 10;

/**
 * Reads the newest version. Never throws for what stands in it; throws what the file system throws.
 * @param listings after how many without a heads file there is none
 */
export async function readHeads(
  folder: string,
  keys: readonly ChainKey[],
  listings: number = sureListings,
): Promise<Heads> {
  for (let attempt = 0; attempt < listings; attempt++) {
    const version = (await versions(folder))[0];
    if (version !== undefined) {
      try {
        return parse(await readFile(join(folder, nameOf(version)), 'utf8'), version, keys);
      } catch (error) {
        if (errorCode(error) !== 'ENOENT') throw error;
      }
    }
    await delay(attempt);
  }
  return { state: 'missing', name: 'heads-*.json', version: 0, keyid: '', heads: [] };
}

function merge(old: readonly Head[], fresh: readonly Head[]): Head[] {
  const byFile = new Map(old.map((head) => [head.file, head]));
  for (const head of fresh) {
    if (head.line >= (byFile.get(head.file)?.line ?? -1)) byFile.set(head.file, head);
  }
  return [...byFile.values()].sort((a, b) => b.file - a.file).slice(0, MAX_HEADS);
}

/**
 * Adds heads to the heads file; safe against other processes that do the same, and never lowers a head.
 * @returns what was found in its place: anything but `valid` means that somebody else had changed it.
 */
export function noteHeads(folder: string, key: ChainKey, fresh: readonly Head[]): Promise<Heads> {
  return writeHeads(folder, key, fresh, sureListings);
}

/** Makes the heads file of a new log, unless there is one. */
export async function makeHeads(folder: string, key: ChainKey): Promise<void> {
  // In a new folder a listing misses nothing; and a first version beside a newer one would be noticed and taken back.
  const { state } = await readHeads(folder, [key], 1);
  if (state === 'missing') await writeHeads(folder, key, [], 1);
}

async function writeHeads(folder: string, key: ChainKey, fresh: readonly Head[], listings: number): Promise<Heads> {
  let worst: Heads | undefined;
  for (let attempt = 0; attempt < 100; attempt++) {
    const found = await readHeads(folder, [key], listings);
    if (found.state !== 'valid') worst ??= found;
    const version = found.version + 1;
    const body = JSON.stringify({ version, keyid: key.id, heads: merge(found.heads, fresh) }).slice(0, -1);
    const handle = await createWhole(folder, nameOf(version), Buffer.from(`${body},"mac":"${macOf(key, body)}"}\n`));
    await handle?.close();
    if (handle !== undefined) {
      // A slower process can take a version number that is free again; then a newer one lives, without our heads.
      const all = await versions(folder);
      const superseded = (all[0] as number) > version;
      for (const old of all) {
        if (old < version || (superseded && old === version)) await removeIfThere(join(folder, nameOf(old)));
      }
      if (!superseded) return worst ?? found;
    }
    await delay(Math.min(attempt, 10));
  }
  throw new CoupletError('CPL_EVENT_HEADS', `${folder}: the heads file changes too fast to be written`);
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}
