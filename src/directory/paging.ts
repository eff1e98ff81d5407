import { ambiguous, badValue, unknown } from './errors.ts';
import { domainOf, type IdKind, isWellFormed, wordFor } from './names.ts';
import type { Page } from './types.ts';

const defaultLimit = 100;
const maxLimit = 1_000;

/** @throws CoupletError `CPL_DIRECTORY_VALUE` */
export function pageOf({ after, limit = defaultLimit }: Page = {}): { after: string; limit: number } {
  if (!Number.isInteger(limit) || limit < 1 || limit > maxLimit) {
    throw badValue(`limit ${String(limit)}: allowed are whole numbers of 1 to ${maxLimit}`);
  }
  // PostgreSQL holds no NUL; no id has one either.
  return { after: (after ?? '').replaceAll('\0', ''), limit };
}

interface Findable<T> {
  get(id: string): Promise<T | undefined>;
  byName(domain: string, name: string): Promise<T | undefined>;
}

/** The one thing in a domain that an id or a name stands for. @throws CoupletError */
export async function findOne<T>(domain: string, idOrName: string, kinds: [IdKind, Findable<T>][]): Promise<T> {
  const found: T[] = [];
  for (const [kind, store] of kinds) {
    const idsDomain = domainOf(idOrName, kind);
    if (idsDomain !== undefined && idsDomain !== domain) continue;
    const one = idsDomain === undefined ? await store.byName(domain, idOrName) : await store.get(idOrName);
    if (one !== undefined) found.push(one);
  }
  if (found.length > 1) throw ambiguous(idOrName);
  const one = found[0];
  if (one === undefined) throw unknown(kinds.map(([kind]) => wordFor(kind)).join(' or '), idOrName);
  return one;
}

/** Names are compared as they are; a text that no database holds is the name of nothing. */
export function isSearchable(text: string): boolean {
  return text.length <= 256 && !text.includes('\0') && isWellFormed(text);
}

/** What is to be changed of a row: only what is given. */
export function given<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}
