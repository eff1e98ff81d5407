import { closeSync, openSync, write, writeSync } from 'node:fs';
import { type Logger, pino } from 'pino';
import { type Clock, systemClock } from './clock.ts';
import type { LogLevel } from './errors.ts';

export type { Logger } from 'pino';

export interface LoggerOptions {
  readonly level?: LogLevel;
  /** A file descriptor (1 stdout, 2 stderr) or a file's path. */
  readonly to?: number | string;
  /** Stand in every line; not secret. */
  readonly fields?: Readonly<Record<string, string | number>>;
  readonly clock?: Clock;
  /** Lines that may wait for a slow reader of the log, in bytes; past it lines are dropped and counted. */
  readonly maxQueuedBytes?: number;
}

/** A logger with its level and its end in hand. Lines are JSON; `level` is a word, `time` ISO 8601 in UTC. */
export interface LogHandle {
  readonly logger: Logger;
  /** Writes a line that scripts wait for, whatever the level is. The fields are not secret. */
  announce(message: string, fields: Readonly<Record<string, unknown>>): void;
  /** Writes a line that another process has made, as it is. `line` is without its line feed. */
  passOn(line: string): void;
  /** Changes the least level, of child loggers too. */
  setLevel(level: LogLevel): void;
  /** Lines lost since start because the log's reader was too slow or the disk full. */
  droppedLines(): number;
  /** Writes what is queued, synchronously: before the process ends on an exception nobody caught. */
  flush(): void;
  /** Resolves once everything queued is written or lost, after `withinMs` at the latest. */
  drained(withinMs?: number): Promise<void>;
  /** Closes the file where it was given by its path, once what is under way is written; later lines are dropped. */
  close(): void;
}

/**
 * [R8] What never appears in a log, whatever object it stands in: credentials by their key, query strings by the key
 * `url`, and in any text a query parameter that carries one.
 */
