import { sql } from 'kysely';
import { effectiveRights } from '../../core/rights.ts';
import { AccessCache } from '../cache.ts';
import type { Feed } from '../changes.ts';
import type { Database } from '../database.ts';
import type { Access, DirectoryChange, NoAccess, Page, Reach, Standing } from '../directory.ts';
import { domainOf } from '../names.ts';
import { pageOf } from '../paging.ts';

interface AccessRow {
  username: string | null;
  realname: string | null;
  user_domain: string | null;
  locked: number | null;
  device_name: string | null;
  device_domain: string | null;
  device_group_id: string | null;
  revoked_ms: number | null;
  group_consent: number | null;
  domain_consent: number | null;
  privacy_bar_text: string | null;
  user_groups: string | null;
  rights: string | null;
}

interface ReachRow {
  id: string;
  name: string;
  rights: string;
}

/** [T1][T4] Who may do what where: one query for each question, and a memory of the answers about pairs. */
export class AccessStore {
  readonly #database: Database;
  readonly cache: AccessCache<Access>;
  readonly #standings: AccessCache<Standing>;

  constructor(database: Database, feed: Feed, capacity: number) {
    this.#database = database;
    this.cache = new AccessCache(capacity, () => feed.isCurrent());
    this.#standings = new AccessCache(capacity, () => feed.isCurrent());
  }

  async access(userId: string, deviceId: string): Promise<Access> {
    const user = domainOf(userId, 'user');
    const device = domainOf(deviceId, 'node');
    if (user === undefined || device === undefined) {
      return nothing(userId, deviceId, user === undefined ? 'user-unknown' : 'device-unknown');
    }
    return await this.cache.get(userId, deviceId, () => this.#read(userId, deviceId));
  }

  standing(userId: string): Standing | Promise<Standing> {
    if (domainOf(userId, 'user') === undefined) return unknownUser;
    return this.#standings.peek(userId, '') ?? this.#standings.get(userId, '', () => this.#readStanding(userId));
  }

  async #readStanding(id: string): Promise<Standing> {
    const query = sql<{ locked: number | null; created_ms: number | null; removed_ms: number | null }>`
      select u.locked as locked, u.created_ms as created_ms, r.removed_ms as removed_ms
      from (select 1 as one) x left join users u on u.id = ${id} left join removed_users r on r.id = ${id}`;
    const { rows } = await this.#database.read((db) => query.execute(db));
    const { locked, created_ms, removed_ms } = rows[0]!;
    if (created_ms !== null) return { known: true, locked: locked === 1, sinceMs: created_ms };
    // Of the second in which the user went nothing is good any more.
    return removed_ms === null ? unknownUser : { ...unknownUser, sinceMs: removed_ms + 1000 };
  }

  /** [T4] For the feed of changes. */
  readonly forget = (change: DirectoryChange): void => {
    this.cache.forget(change);
    this.#standings.forget(change);
  };

