import { spawnSync } from 'node:child_process';
import { closeSync, createWriteStream, fstatSync, openSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { isatty } from 'node:tty';
import { CoupletError } from '../core/errors.ts';
import { askPassword } from './password.ts';
import type { ShellTerminal } from './shell.ts';

const stdoutDescriptor = 1;

/** What a command that carries data needs of its process. */
export interface StandardIo {
  readonly stdin: Readable;
  readonly stdout: Writable;
  /** Writes one line for people; settles when it is written. */
  complain(line: string): Promise<void>;
  /** Hears of SIGINT, SIGTERM and SIGHUP from now on, which then no longer end the process by themselves. */
  onSignal(listener: (signal: NodeJS.Signals) => void): void;
  /** Ends the process. What was written to `stdout` and has not finished is lost. */
  exit(code: number): void;
}

/** The process's own. Opens descriptor 1 for good: only for a command that writes to nothing but this `stdout`. */
export function processIo(): StandardIo {
  return {
    stdin: process.stdin,
    stdout: openStdout(),
    complain: (line) => new Promise((resolve) => process.stderr.write(`${line}\n`, () => resolve())),
    onSignal: (listener) => {
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, listener);
    },
    exit: (code) => process.exit(code),
  };
}

/**
 * Descriptor 1 as a stream whose end closes it, so that its reader sees the end while this process still runs.
 * `process.stdout` cannot do that: it never closes the descriptor. It also writes to files without looking at how much
 * the disk took, and blocks the event loop there.
 */
function openStdout(): Writable {
  if (isatty(stdoutDescriptor)) return process.stdout;
  const kind = fstatSync(stdoutDescriptor);
  if (!kind.isFIFO() && !kind.isSocket()) {
    return createWriteStream('', { fd: stdoutDescriptor }).on('close', occupyDescriptor);
  }
  const socket = new Socket({ fd: stdoutDescriptor, readable: false, writable: true });
  // Others may share the pipe (`(couplet pipe …; cat file) | …`): give it back as it was found. Node.js does so itself
  // at exit, but only for a descriptor that is still open. Not so a socket: it may be standard input as well, whose
  // reads must not begin to block.
  if (kind.isFIFO()) socket.on('finish', () => setBlocking(socket));
  socket.on('close', () => {
    // libuv leaves descriptors 0 to 2 open when it closes their streams.
    closeSync(stdoutDescriptor);
    occupyDescriptor();
  });
  return socket;
}

function setBlocking(socket: Socket): void {
  (socket as unknown as { _handle?: { setBlocking?(on: boolean): number } })._handle?.setBlocking?.(true);
}

/** Puts `/dev/null` in the place of the closed descriptor: a stray write must not end up in the next socket opened. */
function occupyDescriptor(): void {
  openSync('/dev/null', 'w');
}

/** Waits until a stream that is given up has written what it took, but not longer than `stop` allows. */
export async function flush(stream: Writable, stop?: AbortSignal): Promise<void> {
  if (stream.destroyed) return;
  stream.end();
  // How it failed, if it did, was reported before; here only its end counts.
  await finished(stream, { readable: false, ...(stop && { signal: stop }) }).catch(() => undefined);
}

/** The process's terminal, for a shell. Without one (a pipe) nothing is made raw and there is no size. */
export function processTerminal(): ShellTerminal {
  const { stdin, stdout } = process;
  const terminal: ShellTerminal = {
    input: stdin,
    output: stdout,
    size: () => (stdout.isTTY ? { cols: stdout.columns, rows: stdout.rows } : undefined),
    onResize: (listener) => {
      stdout.on('resize', listener);
      return () => stdout.off('resize', listener);
    },
    makeRaw: () => {
      if (!stdin.isTTY) return () => undefined;
      const restore = () => stdin.setRawMode(false);
      stdin.setRawMode(true);
      endOutputProcessing();
      // Whatever ends the process, the user must be able to go on typing.
      process.on('exit', restore);
      return () => {
        process.off('exit', restore);
        restore();
      };
    },
  };
  if (!stdin.isTTY) return terminal;
  // Not to standard output, which may lead elsewhere.
  const show = (text: string) => process.stderr.write(text);
  return {
    ...terminal,
    askPassword: (prompt, signal) => askPassword({ ...terminal, show }, prompt, signal),
  };
}

/**
 * What a remote terminal has made of a line feed must not be made anew. Raw mode of Node.js leaves that on, and gives no
 * other; it puts back what it found, this too. Without `stty` (no such system has terminals of this kind) it stays on.
 */
function endOutputProcessing(): void {
  spawnSync('stty', ['-opost'], { stdio: ['inherit', 'ignore', 'ignore'] });
}

/** Aborted by the first of these signals, which then no longer ends the process by itself. */
export function abortOn(...signals: NodeJS.Signals[]): AbortSignal {
  const controller = new AbortController();
  for (const signal of signals) {
    process.on(signal, () => controller.abort(new CoupletError('CPL_CLIENT_STOPPED', `ended by ${signal}`)));
  }
  return controller.signal;
}