const secretKeys = new Set([
  'auth',
  'rauth',
  'cookie',
  'cookies',
  'setcookie',
  'authorization',
  'loginkey',
  'password',
  'secret',
  'token',
  'ticket',
  'query',
  'querystring',
]);
const secretParameter = /\b((?:r?auth|cookie|token|loginkey)=)[^&\s"\\]+/gi;
const maxDepth = 6;

/** The part of a URL before its query; for log lines about requests. */
export function withoutQuery(url: string): string {
  const end = url.search(/[?#]/);
  return end < 0 ? url : url.slice(0, end);
}

/** A copy of a value for the log with every secret replaced by `[redacted]`. */
export function redact(value: unknown, depth = 0): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (depth > maxDepth) return '[too deep]';
  if (value instanceof Uint8Array) return `[${value.byteLength} bytes]`;
  if (value instanceof Error) return redact(errorFields(value), depth);
  if (Array.isArray(value)) return value.map((element) => redact(element, depth + 1));
  const copy: Record<string, unknown> = {};
  for (const [key, element] of Object.entries(value)) {
    const plainKey = key.replaceAll(/[-_]/g, '').toLowerCase();
    if (secretKeys.has(plainKey)) copy[key] = '[redacted]';
    else if (plainKey === 'url' && typeof element === 'string') copy[key] = withoutQuery(element);
    else copy[key] = redact(element, depth + 1);
  }
  return copy;
}

function errorFields(error: Error): Record<string, unknown> {
  const { name, message, stack, cause } = error;
  return { ...error, type: name, message, stack, ...(cause === undefined ? {} : { cause }) };
}

/**
 * Writes lines asynchronously and in order, at most `maxBytes` waiting. pino's own destination is not used: it retries
 * a full disk forever when flushed, and ends the process on a closed pipe.
 */
class LineSink {
  dropped = 0;
  readonly #fd: number;
  readonly #isOwn: boolean;
  readonly #maxBytes: number;
  #closed = false;
  #waiting: string[] = [];
  #waitingBytes = 0;
  #writing = false;
  /** A line was cut by a failed write: the next one starts on a line of its own. */
  #torn = false;
  #onEmpty: (() => void)[] = [];

  constructor(to: number | string, maxBytes: number) {
    this.#fd = typeof to === 'number' ? to : openSync(to, 'a', 0o600);
    this.#isOwn = typeof to === 'string';
    this.#maxBytes = maxBytes;
  }

  write(line: string): void {
    const bytes = Buffer.byteLength(line);
    if (this.#closed || this.#waitingBytes + bytes > this.#maxBytes) {
      this.dropped++;
      return;
    }
    this.#waiting.push(line);
    this.#waitingBytes += bytes;
    if (!this.#writing) this.#next();
  }

  #take(): { chunk: Buffer; lines: number } {
    const lines = this.#waiting.length;
    const chunk = Buffer.from((this.#torn ? '\n' : '') + this.#waiting.join(''));
    this.#torn = false;
    this.#waiting = [];
    this.#waitingBytes = 0;
    return { chunk, lines };
  }

  #next(): void {
    if (this.#waiting.length === 0) {
      this.#writing = false;
      for (const call of this.#onEmpty.splice(0)) call();
      return;
    }
    this.#writing = true;
    const { chunk, lines } = this.#take();
    this.#send(chunk, 0, lines);
  }

  #send(chunk: Buffer, from: number, lines: number): void {
    write(this.#fd, chunk, from, chunk.length - from, null, (error, written) => {
      if (error?.code === 'EAGAIN') setTimeout(() => this.#send(chunk, from, lines), retryMs);
      else if (error !== null) {
        this.dropped += lines;
        this.#torn = from > 0;
        this.#next();
      } else if (from + written < chunk.length) this.#send(chunk, from + written, lines);
      else this.#next();
    });
  }

  /** What an asynchronous write has in hand is left to it: Node.js lets it finish before the process ends. */
  flush(): void {
    if (this.#waiting.length === 0) return;
    const { chunk, lines } = this.#take();
    try {
      for (let from = 0; from < chunk.length; ) from += writeSync(this.#fd, chunk, from);
    } catch {
      // Full, closed, or a reader too slow at the very end: counted, there is nobody left to tell.
      this.dropped += lines;
    }
  }

  close(): void {
    if (!this.#isOwn || this.#closed) return;
    this.#closed = true;
    if (this.#writing) this.#onEmpty.push(() => closeSync(this.#fd));
    else closeSync(this.#fd);
  }

  drained(withinMs: number): Promise<void> {
    if (!this.#writing) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, withinMs);
      this.#onEmpty.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

const retryMs = 50;
const severity: Readonly<Record<string, number>> = { debug: 20, info: 30, warn: 40, error: 50 } satisfies Record<
  LogLevel,
  number
>;

/**
 * Makes the process's logger. Lines leave asynchronously, so that a slow reader of stdout never holds the event loop;
 * a destination that fails loses lines (counted), never the process. [R8] Credentials are redacted in the fields of
 * every line and child, and as query parameters in any text.
 */
export function createLogger(options: LoggerOptions = {}): LogHandle {
  const {
    level = 'info',
    to = 1,
    fields: common = {},
    clock = systemClock,
    maxQueuedBytes = 16 * 1024 * 1024,
  } = options;
  const sink = new LineSink(to, maxQueuedBytes);
  let least = severity[level]!;
  const logger = pino(
    {
      // pino's own level is copied into each child; the threshold in the hook is one for all of them.
      level: 'debug',
      base: common,
      timestamp: () => `,"time":"${new Date(clock.nowMs()).toISOString()}"`,
      formatters: {
        level: (label) => ({ level: label }),
        log: (fields) => redact(fields) as Record<string, unknown>,
      },
      serializers: { err: (error: unknown) => error },
      hooks: {
        logMethod(args, method, number) {
          if (number >= least) method.apply(this, args);
        },
        streamWrite: (line) => line.replaceAll(secretParameter, '$1[redacted]'),
      },
    },
    sink,
  );
  // Its own answer is that of its own level. Children inherit this one too.
  logger.isLevelEnabled = (label) => (severity[label] ?? 0) >= least;
  // pino does not format the bindings of children; they inherit this method.
  const makeChild = logger.child;
  logger.child = function child(this: Logger, bindings: object, childOptions?: object) {
    return makeChild.call(this, redact(bindings) as Record<string, unknown>, childOptions);
  } as Logger['child'];
  return {
    logger,
    announce(message, fields) {
      const time = new Date(clock.nowMs()).toISOString();
      sink.write(`${JSON.stringify({ level: 'info', time, ...common, ...fields, msg: message })}\n`);
    },
    passOn: (line) => sink.write(`${line}\n`),
    setLevel(next) {
      least = severity[next]!;
    },
    droppedLines: () => sink.dropped,
    flush: () => sink.flush(),
    drained: (withinMs = 2000) => sink.drained(withinMs),
    close: () => sink.close(),
  };
}
