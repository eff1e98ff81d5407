import { closeSync, openSync, readFileSync, statSync } from 'node:fs';
import BetterSqlite, { type Database as SqliteHandle } from 'better-sqlite3';
import { Kysely, SqliteAdapter, SqliteDialect, sql } from 'kysely';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { busyError, isBusy, whenFree } from './busy.ts';
import { everything, type Feed, type Listeners, readChange } from './changes.ts';
import { quote } from './errors.ts';
import { migrate } from './migrate.ts';
import type { Db, Schema, Tx } from './schema.ts';

/** How long SQLite itself waits for another process; this one stands still meanwhile. Longer waits are made without. */
const busyMs = 250;
const pollMs = 200;
/** For so long an answer that there is no news counts; a look costs more than what it guards. */
const freshMs = 50;
/** Changes kept for others to read. Who missed more takes everything for changed. */
const keptChanges = 1_000;
const maxStatements = 300;

/** What Kysely asks of a database: statements are kept, and every transaction is a writer's from its start. */
class Statements {
  readonly #handle: SqliteHandle;
  readonly #statements = new Map<string, ReturnType<SqliteHandle['prepare']>>();

  constructor(handle: SqliteHandle) {
    this.#handle = handle;
  }

  prepare(text: string) {
    // A reader that turns writer midway would be refused at once, whatever the time limit, if another wrote in between.
    const command = text === 'begin' ? 'begin immediate' : text;
    // SQLite leaves open whether a pragma takes effect when it is prepared or when it is run.
    if (command.startsWith('pragma')) return this.#handle.prepare(command) as never;
    let statement = this.#statements.get(command);
    if (statement === undefined) {
      if (this.#statements.size >= maxStatements) this.#statements.clear();
      statement = this.#handle.prepare(command);
      this.#statements.set(command, statement);
    }
    return statement as never;
  }

  close(): void {
    this.#handle.close();
  }
}

/** SQLite can make tables in a transaction, which is the lock of migrations here. */
class Adapter extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true;
  }
}

class Dialect extends SqliteDialect {
  override createAdapter(): SqliteAdapter {
    return new Adapter();
  }
}

/**
 * Opens the file, or makes it, readable by its owner alone, with tables as this version has them. WAL: readers and the
 * one writer do not wait for each other. `synchronous = full`: a power cut takes back no withdrawn right and no used
 * join code; what needs no such promise is written by `Database.relaxed`.
 * @throws CoupletError `CPL_DIRECTORY_FILE`, `CPL_DIRECTORY_MIGRATION`, `CPL_DIRECTORY_UNAVAILABLE` where others write on
 */
export async function openSqlite(file: string, clock: Clock): Promise<{ db: Db; handle: SqliteHandle }> {
  let handle: SqliteHandle | undefined;
  try {
    closeSync(openSync(file, 'a', 0o600));
    // Who opens waits without standing still: the one waited for may be of this process.
    const opening = new BetterSqlite(file, { timeout: 0 });
    handle = opening;
    // Of several that turn a new file to WAL at once all but one are told that it is busy.
    await whenFree(clock, async () => opening.pragma('journal_mode = wal'));
    handle.pragma('synchronous = full');
    handle.pragma('foreign_keys = on');
  } catch (cause) {
    handle?.close();
    if (isBusy(cause)) throw busyError(cause);
    const why = (cause as { code?: string }).code ?? String(cause);
    const text = `the directory file ${quote(file)} cannot be used (${why}): it must be a SQLite database or not be there, in a folder to write to`;
    throw new CoupletError('CPL_DIRECTORY_FILE', text, { level: 'error', cause });
  }
  const db = new Kysely<Schema>({ dialect: new Dialect({ database: new Statements(handle) }) });
  try {
    await whenFree(clock, () => migrate(db as unknown as Kysely<never>, true));
    handle.pragma(`busy_timeout = ${busyMs}`);
  } catch (error) {
    await db.destroy();
    handle.close();
    throw isBusy(error) ? busyError(error) : error;
  }
  return { db, handle };
}

/**
 * [T4] Every change is a row of the table `changes`, written with the change itself. A connection of its own, which only
 * reads, sees by `PRAGMA data_version` (a look into shared memory) that somebody has committed, and then reads the rows.
 */
export class SqliteFeed implements Feed {
  readonly #handle: SqliteHandle;
  readonly #version: () => unknown;
  readonly #news: (after: number) => { seq: number; body: string }[];
  readonly #listeners: Listeners;
  readonly #onError: (error: unknown) => void;
  readonly #timer: NodeJS.Timeout;
  readonly #clock: Clock;
  #lookedMs = Number.NEGATIVE_INFINITY;
  #seenVersion: unknown;
  #seenSeq: number;

  constructor(file: string, clock: Clock, listeners: Listeners, onError: (error: unknown) => void) {
    this.#clock = clock;
    this.#listeners = listeners;
    this.#onError = onError;
    this.#handle = new BetterSqlite(file, { timeout: busyMs });
    this.#handle.pragma('query_only = on');
    const version = this.#handle.prepare('pragma data_version').pluck();
    this.#version = () => version.get();
    const news = this.#handle.prepare('select seq, body from changes where seq > ? order by seq');
    this.#news = (after) => news.all(after) as { seq: number; body: string }[];
    // The version first: what comes after it is read once more, never missed.
    this.#seenVersion = this.#version();
    this.#seenSeq = this.#handle.prepare('select coalesce(max(seq), 0) from changes').pluck().get() as number;
    this.#timer = setInterval(() => this.#look(), pollMs).unref();
  }

  async publish(tx: Tx, change: unknown): Promise<void> {
    const body = JSON.stringify(change);
    const { insertId } = await tx.insertInto('changes').values({ body }).executeTakeFirstOrThrow();
    await sql`delete from changes where seq <= ${Number(insertId) - keptChanges}`.execute(tx);
  }

  committed(): void {
    this.#look();
  }

  isCurrent(): boolean {
    return this.#clock.monotonicMs() - this.#lookedMs < freshMs || this.#look();
  }

  async catchUp(): Promise<void> {
    if (this.#look()) return;
    const text = 'the directory file cannot be asked for changes';
    throw new CoupletError('CPL_DIRECTORY_UNAVAILABLE', text, { httpStatus: 503 });
  }

  /** False where it is not known whether there is news. */
  #look(): boolean {
    if (!this.#handle.open) return false;
    const nowMs = this.#clock.monotonicMs();
    try {
      this.#readNews();
      this.#lookedMs = nowMs;
      return true;
    } catch (error) {
      this.#lookedMs = Number.NEGATIVE_INFINITY;
      this.#onError(error);
      return false;
    }
  }

  #readNews(): void {
    const version = this.#version();
    if (version === this.#seenVersion) return;
    const rows = this.#news(this.#seenSeq);
    this.#seenVersion = version;
    const first = rows[0];
    if (first === undefined) return;
    const gap = first.seq !== this.#seenSeq + 1;
    this.#seenSeq = rows.at(-1)!.seq;
    if (gap) this.#listeners.tell(everything);
    else for (const { body } of rows) this.#listeners.tell(readChange(body));
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#handle.close();
  }
}

/** [K8] A word that only processes of this machine with the same file have. */
export function fileIdentity(file: string): string {
  const { dev, ino } = statSync(file);
  const machine = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  return `sqlite ${machine} ${dev} ${ino}`;
}
