import { readSync, writeSync } from 'node:fs';
import { homedir, userInfo } from 'node:os';
import { type Duplex, Writable } from 'node:stream';
import { CoupletError } from '../../core/errors.ts';

/** Whether input that the terminal did not take fits by now is asked this often. */
const retryMs = 5;
/** While nobody reads the terminal, how often it is asked whether its process still runs. */
const aliveMs = 25;
/** A process that ignores the hang-up is killed after this. */
const killMs = 5000;
/** More than the kernel keeps of a terminal's output, and an end for the output of a process that stays behind. */
const maxRestBytes = 64 * 1024;

/** What is used of node-pty, an optional dependency: its types are not there where it is not. */
interface NodePty {
  spawn(file: string, args: readonly string[], options: Record<string, unknown>): NodePtyTerminal;
}

interface NodePtyTerminal {
  readonly pid: number;
  /** Descriptor of the terminal's master side (not on Windows). */
  readonly fd?: number;
  /** Reads `fd`, and closes it when it is destroyed (not public, hence the pinned version; not on Windows). */
  readonly _socket?: Duplex;
  onData(listener: (data: Buffer) => void): void;
  onExit(listener: (end: TerminalEnd) => void): void;
  on(event: 'close', listener: () => void): void;
  write(data: Buffer): void;
  resize(cols: number, rows: number): void;
  pause(): void;
  resume(): void;
  kill(signal?: string): void;
}

/** How a terminal's process ended. */
export interface TerminalEnd {
  readonly exitCode: number;
  readonly signal?: number;
}

export interface TerminalOptions {
  /** Program that a terminal runs; default: the login shell of the agent's user. */
  readonly shell?: string;
  readonly args?: readonly string[];
}

let loaded: Promise<NodePty | undefined> | undefined;

/** node-pty where it is installed. */
function load(): Promise<NodePty | undefined> {
  // By a variable: the compiler would want the types of a package that may be missing.
  const name: string = 'node-pty';
  loaded ??= import(name).then(
    (module) => (module.default ?? module) as NodePty,
    () => undefined, // not installed, or not built for this machine
  );
  return loaded;
}

/** Whether this machine can serve terminals. */
export async function hasTerminals(): Promise<boolean> {
  return (await load()) !== undefined;
}

/**
 * A process on a real pseudo-terminal, read and written with back-pressure.
 *
 * node-pty itself queues what is written without end and asks a full terminal again without pause; and 200 ms after the
 * process has ended it throws away what a paused reader has not read. So input is written here, and reading goes on as
 * soon as a paused terminal's process is gone (what is left then is one buffer of the kernel's). The last of that is read
 * here too: on a terminal that is hung up, libuv takes a read that did not fill its buffer for the end (libuv#4992).
 */
export class PseudoTerminal {
  readonly input: Writable;
  /** Settles after the last output. */
  readonly ended: Promise<TerminalEnd>;
  readonly #terminal: NodePtyTerminal;
  #isClosed = false;
  #isEnded = false;
  #aliveTimer: NodeJS.Timeout | undefined;
  #killTimer: NodeJS.Timeout | undefined;

