import { CoupletError } from '../core/errors.ts';
import { type Member, settings } from './schema.ts';

/**
 * [R40] A configuration that cannot be used, code `CPL_CONFIG`; the CLI exits 2 on it. `problems` holds one line for
 * each mistake, `message` all of them in one line. No secret is in either.
 */
export class ConfigError extends CoupletError {
  readonly problems: readonly string[];

  constructor(problems: readonly string[], cause?: unknown) {
    super('CPL_CONFIG', problems.join('; '), { level: 'error', ...(cause === undefined ? {} : { cause }) });
    this.problems = problems;
  }
}

const looksLikeKey = /[0-9a-fA-F]{64}/;

/** A value as an error may show it: JSON in one line, cut at 80 characters, never a secret or what looks like one. */
export function shown(value: unknown, setting?: Pick<Member, 'secret'>): string {
  const text = JSON.stringify(value) ?? 'nothing';
  if (setting?.secret === true || looksLikeKey.test(text)) return '(value not shown)';
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** The line for a setting whose value is not allowed. */
export function notAllowed(
  setting: Pick<Member, 'key' | 'allowed' | 'secret'>,
  value: unknown,
  source: string,
): string {
  return `${setting.key} (${source}) is ${shown(value, setting)}; it must be ${setting.allowed}`;
}

/** The line for a key that does not exist, with the nearest one that does. The key's value is not shown. */
export function unknownName(what: string, name: string, source: string, known: readonly string[]): string {
  const near = nearest(name, known);
  const hint = near === undefined ? '' : `; did you mean ${near}?`;
  return `unknown ${what} ${shown(name)} (${source})${hint}`;
}

/** Key paths of settings and of the groups they stand in. */
export const knownKeys: readonly string[] = [
  ...new Set(settings.flatMap(({ key }) => (key.includes('.') ? [key, key.slice(0, key.indexOf('.'))] : [key]))),
];

/** The known name that is most alike, or `undefined` where none is alike enough to be meant. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const wanted = name.slice(0, 128).toLowerCase();
  const wantedTail = wanted.slice(wanted.lastIndexOf('.') + 1);
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const lower = candidate.toLowerCase();
    const tail = lower.slice(lower.lastIndexOf('.') + 1);
    // A key in the wrong group is told by its last part, at the price of half a letter.
    const distance = Math.min(editDistance(wanted, lower), editDistance(wantedTail, tail) + 0.5);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return bestDistance <= Math.max(2, wantedTail.length / 3) ? best : undefined;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(change, previous[j]! + 1, row[j - 1]! + 1));
    }
    previous = row;
  }
  return previous[b.length]!;
}
