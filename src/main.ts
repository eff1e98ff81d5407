#!/usr/bin/env node
import { once } from 'node:events';
import { Command, CommanderError } from 'commander';
import { safeText } from './audit/safe-text.ts';
import { LoginKey } from './auth/keys.ts';
import { registerAgent } from './cli/agent.ts';
import { registerAudit } from './cli/audit.ts';
import { registerDirectory } from './cli/directory-commands.ts';
import type { DirectoryDeps } from './cli/directory-options.ts';
import { registerForward } from './cli/forward.ts';
import { registerPipe } from './cli/pipe.ts';
import { registerRecording } from './cli/recording.ts';
import { registerServe } from './cli/serve.ts';
import { registerShell } from './cli/shell.ts';
import { registerToken } from './cli/token.ts';
import { finalAgentCodes } from './clients/agent/control-channel.ts';
import { abortOn, processIo, processTerminal } from './clients/standard-io.ts';
import { loadConfig, resolveLoginKey } from './config/load.ts';
import { systemClock } from './core/clock.ts';
import { CoupletError, systemFailure } from './core/errors.ts';
import { createLogger } from './core/logger.ts';
import { packageVersion } from './core/version.ts';

/** Exit codes of the contract: 0 clean, 2 a configuration error, 1 anything else. */
const configurationError = 2;
/** Found out only by the part that uses the setting, but before anything listens; an agent's: see its unit. */
const configurationCodes = new Set([
  ...[
    'CPL_CONFIG',
    'CPL_TLS',
    'CPL_TRUSTED_PROXY',
    'CPL_CLIENT_OPTIONS',
    'CPL_CLIENT_URL',
    'CPL_DIRECTORY_NONE',
    'CPL_CLUSTER_DIRECTORY',
    'CPL_PEER_NETWORK',
    'CPL_AGENT_ALLOW',
  ],
  ...finalAgentCodes,
]);

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

const directoryDeps: DirectoryDeps = {
  print: printAtReadersPace,
  stdin: () => process.stdin,
  // Loaded here and not above: over a server no database is needed.
  openDataFolder: async (loaded, mayMake) => {
    const { DataFolder } = await import('./compose/admin.ts');
    return DataFolder.open(loaded, { mayMake });
  },
};

function program(): Command {
  const root = new Command('couplet')
    .description('A native-accelerated WebSocket relay.')
    .version(packageVersion())
    .showHelpAfterError(false)
    // Options belong to the command before them: "grant list --json" is not "grant --json" with a list.
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({ writeErr: () => undefined, outputError: () => undefined });
  registerServe(root, {
    // Loaded here and not above: the other commands need neither uWebSockets.js nor the addon.
    start: async (loaded, log) => {
      const { forbidCoreDumps, Server } = await import('./compose.ts');
      forbidCoreDumps();
      return Server.start(loaded, { log });
    },
    startWorker: async (loaded, log, worker) => {
      const { forbidCoreDumps, Server } = await import('./compose.ts');
      forbidCoreDumps();
      return Server.start(loaded, { log, worker });
    },
    supervise: async (loaded, log) => {
      const { Supervisor } = await import('./cli/supervise.ts');
      return Supervisor.start(loaded, log);
    },
    makeLog: (level, fields) => createLogger({ level, ...(fields && { fields }) }),
    print,
  });
  registerToken(root, { clock: systemClock, print, resolveLoginKey: loginKey });
  registerPipe(root, { resolveLoginKey: loginKey, io: processIo });
  registerAgent(root, { print, stopped: () => abortOn('SIGINT', 'SIGTERM') });
  registerForward(root, {
    print,
    stopped: () => abortOn('SIGINT', 'SIGTERM'),
    stdin: () => process.stdin,
    terminal: process.stdout.isTTY ? process.stdout : undefined,
    io: processIo,
  });
  registerShell(root, {
    terminal: processTerminal,
    stopped: () => abortOn('SIGINT', 'SIGTERM', 'SIGHUP'),
    exit: (status) => process.exit(status),
  });
  registerDirectory(root, directoryDeps);
  registerRecording(root, { print: printAtReadersPace, recordingsFolder: () => loadConfig().config.recording.dir });
  registerAudit(root, {
    print,
    dataFolder: ({ data }) => data ?? loadConfig().config.server.dataDir,
    eventLogKeys: ({ data, loginKeyFile, config }) => eventLogKeys(data, loginKeyFile, config),
    // Loaded here and not above: `tail` needs no database.
    openHeads: async ({ data, directory, config: file }) => {
      const flags = { ...(data && { 'server.dataDir': data }), ...(directory && { directory }) };
      const { config } = loadConfig({ file, flags });
      const { openKnownHeads } = await import('./compose/audit-heads.ts');
      return openKnownHeads(config);
    },
    signal: interrupted(),
  });
  return root;
}

/** The event log's keys: of the key files named, else of the configured login key, else of the data folder's. */
function eventLogKeys(
  data: string | undefined,
  files: readonly string[] | undefined,
  configFile: string | undefined,
): Uint8Array[] {
  const keys = files?.map((file) => LoginKey.readFile(file)) ?? [configuredKey(data, configFile)];
  return keys.map((key) => key.derive('audit-chain').export());
}

function configuredKey(data: string | undefined, configFile: string | undefined): LoginKey {
  if (data === undefined) {
    const { config, loginKey: configured } = loadConfig({ file: configFile });
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
  process.stderr.write(`couplet: ${safeText(text.trim().replaceAll(/\s*[\r\n]+\s*/g, ' '))}\n`);
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
    // A full disk and its like are no bug, whose stack would tell something.
    fail(systemFailure(error) ?? (error instanceof Error ? (error.stack ?? error.message) : String(error)), 1);
  }
}
