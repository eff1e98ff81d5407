import type { z } from 'zod';
import { CoupletError } from '../core/errors.ts';
import { quote } from '../directory/errors.ts';

const maxMessage = 400;
/** Values of these fields are never said. */
const secret = /password|secret|token|cookie|code/i;

export function unauthorized(): CoupletError {
  const text = 'this needs a login or an API token: send "Authorization: Bearer TOKEN" or the login cookie';
  return new CoupletError('CPL_API_UNAUTHORIZED', text, { httpStatus: 401 });
}

/** @param reason a word for machines: the right or scope that is missing */
export function forbidden(text: string, reason?: string): CoupletError {
  return new CoupletError('CPL_API_FORBIDDEN', text, { httpStatus: 403, ...(reason !== undefined && { reason }) });
}

/** For what is not there and for what the caller may not see alike. */
export function notFound(what: string, id: string): CoupletError {
  return new CoupletError('CPL_API_UNKNOWN', `there is no ${what} ${quote(id)}`, { httpStatus: 404 });
}

export function badRequest(text: string): CoupletError {
  return new CoupletError('CPL_API_VALUE', text, { httpStatus: 400 });
}

export function conflict(text: string): CoupletError {
  return new CoupletError('CPL_API_CONFLICT', text, { httpStatus: 409 });
}

/** The first thing wrong with a value: which field, what it holds and what is allowed, on one line (fault 34). */
export function invalid(place: string, value: unknown, error: z.ZodError): CoupletError {
  const issue = error.issues[0]!;
  const path = issue.path.map(String);
  const field = [place, ...path].join('.');
  const allowed = issue.message.replaceAll(/[^\x20-\x7e]/g, (unit) => quote(unit).slice(1, -1));
  const shown = path.some((part) => secret.test(part)) ? '' : ` ${show(at(value, issue.path))}`;
  // A key may be anything too.
  return badRequest(`${quote(field).slice(1, -1)}${shown}: ${allowed}`);
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  let found = value;
  for (const part of path) {
    if (typeof found !== 'object' || found === null || !Object.hasOwn(found, part)) return undefined;
    found = (found as Record<PropertyKey, unknown>)[part];
  }
  return found;
}

function show(value: unknown): string {
  if (value === undefined) return '(missing)';
  if (typeof value === 'string') return quote(value);
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : `(${typeName(value)})`;
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'a list' : 'an object';
}

/** An error as its answer tells it; an unknown one, or one of our side, tells nothing. */
export function errorAnswer(error: unknown): { status: number; code: string; message: string; reason?: string } {
  const known = error instanceof CoupletError && error.httpStatus !== undefined ? error : undefined;
  const status = known?.httpStatus ?? 500;
  if (known === undefined) return { status, code: 'CPL_API_FAILED', message: 'the server failed at this request' };
  if (status >= 500) return { status, code: known.code, message: 'the server cannot do this now: try again later' };
  const message = known.message.length > maxMessage ? `${known.message.slice(0, maxMessage)}...` : known.message;
  return { status, code: known.code, message, ...(known.reason !== undefined && { reason: known.reason }) };
}
