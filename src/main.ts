#!/usr/bin/env node
import { once } from 'node:events';
import { Command, CommanderError } from 'commander';
import { LoginKey } from './auth/keys.ts';
import { registerAudit } from './cli/audit.ts';
import { registerPipe } from './cli/pipe.ts';
import { registerRecording } from './cli/recording.ts';
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
/** Found out only by the part that uses the setting, but before anything listens. */
const configurationCodes = new Set(['CPL_CONFIG', 'CPL_TLS', 'CPL_TRUSTED_PROXY']);

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** For commands that print a lot: waits for the reader, and ends quietly where there is none any more (`| head`). */
async function printAtReadersPace(line: string): Promise<void> {
  if (process.stdout.listenerCount('error') === 0) {
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      process.exit(0);
    });
  }
  if (!process.stdout.write(`${line}\n`)) await once(process.stdout, 'drain');
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
    .configureOutput({ writeErr: () => undefined, outputError: () => undefined });
  registerServe(root, {
    // Loaded here and not above: the other commands need neither uWebSockets.js nor the addon.
    start: async (loaded, log) => {
      const { forbidCoreDumps, Server } = await import('./compose.ts');
      forbidCoreDumps();
      return Server.start(loaded, { log });
    },
    makeLog: (level) => createLogger({ level }),
    print,
  });
  registerToken(root, { clock: systemClock, print, resolveLoginKey: loginKey });
  registerPipe(root, { resolveLoginKey: loginKey, io: processIo });
  registerRecording(root, { print: printAtReadersPace, recordingsFolder: () => loadConfig().config.recording.dir });
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

/** Every error is one line on stderr: commander's suggestions and the stack of a bug are joined into it. */
function fail(text: string, exitCode: number): void {
  process.stderr.write(`couplet: ${text.trim().replaceAll(/\s*[\r\n]+\s*/g, ' ')}\n`);
  process.exitCode = exitCode;
}

function commandLineError({ code, message }: CommanderError): string {
  if (code === 'commander.help') return 'a command is needed; see --help';
  return `${message.replace(/^error: /, '')}; see --help`;
}

try {
  await program().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Help and version leave with 0 and have printed what was asked for.
    if (error.exitCode !== 0) fail(commandLineError(error), configurationError);
  } else if (error instanceof CoupletError) {
    fail(error.message, configurationCodes.has(error.code) ? configurationError : 1);
  } else {
    fail(error instanceof Error ? (error.stack ?? error.message) : String(error), 1);
  }
}
