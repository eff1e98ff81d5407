import { isDeepStrictEqual } from 'node:util';
import { notAllowed, shown, unknownName } from './errors.ts';
import type { Member, Setting } from './schema.ts';

/*
 * A table is a setting whose value maps names to settings: `domains: { NAME: { recording: { … } } }`. Mistakes in it are
 * told with the whole key path, as those in other settings are.
 */

type Group = Record<string, unknown>;

export function isPlainObject(value: unknown): value is Group {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Holds a table against its members and adds a problem for every mistake. Groups without content come back empty. */
export function checkTable(setting: Setting, value: unknown, source: string, problems: string[]): unknown {
  if (!isPlainObject(value)) {
    problems.push(notAllowed(setting, value, source));
    return value;
  }
  const { name: pattern, names } = setting.table!;
  const checked = Object.entries(value).map(([name, content]) => {
    const key = `${setting.key}.${name}`;
    if (pattern.test(name)) return [name, checkGroup(setting, key, '', content, source, problems)];
    problems.push(`${setting.key} (${source}) has the name ${shown(name)}; it must be ${names}`);
    return [name, content];
  });
  return Object.fromEntries(checked);
}

function checkGroup(
  setting: Setting,
  named: string,
  path: string,
  content: unknown,
  source: string,
  problems: string[],
): unknown {
  if (content === null) return {};
  if (!isPlainObject(content)) {
    const key = path === '' ? named : `${named}.${path}`;
    problems.push(`${key} (${source}) is ${shown(content)}; it must be a map of settings`);
    return content;
  }
  const checked = Object.entries(content).map(([name, value]) => {
    const below = path === '' ? name : `${path}.${name}`;
    const member = setting.members.find(({ key }) => key === below);
    if (member !== undefined) {
      const key = `${named}.${below}`;
      const good = value !== undefined && member.type.safeParse(value).success;
      if (!good) problems.push(notAllowed({ ...member, key }, value, source));
    } else if (setting.members.some(({ key }) => key.startsWith(`${below}.`))) {
      return [name, checkGroup(setting, named, below, value, source, problems)];
    } else {
      const known = knownBelow(setting.members).map((key) => `${named}.${key}`);
      problems.push(unknownName('key', `${named}.${below}`, source, known));
    }
    return [name, value];
  });
  return Object.fromEntries(checked);
}

/** Key paths of the members and of the groups they stand in. */
function knownBelow(members: readonly Member[]): string[] {
  const groups = members.flatMap(({ key }) => (key.includes('.') ? [key.slice(0, key.indexOf('.'))] : []));
  return [...new Set([...members.map(({ key }) => key), ...groups])];
}

/** A changed member of a table that counts after a restart only. */
export interface TableChange {
  readonly key: string;
  readonly from: unknown;
  readonly to: unknown;
}

/**
 * [R40] What of a new table can count at once: all but the members that need a restart. Those stay as they are, for a
 * name that is new or gone too: not set, or still set.
 */
export function withoutRestartOnly(
  { key, members }: Setting,
  old: unknown,
  next: unknown,
): { readonly running: unknown; readonly needsRestart: readonly TableChange[] } {
  const [before, running] = [old as Group, structuredClone(next) as Group];
  const needsRestart: TableChange[] = [];
  for (const name of new Set([...Object.keys(before), ...Object.keys(running)])) {
    for (const member of members) {
      if (member.reloadable) continue;
      const path = [name, ...member.key.split('.')];
      const [from, to] = [read(before, path), read(running, path)];
      if (isDeepStrictEqual(from, to)) continue;
      needsRestart.push({ key: `${key}.${name}.${member.key}`, from, to });
      write(running, path, from);
    }
  }
  return { running, needsRestart };
}

/** Own properties only: a domain may be called `constructor`. */
function below(group: unknown, name: string): unknown {
  return isPlainObject(group) && Object.hasOwn(group, name) ? group[name] : undefined;
}

function read(group: Group, path: readonly string[]): unknown {
  return path.reduce<unknown>(below, group);
}

function write(group: Group, path: readonly string[], value: unknown): void {
  let holder = group;
  for (const name of path.slice(0, -1)) {
    if (below(holder, name) === undefined) holder[name] = {};
    holder = holder[name] as Group;
  }
  if (value === undefined) delete holder[path.at(-1)!];
  else holder[path.at(-1)!] = value;
}
