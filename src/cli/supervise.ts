import { once } from 'node:events';
import { createServer } from 'node:net';
import { type FolderLock, lockFolder } from '../compose/folder-lock.ts';
import type { LoadedConfig } from '../config/load.ts';
import { planReload } from '../config/reload.ts';
import { maxTimerMs, parseListen } from '../config/setting.ts';
import { withPort, workerPort } from '../config/workers.ts';
import { type Clock, systemClock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { ensureFolder } from '../core/lifecycle.ts';
import type { LogHandle } from '../core/logger.ts';
import { type MetricsServer, serveMetrics } from '../metrics/http.ts';
import { MergedMetrics } from '../metrics/merge.ts';
import { createSupervisorMetrics } from '../metrics/supervisor-metrics.ts';
import { forbidCoreDumps } from '../native/binding.ts';
import type { ServedServer } from './serve.ts';
import { toldError } from './worker.ts';
import type { Scrape } from './worker-messages.ts';
import { WorkerSlot } from './worker-slot.ts';

/** Within this a worker must answer a scrape, milliseconds. */
const scrapeMs = 2000;
/** From the end of the drain to the end of a worker, milliseconds: more than its disk may take by its own deadlines. */
const lastWorkerMs = 60_000;

/**
 * [K8] The supervising process of several workers. It serves no half: it keeps the data folder, holds the configuration,
 * starts workers again that die, passes orders on, and serves the metrics and the log of all.
 */
export class Supervisor implements ServedServer {
  readonly #log: LogHandle;
  readonly #clock: Clock;
  readonly #slots: WorkerSlot[] = [];
  readonly #merged = new MergedMetrics();
  readonly #startedSeconds: number;
  readonly #own = createSupervisorMetrics(() => ({
    workers: this.#slots.filter(({ listening }) => listening !== undefined).length,
    restarts: this.#slots.reduce((sum, { restarts }) => sum + restarts, 0),
    silentWorkers: this.#silentWorkers,
    droppedLogLines: this.#log.droppedLines(),
    startedSeconds: this.#startedSeconds,
  }));
  #loaded: LoadedConfig;
  #lock: FolderLock | undefined;
  #metricsServer: MetricsServer | undefined;
  #silentWorkers = 0;
  #scraping: Promise<Scrape> | undefined;
  #reloading: Promise<void> = Promise.resolve();
  #stopping: Promise<void> | undefined;
  /** Paths that messages take, as the first worker told. */
  forwarderKind = '';
  tls = false;

  /**
   * Starts all workers; they listen when it resolves.
   * @throws CoupletError its own or the first worker's that could not start; then nothing is left
   */
  static async start(loaded: LoadedConfig, log: LogHandle, clock: Clock = systemClock): Promise<Supervisor> {
    const supervisor = new Supervisor(loaded, log, clock);
    try {
      await supervisor.#start();
    } catch (error) {
      await supervisor.stop('could not start');
      throw error;
    }
    return supervisor;
  }

  private constructor(loaded: LoadedConfig, log: LogHandle, clock: Clock) {
    this.#loaded = loaded;
    this.#log = log;
    this.#clock = clock;
    this.#startedSeconds = Math.floor(clock.nowMs() / 1000);
  }

  async #start(): Promise<void> {
    const { server } = this.#loaded.config;
    // The login key passes through here.
    forbidCoreDumps();
    ensureFolder(server.dataDir);
    this.#lock = lockFolder(server.dataDir, (error) => {
      this.#log.logger.warn({ err: error }, 'the data folder cannot be locked: see to it that no other server uses it');
    });
    if (server.workerPorts === 'shared') await refuseTaken(server.listen);
    this.#metricsServer = await serveMetrics({
      ...parseListen(server.metricsListen)!,
      scrape: () => this.#scrape(),
      onError: (error) => this.#log.logger.error({ err: error }, 'the metrics could not be read'),
    });
    // The first one alone: it finds the port where any will do, and makes what is made once (login key, directory).
    const first = this.#addSlot(1, workerPort(this.#loaded.config, 1));
    const { port, forwarderKind, tls } = await first.start();
    this.forwarderKind = forwarderKind;
    this.tls = tls;
    const others: Promise<unknown>[] = [];
    for (let number = 2; number <= server.workers; number++) {
      const own = server.workerPorts === 'shared' ? port : workerPort(this.#loaded.config, number);
      others.push(this.#addSlot(number, own).start());
    }
    await Promise.all(others);
  }

  #addSlot(number: number, port: number): WorkerSlot {
    const slot = new WorkerSlot(number, port, {
      clock: this.#clock,
      log: this.#log,
      lockFd: this.#lock?.fd,
      config: () => this.#loaded,
      scrape: () => this.#scrape().catch((error: unknown) => this.#unreadable(error)),
      ended: () => this.#merged.ended(number),
    });
    this.#slots.push(slot);
    return slot;
  }

  #unreadable(error: unknown): undefined {
    this.#log.logger.error({ err: error }, 'the metrics could not be read');
  }

  /** The first worker's `HOST:PORT`, which with shared ports is that of all. */
  get address(): string {
    return this.#slots[0]!.address;
  }

  /** What each worker listens on. */
  get addresses(): readonly string[] {
    return this.#slots.map(({ address }) => address);
  }

  get metricsAddress(): string {
    const { host, port } = this.#metricsServer!;
    return withPort(host.includes(':') ? `[${host}]:0` : `${host}:0`, port);
  }

  /** 1 where a worker did not end in order. */
  get exitCode(): number {
    return this.#slots.some(({ stoppedBadly }) => stoppedBadly) ? 1 : 0;
  }

  /** Scrapes that come while one is under way share it. */
  #scrape(): Promise<Scrape> {
    this.#scraping ??= this.#scrapeNow().finally(() => {
      this.#scraping = undefined;
    });
    return this.#scraping;
  }

  async #scrapeNow(): Promise<Scrape> {
    const answered = new Set<number>();
    const owing = new Set<number>();
    const asked = this.#slots.filter(({ listening }) => listening !== undefined);
    const answers = asked.map(async (slot) => {
      owing.add(slot.number);
      const snapshot = await slot.snapshot();
      owing.delete(slot.number);
      if (snapshot === undefined) return;
      // Also where it comes too late for this scrape: it is what is known of the worker from now on.
      this.#merged.heard(slot.number, snapshot);
      answered.add(slot.number);
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, scrapeMs);
    });
    await Promise.race([Promise.all(answers), late]);
    clearTimeout(timer);
    this.#silentWorkers += owing.size;
    return this.#merged.merge(await this.#own.snapshot(), new Set(answered));
  }

  /** [R40] The first worker tries the new configuration; where it refuses, the others do not hear of it. */
  reload(next: LoadedConfig): void {
    this.#reloading = this.#reloading.then(() => this.#reload(next)).catch((error) => this.reloadRefused(error));
  }

  async #reload(next: LoadedConfig): Promise<void> {
    const { running } = planReload(this.#loaded, next);
    const tried = new Set<WorkerSlot>();
    // One that dies or is silent says nothing about the configuration: then the next one tries it.
    for (const slot of this.#slots) {
      if (slot.listening === undefined) continue;
      tried.add(slot);
      const answer = await slot.reload(next);
      if (answer === 'refused') return;
      if (answer === 'done') break;
    }
    this.#loaded = running;
    this.#log.setLevel(running.config.log.level);
    // One that does not listen yet is given it as soon as it does.
    const others = this.#slots.filter((slot) => slot.listening !== undefined && !tried.has(slot));
    await Promise.all(others.map((slot) => slot.reload(next)));
  }

  /** [R40] One worker puts it on record. */
  reloadRefused(error: unknown): void {
    const told = toldError(error);
    const slot = this.#slots.find(({ listening }) => listening !== undefined);
    if (slot === undefined) this.#log.logger.error({ err: error }, told.message);
    else slot.reloadRefused(told);
  }

  /** [R39] Stops all workers in order; asked again they skip the wait. Resolves when all are gone. */
  stop(reason: string): Promise<void> {
    if (this.#stopping !== undefined) for (const slot of this.#slots) void slot.stop(reason);
    this.#stopping ??= this.#stop(reason);
    return this.#stopping;
  }

  async #stop(reason: string): Promise<void> {
    const kill = () => {
      for (const slot of this.#slots.filter(({ isRunning }) => isRunning)) {
        this.#log.logger.error({ worker: slot.number }, `worker ${slot.number} does not end: it is killed`);
        slot.kill();
      }
    };
    const timer = setTimeout(kill, Math.min(this.#loaded.config.server.drainMs + lastWorkerMs, maxTimerMs));
    await Promise.all(this.#slots.map((slot) => slot.stop(reason)));
    clearTimeout(timer);
    await this.#metricsServer?.close();
    this.#lock?.letGo();
  }
}

/**
 * Workers share their port with any process of the same user that would share it too: a stray other server must be
 * found out beforehand.
 * @throws CoupletError `CPL_LISTEN`
 */
async function refuseTaken(listen: string): Promise<void> {
  const { host, port } = parseListen(listen)!;
  if (port === 0) return;
  const probe = createServer();
  try {
    probe.listen({ host, port, exclusive: true });
    await once(probe, 'listening');
  } catch (error) {
    // Whatever else is wrong with the address, the first worker tells.
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') return;
    const text = `server.listen ${listen} cannot be listened on; it must be a free address of this machine`;
    throw new CoupletError('CPL_LISTEN', text, { level: 'error', cause: error });
  }
  probe.close();
  await once(probe, 'close');
}
