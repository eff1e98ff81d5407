import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { type Feed, Listeners } from './changes.ts';
import type { Directory } from './directory.ts';
import { lineOf, quote } from './errors.ts';
import { defaultLoginLimits, type LoginLimits } from './login.ts';
import { noDirectory } from './none.ts';
import { openPostgres } from './postgres.ts';
import { PostgresFeed } from './postgres-feed.ts';
import type { Db } from './schema.ts';
import { SqlDirectory } from './sql.ts';
import { openSqlite, SqliteFeed } from './sqlite.ts';

export interface OpenDirectoryOptions {
  /** `none`, `sqlite`, `postgres://…` or `postgres:postgres://…`. */
  readonly directory: string;
  /** SQLite's file. */
  readonly file: string;
  readonly clock: Clock;
  /** What went wrong in the background and will be tried again; for the log. */
  onError(error: unknown): void;
  readonly loginLimits?: Partial<LoginLimits>;
  /** Most answers of `access` that are remembered; 10,000 unless told. */
  readonly maxCached?: number;
  /** PostgreSQL: most connections, besides the one for notifications; 8 unless told. */
  readonly maxConnections?: number;
}

/**
 * [T3] Opens the directory, with its tables brought up to date.
 * @throws CoupletError `CPL_DIRECTORY_FILE`, `CPL_DIRECTORY_URL`, `CPL_DIRECTORY_UNAVAILABLE`, `CPL_DIRECTORY_MIGRATION`
 */
export async function openDirectory(
  options: OpenDirectoryOptions,
): Promise<Directory & Partial<Pick<SqlDirectory, 'cache'>>> {
  const { directory, file, clock } = options;
  let opened: SqlDirectory | undefined;
  // Connections that are being closed may still break; then nothing is tried again, and nobody is to hear of it.
  const onError = (error: unknown) => {
    // A driver's error carries its whole connection: what a log is to hold is its line.
    if (opened?.isClosing !== true) options.onError(new Error(lineOf(error)));
  };
  if (directory === 'none') return noDirectory();
  const listeners = new Listeners(onError);
  const over = (kind: 'sqlite' | 'postgres', db: Db, feed: Feed) => {
    opened = new SqlDirectory({
      kind,
      db,
      feed,
      listeners,
      clock,
      loginLimits: { ...defaultLoginLimits, ...options.loginLimits },
      maxCached: options.maxCached ?? 10_000,
      onError,
    });
    return opened;
  };
  if (directory === 'sqlite') {
    const { db } = await openSqlite(file, clock);
    return over('sqlite', db, new SqliteFeed(file, clock, listeners, onError));
  }
  const url = directory.replace(/^postgres:(?=postgres(ql)?:)/, '');
  if (!/^postgres(ql)?:/.test(url)) {
    const scheme = quote(directory.slice(0, Math.max(directory.indexOf(':'), 0)) || directory);
    const text = `directory ${scheme}: allowed are none, sqlite and postgres://USER:PASSWORD@HOST:PORT/DATABASE`;
    throw new CoupletError('CPL_DIRECTORY_URL', text, { level: 'error' });
  }
  const db = await openPostgres({ url, maxConnections: options.maxConnections ?? 8, onError });
  try {
    return over('postgres', db, await PostgresFeed.open({ url, clock, listeners, onError }));
  } catch (error) {
    await db.destroy();
    throw error;
  }
}
