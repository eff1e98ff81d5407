import { z } from 'zod';
import { parseRights, parseSiteRights, printRights, printSiteRights } from '../core/rights.ts';
import type { Actor } from './parts.ts';
import type { Caller } from './request.ts';
import type { Call } from './route.ts';

/** An id, or a name where it is of one thing. What is allowed in one, the directory says. */
export const idOrName = z.string().min(1).max(512);
export const text = z.string().max(8_192);
export const epochMs = z.number().int();
export const maybeMs = epochMs.nullable();

/** Query of a list; `after` is the last id of the page before. */
export const paging = {
  after: z.string().max(512).optional().describe('The last id of the page before.'),
  limit: z.coerce.number().int().min(1).max(1_000).optional().describe('1 to 1000; 100 unless told.'),
};

const rightsText = z.union([z.number().int(), z.string().max(1_024)]);
/** In: a number or names. */
export const rightsIn = rightsText
  .transform((value, context) => parsed(() => parseRights(String(value)), context))
  .describe('A number, or names as `remote-control,no-files`; `admin` for all.');
export const siteRightsIn = rightsText
  .transform((value, context) => parsed(() => parseSiteRights(String(value)), context))
  .describe('A number, or names as `manage-users,recordings`; `admin` for all, `none` for none.');

function parsed(read: () => number, context: z.RefinementCtx): number {
  try {
    return read();
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message });
    return z.NEVER;
  }
}

/** Out: names, as the CLI takes them, and the number. */
export const rightsOut = { rights: z.string(), rightBits: z.number().int() };
export const siteRightsOut = { siteRights: z.string(), siteRightBits: z.number().int() };

export function showRights(rights: number): { rights: string; rightBits: number } {
  return { rights: printRights(rights), rightBits: rights };
}

export function showSiteRights(rights: number): { siteRights: string; siteRightBits: number } {
  return { siteRights: printSiteRights(rights), siteRightBits: rights };
}

/** Who calls, for an event. */
export function actorOf(caller: Caller): Actor {
  if (caller.kind === 'root' || caller.kind === 'nobody') return { userid: '', via: 'root', address: caller.address };
  return { userid: caller.user.id, via: caller.kind, address: caller.address };
}

/** Tells of a change of the directory. */
export function changed(
  { parts, caller, domain }: Pick<Call, 'parts' | 'caller' | 'domain'>,
  action: Parameters<Call['parts']['events']['directoryChanged']>[0]['action'],
  target: string,
  detail = '',
): void {
  parts.events.directoryChanged({ actor: actorOf(caller), domain, action, target, detail });
}

/** For where `undefined` has no form in JSON. */
export function orNull<T>(value: T | undefined): T | null {
  return value ?? null;
}

/** Only what is given, for `exactOptionalPropertyTypes`. */
export function given<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}
