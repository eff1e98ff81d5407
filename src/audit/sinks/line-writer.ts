import { writeSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../core/clock.ts';
import { CoupletError } from '../../core/errors.ts';
import type { SinkReport } from '../sink.ts';
import type { OpenEventFile } from './event-log-file.ts';

/** What lines need of the operating system. Both writes may take less than they were given. */
export interface Disk {
  /** At once, on the event loop. */
  writeNow(handle: FileHandle, bytes: Buffer): number;
  /** Off the event loop. */
  writeLater(handle: FileHandle, bytes: Buffer): Promise<number>;
  /** fdatasync. */
  sync(handle: FileHandle): Promise<void>;
}

export const realDisk: Disk = {
  writeNow: (handle, bytes) => writeSync(handle.fd, bytes),
  writeLater: async (handle, bytes) => (await handle.write(bytes)).bytesWritten,
  sync: (handle) => handle.datasync(),
};

export interface LineWriterOptions {
  readonly clock: Clock;
  readonly retryMs: number;
  readonly maxPendingEvents: number;
  readonly slowWriteMs: number;
  readonly disk: Disk;
}

interface Waiter {
  resolve(): void;
  reject(error: unknown): void;
}

const BATCH_LINES = 256;

/**
 * Chains lines and writes them to one event file after the other. As long as the disk is well, a line is with the
 * operating system when `append` returns. After a failed or slow write, lines wait in memory and are written off the
 * event loop, in order, until a write is fast again; a line is chained when it is accepted, so one that is lost (too
 * many waiting) leaves no gap in the chain, but a count that is told.
 */
export class LineWriter {
  report: SinkReport = { failed: () => {}, lost: () => {} };
  readonly #options: LineWriterOptions;
  readonly #stop = new AbortController();
  #file: OpenEventFile;
  /** Lines that are not with the operating system yet; the first may be the rest of a line. Not empty: degraded. */
  #pending: Buffer[] = [];
  #lost = 0;
  #degraded = false;
  #draining: Promise<void> | undefined;
  #waiters: Waiter[] = [];

  constructor(file: OpenEventFile, options: LineWriterOptions) {
    this.#file = file;
    this.#options = options;
  }

  get file(): OpenEventFile {
    return this.#file;
  }

  /** The disk failed or was slow, and no fast write has been seen since. */
  get degraded(): boolean {
    return this.#degraded;
  }

  /** Lines not yet with the operating system. */
  get pending(): number {
    return this.#pending.length;
  }

  /** Lines lost and not told yet. */
  get lost(): number {
    return this.#lost;
  }

  /** Throws CPL_EVENT_LOST where too many lines wait; failures of the disk are reported, not thrown. */
  append(json: string): void {
    if (this.#degraded) {
      if (this.#pending.length >= this.#options.maxPendingEvents) {
        this.#lost++;
        throw new CoupletError('CPL_EVENT_LOST', `${this.#pending.length} events wait for the disk; one more is lost`);
      }
      this.#pending.push(this.#file.chain.append(json));
      this.#startDrain(0);
      return;
    }
    const line = this.#file.chain.append(json);
    const startMs = this.#nowMs();
    let written = 0;
    let failure: unknown;
    try {
      written = this.#options.disk.writeNow(this.#file.handle, line);
    } catch (error) {
      failure = error;
    }
    this.#file.bytes += written;
    const tookMs = this.#nowMs() - startMs;
    if (written === line.length && tookMs <= this.#options.slowWriteMs) return;
    this.#degraded = true;
    if (written < line.length) {
      this.#pending.push(line.subarray(written));
      this.#startDrain(failure === undefined ? 0 : this.#options.retryMs);
    }
    const slow = `a write of ${written} of ${line.length} bytes took ${Math.round(tookMs)} ms`;
    this.#failed(failure ?? new CoupletError('CPL_EVENT_LOG', slow));
  }

  /** Resolves when all lines so far are with the operating system, rejects at the next failed write. */
  whenWritten(): Promise<void> {
    if (this.#pending.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /** Resolves when nothing is pending however long that takes, or when the writer was stopped. */
  async settle(): Promise<void> {
    while (this.#draining !== undefined) await this.#draining;
  }

  /**
   * Writes the last line of the present file and goes on in `next`, in one synchronous step: no line falls between.
   * Only while nothing is pending.
   * @returns whether the last line is whole.
   */
  switchTo(next: OpenEventFile, lastJson: string): boolean {
    const whole = this.writeLast(lastJson);
    this.#file = next;
    return whole;
  }

  /** Writes one more line at once, past `degraded`. Only while nothing is pending. @returns whether it is whole. */
  writeLast(json: string): boolean {
    const line = this.#file.chain.append(json);
    try {
      return this.#options.disk.writeNow(this.#file.handle, line) === line.length;
    } catch (error) {
      this.report.failed(error);
      return false;
    }
  }

  /** Ends the attempts to write what is pending, except one under way. */
  stop(): void {
    this.#stop.abort();
  }

  #nowMs(): number {
    return this.#options.clock.monotonicMs();
  }

  #startDrain(waitMs: number): void {
    this.#draining ??= this.#drain(waitMs).finally(() => {
      this.#draining = undefined;
      // A report or a waiter may have appended while the drain was ending.
      if (this.#pending.length > 0 && !this.#stop.signal.aborted) this.#startDrain(0);
    });
  }

  async #drain(waitMs: number): Promise<void> {
    // Always off the caller's stack, so that #draining is set before anything is reported.
    await this.#wait(waitMs);
    let tookMs = 0;
    while (this.#pending.length > 0 && !this.#stop.signal.aborted) {
      const bytes = Buffer.concat(this.#pending.slice(0, BATCH_LINES));
      const startMs = this.#nowMs();
      let written = 0;
      try {
        written = await this.#options.disk.writeLater(this.#file.handle, bytes);
      } catch (error) {
        this.#failed(error);
      }
      tookMs = this.#nowMs() - startMs;
      this.#consume(written);
      if (written === 0) await this.#wait(this.#options.retryMs);
    }
    if (this.#pending.length > 0) return;
    this.#degraded = tookMs > this.#options.slowWriteMs;
    for (const waiter of this.#waiters.splice(0)) waiter.resolve();
    const lost = this.#lost;
    this.#lost = 0;
    if (lost > 0) this.report.lost(lost);
  }

  #consume(written: number): void {
    this.#file.bytes += written;
    let rest = written;
    let whole = 0;
    for (const line of this.#pending) {
      if (line.length > rest) break;
      rest -= line.length;
      whole++;
    }
    this.#pending.splice(0, whole);
    const first = this.#pending[0];
    if (first !== undefined && rest > 0) this.#pending[0] = first.subarray(rest);
  }

  #failed(error: unknown): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    this.report.failed(error);
  }

  async #wait(ms: number): Promise<void> {
    if (ms === 0) return;
    try {
      await delay(ms, undefined, { signal: this.#stop.signal });
    } catch (error) {
      if (!this.#stop.signal.aborted) throw error;
    }
  }
}
