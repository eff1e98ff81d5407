import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../core/clock.ts';
import { CoupletError } from '../../core/errors.ts';
import { errorCode, eventFileName, type Head } from '../event-file.ts';
import { createChainKey } from '../hash-chain.ts';
import { HeadsHandover, type HeadsWitness, knownHeads } from '../heads-witness.ts';
import type { EventRecord, EventSink, SinkReport } from '../sink.ts';
import {
  createEventFile,
  type FolderContext,
  headOf,
  newBoot,
  noteAndRecord,
  type OpenEventFile,
  prepareFolder,
  recordJson,
  timeOf,
} from './event-log-file.ts';
import { type Disk, LineWriter, realDisk } from './line-writer.ts';

export interface JsonLinesOptions {
  /** `DATA/events`; made where it is not there. */
  readonly folder: string;
  /** 32 bytes, derived from the login key by HKDF under a label of its own (R5). */
  readonly key: Uint8Array;
  readonly clock: Clock;
  /** `audit.maxFileBytes`: past it a new file continues the chain (fault 48). 0: only `rotate()` does. */
  readonly maxFileBytes?: number;
  /** How often written lines are put on stable storage and vouched for in the heads file. Default 5000. */
  readonly headsMs?: number;
  /** How long to wait after a failed write or rotation. Default 1000. */
  readonly retryMs?: number;
  /** Events kept in memory while the disk takes none; further ones are lost, counted and told. Default 10,000. */
  readonly maxPendingEvents?: number;
  /** A write that took longer moves the following ones off the event loop until one is fast again. Default 50. */
  readonly slowWriteMs?: number;
  /** How long `close` tries to write what is pending. Default 2000. */
  readonly closeMs?: number;
  /** Where heads are noted besides the heads file; a witness that fails or hangs holds up nothing (R32). */
  readonly witness?: HeadsWitness | undefined;
  /** Past this an attempt to note heads with the witness counts as failed. Default 5000; at the end `closeMs`. */
  readonly witnessMs?: number;
  /** Stands in for write(2) and fdatasync(2), for tests of failing disks. */
  readonly disk?: Disk;
}

const WITNESS_MS = 5_000;

/**
 * The hash-chained event log (R31). A line is given to the operating system before `write` returns, so a `kill -9`
 * right after an event does not lose it (fault 49). While the disk fails or is slow nothing waits for it (R32).
 */
export class JsonLinesSink implements EventSink {
  readonly name = 'file';
  readonly #context: FolderContext;
  readonly #disk: Disk;
  readonly #writer: LineWriter;
  readonly #maxFileBytes: number;
  readonly #retryMs: number;
  readonly #closeMs: number;
  readonly #upkeep: NodeJS.Timeout;
  readonly #handover: HeadsHandover | undefined;
  #syncing: Promise<void> | undefined;
  #syncNext: Promise<void> | undefined;
  /** Rotation, upkeep and the end of the log: one at a time. */
  #chores: Promise<unknown> = Promise.resolve();
  #rotating: Promise<void> | undefined;
  #rotateNotBeforeMs = 0;
  /** Settles when the file before this one is durable and vouched for. */
  #retiring: Promise<void> = Promise.resolve();
  #notedLine: number;
  #closing: Promise<void> | undefined;

