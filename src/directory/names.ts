import { createHash, randomBytes } from 'node:crypto';
import { isPrintableId } from '../core/ids.ts';
import { badValue, quote } from './errors.ts';

const domainName = /^(?!__proto__$)[A-Za-z0-9._-]{0,64}$/;
/** Printable ASCII without space and slash: the name is the end of an id (R4), which stands in URLs and file names. */
const userName = /^[!-.0-~]{1,64}$/;
const domainsOf = { user: 'user', ugrp: 'user group', mesh: 'device group', node: 'device' } as const;

/** Controls, lone surrogates, and what hides or moves text: none of it is part of a name (fault 34). */
const hidden =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]|\p{Surrogate}/u;

export type IdKind = keyof typeof domainsOf;

export function wordFor(kind: IdKind): string {
  return domainsOf[kind];
}

/** False where half of a surrogate pair stands alone: UTF-8 has no form for it. */
export function isWellFormed(text: string): boolean {
  return !/\p{Surrogate}/u.test(text);
}

/** A new id; 144 random bits, so it is never given twice. */
export function newId(kind: Exclude<IdKind, 'user'>, domain: string): string {
  return `${kind}/${domain}/${randomToken(18)}`;
}

export function randomToken(bytes: number): string {
  return randomBytes(bytes).toString('base64url');
}

/** What is kept of a token: tokens have so many random bits that a plain hash cannot be turned back. */
export function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('base64url');
}

/** The domain of an id of one of these kinds; `undefined` where it is no such id. */
export function domainOf(id: string, ...kinds: readonly IdKind[]): string | undefined {
  if (!isPrintableId(id)) return undefined;
  const [kind, domain, name, ...more] = id.split('/');
  if (domain === undefined || name === undefined || name === '' || more.length > 0) return undefined;
  return kinds.some((known) => known === kind) ? domain : undefined;
}

export function kindOf(id: string): IdKind | undefined {
  const kind = id.slice(0, id.indexOf('/'));
  return Object.hasOwn(domainsOf, kind) && domainOf(id, kind as IdKind) !== undefined ? (kind as IdKind) : undefined;
}

export function checkDomain(id: string): string {
  if (domainName.test(id)) return id;
  throw badValue(`domain ${quote(id)}: allowed are up to 64 letters, digits, ".", "_" and "-"`);
}

/** Lower-cases a user's name. */
export function checkUserName(name: string): string {
  if (userName.test(name)) return name.toLowerCase();
  throw badValue(`user name ${quote(name)}: allowed are 1 to 64 printable ASCII characters without space and "/"`);
}

/** @param least 0 where the text may be empty */
export function checkText(what: string, text: string, least: 0 | 1 = 1, most = 128): string {
  const fits = text.length >= least && text.length <= most && text.trim() === text && !hidden.test(text);
  // A name that looks like an id could stand for another thing than the one that is meant.
  if (fits && !(least === 1 && kindOf(text) !== undefined)) return text;
  const allowed = `${least} to ${most} characters, no control or hidden ones, no space at either end, and no id`;
  throw badValue(`${what} ${quote(text)}: allowed are ${allowed}`);
}

/** Like {@link checkText}, for what may have several lines. */
export function checkLines(what: string, text: string, most = 4096): string {
  if (text.length <= most && !hidden.test(text.replaceAll('\n', ''))) return text;
  throw badValue(
    `${what} ${quote(text)}: allowed are up to ${most} characters, no control or hidden ones save line feeds`,
  );
}

export function checkWhole(what: string, value: number, least: number, most: number): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw badValue(`${what} ${quote(String(value))}: allowed are whole numbers of ${least} to ${most}`);
}

/** An address for a row: what it says is of no consequence, but a database must be able to hold it. */
export function storableAddress(address: string): string {
  return /^[\x20-\x7e]{0,64}$/.test(address) ? address : '';
}

/** An id that events are looked up by; `null` where it is none, for a peer may have made it up. */
export function storableId(id: string): string | null {
  return isPrintableId(id) ? id : null;
}
