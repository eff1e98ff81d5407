import type { LoadedConfig } from '../config/load.ts';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import type { LogHandle } from '../core/logger.ts';
import type { MetricSnapshot } from '../metrics/merge.ts';
import type { FromWorker, Scrape, ToldError } from './worker-messages.ts';
import { type WorkerEnd, WorkerProcess } from './worker-process.ts';

/** From a worker's death to its next start: doubled each time, as long as it does not run for some time. */
const firstDelayMs = 100;
const maxDelayMs = 10_000;
const soundAfterMs = 60_000;
/** How long a worker may take to answer about a reload, milliseconds. */
const reloadMs = 10_000;

export interface WorkerSlotParts {
  readonly clock: Clock;
  readonly log: LogHandle;
  readonly lockFd: number | undefined;
  /** The configuration in use. */
  readonly config: () => LoadedConfig;
  /** The metrics of all, which somebody asked a worker for; `undefined` where they cannot be told. */
  readonly scrape: () => Promise<Scrape | undefined>;
  /** A process of this slot's is gone. */
  readonly ended: (slot: WorkerSlot) => void;
}

/** `refused`: it goes on with the configuration it has; `gone`: it died or is silent. */
export type ReloadAnswer = 'done' | 'refused' | 'gone';

type Listening = Extract<FromWorker, { kind: 'listening' }>;

/** The place of one worker: its process, and after that one's death the next. */
export class WorkerSlot {
  readonly number: number;
  /** What it listens on, while it does. */
  listening: Listening | undefined;
  /** The address it was last heard to listen on. */
  address = '';
  restarts = 0;
  /** Whether a process of it ended otherwise than in order, after it was told to stop. */
  stoppedBadly = false;
  readonly #parts: WorkerSlotParts;
  #port: number;
  #process: WorkerProcess | undefined;
  #startedMs = 0;
  #delayMs = firstDelayMs;
  #timer: NodeJS.Timeout | undefined;
  #stopping = false;
  /** The configuration that its process started with. */
  #sent: LoadedConfig | undefined;
  #failed: ToldError | undefined;
  #first: { resolve: (listening: Listening) => void; reject: (error: Error) => void } | undefined;
  #snapshot:
    | { readonly promise: Promise<MetricSnapshot | undefined>; resolve: (s?: MetricSnapshot) => void }
    | undefined;
  /** What waits for a worker's answer about a reload, by its id. */
  readonly #reloads = new Map<number, (answer: ReloadAnswer) => void>();
  #lastReload = 0;
  readonly #onGone: (() => void)[] = [];

  constructor(number: number, port: number, parts: WorkerSlotParts) {
    this.number = number;
    this.#port = port;
    this.#parts = parts;
  }

  get isRunning(): boolean {
    return this.#process !== undefined;
  }

  /**
   * Starts it for the first time; resolves when it listens. From then on it is started again whenever it dies.
   * @throws CoupletError the worker's own, or `CPL_WORKER` where it ended without a word
   */
  start(): Promise<Listening> {
    return new Promise((resolve, reject) => {
      this.#first = { resolve, reject };
      this.#fork();
    });
  }

  #fork(): void {
    const { clock, log, lockFd, config } = this.#parts;
    this.#startedMs = clock.monotonicMs();
    this.#failed = undefined;
    this.#process = new WorkerProcess({
      number: this.number,
      lockFd,
      line: (text) => log.passOn(text),
      heard: (message) => this.#heard(message),
      ended: (end) => this.#ended(end),
    });
    this.#sent = config();
    this.#process.send({ kind: 'start', loaded: this.#sent, port: this.#port });
  }

  #heard(message: FromWorker): void {
    switch (message.kind) {
      case 'listening':
        this.listening = message;
        this.address = message.address;
        // Its next process must be found where this one was.
        this.#port = message.port;
        // A reload came while it started.
        if (this.#sent !== this.#parts.config()) void this.reload(this.#parts.config());
        this.#first?.resolve(message);
        this.#first = undefined;
        return;
      case 'failed':
        this.#failed = message.error;
        return;
      case 'reloaded':
        return this.#reloads.get(message.id)?.(message.refused ? 'refused' : 'done');
      case 'metrics':
        return this.#snapshot?.resolve(message.snapshot);
      case 'scrape': {
        const asker = this.#process;
        void this.#parts.scrape().then((scrape) => asker?.send({ kind: 'scraped', id: message.id, scrape }));
      }
    }
  }

  #ended({ code, signal }: WorkerEnd): void {
    const { clock, log } = this.#parts;
    const wasListening = this.listening !== undefined;
    this.#process = undefined;
    this.listening = undefined;
    this.#snapshot?.resolve();
    for (const settle of this.#reloads.values()) settle('gone');
    this.#parts.ended(this);
    for (const call of this.#onGone.splice(0)) call();
    if (this.#stopping) {
      if (wasListening && code !== 0) this.stoppedBadly = true;
      return;
    }
    const how = signal === null ? `with code ${code}` : `by ${signal}`;
    if (this.#first !== undefined) {
      const { code: told, message } = this.#failed ?? {
        code: '' as const,
        message: `worker ${this.number} ended ${how}`,
      };
      this.#stopping = true;
      this.#first.reject(new CoupletError(told || 'CPL_WORKER', message, { level: 'error' }));
      return;
    }
    if (clock.monotonicMs() - this.#startedMs >= soundAfterMs) this.#delayMs = firstDelayMs;
    const fields = { worker: this.number, code, signal, why: this.#failed?.message, restartInMs: this.#delayMs };
    log.logger.error(fields, `worker ${this.number} ended ${how}; it is started again`);
    this.#timer = setTimeout(() => {
      this.restarts++;
      this.#fork();
    }, this.#delayMs);
    this.#delayMs = Math.min(this.#delayMs * 2, maxDelayMs);
  }

  /** Its metrics; `undefined` where it ends before it answers. A worker that owes an answer is not asked again. */
  snapshot(): Promise<MetricSnapshot | undefined> {
    if (this.#process === undefined) return Promise.resolve(undefined);
    if (this.#snapshot === undefined) {
      let settle: (snapshot?: MetricSnapshot) => void = () => undefined;
      const promise = new Promise<MetricSnapshot | undefined>((resolve) => {
        settle = resolve;
      });
      const resolve = (snapshot?: MetricSnapshot) => {
        this.#snapshot = undefined;
        settle(snapshot);
      };
      this.#snapshot = { promise, resolve };
      this.#process.send({ kind: 'metrics' });
    }
    return this.#snapshot.promise;
  }

  /** [R40] Gives it another configuration. */
  reload(loaded: LoadedConfig): Promise<ReloadAnswer> {
    const process = this.#process;
    if (process === undefined) return Promise.resolve('gone');
    const id = ++this.#lastReload;
    return new Promise((resolve) => {
      const settle = (answer: ReloadAnswer) => {
        clearTimeout(timer);
        this.#reloads.delete(id);
        resolve(answer);
      };
      const timer = setTimeout(settle, reloadMs, 'gone');
      this.#reloads.set(id, settle);
      process.send({ kind: 'reload', id, loaded });
    });
  }

  reloadRefused(error: ToldError): void {
    this.#process?.send({ kind: 'reload-refused', error });
  }

  /** Tells it to stop, and not to come again; asked again it skips the wait. Resolves when its process is gone. */
  stop(reason: string): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    if (this.#process === undefined) return Promise.resolve();
    this.#process.send({ kind: 'stop', reason });
    return new Promise((resolve) => this.#onGone.push(resolve));
  }

  kill(): void {
    this.#process?.kill();
  }
}
