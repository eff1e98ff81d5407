import type { Database } from '../database.ts';
import type { DeviceGroup, DeviceGroups, Page } from '../directory.ts';
import { exists, inUse, isBrokenReference, isDuplicate, quote, unknown } from '../errors.ts';
import { checkDomain, checkLines, checkText, checkWhole, domainOf, newId } from '../names.ts';
import { findOne, given, isSearchable, pageOf } from '../paging.ts';
import type { DeviceGroupRow } from '../schema.ts';
import { devicesIn } from './touch.ts';

const what = 'device group';

export class DeviceGroupStore implements DeviceGroups {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async create(group: { domain?: string; name: string; description?: string; consent?: number }): Promise<DeviceGroup> {
    const domain = checkDomain(group.domain ?? '');
    const row: DeviceGroupRow = {
      id: newId('mesh', domain),
      domain,
      name: checkText('name', group.name),
      description: checkLines('description', group.description ?? ''),
      consent: checkWhole('consent', group.consent ?? 0, 0, 65_535),
      created_ms: this.#database.clock.nowMs(),
    };
    return await this.#database.write(async (tx) => {
      try {
        await tx.insertInto('device_groups').values(row).execute();
      } catch (error) {
        if (isDuplicate(error)) throw exists(what, row.name);
        throw isBrokenReference(error) ? unknown('domain', domain) : error;
      }
      return toDeviceGroup(row);
    });
  }

  async get(id: string): Promise<DeviceGroup | undefined> {
    if (domainOf(id, 'mesh') === undefined) return undefined;
    const row = await this.#database.read((db) =>
      db.selectFrom('device_groups').selectAll().where('id', '=', id).executeTakeFirst(),
    );
    return row === undefined ? undefined : toDeviceGroup(row);
  }

  async byName(domain: string, name: string): Promise<DeviceGroup | undefined> {
    if (!isSearchable(name)) return undefined;
    const row = await this.#database.read((db) =>
      db
        .selectFrom('device_groups')
        .selectAll()
        .where('domain', '=', checkDomain(domain))
        .where('name', '=', name)
        .executeTakeFirst(),
    );
    return row === undefined ? undefined : toDeviceGroup(row);
  }

  find(domain: string, idOrName: string): Promise<DeviceGroup> {
    return findOne(domain, idOrName, [['mesh', this]]);
  }

  async list(domain: string, page?: Page): Promise<DeviceGroup[]> {
    const { after, limit } = pageOf(page);
    const rows = await this.#database.read((db) =>
      db
        .selectFrom('device_groups')
        .selectAll()
        .where('domain', '=', checkDomain(domain))
        .where('id', '>', after)
        .orderBy('id')
        .limit(limit)
        .execute(),
    );
    return rows.map(toDeviceGroup);
  }

  async update(
    id: string,
    change: Partial<Pick<DeviceGroup, 'name' | 'description' | 'consent'>>,
  ): Promise<DeviceGroup> {
    const { name, description, consent } = change;
    const values = given({
      name: name === undefined ? undefined : checkText('name', name),
      description: description === undefined ? undefined : checkLines('description', description),
      consent: consent === undefined ? undefined : checkWhole('consent', consent, 0, 65_535),
    });
    return await this.#database.write(async (tx, touched) => {
      if (!(await this.#database.lock(tx, 'device_groups', id))) throw unknown(what, id);
      // Only the flags are part of what is remembered of the devices.
      if (consent !== undefined) await devicesIn(tx, id, touched);
      try {
        const query = tx.updateTable('device_groups').set({ id, ...values });
        return toDeviceGroup(await query.where('id', '=', id).returningAll().executeTakeFirstOrThrow());
      } catch (error) {
        throw isDuplicate(error) ? exists(what, name ?? '') : error;
      }
    });
  }

  async remove(id: string, { withDevices = false } = {}): Promise<void> {
    await this.#database.write(async (tx, touched) => {
      if (!(await this.#database.lock(tx, 'device_groups', id))) throw unknown(what, id);
      const devices = await devicesIn(tx, id, touched);
      if (devices > 0 && !withDevices) throw inUse(`device group ${quote(id)} still has ${devices} device(s)`);
      const within = tx.selectFrom('devices').select('id').where('device_group_id', '=', id);
      const shares = await tx.selectFrom('shares').select('id').where('device_id', 'in', within).execute();
      for (const share of shares) touched.shares.add(share.id);
      await tx.deleteFrom('device_groups').where('id', '=', id).execute();
    });
  }
}

function toDeviceGroup(row: DeviceGroupRow): DeviceGroup {
  const { id, domain, name, description, consent, created_ms: createdMs } = row;
  return { id, domain, name, description, consent, createdMs };
}
