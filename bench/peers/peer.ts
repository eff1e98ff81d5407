import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { pinned } from '../affinity.ts';
import type { RecordingFolder } from './recordings.ts';

/** A relay that can be measured: one adapter each. */
export interface Peer {
  readonly name: string;
  /** Why it cannot be started here, in words for the report; `undefined` where it can. */
  unavailable(): string | undefined;
  /** Starts it in a fresh process, on one core where `cpu` is given, and resolves once it listens. */
  start(cpu: number | undefined): Promise<RunningPeer>;
}

export interface RunningPeer {
  /** The process whose CPU time is the relay's. */
  readonly pid: number;
  readonly port: number;
  /** Request targets of the two sides; `{pair}` stands for the pair's number. */
  readonly userPath: string;
  readonly devicePath: string;
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

const startLimitMs = 15_000;
const stopLimitMs = 5_000;

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

/** Starts a relay that prints its listening line on stdout. Rejects with its stderr where it ends or stays silent. */
export async function startRelay(
  cpu: number | undefined,
  command: readonly string[],
  environment: Record<string, string> = {},
): Promise<RelayProcess> {
  const [program, ...parameters] = pinned(cpu, command);
  const child = spawn(program!, parameters, {
    env: { PATH: process.env.PATH ?? '', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let complaints = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaints = (complaints + text).slice(-2000);
  });
  const killAtExit = (): boolean => child.kill('SIGKILL');
  process.once('exit', killAtExit); // whatever ends the bench, no relay is left behind
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => {
      process.off('exit', killAtExit);
      resolve();
    });
  });
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), stopLimitMs);
    await ended;
    clearTimeout(timer);
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
      const found = listeningPort(line);
      if (found === undefined) return;
      clearTimeout(timer);
      resolve(found);
    });
  });
  return { pid: child.pid!, port, stop };
}