  private constructor(terminal: NodePtyTerminal, onData: (data: Buffer) => void) {
    this.#terminal = terminal;
    this.input = this.#makeInput();
    terminal.onData(onData);
    this.#readRestBeforeClose(onData);
    terminal.on('close', () => {
      this.#isClosed = true;
    });
    this.ended = new Promise((resolve) => {
      terminal.onExit((end) => {
        this.#isClosed = true;
        this.#isEnded = true;
        clearInterval(this.#aliveTimer);
        clearTimeout(this.#killTimer);
        this.input.destroy();
        resolve(end);
      });
    });
  }

  /** @throws CoupletError (as rejection) `CPL_AGENT_TERMINAL` */
  static async start(
    options: TerminalOptions,
    size: { readonly cols: number; readonly rows: number },
    onData: (data: Buffer) => void,
  ): Promise<PseudoTerminal> {
    const nodePty = await load();
    if (nodePty === undefined) throw terminalError('this agent has no terminals: node-pty is not installed there');
    const shell = options.shell ?? (userInfo().shell || '/bin/sh');
    try {
      const spawned = nodePty.spawn(shell, options.args ?? ['-l'], {
        name: 'xterm-256color',
        ...size,
        cwd: homedir(),
        encoding: null,
      });
      return new PseudoTerminal(spawned, onData);
    } catch (cause) {
      throw terminalError(`cannot start ${shell}: ${(cause as Error).message}`, cause);
    }
  }

  /** False from when on `fd` may be another file's. */
  get #isOpen(): boolean {
    return !this.#isClosed && this.#terminal._socket?.destroyed !== true;
  }

  resize(cols: number, rows: number): void {
    if (this.#isOpen) this.#terminal.resize(cols, rows);
  }

  /** Stops reading: the process stands still once the kernel's buffer is full. What a dead one has left is read on. */
  pause(): void {
    if (!this.#isOpen || this.#aliveTimer !== undefined || !isAlive(this.#terminal.pid)) return;
    this.#terminal.pause();
    this.#aliveTimer = setInterval(() => {
      if (!isAlive(this.#terminal.pid)) this.resume();
    }, aliveMs);
  }

  resume(): void {
    clearInterval(this.#aliveTimer);
    this.#aliveTimer = undefined;
    if (this.#isOpen) this.#terminal.resume();
  }

  /** Hangs up; who ignores that is killed. {@link ended} follows. */
  hangUp(): void {
    if (this.#isEnded || this.#killTimer !== undefined) return;
    this.resume();
    this.#terminal.kill('SIGHUP');
    this.#killTimer = setTimeout(() => this.#terminal.kill('SIGKILL'), killMs);
  }

  #readRestBeforeClose(onData: (data: Buffer) => void): void {
    const { _socket: socket, fd } = this.#terminal;
    if (socket === undefined || fd === undefined) return;
    const destroy = socket._destroy;
    socket._destroy = (error, done) => {
      let failure = error;
      try {
        readRest(fd, onData);
      } catch (cause) {
        failure ??= cause as Error;
      }
      destroy.call(socket, failure, done);
    };
  }

  #makeInput(): Writable {
    const { fd } = this.#terminal;
    return new Writable({
      highWaterMark: 64 * 1024,
      write: (chunk: Buffer, _encoding, done) => {
        if (fd === undefined) {
          this.#terminal.write(chunk);
          done();
        } else {
          this.#write(fd, chunk, 0, done);
        }
      },
    }).on('error', () => this.hangUp());
  }

  /** Never after the terminal is closed: its descriptor may be another file's by then. */
  #write(fd: number, chunk: Buffer, from: number, done: (error?: Error | null) => void): void {
    let at = from;
    try {
      while (this.#isOpen && at < chunk.length) at += writeSync(fd, chunk, at);
      done();
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      if (code === 'EAGAIN') setTimeout(() => this.#write(fd, chunk, at, done), retryMs);
      else done(code === 'EIO' ? null : (cause as Error)); // EIO: the process has just ended
    }
  }
}

/** Reads what the kernel has of the output of a process that has ended. */
function readRest(fd: number, onData: (data: Buffer) => void): void {
  try {
    for (let restBytes = maxRestBytes; restBytes > 0; ) {
      const chunk = Buffer.alloc(4096);
      const length = readSync(fd, chunk);
      if (length === 0) return;
      restBytes -= length;
      onData(chunk.subarray(0, length));
    }
  } catch (cause) {
    // EIO: hung up, and all is read; EAGAIN: a process that stays behind has written nothing more.
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EIO' && code !== 'EAGAIN') throw cause;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    // EPERM: it runs as another user.
    return (cause as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function terminalError(what: string, cause?: unknown): CoupletError {
  return new CoupletError('CPL_AGENT_TERMINAL', what, { cause });
}
