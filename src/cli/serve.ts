import type { Command } from 'commander';
import { type LoadedConfig, loadConfig } from '../config/load.ts';
import { CoupletError } from '../core/errors.ts';
import type { LogHandle } from '../core/logger.ts';
import { addServeOptions, readServeArguments } from './serve-options.ts';

/** What `couplet serve` starts; compose.ts's Server has this shape. */
export interface ServedServer {
  readonly address: string;
  readonly metricsAddress: string;
  readonly forwarderKind: string;
  readonly tls: boolean;
  reload(next: LoadedConfig): void;
  reloadRefused(error: CoupletError): void;
  stop(reason: string): Promise<void>;
}

export interface ServeDeps {
  start(loaded: LoadedConfig, log: LogHandle): Promise<ServedServer>;
  makeLog(level: LoadedConfig['config']['log']['level']): LogHandle;
  print(line: string): void;
}

/** Adds `couplet serve`. Errors before it listens are thrown; afterwards they are logged. */
export function registerServe(program: Command, deps: ServeDeps): void {
  const command = addServeOptions(program.command('serve').description('Run the relay.'));
  command.action(async () => {
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
    const server = await deps.start(loaded, log);
    process.off('SIGHUP', ignore);
    fatal.server = server;
    handleSignals(server, log, load, fatal);
    tellListening(server, log);
  });
}

/** The line scripts wait for; always written, whatever the log level. */
function tellListening(server: ServedServer, log: LogHandle): void {
  log.announce('listening', {
    address: server.address,
    metricsAddress: server.metricsAddress,
    forwarder: server.forwarderKind,
    tls: server.tls,
    pid: process.pid,
  });
}

function handleSignals(server: ServedServer, log: LogHandle, load: () => LoadedConfig, fatal: Fatal): void {
  const stop = (signal: string) => {
    // A second signal finds the server stopping and skips the wait (R39).
    server.stop(signal).then(
      () => log.drained().then(() => process.exit(fatal.exitCode)),
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

/** From an exception nobody caught to the end of the process, milliseconds. */
const lastWordsMs = 5000;

/**
 * Fault 38: an exception nobody caught is logged, sessions are closed, events and log flushed, and the process ends
 * with 1. What it broke is not known, so the end has a deadline.
 */
class Fatal {
  server: ServedServer | undefined;
  exitCode = 0;
  readonly #log: LogHandle;

  constructor(log: LogHandle) {
    this.#log = log;
    process.on('uncaughtException', (error) => this.die(error, 'an exception nobody caught'));
    process.on('unhandledRejection', (error) => this.die(error, 'a rejection nobody caught'));
  }

  die(error: unknown, what: string): void {
    this.#log.logger.error({ err: error }, what);
    if (this.exitCode !== 0) return;
    this.exitCode = 1;
    const end = () => {
      this.#log.flush();
      process.exit(1);
    };
    setTimeout(end, lastWordsMs);
    if (this.server === undefined) return end();
    void this.server.stop(what);
    void this.server.stop(what).then(end, end);
  }
}
