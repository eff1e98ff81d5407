import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { CoupletError } from '../core/errors.ts';
import type { CatalogEntry, CatalogPage } from './catalog-entry.ts';
import { errorCode, isMissing } from './file-system.ts';
import type { RecordingJobs } from './jobs.ts';
import { systemSharedLock, type TryLock } from './locks.ts';

export type { CatalogEntry, CatalogPage } from './catalog-entry.ts';

export interface CatalogOptions {
  /** Every folder that may hold recordings. */
  readonly folders: () => readonly string[];
  /** Where the disk is read: of its own, so that a listing does not wait behind a sweep or an indexing. */
  readonly jobs: Pick<RecordingJobs, 'list' | 'find' | 'delete'>;
  /** Most files that one listing opens; a page may be shorter because of it. Default 1000. */
  readonly maxOpened?: number;
  /** For tests; the kernel's otherwise. */
  readonly tryLockShared?: TryLock;
}

export interface CatalogListOptions {
  /** Absent: of all domains, and those that no domain has a claim to. */
  readonly domain?: string | undefined;
  /** `next` of the page before. */
  readonly after?: string | undefined;
  /** 1 to 1000; 100 unless told. */
  readonly limit?: number | undefined;
}

const chunkBytes = 256 * 1024;
const defaultLimit = 100;
const maxLimit = 1_000;
const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;

/**
 * [R38] The recordings in the server's folders: listed, read and deleted by name. Nothing here waits for a disk on the
 * event loop. Names come from outside: one that is not a recording's (a path, a link, `..`) is one that is not there
 * (fault 34, fault 35).
 */
export class RecordingCatalog {
  readonly #options: CatalogOptions;

  constructor(options: CatalogOptions) {
    this.#options = options;
  }

  /**
   * A page of them, by name.
   * @throws CoupletError `CPL_RECORDING_VALUE` (400) for a limit out of range; `CPL_RECORDING_JOB` where a folder cannot be listed
   */
  async list({ domain, after, limit = defaultLimit }: CatalogListOptions = {}): Promise<CatalogPage> {
    if (!Number.isInteger(limit) || limit < 1 || limit > maxLimit) {
      const text = `limit ${String(limit)}: allowed are whole numbers of 1 to ${maxLimit}`;
      throw new CoupletError('CPL_RECORDING_VALUE', text, { httpStatus: 400 });
    }
    const folders = [...new Set(this.#options.folders())];
    return await this.#options.jobs.list({
      folders,
      domain,
      after,
      limit,
      maxOpened: this.#options.maxOpened ?? 1_000,
    });
  }

  /**
   * One of them, as it is now.
   * @param domain absent: whatever domain it is of
   * @throws CoupletError `CPL_RECORDING_UNKNOWN` (404)
   */
  async get(file: string, domain?: string): Promise<CatalogEntry> {
    const folders = [...new Set(this.#options.folders())];
    const entry = await this.#options.jobs.find(folders, file, domain);
    if (entry === undefined) throw unknown(file);
    return entry;
  }

  /**
   * Bytes of a recording in pieces of at most 256 KiB. The file is opened with the first piece that is asked for, and
   * held by a shared lock, which retention and salvage respect, until the last one, an error, or `return()`.
   * @param entry from {@link get}; another file of that name is an error
   * @param first offset of the first byte. @param last of the last one
   * @throws (while read) CoupletError `CPL_RECORDING_UNKNOWN` (404) where it was deleted or replaced, `CPL_RECORDING_IN_USE`
   *   (409), `CPL_RECORDING_FILE` where it cannot be read
   */
  async *read(entry: CatalogEntry, first = 0, last = entry.bytes - 1): AsyncGenerator<Uint8Array, void> {
    const handle = await openForReading(entry);
    try {
      const tryLock = this.#options.tryLockShared ?? (await systemSharedLock());
      if (!tryLock(handle.fd)) throw inUse(entry.file);
      const { ino, size, nlink } = await handle.stat();
      // Another one may have its name by now, and the indexer have written to it.
      if (ino !== entry.inode || size !== entry.bytes || nlink === 0) throw unknown(entry.file);
      for (let at = first; at <= last; ) {
        const { bytesRead, buffer } = await handle.read({
          buffer: Buffer.allocUnsafe(Math.min(chunkBytes, last + 1 - at)),
          position: at,
        });
        if (bytesRead === 0) throw new CoupletError('CPL_RECORDING_FILE', `${entry.file}: ends before its end`);
        at += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    } finally {
      await handle.close();
    }
  }

  /**
   * Deletes it and its sidecar, unless somebody records into it, reads it or works on it.
   * @returns bytes of both
   * @throws CoupletError `CPL_RECORDING_UNKNOWN` (404), `CPL_RECORDING_IN_USE` (409)
   */
  async remove(file: string, domain?: string): Promise<number> {
    const entry = await this.get(file, domain);
    const outcome = await this.#options.jobs.delete(join(entry.folder, entry.file));
    // Deleted meanwhile: what was asked for is the case, but it was not done here.
    if (outcome === 'missing') throw unknown(file);
    if (outcome === 'in-use') throw inUse(file);
    return entry.bytes + entry.sidecarBytes;
  }
}

async function openForReading({ folder, file }: CatalogEntry): Promise<FileHandle> {
  try {
    return await open(join(folder, file), O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (cause) {
    if (isMissing(cause)) throw unknown(file);
    throw new CoupletError('CPL_RECORDING_FILE', `${file}: cannot be opened (${errorCode(cause)})`, { cause });
  }
}

/** On one line whatever the name holds (fault 34). */
function unknown(file: string): CoupletError {
  const shown = JSON.stringify(file.slice(0, 200)).replaceAll(/[^\x20-\x7e]/g, '?');
  return new CoupletError('CPL_RECORDING_UNKNOWN', `there is no recording ${shown}`, { httpStatus: 404 });
}

function inUse(file: string): CoupletError {
  const text = `the recording ${file} is in use: it is being recorded, read or worked on; try again later`;
  return new CoupletError('CPL_RECORDING_IN_USE', text, { httpStatus: 409 });
}
