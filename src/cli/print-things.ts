import { safeText, toSafeJson } from '../audit/safe-text.ts';
import type { DirectoryApi, DirectoryDeps, Thing } from './directory-options.ts';

/** Heading of a column, and what stands in it for a thing. */
export type Columns = readonly (readonly [heading: string, cell: (thing: Thing) => unknown])[];

/** A thing's value under this key. */
export function valueAt(key: string): (thing: Thing) => unknown {
  return (thing) => thing[key];
}

/** Epoch ms under this key as a time; empty where there is none. */
export function timeAt(key: string): (thing: Thing) => unknown {
  return (thing) => {
    const ms = thing[key];
    return typeof ms === 'number' ? new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z') : '';
  };
}

/** Prints one thing: as a line of JSON where that was asked for, else as these lines. Harmless whatever names hold (fault 34). */
export async function printThing(
  { print }: DirectoryDeps,
  { flags }: Pick<DirectoryApi, 'flags'>,
  thing: Thing,
  ...lines: readonly string[]
): Promise<void> {
  if (flags.json === true) return print(toSafeJson(thing));
  for (const line of lines) await print(safeText(line));
}

/** Prints a list: JSON lines as they come, else a table. Harmless whatever names hold (fault 34). */
export async function printList(
  { print }: DirectoryDeps,
  { flags }: Pick<DirectoryApi, 'flags'>,
  things: AsyncIterable<Thing> | Iterable<Thing>,
  columns: Columns,
): Promise<void> {
  if (flags.json === true) {
    for await (const thing of things) await print(toSafeJson(thing));
    return;
  }
  const rows = [columns.map(([heading]) => heading)];
  for await (const thing of things) rows.push(columns.map(([, cell]) => safeText(String(cell(thing) ?? '')) || '-'));
  const widths = columns.map((_, at) => rows.reduce((most, row) => Math.max(most, row[at]!.length), 0));
  for (const row of rows)
    await print(
      row
        .map((cell, at) => cell.padEnd(widths[at]!))
        .join('  ')
        .trimEnd(),
    );
}
