import { closeSync, constants, fchmodSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import type { OnceRecord } from './cookie.ts';

/** `unavailable`: it could not be written down (or, in a cluster, asked), so the cookie must be refused. */
export type UseResult = 'fresh' | 'used' | 'unavailable';

/** The memory of used single-use cookies (R7). Of all callers with one record, at most one ever hears `fresh`. */
export interface SingleUse {
  use(record: OnceRecord): UseResult | Promise<UseResult>;
}

export interface SingleUseFileOptions {
  /** The file; its folder must exist. One process at a time may have it open. */
  readonly path: string;
  readonly clock: Clock;
  /** Told of what does not stop the memory: a damaged line skipped, a compaction or an append that failed. */
  readonly onProblem: (problem: CoupletError) => void;
  /** Lines in the file before it is compacted while running; 10,000. */
  readonly compactLines?: number;
}

/** A cookie is remembered a little longer than it is valid, so that a clock set back does not revive it. */
const graceMs = 60_000;
const fileMode = 0o600;
const linePattern = /^([0-9]{1,16}) ([0-9a-f]{64})$/;

/**
 * The memory as an append-only file of lines `EXPIREDATMS FINGERPRINT`. A use counts once its line has been handed to
 * the operating system: it survives the process's death at any moment. At start, and when it has grown, the file is
 * replaced by one with only the cookies that could still be valid.
 */
export class SingleUseFile implements SingleUse {
  readonly #options: SingleUseFileOptions;
  readonly #compactLines: number;
  readonly #used = new Map<string, number>();
  #fd = -1;
  #lines = 0;
  #nextCompactLines = 0;
  /** The file may end in part of a line; the next write must begin a new one. */
  #torn = false;

  /**
   * Reads and compacts the file, or begins a new one.
   * @throws CoupletError `CPL_SINGLE_USE` where that is not possible: without its memory the relay must not start.
   */
  constructor(options: SingleUseFileOptions) {
    this.#options = options;
    this.#compactLines = options.compactLines ?? 10_000;
    try {
      this.#load();
      this.#compact();
    } catch (cause) {
      throw this.#problem('cannot be opened', cause);
    }
  }

  /** How many cookies are remembered. */
  get size(): number {
    return this.#used.size;
  }

  /** [R7] Marks a cookie as used; only `fresh` lets it in, and then its line is with the operating system. */
  use(record: OnceRecord): UseResult {
    if (this.#used.has(record.fingerprint)) return 'used';
    const expiredAtMs = Math.ceil(record.expiredAtMs);
    try {
      this.#append(expiredAtMs, record.fingerprint);
    } catch (cause) {
      this.#options.onProblem(this.#problem('cannot be written: the cookie is refused', cause));
      return 'unavailable';
    }
    this.#used.set(record.fingerprint, expiredAtMs);
    if (this.#lines >= this.#nextCompactLines) this.#compactWhileRunning();
    return 'fresh';
  }

  /** Closes the file; from then on every cookie is refused. */
  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #append(expiredAtMs: number, fingerprint: string): void {
    if (this.#fd < 0) throw new Error('the file is closed');
    const line = Buffer.from(`${this.#torn ? '\n' : ''}${expiredAtMs} ${fingerprint}\n`, 'latin1');
    this.#torn = true;
    writeWhole(this.#fd, line);
    this.#torn = false;
    this.#lines++;
  }

  #load(): void {
    let text: string;
    try {
      text = readFileSync(this.#options.path, 'latin1');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      throw error;
    }
    const lines = text.split('\n');
    // After the last newline: nothing, or what a crash left of a line whose half was never admitted.
    const tail = lines.pop() ?? '';
    let damaged = 0;
    for (const line of lines) if (line !== '' && !this.#remember(line)) damaged++;
    this.#remember(tail);
    if (damaged > 0) this.#options.onProblem(this.#problem(`has ${damaged} damaged line(s), skipped`, undefined));
  }

  #remember(line: string): boolean {
    const match = linePattern.exec(line);
    if (match === null) return false;
    this.#used.set(match[2]!, Number(match[1]));
    return true;
  }

  /** Writes what is still needed to a new file and puts it in the old one's place; on any error the old one stays. */
  #compact(): void {
    const { path, clock } = this.#options;
    const nowMs = clock.nowMs();
    for (const [fingerprint, expiredAtMs] of this.#used) {
      if (expiredAtMs + graceMs <= nowMs) this.#used.delete(fingerprint);
    }
    let text = '';
    for (const [fingerprint, expiredAtMs] of this.#used) text += `${expiredAtMs} ${fingerprint}\n`;
    const temporaryPath = `${path}.new`;
    const { O_WRONLY, O_CREAT, O_TRUNC, O_APPEND, O_NOFOLLOW } = constants;
    const fd = openSync(temporaryPath, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW, fileMode);
    try {
      fchmodSync(fd, fileMode); // a file left over from a crash keeps the mode it had
      writeWhole(fd, Buffer.from(text, 'latin1'));
      fsyncSync(fd);
      renameSync(temporaryPath, path);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this.close();
    this.#fd = fd;
    this.#torn = false;
    this.#lines = this.#used.size;
    this.#nextCompactLines = Math.max(this.#compactLines, this.#lines * 2);
    syncFolder(dirname(path));
  }

  #compactWhileRunning(): void {
    try {
      this.#compact();
    } catch (cause) {
      // The old file is still open and complete: uses go on being written there, and this is tried again later.
      this.#nextCompactLines = this.#lines * 2;
      this.#options.onProblem(this.#problem('cannot be compacted', cause));
    }
  }

  #problem(what: string, cause: unknown): CoupletError {
    const why = cause === undefined ? '' : `: ${(cause as NodeJS.ErrnoException).code ?? String(cause)}`;
    const message = `the memory of single-use cookies ${JSON.stringify(this.#options.path)} ${what}${why}`;
    return new CoupletError('CPL_SINGLE_USE', message, { level: 'error', cause });
  }
}

/** write(2) until all is written; throws where the system takes no more. */
function writeWhole(fd: number, bytes: Buffer): void {
  let written = 0;
  while (written < bytes.length) {
    const count = writeSync(fd, bytes, written);
    if (count === 0) throw new Error('nothing was written');
    written += count;
  }
}

function syncFolder(path: string): void {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
