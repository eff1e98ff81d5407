import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { CoupletError } from '../core/errors.ts';
import type { CatalogEntry, CatalogPage, CatalogQuery } from './catalog-entry.ts';
import {
  control,
  type DeleteOutcome,
  describeJob,
  type IndexOutcome,
  type Job,
  type JobReply,
  type JobRequest,
} from './job-runner.ts';
import { freshMs } from './locks.ts';
import type { RetentionLimits, SweepReport, SweepResult } from './retention.ts';
import type { SalvageResult } from './salvage.ts';

export type { IndexOutcome } from './job-runner.ts';

/** How long the thread stays when it has nothing to do. */
const defaultIdleMs = 30_000;
/** A salvage that met fresh files is repeated when they are not fresh any more; the clocks may differ a little. */
const defaultFreshRetryMs = freshMs + 5000;
/** Recordings that wait for their index; sessions end faster than that only where something is wrong. */
const defaultMaxWaitingIndexes = 100_000;
/** Of the thread's heap. Every job needs far less; one that does not fails alone, the process goes on. */
const maxHeapMb = 512;

export interface RecordingJobsOptions {
  /** What no job's promise tells: a thread that died without a job, a callback that threw, a repeated salvage failed. */
  readonly onProblem: (error: Error) => void;
  readonly idleMs?: number;
  readonly freshRetryMs?: number;
  readonly maxWaitingIndexes?: number;
  /** The thread's entry; for tests. */
  readonly entry?: URL;
}

/** A job with what its promise waits for. */
interface Waiting {
  readonly job: Job;
  readonly onResult: (result: SalvageResult | SweepResult) => void;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly shared: Int32Array;
  running: Waiting | undefined;
  /** Results taken in this turn of the event loop. */
  taken: number;
  error: Error | undefined;
}

/**
 * Salvage, index and retention in a thread of their own, one job at a time, so that neither the event loop nor any
 * thread that something else waits for does disk work of theirs [R36]. The thread starts with the first job, ends when
 * idle, and never keeps the process alive. One that dies fails the job it had; the next job gets a new one. A promise is
 * rejected with a CoupletError: the job's own, `CPL_RECORDING_JOB` (what the disk or the thread's death said), or
 * `CPL_RECORDING_JOBS_CLOSED` for one that was dropped.
 */
