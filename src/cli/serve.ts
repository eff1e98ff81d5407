import type { Command } from 'commander';
import type { WorkerPart } from '../compose/worker.ts';
import { type LoadedConfig, loadConfig } from '../config/load.ts';
import { workerNumber } from '../config/workers.ts';
import { CoupletError } from '../core/errors.ts';
import type { LogHandle } from '../core/logger.ts';
import { Fatal } from './fatal.ts';
import { addServeOptions, readServeArguments } from './serve-options.ts';
import { Worker, type WorkerServer } from './worker.ts';

/** What `couplet serve` starts; compose.ts's Server and the Supervisor of several workers have this shape. */
export interface ServedServer {
  readonly address: string;
  readonly metricsAddress: string;
  readonly forwarderKind: string;
  readonly tls: boolean;
  /** Of several workers what each listens on. */
  readonly addresses?: readonly string[];
  /** Not 0 where it was stopped, but not all in order. */
  readonly exitCode?: number;
  reload(next: LoadedConfig): void;
  reloadRefused(error: CoupletError): void;
  stop(reason: string): Promise<void>;
}

export interface ServeDeps {
  start(loaded: LoadedConfig, log: LogHandle): Promise<ServedServer>;
  /** Starts a server that is one of several workers. */
  startWorker(loaded: LoadedConfig, log: LogHandle, part: WorkerPart): Promise<WorkerServer>;
  /** Starts the supervising process of several workers. */
  supervise(loaded: LoadedConfig, log: LogHandle): Promise<ServedServer>;
  /** @param fields stand in every line */
  makeLog(level: LoadedConfig['config']['log']['level'], fields?: Readonly<Record<string, number>>): LogHandle;
  print(line: string): void;
}

/** Adds `couplet serve`. Errors before it listens are thrown; afterwards they are logged. */
export function registerServe(program: Command, deps: ServeDeps): void {
  const command = addServeOptions(program.command('serve').description('Run the relay.'));
  command.action(async () => {
    const number = workerNumber();
    if (number !== undefined) {
      // Everything else it hears from its supervisor.
      new Worker(number, deps);
      return;
    }
    const { file, flags, checkConfig } = readServeArguments(command);
    const load = () => loadConfig({ file, flags });
    const loaded = load();
    if (checkConfig) {
      deps.print('the configuration is good');
      return;
    }
    const log = deps.makeLog(loaded.config.log.level);
    const fatal = new Fatal(log);
    // Until there is a server to reload, a SIGHUP must not end the process.
    const ignore = () => {};
    process.on('SIGHUP', ignore);
    const several = loaded.config.server.workers > 1;
    const server = await (several ? deps.supervise(loaded, log) : deps.start(loaded, log));
    process.off('SIGHUP', ignore);
    fatal.server = server;
    handleSignals(server, log, load, fatal);
    tellListening(server, log);
  });
}

/** The line scripts wait for; always written, whatever the log level. */
function tellListening(server: ServedServer, log: LogHandle): void {
  const { addresses } = server;
  const isShared = new Set(addresses).size === 1;
  log.announce('listening', {
    address: server.address,
    metricsAddress: server.metricsAddress,
    forwarder: server.forwarderKind,
    tls: server.tls,
    ...(addresses && { workers: addresses.length, ...(!isShared && { addresses }) }),
    pid: process.pid,
  });
}

function handleSignals(server: ServedServer, log: LogHandle, load: () => LoadedConfig, fatal: Fatal): void {
  const stop = (signal: string) => {
    // A second signal finds the server stopping and skips the wait (R39).
    server.stop(signal).then(
      () => log.drained().then(() => process.exit(fatal.exitCode || server.exitCode)),
      (error: unknown) => fatal.die(error, 'the server could not stop in order'),
    );
  };
  process.on('SIGTERM', () => stop('SIGTERM'));
  process.on('SIGINT', () => stop('SIGINT'));
  process.on('SIGHUP', () => {
    try {
      server.reload(load());
    } catch (error) {
      // Whatever it is, the old configuration stays in use (R40).
      const told =
        error instanceof CoupletError ? error : new CoupletError('CPL_RELOAD', String(error), { cause: error });
      server.reloadRefused(told);
    }
  });
}
