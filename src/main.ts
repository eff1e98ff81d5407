#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { LoginKey } from './auth/keys.ts';
import { registerAudit } from './cli/audit.ts';
import { registerPipe } from './cli/pipe.ts';
import { registerServe } from './cli/serve.ts';
import { registerToken } from './cli/token.ts';
import { processIo } from './clients/standard-io.ts';
import { loadConfig, resolveLoginKey } from './config/load.ts';
import { systemClock } from './core/clock.ts';
import { CoupletError } from './core/errors.ts';
import { createLogger } from './core/logger.ts';
import { packageVersion } from './core/version.ts';

/** Exit codes of the contract: 0 clean, 2 a configuration error, 1 anything else. */
const configurationError = 2;

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function loginKey(flags: { loginKey?: string; loginKeyFile?: string }): LoginKey {
  return LoginKey.parse(resolveLoginKey(flags).toString('hex'));
}

function program(): Command {
  const root = new Command('couplet')
    .description('A native-accelerated WebSocket relay.')
    .version(packageVersion())
    .showHelpAfterError(false)
    .exitOverride()
    .configureOutput({ outputError: () => undefined });
  registerServe(root, {
    // Loaded here and not above: the other commands need neither uWebSockets.js nor the addon.
    start: async (loaded, log) => (await import('./compose.ts')).Server.start(loaded, { log }),
    makeLog: (level) => createLogger({ level }),
    print,
  });
  registerToken(root, { clock: systemClock, print, resolveLoginKey: loginKey });
  registerPipe(root, { resolveLoginKey: loginKey, io: processIo });
  registerAudit(root, {
    print,
    dataFolder: ({ data }) => data ?? loadConfig().config.server.dataDir,
    eventLogKeys: ({ data, loginKeyFile }) => eventLogKeys(data, loginKeyFile),
    signal: interrupted(),
  });
  return root;
}

/** The event log's keys: of the key files named, else of the configured login key, else of the data folder's. */
function eventLogKeys(data: string | undefined, files: readonly string[] | undefined): Uint8Array[] {
  const keys = files?.map((file) => LoginKey.readFile(file)) ?? [configuredKey(data)];
  return keys.map((key) => key.derive('audit-chain').export());
}

function configuredKey(data: string | undefined): LoginKey {
  if (data === undefined) {
    const { config, loginKey: configured } = loadConfig();
    if (configured !== undefined) return LoginKey.parse(configured.toString('hex'));
    return LoginKey.readFile(`${config.server.dataDir}/login.key`);
  }
  return LoginKey.readFile(`${data}/login.key`);
}

/** Aborted by SIGINT; without a listener that ends the process by itself, so it listens only where asked. */
function interrupted(): AbortSignal {
  const controller = new AbortController();
  const { signal } = controller;
  const add = signal.addEventListener.bind(signal);
  signal.addEventListener = ((...args: Parameters<typeof add>) => {
    process.once('SIGINT', () => controller.abort());
    add(...args);
  }) as typeof signal.addEventListener;
  return signal;
}

try {
  await program().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Help and version leave with 0 and have printed what was asked for.
    if (error.exitCode !== 0) process.stderr.write(`couplet: ${error.message.replace(/^error: /, '')}; see --help\n`);
    process.exitCode = error.exitCode === 0 ? 0 : configurationError;
  } else if (error instanceof CoupletError) {
    process.stderr.write(`couplet: ${error.message}\n`);
    process.exitCode = error.code === 'CPL_CONFIG' ? configurationError : 1;
  } else {
    process.stderr.write(`couplet: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exitCode = 1;
  }
}
