import { forWorker } from '../config/workers.ts';
import { CoupletError } from '../core/errors.ts';
import type { LogHandle } from '../core/logger.ts';
import { Fatal } from './fatal.ts';
import type { ServeDeps, ServedServer } from './serve.ts';
import type { FromWorker, Scrape, ToldError, ToWorker } from './worker-messages.ts';

type Message<K extends ToWorker['kind']> = Extract<ToWorker, { kind: K }>;

/** A worker's server: it can also tell its metrics as numbers. */
export type WorkerServer = ServedServer & {
  readonly port: number;
  readonly metrics: { snapshot(): Promise<Extract<FromWorker, { kind: 'metrics' }>['snapshot']> };
};

export function toldError(error: unknown): ToldError {
  if (error instanceof CoupletError) return { code: error.code as `CPL_${string}`, message: error.message };
  return { code: '', message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}

/**
 * [K8] Runs one worker of `couplet serve --workers N` in this process: a whole server, which takes its configuration
 * and its orders from the supervising process, and stops in order when that one is gone.
 */
export class Worker {
  readonly #number: number;
  readonly #deps: ServeDeps;
  readonly #scrapes = new Map<number, (scrape: Scrape | undefined) => void>();
  #lastScrape = 0;
  #server: WorkerServer | undefined;
  #log: LogHandle | undefined;
  #fatal: Fatal | undefined;
  #port = 0;
  #stopping = false;

  constructor(number: number, deps: ServeDeps) {
    this.#number = number;
    this.#deps = deps;
    // What is signalled to the whole group comes from the supervisor as an order. Once it is gone signals count again.
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
      process.on(signal, () => {
        if (!process.connected && signal !== 'SIGHUP') this.#stop(signal);
      });
    }
    process.on('message', (message: ToWorker) => this.#heard(message));
    process.on('disconnect', () => {
      // One that drains already goes on so: only a signal, or a second order, skips the wait (R39).
      if (!this.#stopping) this.#stop('the supervising process is gone');
    });
  }

  #heard(message: ToWorker): void {
    switch (message.kind) {
      case 'start':
        return void this.#start(message);
      case 'stop':
        return this.#stop(message.reason);
      case 'reload':
        return this.#reload(message);
      case 'reload-refused':
        return this.#server?.reloadRefused(new CoupletError(message.error.code || 'CPL_RELOAD', message.error.message));
      case 'metrics':
        return void this.#tellMetrics();
      case 'scraped':
        this.#scrapes.get(message.id)?.(message.scrape);
        this.#scrapes.delete(message.id);
    }
  }

  async #start({ loaded, port }: Message<'start'>): Promise<void> {
    this.#port = port;
    const number = this.#number;
    const log = this.#deps.makeLog(loaded.config.log.level, { worker: number });
    this.#log = log;
    const fatal = new Fatal(log);
    this.#fatal = fatal;
    try {
      const sharesPort = loaded.config.server.workerPorts === 'shared';
      const part = { number, sharesPort, scrapeAll: () => this.#scrapeAll() };
      const server = await this.#deps.startWorker(forWorker(loaded, { number, port }), log, part);
      this.#server = server;
      fatal.server = server;
      // A port that was found is kept: a reload is held against it.
      this.#port = server.port;
      const { address, forwarderKind, tls } = server;
      log.announce('worker listening', { address, forwarder: forwarderKind, tls, pid: process.pid });
      this.#tell({ kind: 'listening', address, port: server.port, forwarderKind, tls });
    } catch (error) {
      await log.drained();
      this.#tell({ kind: 'failed', error: toldError(error) }, () => process.exit(1));
    }
  }

  #reload({ id, loaded }: Message<'reload'>): void {
    if (this.#server === undefined) return;
    let refused = false;
    try {
      this.#server.reload(forWorker(loaded, { number: this.#number, port: this.#port }));
    } catch (error) {
      refused = true;
      // Whatever it is, the old configuration stays in use (R40).
      const { code, message } = toldError(error);
      this.#server.reloadRefused(new CoupletError(code || 'CPL_RELOAD', message, { cause: error }));
    }
    this.#tell({ kind: 'reloaded', id, refused });
  }

  /** Before the server runs there is nothing to stop in order, as without workers. */
  #stop(reason: string): void {
    this.#stopping = true;
    const [server, log, fatal] = [this.#server, this.#log, this.#fatal];
    if (server === undefined || log === undefined || fatal === undefined) process.exit(0);
    server.stop(reason).then(
      () => log.drained().then(() => process.exit(fatal.exitCode)),
      (error: unknown) => fatal.die(error, 'the server could not stop in order'),
    );
  }

  async #tellMetrics(): Promise<void> {
    // One that cannot answer is silent.
    try {
      const snapshot = await this.#server?.metrics.snapshot();
      if (snapshot !== undefined) this.#tell({ kind: 'metrics', snapshot });
    } catch (error) {
      this.#log?.logger.error({ err: error }, 'the metrics could not be read');
      this.#tell({ kind: 'metrics', snapshot: undefined });
    }
  }

  async #scrapeAll(): Promise<Scrape> {
    const id = ++this.#lastScrape;
    const scrape = await new Promise<Scrape | undefined>((resolve) => {
      this.#scrapes.set(id, resolve);
      this.#tell({ kind: 'scrape', id }, (error) => {
        if (error === null) return;
        this.#scrapes.delete(id);
        resolve(undefined);
      });
    });
    if (scrape !== undefined) return scrape;
    throw new CoupletError('CPL_WORKER', 'the supervising process did not tell the metrics', { level: 'error' });
  }

  #tell(message: FromWorker, done: (error: Error | null) => void = () => undefined): void {
    // With a callback a channel that has just closed is an error there, and not an exception: its end is told apart.
    process.send!(message, undefined, undefined, done);
  }
}
