import { sql } from 'kysely';
import type { Clock } from '../core/clock.ts';
import { isPrintableId } from '../core/ids.ts';
import { whenFree } from './busy.ts';
import { type Feed, Touched } from './changes.ts';
import { translate } from './errors.ts';
import type { Db, Schema, Tx } from './schema.ts';

/** What the stores stand on: one database, its two ways to write, and the feed that tells of changes. */
export class Database {
  readonly db: Db;
  readonly sqlite: boolean;
  readonly clock: Clock;
  readonly #feed: Feed;

  constructor(db: Db, sqlite: boolean, feed: Feed, clock: Clock) {
    this.db = db;
    this.sqlite = sqlite;
    this.#feed = feed;
    this.clock = clock;
  }

  /** @throws CoupletError `CPL_DIRECTORY_UNAVAILABLE` where the database does not answer */
  async read<T>(work: (db: Db) => Promise<T>): Promise<T> {
    try {
      return await work(this.db);
    } catch (error) {
      throw translate(error);
    }
  }

  /**
   * A durable change in one transaction. SQLite: the event loop stands still while `work` runs, so that it awaits
   * nothing but `tx`, and does little. What it touches is told after the commit (T4), and before this resolves.
   */
  async write<T>(work: (tx: Tx, touched: Touched) => Promise<T>): Promise<T> {
    const touched = new Touched();
    let worked = false;
    try {
      return await this.#begun((started) =>
        this.db.transaction().execute(async (tx) => {
          started();
          const result = await work(tx, touched);
          if (!touched.isEmpty) await this.#feed.publish(tx, touched.toChange());
          worked = true;
          return result;
        }),
      );
    } catch (error) {
      throw translate(error);
    } finally {
      // Also after an error of the commit: it may have taken place.
      if (worked && !touched.isEmpty) this.#feed.committed(touched.toChange());
    }
  }

  /** A write whose loss in a power cut does no harm (time of last use, events that stand in the log): no fsync. */
  async relaxed<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    try {
      if (!this.sqlite) {
        return await this.db.transaction().execute(async (tx) => {
          await sql`set local synchronous_commit = off`.execute(tx);
          return await work(tx);
        });
      }
      return await this.#begun((started) =>
        this.db.connection().execute(async (connection) => {
          await sql`pragma synchronous = normal`.execute(connection);
          try {
            return await connection.transaction().execute((tx) => {
              started();
              return work(tx);
            });
          } finally {
            await sql`pragma synchronous = full`.execute(connection);
          }
        }),
      );
    } catch (error) {
      throw translate(error);
    }
  }

  /** A transaction that another process keeps from beginning is tried again; one that has begun never is. */
  async #begun<T>(transact: (started: () => void) => Promise<T>): Promise<T> {
    let hasBegun = false;
    const started = () => {
      hasBegun = true;
    };
    const outcome = await whenFree(this.clock, async () => {
      try {
        return { value: await transact(started) };
      } catch (error) {
        if (hasBegun) return { error };
        throw error;
      }
    });
    if ('error' in outcome) throw outcome.error;
    return outcome.value;
  }

  /**
   * Keeps others from adding to a group or a device while what belongs to it is looked up. SQLite has one writer anyway.
   * @returns whether the row is there
   */
  async lock(tx: Tx, table: 'users' | 'user_groups' | 'device_groups' | 'devices', id: string): Promise<boolean> {
    if (!isPrintableId(id)) return false;
    const query = tx
      .selectFrom(table as keyof Schema & 'users')
      .select('id')
      .where('id', '=', id);
    return (await (this.sqlite ? query : query.forUpdate()).executeTakeFirst()) !== undefined;
  }
}