  /** Use {@link openJsonLinesSink}. */
  constructor(context: FolderContext, file: OpenEventFile, options: JsonLinesOptions) {
    this.#context = context;
    this.#notedLine = file.chain.line;
    this.#maxFileBytes = options.maxFileBytes ?? 0;
    this.#retryMs = options.retryMs ?? 1_000;
    this.#closeMs = options.closeMs ?? 2_000;
    this.#disk = options.disk ?? realDisk;
    this.#writer = new LineWriter(file, {
      clock: options.clock,
      retryMs: this.#retryMs,
      maxPendingEvents: options.maxPendingEvents ?? 10_000,
      slowWriteMs: options.slowWriteMs ?? 50,
      disk: this.#disk,
    });
    const { witness } = options;
    this.#handover = witness && new HeadsHandover(file.log, witness, options.witnessMs ?? WITNESS_MS);
    this.#vouched(file.opening);
    const upkeep = () => void this.maintain().catch((error) => this.#writer.report.failed(error));
    this.#upkeep = setInterval(upkeep, options.headsMs ?? 5_000).unref();
  }

  /** Number of the event file that is being written. */
  get fileNumber(): number {
    return this.#writer.file.number;
  }

  attach(report: SinkReport): void {
    this.#writer.report = report;
  }

  /** Throws where the event is lost (too many pending, or closed); a failed write is retried and reported instead. */
  write(_event: EventRecord, json: string): void {
    if (this.#closing !== undefined) throw new CoupletError('CPL_EVENT_LOG', 'the event log is closed');
    this.#writer.append(json);
    const full = this.#maxFileBytes > 0 && this.#writer.file.bytes >= this.#maxFileBytes;
    if (!full || this.#rotating !== undefined || this.#nowMs() < this.#rotateNotBeforeMs) return;
    this.rotate().catch((error) => {
      this.#rotateNotBeforeMs = this.#nowMs() + this.#retryMs;
      this.#writer.report.failed(error);
    });
  }

  /** Resolves when every event so far is on stable storage (R32). All who wait while one fdatasync runs share the next. */
  async flushDurable(): Promise<void> {
    const { lost } = this.#writer;
    if (lost > 0) throw new CoupletError('CPL_EVENT_LOST', `${lost} event(s) are not in the event log`);
    const retiring = this.#retiring;
    await this.#writer.whenWritten();
    await Promise.all([retiring, this.#retiring, this.#sync()]);
  }

  /**
   * Goes on in a new file; no line is lost or waits (fault 48). Rejects, and stays with the old file, where no new one
   * can be made.
   */
  rotate(): Promise<void> {
    this.#rotating ??= this.#inTurn(() => this.#rotate()).finally(() => {
      this.#rotating = undefined;
    });
    return this.#rotating;
  }

  /**
   * Upkeep, run every `headsMs`: makes written lines durable and vouches for them, and goes on in a new file where the
   * present one was moved away (logrotate) or deleted.
   */
  maintain(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#closing !== undefined) return;
      // What the witness did not take before.
      this.#handover?.hand();
      const { file, degraded } = this.#writer;
      const head = headOf(file, false);
      const path = join(this.#context.folder, eventFileName(file.number));
      const [ours, there] = await Promise.all([file.handle.stat(), statIfThere(path)]);
      if (there === undefined || there.ino !== ours.ino || there.dev !== ours.dev) {
        const deleted = new CoupletError('CPL_EVENT_LOG', `${path} was deleted while it was written`);
        if (ours.nlink === 0) this.#writer.report.failed(deleted);
        return this.#rotate();
      }
      if (head.line === this.#notedLine || degraded) return;
      await this.#disk.sync(file.handle);
      await noteAndRecord(this.#context, file, [head], (json) => this.#writer.append(json));
      this.#notedLine = head.line;
      this.#vouched(head);
    });
  }

  /** Writes what is pending for at most `closeMs`, then the closing line; without it the file counts as a crash. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  #nowMs(): number {
    return this.#context.clock.monotonicMs();
  }

  #sync(): Promise<void> {
    if (this.#syncing === undefined) {
      this.#syncing = this.#disk.sync(this.#writer.file.handle).finally(() => {
        this.#syncing = undefined;
      });
      return this.#syncing;
    }
    const again = () => {
      this.#syncNext = undefined;
      return this.#sync();
    };
    this.#syncNext ??= this.#syncing.then(again, again);
    return this.#syncNext;
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#chores.then(task);
    // Whoever asked for the task gets its error; the next in turn must not.
    this.#chores = run.catch(() => {});
    return run;
  }

  async #rotate(): Promise<void> {
    const next = await createEventFile(this.#context, this.#writer.file);
    await this.#writer.settle();
    if (this.#writer.pending > 0) return next.handle.close();
    const old = this.#writer.file;
    const lastWhole = headOf(old, false);
    const record = { record: 'close', time: timeOf(this.#context.clock), next: next.number } as const;
    const closed = this.#writer.switchTo(next, recordJson(record));
    this.#notedLine = next.chain.line;
    this.#vouched(next.opening);
    const retiring = this.#retire(old, closed ? headOf(old, true) : lastWhole);
    this.#retiring = retiring;
    retiring.catch((error) => {
      this.#writer.report.failed(error);
      if (this.#retiring === retiring) this.#retiring = Promise.resolve();
    });
  }

  async #retire(old: OpenEventFile, head: Head): Promise<void> {
    try {
      await this.#disk.sync(old.handle);
    } finally {
      await old.handle.close();
    }
    this.#writer.append(recordJson({ record: 'head', time: timeOf(this.#context.clock), head }));
    await noteAndRecord(this.#context, this.#writer.file, [head], (json) => this.#writer.append(json));
    this.#vouched(head);
  }

  /** A head that is on stable storage and in the heads file. */
  #vouched(head: Head): void {
    this.#handover?.add(head);
    this.#handover?.hand();
  }

  async #close(): Promise<void> {
    clearInterval(this.#upkeep);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#closeMs);
    });
    await Promise.race([this.#writer.settle(), late]);
    clearTimeout(timer);
    this.#writer.stop();
    try {
      await this.#inTurn(() => this.#finish());
    } finally {
      await this.#handover?.close(this.#closeMs);
    }
  }

  async #finish(): Promise<void> {
    await this.#writer.settle();
    // What failed there was reported there; the last file is ended all the same.
    await this.#retiring.catch(() => {});
    const { file, pending, lost } = this.#writer;
    try {
      if (pending + lost > 0) {
        throw new CoupletError('CPL_EVENT_LOST', `${pending + lost} event(s) could not be written before the stop`);
      }
      const record = { record: 'close', time: timeOf(this.#context.clock), next: null } as const;
      if (!this.#writer.writeLast(recordJson(record))) {
        throw new CoupletError('CPL_EVENT_LOG', 'the closing line of the event log could not be written');
      }
      await this.#disk.sync(file.handle);
      const head = headOf(file, true);
      await noteAndRecord(this.#context, file, [head], () => {});
      this.#handover?.add(head);
    } finally {
      await file.handle.close();
    }
  }
}

async function statIfThere(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Opens the event log of this process: a new file that starts with the head of the newest one there. */
export async function openJsonLinesSink(options: JsonLinesOptions): Promise<JsonLinesSink> {
  const { folder, clock } = options;
  const context: FolderContext = { folder, clock, key: createChainKey(options.key), boot: newBoot() };
  await prepareFolder(context);
  const { witness, witnessMs = WITNESS_MS } = options;
  const witnessed = witness && ((log: string) => knownHeads(log, witness, witnessMs));
  return new JsonLinesSink(context, await createEventFile(context, undefined, witnessed), options);
}
