import { CoupletError } from '../core/errors.ts';
import type { EventLog, NewEvent } from './event-store.ts';
import { randomToken } from './names.ts';

/** By this a sink says what went wrong; the audit part's. */
export interface SinkReport {
  failed(error: unknown): void;
  lost(count: number): void;
}

/** What is read of an event. */
export interface SinkEvent {
  readonly time: string;
  readonly code: string;
  readonly [field: string]: unknown;
}

export interface DirectoryEventSinkOptions {
  readonly events: EventLog;
  /** Most events that wait for the database; 10,000 unless told. Past it the newest are lost, and counted. */
  readonly maxQueued?: number;
  /** How long an event may wait for others to be written with it; 200 ms unless told. */
  readonly flushMs?: number;
  /** How long `close` tries; 5 s unless told. */
  readonly closeMs?: number;
}

/** SQLite: the event loop stands still for as long as this many take, a few milliseconds. */
const batchSize = 32;
const minRetryMs = 250;
const maxRetryMs = 5_000;

/** [R31] Events on their way into the database, in batches. It promises nothing durable: the log on disk does (R32). */
export class DirectoryEventSink {
  readonly name = 'directory';
  readonly #events: EventLog;
  readonly #maxQueued: number;
  readonly #flushMs: number;
  readonly #closeMs: number;
  /** Tells the events of this process and boot from all others. */
  readonly #boot = randomToken(9);
  #report: SinkReport | undefined;
  /** Failures before there was somebody to tell. */
  #untold: unknown[] = [];
  #queue: NewEvent[] = [];
  #count = 0;
  #lost = 0;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> | undefined;
  #retryMs = 0;
  #closed = false;

  constructor(options: DirectoryEventSinkOptions) {
    this.#events = options.events;
    this.#maxQueued = options.maxQueued ?? 10_000;
    this.#flushMs = options.flushMs ?? 200;
    this.#closeMs = options.closeMs ?? 5_000;
  }

  get queued(): number {
    return this.#queue.length;
  }

  attach(report: SinkReport): void {
    this.#report = report;
    for (const error of this.#untold.splice(0)) report.failed(error);
  }

  /** Something else about the events that was to go into the database did not; counts as a failure of this sink. */
  failed(error: unknown): void {
    if (this.#report === undefined) this.#untold.push(error);
    else this.#report.failed(error);
  }

  /** Never waits. @throws CoupletError `CPL_EVENT_LOST` where the queue is full */
  write(event: SinkEvent, json: string): void {
    if (this.#closed || this.#queue.length >= this.#maxQueued) {
      this.#lost++;
      throw new CoupletError('CPL_EVENT_LOST', `${this.#queue.length} events wait for the database; one more is lost`);
    }
    const text = (field: string) => (typeof event[field] === 'string' ? (event[field] as string) : '');
    this.#queue.push({
      uid: `${this.#boot}-${this.#count++}`,
      timeMs: Date.parse(event.time),
      code: event.code,
      domain: text('domain'),
      userId: text('userid'),
      nodeId: text('nodeid'),
      json,
    });
    this.#schedule(this.#queue.length >= batchSize ? 0 : this.#flushMs);
  }

  /** Resolves when what was written so far is in the database, or was tried once. */
  async flush(): Promise<void> {
    await this.#writing;
    await this.#run();
  }

  /** Writes what waits, for a limited time. @throws CoupletError `CPL_EVENT_LOST` with the number that did not get through */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#closeMs);
    });
    await Promise.race([this.flush(), late]);
    clearTimeout(timer);
    clearTimeout(this.#timer);
    const missing = this.#queue.length + this.#lost;
    this.#queue = [];
    if (missing > 0) throw new CoupletError('CPL_EVENT_LOST', `${missing} event(s) are not in the directory database`);
  }

  #schedule(afterMs: number): void {
    if (this.#retryMs > 0 || this.#writing !== undefined) return;
    if (this.#timer !== undefined) {
      if (afterMs > 0) return;
      clearTimeout(this.#timer);
    }
    this.#timer = setTimeout(() => void this.#run(), afterMs);
  }

  #run(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing ??= this.#drain().finally(() => {
      this.#writing = undefined;
      if (this.#closed || this.#queue.length === 0) return;
      const waitMs = this.#retryMs || this.#flushMs;
      this.#timer = setTimeout(() => void this.#run(), waitMs);
    });
    return this.#writing;
  }

  /** Never rejects. */
  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue.slice(0, batchSize);
      try {
        await this.#events.append(batch);
      } catch (error) {
        this.#retryMs = Math.min(Math.max(2 * this.#retryMs, minRetryMs), maxRetryMs);
        this.#report?.failed(error);
        return;
      }
      this.#queue.splice(0, batch.length);
      this.#retryMs = 0;
      // Others get their turn between two batches.
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (this.#lost === 0) return;
    const lost = this.#lost;
    this.#lost = 0;
    this.#report?.lost(lost);
  }
}