export class RecordingJobs {
  readonly #options: RecordingJobsOptions;
  /** Salvage goes first: until it is done recordings of before a crash cannot be played. */
  readonly #salvages = new Set<Waiting>();
  readonly #others = new Set<Waiting>();
  readonly #indexing = new Map<string, Promise<IndexOutcome>>();
  readonly #timers = new Set<NodeJS.Timeout>();
  /** The thread of the running and the next job; `#gone` also has those that are ending. */
  #thread: Thread | undefined;
  readonly #gone = new Map<Thread, Promise<void>>();
  #idle: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: RecordingJobsOptions) {
    this.#options = options;
  }

  /** Salvages folders [R37], once more later where there were fresh files; `onResult` for each file not in order. */
  async salvage(folders: readonly string[], onResult: (result: SalvageResult) => void): Promise<void> {
    const take = onResult as Waiting['onResult'];
    const fresh = await this.#add(this.#salvages, { kind: 'salvage', folders: [...new Set(folders)] }, take);
    if (fresh === 0 || this.#closed) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.#add(this.#salvages, { kind: 'salvage', folders }, take).catch((error) => this.#problem(error));
    }, this.#options.freshRetryMs ?? defaultFreshRetryMs).unref();
    this.#timers.add(timer);
  }

  /** Gives a recording an index [M7]. A path that waits already, or is being indexed, gets the same promise. */
  index(path: string): Promise<IndexOutcome> {
    const known = this.#indexing.get(path);
    if (known !== undefined) return known;
    const max = this.#options.maxWaitingIndexes ?? defaultMaxWaitingIndexes;
    if (this.#indexing.size >= max) {
      const text = `${path}: gets no index, ${max} recordings wait for theirs already`;
      return Promise.reject(new CoupletError('CPL_RECORDING_JOB', text));
    }
    const indexed = this.#add(this.#others, { kind: 'index', path }, () => undefined) as Promise<IndexOutcome>;
    this.#indexing.set(path, indexed);
    const forget = () => this.#indexing.delete(path);
    indexed.then(forget, forget);
    return indexed;
  }

  /** Why no recording can be made in one of the folders; empty: in all of them one can. */
  check(folders: readonly string[]): Promise<string> {
    return this.#add(this.#others, { kind: 'check', folders }, () => undefined) as Promise<string>;
  }

  /** One page of the recordings in some folders. */
  list(query: CatalogQuery): Promise<CatalogPage> {
    return this.#add(this.#others, { kind: 'list', ...query }, () => undefined) as Promise<CatalogPage>;
  }

  /** One recording by its name; `undefined` where there is none in this domain. */
  find(folders: readonly string[], file: string, domain?: string): Promise<CatalogEntry | undefined> {
    const job: Job = { kind: 'find', folders, file, ...(domain !== undefined && { domain }) };
    return this.#add(this.#others, job, () => undefined) as Promise<CatalogEntry | undefined>;
  }

  /** Deletes a recording and its sidecar, unless it is in use. */
  delete(path: string): Promise<DeleteOutcome> {
    return this.#add(this.#others, { kind: 'delete', path }, () => undefined) as Promise<DeleteOutcome>;
  }

  /** Resolves when no recording waits for its index any more; after `withinMs` at the latest. */
  async indexed(withinMs: number): Promise<void> {
    const timer = new AbortController();
    const late = delay(withinMs, undefined, { signal: timer.signal }).catch(() => undefined);
    await Promise.race([Promise.allSettled(this.#indexing.values()), late]);
    timer.abort();
  }

  /** Sweeps a folder [R38]; `onResult` for each file deleted or not deleted. */
  sweep(
    folder: string,
    limits: RetentionLimits,
    onResult: (result: SweepResult) => void = () => undefined,
  ): Promise<SweepReport> {
    const job: Job = { kind: 'sweep', folder, limits };
    return this.#add(this.#others, job, onResult as Waiting['onResult']) as Promise<SweepReport>;
  }

  /**
   * Drops what waits, lets the running job finish the file it is changing, and resolves when the thread is gone. What
   * was dropped is rejected with `CPL_RECORDING_JOBS_CLOSED`, and so is every later job.
   */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#idle);
    for (const timer of this.#timers) clearTimeout(timer);
    for (const waiting of [...this.#salvages, ...this.#others]) waiting.reject(closedError(waiting.job));
    this.#salvages.clear();
    this.#others.clear();
    const thread = this.#thread;
    if (thread !== undefined) {
      Atomics.store(thread.shared, control.stop, 1);
      this.#end(thread);
      wake(thread, 1);
    }
    for (const { worker } of this.#gone.keys()) worker.ref();
    await Promise.all(this.#gone.values());
  }

  #add(queue: Set<Waiting>, job: Job, onResult: Waiting['onResult']): Promise<unknown> {
    if (this.#closed) return Promise.reject(closedError(job));
    return new Promise((resolve, reject) => {
      queue.add({ job, onResult, resolve, reject });
      this.#next();
    });
  }

  #next(): void {
    while (this.#thread?.running === undefined && !this.#closed) {
      const queue = this.#salvages.size > 0 ? this.#salvages : this.#others;
      const [first] = queue;
      if (first === undefined) break;
      queue.delete(first);
      clearTimeout(this.#idle);
      try {
        this.#thread ??= this.#start();
      } catch (cause) {
        first.reject(jobError(first.job, `its thread cannot be started: ${(cause as Error).message}`, cause));
        continue;
      }
      this.#thread.running = first;
      post(this.#thread, first.job);
    }
  }

  #start(): Thread {
    const shared = new Int32Array(new SharedArrayBuffer(control.length * Int32Array.BYTES_PER_ELEMENT));
    const resourceLimits = { maxOldGenerationSizeMb: maxHeapMb };
    const url = this.#options.entry ?? entry;
    const worker = new Worker(url, { workerData: shared, resourceLimits, execArgv: execArgvFor(url) });
    const thread: Thread = { worker, shared, running: undefined, taken: 0, error: undefined };
    worker.on('message', (reply: JobReply) => this.#take(thread, reply));
    worker.on('error', (error) => {
      thread.error = error instanceof Error ? error : new Error(String(error));
    });
    const gone = new Promise<void>((resolve) => {
      worker.on('exit', (code) => {
        this.#exited(thread, code);
        resolve();
      });
    });
    // Behind the listeners: one for messages makes it keep the process alive again.
    worker.unref();
    this.#gone.set(thread, gone);
    return thread;
  }

  #take(thread: Thread, reply: JobReply): void {
    const { running } = thread;
    if (running === undefined) return;
    if (reply.type === 'result') {
      try {
        running.onResult(reply.result);
      } catch (error) {
        this.#problem(error);
      }
      // The thread may go on only when the event loop has had a turn.
      if (thread.taken++ === 0) {
        setImmediate(() => {
          wake(thread, thread.taken);
          thread.taken = 0;
        });
      }
      return;
    }
    thread.running = undefined;
    if (reply.type === 'done') running.resolve(reply.value);
    else if (reply.type === 'stopped') running.reject(closedError(running.job));
    else running.reject(new CoupletError(reply.code, reply.message, { level: 'error' }));
    this.#next();
    if (thread.running !== undefined || this.#closed) return;
    this.#idle = setTimeout(() => this.#end(thread), this.#options.idleMs ?? defaultIdleMs).unref();
  }

  /** The thread ends by itself when its job is done. */
  #end(thread: Thread): void {
    this.#thread = undefined;
    post(thread, { kind: 'end' });
  }

  #exited(thread: Thread, code: number): void {
    this.#gone.delete(thread);
    if (this.#thread === thread) this.#thread = undefined;
    const { running, error } = thread;
    const text = `its thread ended: ${error?.message ?? `exit code ${code}`}`;
    if (running !== undefined) running.reject(jobError(running.job, text, error));
    else if (error !== undefined) this.#problem(new CoupletError('CPL_RECORDING_JOB', text, { cause: error }));
    this.#next();
  }

  #problem(error: unknown): void {
    this.#options.onProblem(error instanceof Error ? error : new Error(String(error)));
  }
}

/** In the build as in development, where the sources run. */
const entry = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url);

/**
 * The thread takes none of the process's own arguments, some of which (`--input-type`) it could not start with. A source
 * needs tsx, which in a worker thread does not put itself to work.
 */
function execArgvFor(url: URL): string[] {
  if (!url.pathname.endsWith('.ts')) return [];
  const tsx = JSON.stringify(import.meta.resolve('tsx/esm/api'));
  const code = `import { register } from ${tsx}; register();`;
  return ['--import', `data:text/javascript,${encodeURIComponent(code)}`];
}

function post(thread: Thread, request: JobRequest): void {
  thread.worker.postMessage(request);
}

/** Tells the thread that so many more results were taken. A changed number, so that it cannot be missed. */
function wake(thread: Thread, taken: number): void {
  Atomics.add(thread.shared, control.taken, taken);
  Atomics.notify(thread.shared, control.taken);
}

function jobError(job: Job, text: string, cause: unknown): CoupletError {
  return new CoupletError('CPL_RECORDING_JOB', `${describeJob(job)}: ${text}`, { level: 'error', cause });
}

function closedError(job: Job): CoupletError {
  return new CoupletError('CPL_RECORDING_JOBS_CLOSED', `${describeJob(job)}: dropped, the server ends`, {
    level: 'debug',
  });
}
