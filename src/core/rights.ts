import { CoupletError } from './errors.ts';

/** [T2] The bits of a link, by name; the names are those of the CLI and the API. */
export const rightBits = {
  'edit-group': 1,
  'manage-users': 2,
  'manage-devices': 4,
  'remote-control': 8,
  'agent-console': 16,
  'server-files': 32,
  wake: 64,
  'set-notes': 128,
  'view-only': 256,
  'no-terminal': 512,
  'no-files': 1024,
  'no-amt': 2048,
  'limited-input': 4096,
  'limit-events': 8192,
  'chat-notify': 16_384,
  uninstall: 32_768,
  'no-desktop': 65_536,
  'remote-command': 131_072,
  'reset-off': 262_144,
  'guest-sharing': 524_288,
  'device-details': 1_048_576,
  relay: 2_097_152,
} as const;

/** [T2] What a user may do on the server as a whole, by name. */
export const siteRightBits = {
  backup: 1,
  'manage-users': 2,
  restore: 4,
  'file-access': 8,
  update: 16,
  locked: 32,
  recordings: 512,
} as const;

export type RightName = keyof typeof rightBits;
export type SiteRightName = keyof typeof siteRightBits;

/** All bits: its holder may do everything, and the *no …* bits in it take nothing away [T2]. */
export const adminRights = 4_194_303;
/** All site rights; `locked` is none of them, it takes all away. */
export const adminSiteRights = 543;

/** How other servers of this protocol write *all bits*. */
const allOnes = 4_294_967_295;

interface Kind {
  readonly what: string;
  readonly bits: Readonly<Record<string, number>>;
  readonly admin: number;
  readonly known: number;
}

function kindOf(what: string, bits: Readonly<Record<string, number>>, admin: number): Kind {
  return { what, bits, admin, known: Object.values(bits).reduce((all, bit) => all | bit, 0) };
}

const deviceKind = kindOf('rights', rightBits, adminRights);
const siteKind = kindOf('site rights', siteRightBits, adminSiteRights);

/**
 * Reads `8`, `remote-control,no-files`, `admin` or `none`; numbers and names may be mixed, spaces and case do not count.
 * @throws CoupletError `CPL_RIGHTS` naming the word and what is allowed
 */
export function parseRights(text: string): number {
  return parse(deviceKind, text);
}

/** The same for site rights. */
export function parseSiteRights(text: string): number {
  return parse(siteKind, text);
}

/** Names in the order of their bits, separated by commas; `admin` for all, `none` for 0. The inverse of `parseRights`. */
export function printRights(rights: number): string {
  return print(deviceKind, rights);
}

/** The same for site rights. */
export function printSiteRights(rights: number): string {
  return print(siteKind, rights);
}

/** Throws where a number is no set of known rights. @throws CoupletError `CPL_RIGHTS` */
export function checkRights(rights: number): number {
  return check(deviceKind, rights);
}

/** The same for site rights. @throws CoupletError `CPL_RIGHTS` */
export function checkSiteRights(rights: number): number {
  return check(siteKind, rights);
}

function parse(kind: Kind, text: string): number {
  const words = text.split(',').map((word) => word.trim().toLowerCase());
  return words.reduce((rights, word) => rights | parseWord(kind, word), 0);
}

function parseWord(kind: Kind, word: string): number {
  if (word === 'admin') return kind.admin;
  if (word === 'none') return 0;
  // Not a lookup alone: every object has a `constructor`.
  if (Object.hasOwn(kind.bits, word)) return kind.bits[word]!;
  return /^[0-9]{1,10}$/.test(word) ? check(kind, Number(word)) : refuse(kind, word);
}

function check(kind: Kind, rights: number): number {
  if (rights === allOnes) return kind.admin;
  const known = Number.isInteger(rights) && rights >= 0 && rights <= kind.known && (rights & ~kind.known) === 0;
  return known ? rights : refuse(kind, rights);
}

