import type { Touched } from '../changes.ts';
import type { Tx } from '../schema.ts';

/*
 * Who is affected where a group is. The group's row must be locked before (`Database.lock`): whoever joins it waits,
 * and then reads what is new, so that none is missed.
 */

export async function membersOf(tx: Tx, userGroupId: string, touched: Touched): Promise<void> {
  const rows = await tx.selectFrom('memberships').select('user_id').where('user_group_id', '=', userGroupId).execute();
  for (const row of rows) touched.users.add(row.user_id);
}

export async function devicesIn(tx: Tx, deviceGroupId: string, touched: Touched): Promise<number> {
  const rows = await tx.selectFrom('devices').select('id').where('device_group_id', '=', deviceGroupId).execute();
  for (const row of rows) touched.devices.add(row.id);
  return rows.length;
}

export async function sharesOf(tx: Tx, deviceIds: readonly string[], touched: Touched): Promise<void> {
  if (deviceIds.length === 0) return;
  const rows = await tx.selectFrom('shares').select('id').where('device_id', 'in', deviceIds).execute();
  for (const row of rows) touched.shares.add(row.id);
}
