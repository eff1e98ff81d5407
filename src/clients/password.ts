import type { Readable } from 'node:stream';
import { CoupletError } from '../core/errors.ts';

/** More than any password; then what comes is something else. */
const maxBytes = 4096;
const keys = {
  interrupt: 0x03,
  end: 0x04,
  backspace: 0x08,
  newline: 0x0a,
  return: 0x0d,
  eraseLine: 0x15,
  delete: 0x7f,
};

/** The terminal that a password is asked on. */
export interface PasswordTerminal {
  readonly input: Readable;
  /** Keys come as they are, and are not shown, until the function returned is called. */
  makeRaw(): () => void;
  show(text: string): void;
}

/**
 * The first line of a stream, without its end. What follows it is left in the stream, to the byte.
 * @throws CoupletError (as rejection) `CPL_CLIENT_OPTIONS` where it is empty or far too long; the signal's reason
 */
export async function readPasswordLine(input: Readable, signal?: AbortSignal): Promise<string> {
  const line: Buffer[] = [];
  let bytes = 0;
  await takeFrom(input, signal, (chunk) => {
    const newline = chunk.indexOf(keys.newline);
    const part = newline === -1 ? chunk : chunk.subarray(0, newline);
    line.push(part);
    bytes += part.length;
    return newline !== -1 || bytes > maxBytes ? part.length + 1 : undefined;
  });
  const password = Buffer.concat(line).toString().replace(/\r$/, '');
  if (password !== '' && bytes <= maxBytes) return password;
  const text = '--password-stdin: standard input holds no password in its first line';
  throw new CoupletError('CPL_CLIENT_OPTIONS', text);
}

/**
 * Asks for a password on a terminal, which does not show it. What is typed ahead is left in the input.
 * @throws CoupletError (as rejection) `CPL_CLIENT_STOPPED` for ^C, ^D or the input's end; the signal's reason
 */
export async function askPassword(terminal: PasswordTerminal, prompt: string, signal?: AbortSignal): Promise<string> {
  const restore = terminal.makeRaw();
  const typed: number[] = [];
  let isGiven = false;
  try {
    terminal.show(prompt);
    await takeFrom(terminal.input, signal, (chunk) => {
      for (const [at, key] of chunk.entries()) {
        isGiven = key === keys.return || key === keys.newline;
        if (isGiven || key === keys.interrupt || key === keys.end) return at + 1;
        if (key === keys.delete || key === keys.backspace) erase(typed);
        else if (key === keys.eraseLine) typed.length = 0;
        else if (typed.length < maxBytes) typed.push(key);
      }
      return undefined;
    });
  } finally {
    terminal.show('\r\n');
    restore();
  }
  if (isGiven) return Buffer.from(typed).toString();
  throw new CoupletError('CPL_CLIENT_STOPPED', 'no password was given');
}

/** Takes the last character away, which UTF-8 may have written in several bytes. */
function erase(typed: number[]): void {
  for (let byte = typed.pop(); byte !== undefined && (byte & 0xc0) === 0x80; ) byte = typed.pop();
}

/**
 * Reads until `take` tells how much of a chunk it took, or the stream ends. The rest of that chunk goes back at once:
 * later the stream may have told its end.
 */
async function takeFrom(
  input: Readable,
  signal: AbortSignal | undefined,
  take: (chunk: Buffer) => number | undefined,
): Promise<void> {
  let wake = () => {};
  const onEvent = () => wake();
  const events = ['readable', 'end', 'close', 'error'] as const;
  for (const event of events) input.on(event, onEvent);
  signal?.addEventListener('abort', onEvent);
  try {
    while (!input.readableEnded && !input.destroyed) {
      signal?.throwIfAborted();
      const chunk = input.read() as Buffer | null;
      const taken = chunk === null ? undefined : take(chunk);
      if (chunk !== null && taken !== undefined) {
        if (taken < chunk.length) input.unshift(chunk.subarray(taken));
        return;
      }
      if (chunk !== null) continue;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    for (const event of events) input.off(event, onEvent);
    signal?.removeEventListener('abort', onEvent);
  }
}