function refuse({ what, bits, known }: Kind, value: string | number): never {
  const shown = typeof value === 'number' ? String(value) : quoted(value);
  const allowed = `admin, none, a sum of known bits up to ${known}, or of ${Object.keys(bits).join(', ')}`;
  throw new CoupletError('CPL_RIGHTS', `${what} ${shown} unknown: allowed are ${allowed}`, { httpStatus: 400 });
}

/** On one line whatever it holds (fault 34). */
function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 64)).replaceAll(/[^\x20-\x7e]/g, '?');
}

function print({ bits, admin, known }: Kind, rights: number): string {
  if ((rights & known) === admin) return 'admin';
  const names = Object.entries(bits).filter(([, bit]) => (rights & bit) !== 0);
  return names.length === 0 ? 'none' : names.map(([name]) => name).join(',');
}

/** [T1] The rights over a device of a user whom these links join to it: the union of all of them. */
export function effectiveRights(links: Iterable<number>): number {
  let rights = 0;
  for (const link of links) rights |= link;
  return rights;
}

/** True where every one of the named rights is held. */
export function hasRights(rights: number, ...names: readonly RightName[]): boolean {
  return names.every((name) => (rights & rightBits[name]) !== 0);
}

/** True where every one of the named site rights is held. A locked user holds none. */
export function hasSiteRights(rights: number, ...names: readonly Exclude<SiteRightName, 'locked'>[]): boolean {
  if ((rights & siteRightBits.locked) !== 0) return false;
  return names.every((name) => (rights & siteRightBits[name]) !== 0);
}

/** `by`: the right that is missing, or the one that takes the protocol away. */
export type Verdict =
  | { readonly allowed: true /** The desktop may be seen, not used: `desktopviewonly`. */; readonly viewOnly: boolean }
  | { readonly allowed: false; readonly by: RightName };

const takenBy: ReadonlyMap<number, RightName> = new Map([
  ...[1, 6, 8, 9, 11].map((protocol) => [protocol, 'no-terminal'] as const),
  ...[5, 13].map((protocol) => [protocol, 'no-files'] as const),
  ...[2, 10, 12].map((protocol) => [protocol, 'no-desktop'] as const),
  ...[100, 101].map((protocol) => [protocol, 'no-amt'] as const),
]);

/**
 * [T2] Whether effective rights let a protocol (R3's numbers; 0 for none or another) through. Remote control is needed
 * for all of them; *view only* leaves the desktop's protocols (2, 10, 12) alone.
 */
export function protocolAllowed(rights: number, protocol: number): Verdict {
  if ((rights & adminRights) === adminRights) return { allowed: true, viewOnly: false };
  if (!hasRights(rights, 'remote-control')) return { allowed: false, by: 'remote-control' };
  const taker = takenBy.get(protocol);
  if (taker !== undefined && hasRights(rights, taker)) return { allowed: false, by: taker };
  const viewOnly = hasRights(rights, 'view-only');
  if (viewOnly && taker !== 'no-desktop') return { allowed: false, by: 'view-only' };
  return { allowed: true, viewOnly };
}

/** What a user half wants opened [T5]. `none`: the agent itself serves the protocol. */
export interface Tunnel {
  readonly protocol: number;
  readonly transport: 'tcp' | 'udp' | 'none';
}

/**
 * [T2][T5] Whether a tunnel may be opened. A port is bytes that nobody looks into, whatever protocol the half claims:
 * *view only*, which nobody could hold to there, takes every port away.
 * @param requireRelayRight `routing.requireRelayRight`: a port needs the right `relay` too
 */
export function tunnelAllowed(rights: number, tunnel: Tunnel, requireRelayRight: boolean): Verdict {
  const verdict = protocolAllowed(rights, tunnel.protocol);
  if (!verdict.allowed || tunnel.transport === 'none') return verdict;
  if (verdict.viewOnly) return { allowed: false, by: 'view-only' };
  if (requireRelayRight && !hasRights(rights, 'relay')) return { allowed: false, by: 'relay' };
  return verdict;
}
