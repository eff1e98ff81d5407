import type { Database } from '../database.ts';
import type { ApiToken, ApiTokens, User } from '../directory.ts';
import { badValue, isBrokenReference, quote, unknown } from '../errors.ts';
import { checkText, checkWhole, domainOf, hashToken, randomToken } from '../names.ts';
import type { ApiTokenRow } from '../schema.ts';
import { toUser } from './users.ts';

/** The prefix tells scanners for leaked secrets, and people, what it is. */
const prefix = 'cplt_';
const secretForm = /^cplt_[A-Za-z0-9_-]{43}$/;
const idForm = /^[A-Za-z0-9_-]{1,64}$/;
const scopeForm = /^[a-z][a-z0-9:-]{0,63}$/;
const maxScopes = 32;
const latestMs = 8_640_000_000_000_000;
/** The time of last use is exact to this. */
const touchMs = 60_000;

export class ApiTokenStore implements ApiTokens {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async create(
    userId: string,
    options: { name: string; scopes: readonly string[]; expiresMs?: number | undefined },
  ): Promise<{ secret: string; token: ApiToken }> {
    if (domainOf(userId, 'user') === undefined) throw unknown('user', userId);
    const scopes = [...new Set(options.scopes)];
    if (scopes.length < 1 || scopes.length > maxScopes || !scopes.every((scope) => scopeForm.test(scope))) {
      throw badValue(`scopes ${quote(scopes.join(','))}: allowed are 1 to ${maxScopes} words as devices:read`);
    }
    const nowMs = this.#database.clock.nowMs();
    const { expiresMs } = options;
    const secret = prefix + randomToken(32);
    const row: ApiTokenRow = {
      id: randomToken(12),
      token_hash: hashToken(secret),
      user_id: userId,
      name: checkText('name', options.name),
      scopes: JSON.stringify(scopes),
      created_ms: nowMs,
      expires_ms: expiresMs === undefined ? null : checkWhole('expiry in epoch ms', expiresMs, nowMs + 1, latestMs),
      last_use_ms: null,
    };
    return await this.#database.write(async (tx) => {
      try {
        await tx.insertInto('api_tokens').values(row).execute();
      } catch (error) {
        throw isBrokenReference(error) ? unknown('user', userId) : error;
      }
      return { secret, token: toToken(row) };
    });
  }

  async verify(secret: string): Promise<{ token: ApiToken; user: User } | undefined> {
    if (!secretForm.test(secret)) return undefined;
    const nowMs = this.#database.clock.nowMs();
    const row = await this.#database.read((db) =>
      db.selectFrom('api_tokens').selectAll().where('token_hash', '=', hashToken(secret)).executeTakeFirst(),
    );
    if (row === undefined || (row.expires_ms !== null && row.expires_ms <= nowMs)) return undefined;
    const user = await this.#database.read((db) =>
      db.selectFrom('users').selectAll().where('id', '=', row.user_id).executeTakeFirst(),
    );
    if (user === undefined || user.locked === 1) return undefined;
    if (nowMs - (row.last_use_ms ?? 0) >= touchMs) {
      await this.#database.relaxed((tx) =>
        tx.updateTable('api_tokens').set({ last_use_ms: nowMs }).where('id', '=', row.id).execute(),
      );
      row.last_use_ms = nowMs;
    }
    return { token: toToken(row), user: toUser(user) };
  }

  async list(userId: string): Promise<ApiToken[]> {
    if (domainOf(userId, 'user') === undefined) return [];
    const rows = await this.#database.read((db) =>
      db.selectFrom('api_tokens').selectAll().where('user_id', '=', userId).orderBy('created_ms').execute(),
    );
    return rows.map(toToken);
  }

  async revoke(id: string): Promise<void> {
    if (!idForm.test(id)) throw unknown('API token', id);
    await this.#database.write(async (tx, touched) => {
      const revoked = await tx.deleteFrom('api_tokens').where('id', '=', id).returning('user_id').executeTakeFirst();
      if (revoked === undefined) throw unknown('API token', id);
      touched.users.add(revoked.user_id);
    });
  }

  /** Drops what is over. */
  async sweep(): Promise<void> {
    const nowMs = this.#database.clock.nowMs();
    await this.#database.relaxed((tx) => tx.deleteFrom('api_tokens').where('expires_ms', '<=', nowMs).execute());
  }
}

function toToken(row: ApiTokenRow): ApiToken {
  return {
    id: row.id,
    userId: row.user_id,
    name: row.name,
    scopes: JSON.parse(row.scopes) as string[],
    createdMs: row.created_ms,
    expiresMs: row.expires_ms ?? undefined,
    lastUseMs: row.last_use_ms ?? undefined,
  };
}
