import { adminSiteRights, checkSiteRights, siteRightBits } from '../../core/rights.ts';
import type { Database } from '../database.ts';
import type { NewUser, Page, User, Users } from '../directory.ts';
import { exists, isBrokenReference, isDuplicate, unknown } from '../errors.ts';
import { checkDomain, checkText, checkUserName, domainOf } from '../names.ts';
import { findOne, given, pageOf } from '../paging.ts';
import type { Passwords } from '../passwords.ts';
import type { Tx, UserRow } from '../schema.ts';

export class UserStore implements Users {
  readonly #database: Database;
  readonly #passwords: Passwords;

  constructor(database: Database, passwords: Passwords) {
    this.#database = database;
    this.#passwords = passwords;
  }

  async create(user: NewUser): Promise<User> {
    const domain = checkDomain(user.domain ?? '');
    const name = checkUserName(user.name);
    const row: UserRow = {
      id: `user/${domain}/${name}`,
      domain,
      name,
      realname: checkText('realname', user.realname ?? '', 0),
      ...siteRights(user.siteRights ?? 0),
      password_hash: user.password === undefined ? null : await this.#passwords.hash(user.password),
      created_ms: this.#database.clock.nowMs(),
      last_login_ms: null,
    };
    return await this.#database.write(async (tx, touched) => {
      touched.users.add(row.id);
      try {
        await tx.insertInto('users').values(row).execute();
      } catch (error) {
        if (isDuplicate(error)) throw exists('user', row.id);
        throw isBrokenReference(error) ? unknown('domain', domain) : error;
      }
      return toUser(row);
    });
  }

  async get(id: string): Promise<User | undefined> {
    if (domainOf(id, 'user') === undefined) return undefined;
    const row = await this.#database.read((db) =>
      db.selectFrom('users').selectAll().where('id', '=', id).executeTakeFirst(),
    );
    return row === undefined ? undefined : toUser(row);
  }

  /** What the name is lower-cased to stands in the id. */
  byName(domain: string, name: string): Promise<User | undefined> {
    return this.get(`user/${domain}/${name.toLowerCase()}`);
  }

  find(domain: string, idOrName: string): Promise<User> {
    return findOne(domain, idOrName, [['user', this]]);
  }

  async list(domain: string, page?: Page): Promise<User[]> {
    const { after, limit } = pageOf(page);
    const rows = await this.#database.read((db) =>
      db
        .selectFrom('users')
        .selectAll()
        .where('domain', '=', checkDomain(domain))
        .where('id', '>', after)
        .orderBy('id')
        .limit(limit)
        .execute(),
    );
    return rows.map(toUser);
  }

  async count(): Promise<number> {
    const query = this.#database.read((db) =>
      db
        .selectFrom('users')
        .select(({ fn }) => fn.countAll<number>().as('count'))
        .executeTakeFirstOrThrow(),
    );
    return (await query).count;
  }

  async update(id: string, change: Partial<Pick<User, 'realname' | 'siteRights' | 'locked'>>): Promise<User> {
    const { realname, locked } = change;
    const rights = change.siteRights === undefined ? undefined : siteRights(change.siteRights);
    const values = given({
      realname: realname === undefined ? undefined : checkText('realname', realname, 0),
      site_rights: rights?.site_rights,
      // Rights given without the bit do not unlock.
      locked: locked === undefined ? rights?.locked || undefined : Number(locked),
    });
    return await this.#database.write(async (tx, touched) => {
      touched.users.add(id);
      const row = await updateUser(tx, id, values);
      if (row.locked === 1) await tx.deleteFrom('login_sessions').where('user_id', '=', id).execute();
      return toUser(row);
    });
  }

  async setPassword(id: string, password: string): Promise<void> {
    if ((await this.get(id)) === undefined) throw unknown('user', id);
    const hash = await this.#passwords.hash(password);
    await this.#database.write(async (tx, touched) => {
      touched.users.add(id);
      await updateUser(tx, id, { password_hash: hash });
      await tx.deleteFrom('login_sessions').where('user_id', '=', id).execute();
    });
  }

  async remove(id: string): Promise<void> {
    await this.#database.write(async (tx, touched) => {
      if (!(await this.#database.lock(tx, 'users', id))) throw unknown('user', id);
      const shares = await tx.selectFrom('shares').select('id').where('created_by', '=', id).execute();
      touched.users.add(id);
      for (const share of shares) touched.shares.add(share.id);
      await tx.deleteFrom('users').where('id', '=', id).execute();
      const removed_ms = this.#database.clock.nowMs();
      await tx
        .insertInto('removed_users')
        .values({ id, removed_ms })
        .onConflict((conflict) => conflict.column('id').doUpdateSet({ removed_ms }))
        .execute();
    });
  }
}

async function updateUser(tx: Tx, id: string, values: Partial<UserRow>): Promise<UserRow> {
  if (domainOf(id, 'user') === undefined) throw unknown('user', id);
  const row = await tx
    .updateTable('users')
    .set({ id, ...values })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirst();
  if (row === undefined) throw unknown('user', id);
  return row;
}

/** [T2] The bit `locked` is kept apart from what it takes away. */
function siteRights(rights: number): Pick<UserRow, 'site_rights' | 'locked'> {
  const known = checkSiteRights(rights);
  return { site_rights: known & adminSiteRights, locked: (known & siteRightBits.locked) === 0 ? 0 : 1 };
}

export function toUser(row: UserRow): User {
  return {
    id: row.id,
    domain: row.domain,
    name: row.name,
    realname: row.realname,
    siteRights: row.site_rights,
    locked: row.locked === 1,
    hasPassword: row.password_hash !== null,
    createdMs: row.created_ms,
    lastLoginMs: row.last_login_ms ?? undefined,
  };
}
