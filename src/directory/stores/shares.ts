import { hasRights } from '../../core/rights.ts';
import { areShareProtocols, printShareProtocols } from '../../core/share-protocols.ts';
import type { Database } from '../database.ts';
import type { Access, NewShare, Page, Share, ShareState, Shares } from '../directory.ts';
import { badValue, isBrokenReference, quote, unknown } from '../errors.ts';
import { checkText, checkWhole, domainOf, randomToken } from '../names.ts';
import { pageOf } from '../paging.ts';
import type { ShareRow, Tx } from '../schema.ts';

const shareId = /^[A-Za-z0-9_-]{1,64}$/;
const latestMs = 8_640_000_000_000_000;

export class ShareStore implements Shares {
  readonly #database: Database;
  readonly #access: (userId: string, deviceId: string) => Promise<Access>;

  constructor(database: Database, access: (userId: string, deviceId: string) => Promise<Access>) {
    this.#database = database;
    this.#access = access;
  }

  async create(share: NewShare): Promise<Share> {
    const { deviceId, createdBy, bits } = share;
    const tcpPorts = [...new Set(share.tcpPorts)].sort((a, b) => a - b);
    if (!areShareProtocols({ bits, tcpPorts })) {
      const said = quote(printShareProtocols({ bits, tcpPorts }));
      throw badValue(`share protocols ${said}: allowed are one or more of terminal, desktop, files and tcp:PORT`);
    }
    const nowMs = this.#database.clock.nowMs();
    const row: ShareRow = {
      id: randomToken(18),
      device_id: deviceId,
      created_by: createdBy,
      guest_name: checkText('guest name', share.guestName ?? '', 0),
      bits,
      tcp_ports: JSON.stringify(tcpPorts),
      view_only: Number(share.viewOnly ?? false),
      created_ms: nowMs,
      expires_ms: checkWhole('expiry in epoch ms', share.expiresMs, nowMs + 1, latestMs),
      revoked_ms: null,
      uses: 0,
    };
    if (domainOf(deviceId, 'node') === undefined) throw unknown('device', deviceId);
    if (domainOf(createdBy, 'user') === undefined) throw unknown('user', createdBy);
    if (domainOf(deviceId, 'node') !== domainOf(createdBy, 'user')) {
      throw badValue(`${quote(deviceId)} and ${quote(createdBy)} are of two domains: a share is within one`);
    }
    return await this.#database.write(async (tx, touched) => {
      touched.shares.add(row.id);
      try {
        await tx.insertInto('shares').values(row).execute();
      } catch (error) {
        throw isBrokenReference(error) ? unknown(`user ${quote(createdBy)} or device`, deviceId) : error;
      }
      return toShare(row);
    });
  }

  async get(id: string): Promise<Share | undefined> {
    if (!shareId.test(id)) return undefined;
    const row = await this.#database.read((db) =>
      db.selectFrom('shares').selectAll().where('id', '=', id).executeTakeFirst(),
    );
    return row === undefined ? undefined : toShare(row);
  }

  async list(of: { domain?: string; deviceId?: string; createdBy?: string }, page?: Page): Promise<Share[]> {
    const { after, limit } = pageOf(page);
    const { domain, deviceId, createdBy } = of;
    if (deviceId !== undefined && domainOf(deviceId, 'node') === undefined) return [];
    if (createdBy !== undefined && domainOf(createdBy, 'user') === undefined) return [];
    const rows = await this.#database.read((db) => {
      let query = db.selectFrom('shares').selectAll().where('id', '>', after).orderBy('id').limit(limit);
      if (deviceId !== undefined) query = query.where('device_id', '=', deviceId);
      if (createdBy !== undefined) query = query.where('created_by', '=', createdBy);
      if (domain !== undefined) {
        const within = db.selectFrom('devices').select('id').where('domain', '=', domain.replaceAll('\0', '/'));
        query = query.where('device_id', 'in', within);
      }
      return query.execute();
    });
    return rows.map(toShare);
  }

  async check(id: string, deviceId: string): Promise<ShareState> {
    const share = await this.get(id);
    if (share === undefined || share.deviceId !== deviceId) return { ok: false, refusal: 'unknown', share: undefined };
    if (share.revokedMs !== undefined) return { ok: false, refusal: 'revoked', share };
    if (share.expiresMs <= this.#database.clock.nowMs()) return { ok: false, refusal: 'expired', share };
    const access = await this.#access(share.createdBy, deviceId);
    const may = hasRights(access.rights, 'remote-control', 'guest-sharing');
    return may ? { ok: true, share, access } : { ok: false, refusal: 'no-right', share };
  }

  async countUse(id: string): Promise<void> {
    if (!shareId.test(id)) throw unknown('share', id);
    await this.#database.relaxed(async (tx) => {
      const query = tx.updateTable('shares').set(({ eb }) => ({ uses: eb('uses', '+', 1) }));
      found(id, (await query.where('id', '=', id).executeTakeFirst()).numUpdatedRows);
    });
  }

  async revoke(id: string): Promise<void> {
    const revoked_ms = this.#database.clock.nowMs();
    // Revoking twice is no error, and keeps the first time.
    await this.#change(id, async (tx) => {
      const query = tx.updateTable('shares').set(({ fn, val }) => ({
        revoked_ms: fn.coalesce('revoked_ms', val(revoked_ms)),
      }));
      return (await query.where('id', '=', id).executeTakeFirst()).numUpdatedRows;
    });
  }

  async remove(id: string): Promise<void> {
    await this.#change(
      id,
      async (tx) => (await tx.deleteFrom('shares').where('id', '=', id).executeTakeFirst()).numDeletedRows,
    );
  }

  async #change(id: string, work: (tx: Tx) => Promise<bigint>): Promise<void> {
    if (!shareId.test(id)) throw unknown('share', id);
    await this.#database.write(async (tx, touched) => {
      touched.shares.add(id);
      found(id, await work(tx));
    });
  }
}

function found(id: string, rows: bigint): void {
  if (rows === 0n) throw unknown('share', id);
}

function toShare(row: ShareRow): Share {
  return {
    id: row.id,
    deviceId: row.device_id,
    createdBy: row.created_by,
    guestName: row.guest_name,
    bits: row.bits,
    tcpPorts: JSON.parse(row.tcp_ports) as number[],
    viewOnly: row.view_only === 1,
    createdMs: row.created_ms,
    expiresMs: row.expires_ms,
    revokedMs: row.revoked_ms ?? undefined,
    uses: row.uses,
  };
}
