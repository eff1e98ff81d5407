import { accessSync, constants, statSync } from 'node:fs';
import type { MessagePort } from 'node:worker_threads';
import { CoupletError } from '../core/errors.ts';
import { type CatalogQuery, findInCatalog, listCatalog } from './catalog-entry.ts';
import { errorCode, isMissing, type RecordingFs, realFs } from './file-system.ts';
import type { indexRecording } from './indexer.ts';
import { type FileGuard, type InUse, type TryLock, whileUnused } from './locks.ts';
import { deleteUnused, type RetentionLimits, type SweepResult, sweepRecordings } from './retention.ts';
import { type SalvageResult, salvageFolder } from './salvage.ts';

/** What the main thread sends: one job after the reply to the one before; `end`: end the thread. */
export type Job =
  | { readonly kind: 'salvage'; readonly folders: readonly string[] }
  | { readonly kind: 'sweep'; readonly folder: string; readonly limits: RetentionLimits }
  | { readonly kind: 'index'; readonly path: string }
  | { readonly kind: 'check'; readonly folders: readonly string[] }
  | ({ readonly kind: 'list' } & CatalogQuery)
  | { readonly kind: 'find'; readonly folders: readonly string[]; readonly file: string; readonly domain?: string }
  | { readonly kind: 'delete'; readonly path: string };

export type JobRequest = Job | { readonly kind: 'end' };

/** What comes back: results of single files while the job runs, then one of the other three. */
export type JobReply =
  | { readonly type: 'result'; readonly result: SalvageResult | SweepResult }
  /** `value`: what the job's generator or function returns. */
  | { readonly type: 'done'; readonly value: unknown }
  | { readonly type: 'failed'; readonly code: `CPL_${string}`; readonly message: string }
  | { readonly type: 'stopped' };

/** Places in the memory that both threads share. */
export const control = {
  /** 1: the main thread wants the running job to stop. */
  stop: 0,
  /** Results that the main thread has taken, modulo 2^32. */
  taken: 1,
  length: 2,
} as const;

/** Results on the way to the main thread at most: it takes them one turn of its event loop at a time. */
const maxResultsOnTheWay = 64;

export type IndexOutcome = ReturnType<typeof indexRecording> | InUse;

/** `in-use`: somebody records into it, reads it or works on it. */
export type DeleteOutcome = 'deleted' | 'in-use' | 'missing';

export interface JobTools {
  readonly guard: FileGuard & { readonly tryLockShared: TryLock };
  readonly index: typeof indexRecording;
}

/** Why no recording can be made in a folder; empty: one can. */
function folderFault(folder: string): string {
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    return statSync(folder).isDirectory() ? '' : 'the recordings folder is no folder';
  } catch (error) {
    return `the recordings folder cannot be written to: ${errorCode(error)}`;
  }
}

/** Thrown at the next read after a stop was asked for; what is being changed then is changed to its end. */
class Stopped extends Error {}

/** Does jobs as they come, one at a time and synchronously, until told to end. `shared`: see {@link control}. */
export function serveJobs(port: MessagePort, shared: Int32Array, tools: JobTools): void {
  const runner = new JobRunner(port, shared, tools);
  port.on('message', (request: JobRequest) => {
    if (request.kind === 'end') port.close();
    else port.postMessage(runner.run(request));
  });
}

class JobRunner {
  readonly #port: MessagePort;
  readonly #shared: Int32Array;
  readonly #tools: JobTools;
  readonly #fs: RecordingFs;
  #sent = 0;

  constructor(port: MessagePort, shared: Int32Array, tools: JobTools) {
    this.#port = port;
    this.#shared = shared;
    this.#tools = tools;
    // Repair, indexer and sweep read before they write and look before they delete: stopping there leaves no file
    // half changed.
    this.#fs = {
      ...realFs,
      readSync: (fd, buffer, offset, length, position) => {
        this.#checkStop();
        return realFs.readSync(fd, buffer, offset, length, position);
      },
      lstatSync: (path) => {
        this.#checkStop();
        return realFs.lstatSync(path);
      },
    };
  }

  run(job: Job): JobReply {
    try {
      this.#checkStop();
      return { type: 'done', value: this.#do(job) };
    } catch (error) {
      if (this.#isStopped()) return { type: 'stopped' };
      if (error instanceof CoupletError) {
        return { type: 'failed', code: error.code as `CPL_${string}`, message: error.message };
      }
      const text = error instanceof Error ? error.message : errorCode(error);
      return { type: 'failed', code: 'CPL_RECORDING_JOB', message: `${describeJob(job)}: ${text}` };
    }
  }

  #do(job: Job): unknown {
    const { guard } = this.#tools;
    switch (job.kind) {
      case 'salvage':
        return job.folders.reduce((fresh, folder) => fresh + this.#salvage(folder), 0);
      case 'sweep':
        return this.#sendAll(sweepRecordings({ ...job, guard, fs: this.#fs }));
      case 'check':
        return job.folders.map(folderFault).find((fault) => fault !== '') ?? '';
      case 'list':
        return listCatalog(job, guard, this.#fs);
      case 'find':
        return findInCatalog(job.folders, job.file, job.domain, guard, this.#fs);
      case 'delete':
        return this.#delete(job.path);
      case 'index': {
        const options = { noFollow: true, fs: this.#fs };
        return whileUnused(job.path, guard, () => this.#tools.index(job.path, options), options);
      }
    }
  }

  #delete(path: string): DeleteOutcome {
    try {
      return deleteUnused(path, this.#tools.guard, this.#fs) ? 'deleted' : 'in-use';
    } catch (error) {
      if (isMissing(error)) return 'missing';
      throw error;
    }
  }

  /** A folder that cannot be listed holds up none of the others. */
  #salvage(folder: string): number {
    try {
      return this.#sendAll(salvageFolder(folder, { guard: this.#tools.guard, fs: this.#fs }));
    } catch (error) {
      this.#checkStop();
      const text = error instanceof Error ? error.message : errorCode(error);
      this.#send({ path: folder, state: 'failed', text });
      return 0;
    }
  }

  #sendAll<T>(results: Generator<SalvageResult | SweepResult, T>): T {
    for (;;) {
      const { done, value } = results.next();
      if (done) return value;
      // A file that the stop itself made fail is none of the results.
      if (value.state === 'failed') this.#checkStop();
      this.#send(value);
      this.#checkStop();
    }
  }

  /** Waits while the main thread has too many of them before it, so that they take no more memory than those. */
  #send(result: SalvageResult | SweepResult): void {
    for (;;) {
      const taken = Atomics.load(this.#shared, control.taken);
      if (((this.#sent - taken) | 0) < maxResultsOnTheWay || this.#isStopped()) break;
      Atomics.wait(this.#shared, control.taken, taken);
    }
    this.#sent++;
    this.#port.postMessage({ type: 'result', result } satisfies JobReply);
  }

  #isStopped(): boolean {
    return Atomics.load(this.#shared, control.stop) !== 0;
  }

  #checkStop(): void {
    if (this.#isStopped()) throw new Stopped('stopped');
  }
}

/** The job in a few words, for messages. */
export function describeJob(job: Job): string {
  const what = 'folders' in job ? job.folders.join(', ') : job.kind === 'sweep' ? job.folder : job.path;
  return `recording job ${job.kind} of ${what}`;
}
