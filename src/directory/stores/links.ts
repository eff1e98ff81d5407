import { checkRights } from '../../core/rights.ts';
import type { Database } from '../database.ts';
import type { Device, DeviceGroup, Link, LinkQuery, Links, User, UserGroup } from '../directory.ts';
import { badValue, isBrokenReference, quote, unknown } from '../errors.ts';
import { domainOf, kindOf, wordFor } from '../names.ts';
import { findOne, isSearchable } from '../paging.ts';
import type { LinkRow } from '../schema.ts';
import type { DeviceGroupStore } from './device-groups.ts';
import type { DeviceStore } from './devices.ts';
import { membersOf } from './touch.ts';
import type { UserGroupStore } from './user-groups.ts';
import type { UserStore } from './users.ts';

const subjectColumn = { user: 'user_id', ugrp: 'user_group_id' } as const;
const targetColumn = { mesh: 'device_group_id', node: 'device_id' } as const;

interface Stores {
  readonly users: UserStore;
  readonly userGroups: UserGroupStore;
  readonly deviceGroups: DeviceGroupStore;
  readonly devices: DeviceStore;
}

/** The two ends of a link [T1], checked, with the columns that they stand in. */
function endsOf(subjectId: string, targetId: string) {
  const subject = subjectKind(subjectId);
  if (subject === undefined) throw unknown('user or user group', subjectId);
  const target = targetKind(targetId);
  if (target === undefined) throw unknown('device group or device', targetId);
  return { subject: subjectColumn[subject], target: targetColumn[target], subjectKind: subject, targetKind: target };
}

function subjectKind(id: string): 'user' | 'ugrp' | undefined {
  const kind = kindOf(id);
  return kind === 'user' || kind === 'ugrp' ? kind : undefined;
}

function targetKind(id: string): 'mesh' | 'node' | undefined {
  const kind = kindOf(id);
  return kind === 'mesh' || kind === 'node' ? kind : undefined;
}

export class LinkStore implements Links {
  readonly #database: Database;
  readonly #stores: Stores;

  constructor(database: Database, stores: Stores) {
    this.#database = database;
    this.#stores = stores;
  }

  async grant(subjectId: string, targetId: string, rights: number): Promise<Link> {
    const ends = endsOf(subjectId, targetId);
    if (domainOf(subjectId, ends.subjectKind) !== domainOf(targetId, ends.targetKind)) {
      throw badValue(`${quote(subjectId)} and ${quote(targetId)} are of two domains: a link joins what is of one`);
    }
    if (checkRights(rights) === 0) throw badValue('rights 0: a link has at least one right, revoke takes it away');
    const row: LinkRow = {
      user_id: null,
      user_group_id: null,
      device_group_id: null,
      device_id: null,
      [ends.subject]: subjectId,
      [ends.target]: targetId,
      rights: checkRights(rights),
      created_ms: this.#database.clock.nowMs(),
    };
    return await this.#database.write(async (tx, touched) => {
      if (ends.subjectKind === 'user') touched.users.add(subjectId);
      else {
        if (!(await this.#database.lock(tx, 'user_groups', subjectId))) throw unknown('user group', subjectId);
        await membersOf(tx, subjectId, touched);
      }
      try {
        const stored = await tx
          .insertInto('links')
          .values(row)
          .onConflict((conflict) => conflict.columns([ends.subject, ends.target]).doUpdateSet({ rights: row.rights }))
          .returningAll()
          .executeTakeFirstOrThrow();
        return toLink(stored);
      } catch (error) {
        if (!isBrokenReference(error)) throw error;
        const both = `${wordFor(ends.subjectKind)} ${quote(subjectId)} or ${wordFor(ends.targetKind)}`;
        throw unknown(both, targetId);
      }
    });
  }

  async revoke(subjectId: string, targetId: string): Promise<void> {
    const ends = endsOf(subjectId, targetId);
    await this.#database.write(async (tx, touched) => {
      if (ends.subjectKind === 'user') touched.users.add(subjectId);
      else if (await this.#database.lock(tx, 'user_groups', subjectId)) await membersOf(tx, subjectId, touched);
      const query = tx.deleteFrom('links').where(ends.subject, '=', subjectId).where(ends.target, '=', targetId);
      const { numDeletedRows } = await query.executeTakeFirst();
      if (numDeletedRows === 0n) throw unknown(`link from ${quote(subjectId)} to`, targetId);
    });
  }

  async list({ subjectId, targetId, domain, onDeviceOf }: LinkQuery): Promise<Link[]> {
    const subject = subjectId === undefined ? undefined : subjectKind(subjectId);
    const target = targetId === undefined ? undefined : targetKind(targetId);
    if ((subjectId ?? targetId ?? domain ?? onDeviceOf) === undefined) return [];
    if ((subjectId !== undefined && subject === undefined) || (targetId !== undefined && target === undefined))
      return [];
    if (![domain, onDeviceOf].every((text) => text === undefined || isSearchable(text))) return [];
    const rows = await this.#database.read((db) => {
      let query = db.selectFrom('links').selectAll();
      if (subject !== undefined) query = query.where(subjectColumn[subject], '=', subjectId!);
      if (target !== undefined) query = query.where(targetColumn[target], '=', targetId!);
      if (onDeviceOf !== undefined) {
        const devices = db.selectFrom('devices').select('id').where('device_group_id', '=', onDeviceOf);
        query = query.where('device_id', 'in', devices);
      }
      if (domain !== undefined) {
        const groups = db.selectFrom('device_groups').select('id').where('domain', '=', domain);
        const devices = db.selectFrom('devices').select('id').where('domain', '=', domain);
        query = query.where((is) => is.or([is('device_group_id', 'in', groups), is('device_id', 'in', devices)]));
      }
      return query.orderBy('created_ms').execute();
    });
    return rows.map(toLink);
  }

  findTarget(domain: string, idOrName: string): Promise<DeviceGroup | Device> {
    const { deviceGroups, devices } = this.#stores;
    return findOne<DeviceGroup | Device>(domain, idOrName, [
      ['mesh', deviceGroups],
      ['node', devices],
    ]);
  }

  findSubject(domain: string, idOrName: string): Promise<User | UserGroup> {
    const { users, userGroups } = this.#stores;
    return findOne<User | UserGroup>(domain, idOrName, [
      ['user', users],
      ['ugrp', userGroups],
    ]);
  }
}

function toLink(row: LinkRow): Link {
  return {
    subjectId: (row.user_id ?? row.user_group_id)!,
    targetId: (row.device_group_id ?? row.device_id)!,
    rights: row.rights,
    createdMs: row.created_ms,
  };
}
