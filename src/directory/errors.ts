import { CoupletError } from '../core/errors.ts';
import { busyError, isBusy } from './busy.ts';

/** A value for an error message: on one line, short, and without anything that moves text about (fault 34). */
export function quote(value: string): string {
  const cut = value.length > 80 ? `${value.slice(0, 80)}…` : value;
  return JSON.stringify(cut).replaceAll(
    /[^\x20-\x7e]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

export function unknown(what: string, id: string): CoupletError {
  return new CoupletError('CPL_DIRECTORY_UNKNOWN', `there is no ${what} ${quote(id)}`, { httpStatus: 404 });
}

export function exists(what: string, name: string): CoupletError {
  return new CoupletError('CPL_DIRECTORY_EXISTS', `there is a ${what} ${quote(name)} already`, { httpStatus: 409 });
}

export function badValue(text: string): CoupletError {
  return new CoupletError('CPL_DIRECTORY_VALUE', text, { httpStatus: 400 });
}

export function inUse(text: string): CoupletError {
  return new CoupletError('CPL_DIRECTORY_IN_USE', text, { httpStatus: 409 });
}

export function ambiguous(name: string): CoupletError {
  const text = `${quote(name)} is the name of more than one: give the id`;
  return new CoupletError('CPL_DIRECTORY_AMBIGUOUS', text, { httpStatus: 409 });
}

/** The code of a database driver's error: SQLite's name, PostgreSQL's SQLSTATE or that of a broken connection. */
function driverCode(error: unknown): string {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : '';
}

export function isDuplicate(error: unknown): boolean {
  return ['SQLITE_CONSTRAINT_UNIQUE', 'SQLITE_CONSTRAINT_PRIMARYKEY', '23505'].includes(driverCode(error));
}

/** A row that another one names is not there (any more), or is still named. */
export function isBrokenReference(error: unknown): boolean {
  return ['SQLITE_CONSTRAINT_FOREIGNKEY', '23503', '23001'].includes(driverCode(error));
}

/** An error's code and message on one line. */
export function lineOf(error: unknown): string {
  const code = driverCode(error);
  const message = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
  return code === '' ? message : `${code} ${message}`;
}

/** Turns what a driver throws into one line with a stable code; errors of our own stay as they are. */
export function translate(error: unknown): unknown {
  if (error instanceof CoupletError) return error;
  if (isBusy(error)) return busyError(error);
  const text = `the directory database does not answer: ${lineOf(error)}`;
  return new CoupletError('CPL_DIRECTORY_UNAVAILABLE', text, { httpStatus: 503, level: 'error', cause: error });
}
