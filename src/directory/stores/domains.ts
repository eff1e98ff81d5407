import type { Database } from '../database.ts';
import type { Domain, Domains } from '../directory.ts';
import { badValue, inUse, isBrokenReference, unknown } from '../errors.ts';
import { checkDomain, checkLines, checkText, checkWhole } from '../names.ts';
import { given } from '../paging.ts';
import type { DomainRow } from '../schema.ts';
import type { RecordingSelection } from '../types.ts';

const maxSelected = 1_000;

export class DomainStore implements Domains {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async isKnown(id: string): Promise<boolean> {
    return (await this.get(id)) !== undefined;
  }

  async get(id: string): Promise<Domain | undefined> {
    if (id.includes('\0')) return undefined;
    const row = await this.#database.read((db) =>
      db.selectFrom('domains').selectAll().where('id', '=', id).executeTakeFirst(),
    );
    return row === undefined ? undefined : toDomain(row);
  }

  async list(): Promise<Domain[]> {
    const rows = await this.#database.read((db) => db.selectFrom('domains').selectAll().orderBy('id').execute());
    return rows.map(toDomain);
  }

  async put(id: string, policy: Partial<Omit<Domain, 'id' | 'createdMs'>> = {}): Promise<Domain> {
    const { title, consent, privacyBarText, recording } = policy;
    const change = given({
      title: title === undefined ? undefined : checkText('title', title, 0),
      consent: consent === undefined ? undefined : checkWhole('consent', consent, 0, 65_535),
      privacy_bar_text: privacyBarText === undefined ? undefined : checkLines('privacy bar text', privacyBarText),
      recording: recording === undefined ? undefined : JSON.stringify(checkSelection(recording)),
    });
    const fresh = {
      id: checkDomain(id),
      title: '',
      consent: 0,
      privacy_bar_text: '',
      recording: '{}',
      created_ms: this.#database.clock.nowMs(),
      ...change,
    };
    return await this.#database.write(async (tx, touched) => {
      touched.domains.add(id);
      const row = await tx
        .insertInto('domains')
        .values(fresh)
        .onConflict((conflict) => conflict.column('id').doUpdateSet({ id, ...change }))
        .returningAll()
        .executeTakeFirstOrThrow();
      return toDomain(row);
    });
  }

  async remove(id: string): Promise<void> {
    if (id === '') throw badValue('the default domain cannot be removed');
    if ((await this.get(id)) === undefined) throw unknown('domain', id);
    await this.#database.write(async (tx, touched) => {
      touched.domains.add(id);
      try {
        await tx.deleteFrom('domains').where('id', '=', id).execute();
      } catch (error) {
        if (isBrokenReference(error)) throw inUse(`domain ${id} still has users, groups or devices`);
        throw error;
      }
    });
  }
}

function checkSelection({ users, userGroups, deviceGroups }: RecordingSelection): RecordingSelection {
  const lists = { users, userGroups, deviceGroups };
  for (const [name, list] of Object.entries(lists)) {
    const fits = (item: unknown) => typeof item === 'string' && /^[\x20-\x7e]{1,256}$/.test(item);
    if (list === undefined || (Array.isArray(list) && list.length <= maxSelected && list.every(fits))) continue;
    throw badValue(`recording.${name}: allowed are up to ${maxSelected} ids`);
  }
  return lists;
}

function toDomain(row: DomainRow): Domain {
  return {
    id: row.id,
    title: row.title,
    consent: row.consent,
    privacyBarText: row.privacy_bar_text,
    recording: JSON.parse(row.recording) as RecordingSelection,
    createdMs: row.created_ms,
  };
}
