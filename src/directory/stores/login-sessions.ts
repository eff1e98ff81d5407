import type { Database } from '../database.ts';
import type { LoginSession, LoginSessions, User } from '../directory.ts';
import { isBrokenReference, unknown } from '../errors.ts';
import { checkWhole, domainOf, hashToken, randomToken, storableAddress } from '../names.ts';
import type { LoginSessionRow } from '../schema.ts';
import { toUser } from './users.ts';

const tokenForm = /^[A-Za-z0-9_-]{43}$/;
const idForm = /^[A-Za-z0-9_-]{1,64}$/;
const dayMs = 86_400_000;
const defaultLifetimeMs = dayMs;
const maxLifetimeMs = 366 * dayMs;
/** Unused for this long a session ends before its time. */
const idleMs = 2 * 3_600_000;
/** The time of last use is exact to this. */
const touchMs = 60_000;

/** Browsers' logins. Who has the database has no session: tokens are hashed. */
export class LoginSessionStore implements LoginSessions {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async create(
    userId: string,
    { address, lifetimeMs = defaultLifetimeMs }: { address: string; lifetimeMs?: number },
  ): Promise<{ token: string; session: LoginSession }> {
    if (domainOf(userId, 'user') === undefined) throw unknown('user', userId);
    const nowMs = this.#database.clock.nowMs();
    const token = randomToken(32);
    const row: LoginSessionRow = {
      id: randomToken(12),
      token_hash: hashToken(token),
      user_id: userId,
      address: storableAddress(address),
      created_ms: nowMs,
      expires_ms: nowMs + checkWhole('lifetime in ms', lifetimeMs, 1, maxLifetimeMs),
      last_use_ms: nowMs,
    };
    return await this.#database.write(async (tx) => {
      try {
        await tx.insertInto('login_sessions').values(row).execute();
      } catch (error) {
        throw isBrokenReference(error) ? unknown('user', userId) : error;
      }
      return { token, session: toSession(row) };
    });
  }

  async verify(token: string): Promise<{ session: LoginSession; user: User } | undefined> {
    if (!tokenForm.test(token)) return undefined;
    const nowMs = this.#database.clock.nowMs();
    const row = await this.#database.read((db) =>
      db
        .selectFrom('login_sessions')
        .selectAll()
        .where('token_hash', '=', hashToken(token))
        .where('expires_ms', '>', nowMs)
        .where('last_use_ms', '>', nowMs - idleMs)
        .executeTakeFirst(),
    );
    if (row === undefined) return undefined;
    const user = await this.#database.read((db) =>
      db.selectFrom('users').selectAll().where('id', '=', row.user_id).executeTakeFirst(),
    );
    if (user === undefined || user.locked === 1) return undefined;
    if (nowMs - row.last_use_ms >= touchMs) {
      await this.#database.relaxed((tx) =>
        tx.updateTable('login_sessions').set({ last_use_ms: nowMs }).where('id', '=', row.id).execute(),
      );
      row.last_use_ms = nowMs;
    }
    return { session: toSession(row), user: toUser(user) };
  }

  async list(userId: string): Promise<LoginSession[]> {
    if (domainOf(userId, 'user') === undefined) return [];
    const nowMs = this.#database.clock.nowMs();
    const rows = await this.#database.read((db) =>
      db
        .selectFrom('login_sessions')
        .selectAll()
        .where('user_id', '=', userId)
        .where('expires_ms', '>', nowMs)
        .where('last_use_ms', '>', nowMs - idleMs)
        .orderBy('created_ms')
        .execute(),
    );
    return rows.map(toSession);
  }

  async end(id: string): Promise<void> {
    if (!idForm.test(id)) throw unknown('login session', id);
    await this.#database.write(async (tx, touched) => {
      const ended = await tx.deleteFrom('login_sessions').where('id', '=', id).returning('user_id').executeTakeFirst();
      if (ended === undefined) throw unknown('login session', id);
      touched.users.add(ended.user_id);
    });
  }

  async endAll(userId: string): Promise<number> {
    if (domainOf(userId, 'user') === undefined) throw unknown('user', userId);
    return await this.#database.write(async (tx, touched) => {
      const query = tx.deleteFrom('login_sessions').where('user_id', '=', userId);
      const { numDeletedRows } = await query.executeTakeFirst();
      if (numDeletedRows > 0n) touched.users.add(userId);
      return Number(numDeletedRows);
    });
  }

  /** Drops what is over. */
  async sweep(): Promise<void> {
    const nowMs = this.#database.clock.nowMs();
    await this.#database.relaxed((tx) =>
      tx
        .deleteFrom('login_sessions')
        .where(({ eb, or }) => or([eb('expires_ms', '<=', nowMs), eb('last_use_ms', '<=', nowMs - idleMs)]))
        .execute(),
    );
  }
}

function toSession(row: LoginSessionRow): LoginSession {
  return {
    id: row.id,
    userId: row.user_id,
    address: row.address,
    createdMs: row.created_ms,
    expiresMs: row.expires_ms,
    lastUseMs: row.last_use_ms,
  };
}
