export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export interface CoupletErrorOptions {
  /** WebSocket close code for a half that is already admitted. */
  closeCode?: number;
  /** HTTP status for a request that is not upgraded yet. */
  httpStatus?: number;
  /** Level at which the error is logged; `warn` unless told otherwise. */
  level?: LogLevel;
  /** Word for `couplet_refused_total{reason}` and the refusal event; never contains user input. */
  reason?: string;
  cause?: unknown;
}

/**
 * The project's one error class. `code` is stable (`CPL_…`) and documented; `message` is one line that names the
 * thing, the value and what is allowed. Translation to HTTP or WebSocket happens in `server/` alone.
 */
export class CoupletError extends Error {
  override readonly name = 'CoupletError';
  readonly code: string;
  readonly closeCode: number | undefined;
  readonly httpStatus: number | undefined;
  readonly level: LogLevel;
  readonly reason: string | undefined;

  constructor(code: `CPL_${string}`, message: string, options: CoupletErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.closeCode = options.closeCode;
    this.httpStatus = options.httpStatus;
    this.level = options.level ?? 'warn';
    this.reason = options.reason;
  }
}

/**
 * What the system, or SQLite, says has failed, on one line: its word (`ENOSPC`) and sentence. `undefined` for any other
 * error, such as a bug's.
 */
export function systemFailure(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const { code } = error as NodeJS.ErrnoException;
  if (typeof code !== 'string' || !/^(?:E[A-Z0-9]+|SQLITE_[A-Z_]+)$/.test(code)) return undefined;
  const [line = ''] = error.message.split('\n');
  return line.includes(code) ? line : `${code}: ${line}`;
}