  async #read(userId: string, deviceId: string): Promise<Access> {
    // Always one row. The links are four look-ups by index, one for each kind of T1.
    const query = sql<AccessRow>`
      select u.name as username, u.realname as realname, u.domain as user_domain, u.locked as locked,
        d.name as device_name, d.domain as device_domain, d.device_group_id as device_group_id,
        d.revoked_ms as revoked_ms, g.consent as group_consent, o.consent as domain_consent,
        o.privacy_bar_text as privacy_bar_text,
        (select string_agg(m.user_group_id, ' ') from memberships m where m.user_id = ${userId}) as user_groups,
        (select string_agg(cast(l.rights as text), ' ') from (
          select rights from links where user_id = ${userId} and device_id = ${deviceId}
          union all
          select rights from links where user_id = ${userId}
            and device_group_id = (select device_group_id from devices where id = ${deviceId})
          union all
          select k.rights from memberships m join links k on k.user_group_id = m.user_group_id
            where m.user_id = ${userId} and k.device_id = ${deviceId}
          union all
          select k.rights from memberships m join links k on k.user_group_id = m.user_group_id
            where m.user_id = ${userId}
            and k.device_group_id = (select device_group_id from devices where id = ${deviceId})
        ) l) as rights
      from (select 1 as one) x
      left join users u on u.id = ${userId}
      left join devices d on d.id = ${deviceId}
      left join device_groups g on g.id = d.device_group_id
      left join domains o on o.id = d.domain`;
    const { rows } = await this.#database.read((db) => query.execute(db));
    return toAccess(userId, deviceId, rows[0]!);
  }

  async devicesOf(userId: string, page?: Page): Promise<Reach<'deviceId'>[]> {
    const { after, limit } = pageOf(page);
    if (domainOf(userId, 'user') === undefined) return [];
    const query = sql<ReachRow>`
      with mine as (
        select device_id, device_group_id, rights from links where user_id = ${userId}
        union all
        select l.device_id, l.device_group_id, l.rights
          from memberships m join links l on l.user_group_id = m.user_group_id where m.user_id = ${userId}
      ), reached as (
        select device_id as id, rights from mine where device_id is not null
        union all
        select d.id, mine.rights from mine join devices d on d.device_group_id = mine.device_group_id
      )
      select d.id as id, d.name as name, string_agg(cast(r.rights as text), ' ') as rights
      from reached r join devices d on d.id = r.id
      where d.id > ${after} group by d.id, d.name order by d.id limit ${limit}`;
    const { rows } = await this.#database.read((db) => query.execute(db));
    return rows.map(toReach);
  }

  async usersOf(deviceId: string, page?: Page): Promise<Reach<'userId'>[]> {
    const { after, limit } = pageOf(page);
    if (domainOf(deviceId, 'node') === undefined) return [];
    const query = sql<ReachRow>`
      with ours as (
        select user_id, user_group_id, rights from links where device_id = ${deviceId}
        union all
        select user_id, user_group_id, rights from links
          where device_group_id = (select device_group_id from devices where id = ${deviceId})
      ), reaching as (
        select user_id as id, rights from ours where user_id is not null
        union all
        select m.user_id, ours.rights from ours join memberships m on m.user_group_id = ours.user_group_id
      )
      select u.id as id, u.name as name, string_agg(cast(r.rights as text), ' ') as rights
      from reaching r join users u on u.id = r.id
      where u.id > ${after} group by u.id, u.name order by u.id limit ${limit}`;
    const { rows } = await this.#database.read((db) => query.execute(db));
    return rows.map(toReach);
  }
}

const unknownUser: Standing = { known: false, locked: false, sinceMs: 0 };

function toReach({ id, name, rights }: ReachRow): Reach<'userId'> {
  return { id, name, rights: effectiveRights(numbers(rights)) };
}

const numbers = (text: string | null): number[] => (text === null ? [] : text.split(' ').map(Number));

function toAccess(userId: string, deviceId: string, row: AccessRow): Access {
  const rights = effectiveRights(numbers(row.rights));
  const refusal = refusalOf(row, rights);
  return {
    userId,
    deviceId,
    rights: refusal === undefined ? rights : 0,
    refusal,
    username: row.username ?? '',
    realname: row.realname ?? '',
    userGroupIds: row.user_groups === null ? [] : row.user_groups.split(' ').sort(),
    deviceName: row.device_name ?? '',
    deviceGroupId: row.device_group_id ?? '',
    consent: (row.group_consent ?? 0) | (row.domain_consent ?? 0),
    privacyBarText: row.privacy_bar_text ?? '',
  };
}

function refusalOf(row: AccessRow, rights: number): NoAccess | undefined {
  if (row.user_domain === null) return 'user-unknown';
  if (row.device_domain === null) return 'device-unknown';
  if (row.locked === 1) return 'user-locked';
  if (row.revoked_ms !== null) return 'device-revoked';
  if (row.user_domain !== row.device_domain) return 'other-domain';
  return rights === 0 ? 'no-link' : undefined;
}

/** What there is to say of a pair of which one is not known. */
export function nothing(userId: string, deviceId: string, refusal: NoAccess): Access {
  const texts = { username: '', realname: '', deviceName: '', deviceGroupId: '', privacyBarText: '' };
  return { userId, deviceId, rights: 0, refusal, userGroupIds: [], consent: 0, ...texts };
}
