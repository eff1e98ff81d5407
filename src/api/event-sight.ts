import { adminRights, hasRights } from '../core/rights.ts';
import type { Directory } from '../directory/directory.ts';
import type { Standing } from './watch.ts';

/** What decides who sees an event. */
export interface SightedEvent {
  readonly domain?: unknown;
  readonly userid?: unknown;
  readonly actorid?: unknown;
  readonly nodeid?: unknown;
  readonly [field: string]: unknown;
}

/**
 * Whether an event may be of this domain's at all: those without a domain are about the whole server, and for users of
 * the default domain with all site rights.
 */
export function isOfDomain({ domain: told }: SightedEvent, domain: string, { may }: Standing): boolean {
  return told === undefined ? domain === '' && may.isSuper : told === domain;
}

/**
 * Who sees an event of the domain: site right manage-users all of them, others their own and those about devices that
 * they reach without the restriction limit-events.
 */
export async function seesEvent(
  directory: Directory,
  event: SightedEvent,
  { caller, may }: Standing,
): Promise<boolean> {
  if (may.holdsSite('manage-users')) return true;
  if (!('user' in caller)) return false;
  const { id } = caller.user;
  if (event.userid === id || event.actorid === id) return true;
  const { nodeid } = event;
  if (typeof nodeid !== 'string' || nodeid === '') return false;
  // From memory, and right within 1 s of a change.
  const { rights } = await directory.access(id, nodeid);
  // With all rights the restriction takes nothing away [T2].
  return rights !== 0 && ((rights & adminRights) === adminRights || !hasRights(rights, 'limit-events'));
}
