import { joinCodeId, joinCodeKey, mintJoinCode } from '../../protocol/agent-proofs.ts';
import type { Database } from '../database.ts';
import type { Device, Devices, JoinCode, Page } from '../directory.ts';
import { badValue, exists, isBrokenReference, isDuplicate, quote, unknown } from '../errors.ts';
import { checkDomain, checkText, checkWhole, domainOf, newId } from '../names.ts';
import { findOne, given, isSearchable, pageOf } from '../paging.ts';
import type { DeviceRow } from '../schema.ts';
import { sharesOf } from './touch.ts';

const what = 'device';
const dayMs = 86_400_000;
const maxJoinMs = 366 * dayMs;
const publicKeyBytes = 32;
/** Of `joinCodeId`. */
const joinIdForm = /^[A-Za-z0-9_-]{22}$/;

export class DeviceStore implements Devices {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async create(device: {
    deviceGroupId: string;
    name: string;
    joinForMs?: number;
  }): Promise<{ device: Device; join: JoinCode }> {
    const { deviceGroupId } = device;
    const domain = domainOf(deviceGroupId, 'mesh');
    if (domain === undefined) throw unknown('device group', deviceGroupId);
    const join = this.#newCode(device.joinForMs);
    const row: DeviceRow = {
      id: newId('node', domain),
      domain,
      name: checkText('name', device.name),
      device_group_id: deviceGroupId,
      public_key: null,
      ...joinColumns(join),
      revoked_ms: null,
      created_ms: this.#database.clock.nowMs(),
      last_seen_ms: null,
    };
    return await this.#database.write(async (tx, touched) => {
      touched.devices.add(row.id);
      try {
        await tx.insertInto('devices').values(row).execute();
      } catch (error) {
        if (isDuplicate(error)) throw exists(what, row.name);
        throw isBrokenReference(error) ? unknown('device group', deviceGroupId) : error;
      }
      return { device: toDevice(row), join };
    });
  }

  async get(id: string): Promise<Device | undefined> {
    if (domainOf(id, 'node') === undefined) return undefined;
    const row = await this.#database.read((db) =>
      db.selectFrom('devices').selectAll().where('id', '=', id).executeTakeFirst(),
    );
    return row === undefined ? undefined : toDevice(row);
  }

  async byName(domain: string, name: string): Promise<Device | undefined> {
    if (!isSearchable(name)) return undefined;
    const row = await this.#database.read((db) =>
      db
        .selectFrom('devices')
        .selectAll()
        .where('domain', '=', checkDomain(domain))
        .where('name', '=', name)
        .executeTakeFirst(),
    );
    return row === undefined ? undefined : toDevice(row);
  }

  find(domain: string, idOrName: string): Promise<Device> {
    return findOne(domain, idOrName, [['node', this]]);
  }

  async list(domain: string, page: Page & { deviceGroupId?: string | undefined } = {}): Promise<Device[]> {
    const { after, limit } = pageOf(page);
    const group = page.deviceGroupId;
    if (group !== undefined && domainOf(group, 'mesh') === undefined) return [];
    const rows = await this.#database.read((db) => {
      const all = db
        .selectFrom('devices')
        .selectAll()
        .where('domain', '=', checkDomain(domain))
        .where('id', '>', after)
        .orderBy('id')
        .limit(limit);
      return (group === undefined ? all : all.where('device_group_id', '=', group)).execute();
    });
    return rows.map(toDevice);
  }

  async update(id: string, change: Partial<Pick<Device, 'name' | 'deviceGroupId'>>): Promise<Device> {
    const { name, deviceGroupId } = change;
    if (deviceGroupId !== undefined && domainOf(deviceGroupId, 'mesh') !== domainOf(id, 'node')) {
      throw badValue(
        `device ${quote(id)} cannot move to ${quote(deviceGroupId)}: allowed is a group of its own domain`,
      );
    }
    const values = given({
      name: name === undefined ? undefined : checkText('name', name),
      device_group_id: deviceGroupId,
    });
    return await this.#change(id, values, { name, deviceGroupId });
  }

  async remove(id: string): Promise<void> {
    await this.#database.write(async (tx, touched) => {
      if (!(await this.#database.lock(tx, 'devices', id))) throw unknown(what, id);
      touched.devices.add(id);
      await sharesOf(tx, [id], touched);
      await tx.deleteFrom('devices').where('id', '=', id).execute();
    });
  }

  async newJoinCode(id: string, joinForMs?: number): Promise<JoinCode> {
    const join = this.#newCode(joinForMs);
    await this.#change(id, joinColumns(join));
    return join;
  }

  async joinKey(joinId: string): Promise<string | undefined> {
    if (!joinIdForm.test(joinId)) return undefined;
    const row = await this.#database.read((db) =>
      db
        .selectFrom('devices')
        .select('join_key')
        .where('join_id', '=', joinId)
        .where('join_expires_ms', '>', this.#database.clock.nowMs())
        .executeTakeFirst(),
    );
    return row?.join_key ?? undefined;
  }

  async enrol(joinId: string, publicKey: string): Promise<Device | undefined> {
    const bytes = Buffer.from(publicKey, 'base64url');
    if (bytes.length !== publicKeyBytes || bytes.toString('base64url') !== publicKey) {
      throw badValue(`public key ${quote(publicKey)}: allowed are ${publicKeyBytes} bytes in base64url`);
    }
    if (!joinIdForm.test(joinId)) return undefined;
    // One statement: of two that try at once, one finds the code gone.
    return await this.#database.write(async (tx, touched) => {
      const row = await tx
        .updateTable('devices')
        .set({ public_key: publicKey, ...noJoin, revoked_ms: null })
        .where('join_id', '=', joinId)
        .where('join_expires_ms', '>', this.#database.clock.nowMs())
        .returningAll()
        .executeTakeFirst();
      if (row === undefined) return undefined;
      touched.devices.add(row.id);
      return toDevice(row);
    });
  }

  async revoke(id: string): Promise<void> {
    const revokedMs = this.#database.clock.nowMs();
    await this.#change(id, { public_key: null, ...noJoin, revoked_ms: revokedMs });
  }

  async seen(id: string): Promise<void> {
    if (domainOf(id, 'node') === undefined) return;
    const last_seen_ms = this.#database.clock.nowMs();
    await this.#database.relaxed((tx) =>
      tx.updateTable('devices').set({ last_seen_ms }).where('id', '=', id).execute(),
    );
  }

  async #change(
    id: string,
    values: Partial<DeviceRow>,
    named: { name?: string | undefined; deviceGroupId?: string | undefined } = {},
  ): Promise<Device> {
    if (domainOf(id, 'node') === undefined) throw unknown(what, id);
    return await this.#database.write(async (tx, touched) => {
      touched.devices.add(id);
      try {
        const query = tx.updateTable('devices').set({ id, ...values });
        const row = await query.where('id', '=', id).returningAll().executeTakeFirst();
        if (row === undefined) throw unknown(what, id);
        return toDevice(row);
      } catch (error) {
        if (isDuplicate(error)) throw exists(what, named.name ?? '');
        throw isBrokenReference(error) ? unknown('device group', named.deviceGroupId ?? '') : error;
      }
    });
  }

  #newCode(joinForMs = dayMs): JoinCode {
    const expiresMs = this.#database.clock.nowMs() + checkWhole('join time in ms', joinForMs, 1, maxJoinMs);
    return { code: mintJoinCode(), expiresMs };
  }
}

const noJoin = { join_id: null, join_key: null, join_expires_ms: null };

/** [T9] What is kept of a join code: what finds it, and what its proof is checked with. */
function joinColumns({ code, expiresMs }: JoinCode): Pick<DeviceRow, keyof typeof noJoin> {
  return { join_id: joinCodeId(code), join_key: joinCodeKey(code), join_expires_ms: expiresMs };
}

function toDevice(row: DeviceRow): Device {
  return {
    id: row.id,
    domain: row.domain,
    name: row.name,
    deviceGroupId: row.device_group_id,
    publicKey: row.public_key ?? undefined,
    joinExpiresMs: row.join_expires_ms ?? undefined,
    revokedMs: row.revoked_ms ?? undefined,
    createdMs: row.created_ms,
    lastSeenMs: row.last_seen_ms ?? undefined,
  };
}
