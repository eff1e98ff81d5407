import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { pinned } from '../affinity.ts';
import type { RecordingFolder } from './recordings.ts';

/** A relay that can be measured: one adapter each. */
export interface Peer {
  readonly name: string;
  /** It is known to deliver messages out of order: that is counted and told, and does not void its figures. */
  readonly reorders?: true;
  /** Why it cannot be started here, in words for the report; `undefined` where it can. */
  unavailable(): string | undefined;
  /** Starts it in a fresh process, on one core where `cpu` is given, and resolves once it listens. */
  start(cpu: number | undefined): Promise<RunningPeer>;
}

export interface RunningPeer {
  /** The process whose CPU time is the relay's. */
  readonly pid: number;
  /** Others whose CPU time is the relay's too. */
  readonly otherPids?: readonly number[];
  readonly port: number;
  /** Where device halves connect to, if elsewhere. */
  readonly devicePort?: number;
  /** Request targets of the two sides; `{pair}` stands for the pair's number. */
  readonly userPath: string;
  readonly devicePath: string;
  /** It speaks TLS, with a certificate that nobody signed but itself. */
  readonly tls?: boolean;
  /** Where it records; to be checked after its end and then removed. */
  readonly recordings?: RecordingFolder;
  /** Ends the process and waits for its end. */
  stop(): Promise<void>;
}

export interface RelayProcess {
  readonly pid: number;
  readonly port: number;
  stop(): Promise<void>;
}

/** How a relay differs from one that is a single process and prints `listeningPort`'s line. */
export interface StartOptions {
  /** Where it runs; absent: where the bench does. */
  readonly folder?: string;
  /** Reads its port out of a line of its stdout; `undefined` for all lines but the one. */
  readonly readPort?: (line: string) => number | undefined;
  /** It is several processes: they get a process group of their own and are ended together. */
  readonly group?: boolean;
}

const startLimitMs = 15_000;
const stopLimitMs = 5_000;
const groupPollMs = 10;

/** Reads the port out of a relay's `{"msg":"listening","address":"HOST:PORT"}` line; `undefined` for other lines. */
export function listeningPort(line: string): number | undefined {
  if (!line.startsWith('{')) return undefined;
  let entry: unknown;
  try {
    entry = JSON.parse(line);
  } catch {
    return undefined; // not JSON, so not the line; a relay that never prints it runs into the time limit
  }
  const { msg, address } = entry as { msg?: unknown; address?: unknown };
  if (msg !== 'listening' || typeof address !== 'string') return undefined;
  const port = Number(address.slice(address.lastIndexOf(':') + 1));
  return Number.isInteger(port) && port > 0 ? port : undefined;
}

/** Sends to all that is left of a process group; 0 only asks. Returns whether there was anything. */
function killGroup(leader: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(-leader, signal);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** Its leader has ended and been waited for; nobody tells when the others have. */
async function groupEnded(leader: number): Promise<void> {
  for (let waitedMs = 0; killGroup(leader, 0); waitedMs += groupPollMs) {
    if (waitedMs === stopLimitMs) killGroup(leader, 'SIGKILL');
    if (waitedMs >= 2 * stopLimitMs) throw new Error(`processes of group ${leader} did not end`);
    await sleep(groupPollMs);
  }
}

/** Starts a relay that prints its listening line on stdout. Rejects with its stderr where it ends or stays silent. */
export async function startRelay(
  cpu: number | undefined,
  command: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  { folder, readPort = listeningPort, group = false }: StartOptions = {},
): Promise<RelayProcess> {
  const [program, ...parameters] = pinned(cpu, command);
  const child = spawn(program!, parameters, {
    env: { PATH: process.env.PATH ?? '', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: group,
    ...(folder !== undefined && { cwd: folder }),
  });
  const kill = (signal: NodeJS.Signals): void => {
    if (group && child.pid !== undefined) killGroup(child.pid, signal);
    else child.kill(signal);
  };
  let complaints = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaints = (complaints + text).slice(-2000);
  });
  const killAtExit = (): void => kill('SIGKILL');
  // Whatever ends the bench, no relay is left behind; first of all, as one that still writes fills folders again.
  process.prependOnceListener('exit', killAtExit);
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => {
      process.off('exit', killAtExit);
      resolve();
    });
  });
  const stop = async (): Promise<void> => {
    kill('SIGTERM');
    const timer = setTimeout(() => kill('SIGKILL'), stopLimitMs);
    await ended;
    clearTimeout(timer);
    if (group && child.pid !== undefined) await groupEnded(child.pid);
  };
  const port = await new Promise<number>((resolve, reject) => {
    const fail = (what: string): void => {
      clearTimeout(timer);
      reject(new Error(`${command.slice(0, 3).join(' ')}: ${what}\n${complaints}`));
    };
    const timer = setTimeout(() => {
      fail(`did not listen within ${startLimitMs} ms`);
      void stop();
    }, startLimitMs);
    child.once('error', (error) => fail(error.message));
    child.once('close', (code, signal) => fail(`ended with ${code ?? signal} before it listened`));
    // Goes on reading after the port is known: a full pipe would block the relay.
    createInterface({ input: child.stdout }).on('line', (line) => {
      const found = readPort(line);
      if (found === undefined) return;
      clearTimeout(timer);
      resolve(found);
    });
  });
  return { pid: child.pid!, port, stop };
}
