import { randomBytes } from 'node:crypto';

const printable = /^[\x20-\x7e]{1,256}$/;

/** An id of R4: `user/DOMAIN/NAME`, `node/DOMAIN/ID` or `mesh/DOMAIN/ID`. */
export interface ParsedId {
  readonly kind: 'user' | 'node' | 'mesh';
  readonly domain: string;
  readonly name: string;
}

/** R4: at most 256 bytes of printable ASCII, not empty. Holds for session ids and for directory ids. */
export function isPrintableId(id: string): boolean {
  return printable.test(id);
}

/** Takes a directory id apart (R4); `undefined` where it is not one. The name may hold further slashes. */
export function parseId(id: string): ParsedId | undefined {
  if (!isPrintableId(id)) return undefined;
  const first = id.indexOf('/');
  const second = id.indexOf('/', first + 1);
  if (first < 0 || second < 0 || second === id.length - 1) return undefined;
  const kind = id.slice(0, first);
  if (kind !== 'user' && kind !== 'node' && kind !== 'mesh') return undefined;
  return { kind, domain: id.slice(first + 1, second), name: id.slice(second + 1) };
}

/** A new session id with 144 random bits (R4 asks for at least 128), safe in a URL and a file name. */
export function mintId(): string {
  return randomBytes(18).toString('base64url');
}

/**
 * A printable id in memory of its own. A part of a longer string keeps that string: an id cut out of a request would keep
 * its query, and the cookies in it, for as long as the session runs.
 */
export function ownCopy(id: string): string {
  return Buffer.from(id, 'latin1').toString('latin1');
}
