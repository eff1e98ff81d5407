import type { Database } from '../database.ts';
import type { Page, UserGroup, UserGroups } from '../directory.ts';
import { badValue, exists, isBrokenReference, isDuplicate, quote, unknown } from '../errors.ts';
import { checkDomain, checkLines, checkText, domainOf, newId } from '../names.ts';
import { findOne, given, isSearchable, pageOf } from '../paging.ts';
import type { UserGroupRow } from '../schema.ts';
import { membersOf } from './touch.ts';

export class UserGroupStore implements UserGroups {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async create(group: { domain?: string; name: string; description?: string }): Promise<UserGroup> {
    const domain = checkDomain(group.domain ?? '');
    const row: UserGroupRow = {
      id: newId('ugrp', domain),
      domain,
      name: checkText('name', group.name),
      description: checkLines('description', group.description ?? ''),
      created_ms: this.#database.clock.nowMs(),
    };
    return await this.#database.write(async (tx) => {
      try {
        await tx.insertInto('user_groups').values(row).execute();
      } catch (error) {
        if (isDuplicate(error)) throw exists('user group', row.name);
        throw isBrokenReference(error) ? unknown('domain', domain) : error;
      }
      return toUserGroup(row);
    });
  }

  async get(id: string): Promise<UserGroup | undefined> {
    if (domainOf(id, 'ugrp') === undefined) return undefined;
    const row = await this.#database.read((db) =>
      db.selectFrom('user_groups').selectAll().where('id', '=', id).executeTakeFirst(),
    );
    return row === undefined ? undefined : toUserGroup(row);
  }

  async byName(domain: string, name: string): Promise<UserGroup | undefined> {
    if (!isSearchable(name)) return undefined;
    const row = await this.#database.read((db) =>
      db
        .selectFrom('user_groups')
        .selectAll()
        .where('domain', '=', checkDomain(domain))
        .where('name', '=', name)
        .executeTakeFirst(),
    );
    return row === undefined ? undefined : toUserGroup(row);
  }

  find(domain: string, idOrName: string): Promise<UserGroup> {
    return findOne(domain, idOrName, [['ugrp', this]]);
  }

  async list(domain: string, page?: Page): Promise<UserGroup[]> {
    const { after, limit } = pageOf(page);
    const rows = await this.#database.read((db) =>
      db
        .selectFrom('user_groups')
        .selectAll()
        .where('domain', '=', checkDomain(domain))
        .where('id', '>', after)
        .orderBy('id')
        .limit(limit)
        .execute(),
    );
    return rows.map(toUserGroup);
  }

  async update(id: string, change: Partial<Pick<UserGroup, 'name' | 'description'>>): Promise<UserGroup> {
    if (domainOf(id, 'ugrp') === undefined) throw unknown('user group', id);
    const { name, description } = change;
    const values = given({
      name: name === undefined ? undefined : checkText('name', name),
      description: description === undefined ? undefined : checkLines('description', description),
    });
    return await this.#database.write(async (tx) => {
      try {
        const query = tx.updateTable('user_groups').set({ id, ...values });
        const row = await query.where('id', '=', id).returningAll().executeTakeFirst();
        if (row === undefined) throw unknown('user group', id);
        return toUserGroup(row);
      } catch (error) {
        throw isDuplicate(error) ? exists('user group', name ?? '') : error;
      }
    });
  }

  async remove(id: string): Promise<void> {
    await this.#database.write(async (tx, touched) => {
      if (!(await this.#database.lock(tx, 'user_groups', id))) throw unknown('user group', id);
      await membersOf(tx, id, touched);
      await tx.deleteFrom('user_groups').where('id', '=', id).execute();
    });
  }

  async addMember(groupId: string, userId: string): Promise<void> {
    const domain = domainOf(groupId, 'ugrp');
    if (domain === undefined) throw unknown('user group', groupId);
    if (domainOf(userId, 'user') === undefined) throw unknown('user', userId);
    if (domainOf(userId, 'user') !== domain) {
      throw badValue(`user ${quote(userId)} and user group ${quote(groupId)} are of two domains: allowed is one`);
    }
    await this.#database.write(async (tx, touched) => {
      if (!(await this.#database.lock(tx, 'user_groups', groupId))) throw unknown('user group', groupId);
      touched.users.add(userId);
      try {
        const query = tx.insertInto('memberships').values({ user_id: userId, user_group_id: groupId });
        await query.onConflict((conflict) => conflict.doNothing()).execute();
      } catch (error) {
        throw isBrokenReference(error) ? unknown('user', userId) : error;
      }
    });
  }

  async removeMember(groupId: string, userId: string): Promise<void> {
    const ids = domainOf(groupId, 'ugrp') !== undefined && domainOf(userId, 'user') !== undefined;
    if (!ids) throw unknown(`member of ${quote(groupId)}`, userId);
    await this.#database.write(async (tx, touched) => {
      touched.users.add(userId);
      const query = tx.deleteFrom('memberships').where('user_id', '=', userId).where('user_group_id', '=', groupId);
      const { numDeletedRows } = await query.executeTakeFirst();
      if (numDeletedRows === 0n) throw unknown(`member of ${quote(groupId)}`, userId);
    });
  }

  async members(groupId: string, page?: Page): Promise<string[]> {
    const { after, limit } = pageOf(page);
    if (domainOf(groupId, 'ugrp') === undefined) return [];
    const rows = await this.#database.read((db) =>
      db
        .selectFrom('memberships')
        .select('user_id')
        .where('user_group_id', '=', groupId)
        .where('user_id', '>', after)
        .orderBy('user_id')
        .limit(limit)
        .execute(),
    );
    return rows.map((row) => row.user_id);
  }

  async groupsOf(userId: string): Promise<string[]> {
    if (domainOf(userId, 'user') === undefined) return [];
    const rows = await this.#database.read((db) =>
      db
        .selectFrom('memberships')
        .select('user_group_id')
        .where('user_id', '=', userId)
        .orderBy('user_group_id')
        .execute(),
    );
    return rows.map((row) => row.user_group_id);
  }
}

function toUserGroup(row: UserGroupRow): UserGroup {
  const { id, domain, name, description, created_ms: createdMs } = row;
  return { id, domain, name, description, createdMs };
}
