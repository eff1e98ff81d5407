import { type Kysely, type Migration, Migrator, sql } from 'kysely';
import { CoupletError } from '../core/errors.ts';
import { isBusy } from './busy.ts';
import { initial } from './migrations/001-initial.ts';

/** By name, in this order for ever: one that has been released is never changed, a new one has the next number. */
const migrations = (sqlite: boolean): Record<string, Migration> => ({
  '001-initial': initial(sqlite),
});

/**
 * Brings the tables up to this version, in one transaction and under a lock: of two processes that start at once one
 * does the work and the other finds it done. Where nothing is to be done they only read.
 * @throws CoupletError `CPL_DIRECTORY_MIGRATION`; SQLite's own error where it is busy
 */
export async function migrate(db: Kysely<never>, sqlite: boolean): Promise<void> {
  if (await isUpToDate(db, Object.keys(migrations(sqlite)))) return;
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations(sqlite) } });
  const { error } = await migrator.migrateToLatest();
  if (error === undefined) return;
  if (isBusy(error)) throw error;
  const why = error instanceof Error ? error.message.split('\n')[0] : String(error);
  const newer = why?.includes('previously executed migration') === true;
  const text = newer
    ? 'the directory database was made by a newer version of couplet: run that version'
    : `the directory's tables cannot be brought up to date: ${why}`;
  throw new CoupletError('CPL_DIRECTORY_MIGRATION', text, { level: 'error', cause: error });
}

async function isUpToDate(db: Kysely<never>, names: readonly string[]): Promise<boolean> {
  try {
    const { rows } = await sql<{ name: string }>`select name from kysely_migration order by name`.execute(db);
    return rows.length === names.length && rows.every(({ name }, at) => name === names[at]);
  } catch (error) {
    if (isBusy(error)) throw error;
    return false; // a new database; whatever else is wrong, the migrator comes upon it
  }
}
