import { type ChildProcess, fork } from 'node:child_process';
import { workerEnvironment } from '../config/workers.ts';
import type { FromWorker, ToWorker } from './worker-messages.ts';

/** How a process ended: by itself, by a signal, or not even started. */
export interface WorkerEnd {
  readonly code: number | null;
  readonly signal: string | null;
}

export interface WorkerProcessParts {
  readonly number: number;
  /** The lock on the data folder, which lasts until the last process that has it is gone. */
  readonly lockFd: number | undefined;
  /** A whole line that it wrote to its standard output, without the line feed. */
  readonly line: (text: string) => void;
  readonly heard: (message: FromWorker) => void;
  /** It is gone, and everything that it said has been handed on. */
  readonly ended: (end: WorkerEnd) => void;
}

/** Longest line that is kept together, characters. Longer ones are cut off: nothing of Couplet's writes such. */
const maxLineLength = 4 * 1024 * 1024;

/** One worker as its supervisor sees it: the program started again with the same arguments. */
export class WorkerProcess {
  readonly #child: ChildProcess;
  readonly #parts: WorkerProcessParts;
  #rest = '';
  #ended = false;

  constructor(parts: WorkerProcessParts) {
    this.#parts = parts;
    const { number, lockFd } = parts;
    // Standard output through this process: of several writers on one pipe, long lines would be torn.
    this.#child = fork(process.argv[1]!, process.argv.slice(2), {
      env: workerEnvironment(number),
      serialization: 'advanced',
      stdio: ['ignore', 'pipe', 'inherit', 'ipc', ...(lockFd === undefined ? [] : [lockFd])],
    });
    // There is none where no descriptor was left; `error` comes then.
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => this.#read(text));
    this.#child.on('message', (message) => parts.heard(message as FromWorker));
    // Where it could not be started there is no `close`.
    this.#child.on('error', () => {
      if (this.#child.pid === undefined) this.#end({ code: null, signal: null });
    });
    this.#child.on('close', (code, signal) => this.#end({ code, signal }));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  send(message: ToWorker): void {
    // With a callback a channel that has just closed is no exception; the process's end is told by `ended`.
    if (this.#child.connected) this.#child.send(message, () => undefined);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #read(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    if (this.#rest.length > maxLineLength) this.#rest = '';
    for (const line of lines) this.#parts.line(line);
  }

  // What is left in #rest was cut off by a kill, and is no line.
  #end(end: WorkerEnd): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#parts.ended(end);
  }
}
