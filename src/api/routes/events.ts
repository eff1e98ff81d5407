import { z } from 'zod';
import type { EventQuery } from '../../directory/directory.ts';
import { isOfDomain, type SightedEvent, seesEvent } from '../event-sight.ts';
import { liveEvents } from '../live.ts';
import { type Call, type Route, route } from '../route.ts';
import { given, orNull } from '../shapes.ts';

/** Events that one request looks at: of those the caller sees, as many as asked for. */
const maxScanned = 5_000;
const scanPage = 500;
const defaultLimit = 100;

const codes = z
  .string()
  .max(1_024)
  .transform((list) => list.split(',').map((code) => code.trim()))
  .pipe(z.array(z.string().regex(/^CPL-\d{4}[IWE]$/, 'allowed are codes as CPL-1001I, separated by commas')).max(64));

const filters = {
  userid: z.string().max(512).optional().describe('Events of this user.'),
  nodeid: z.string().max(512).optional().describe('Events about this device.'),
  code: codes.optional().describe('One code or more, separated by commas.'),
};
const ms = z.coerce.number().int().min(0);

const eventOut = z
  .looseObject({
    seq: z.number().int().describe('Place in the order of writing.'),
    time: z.string(),
    code: z.string(),
    msg: z.string(),
  })
  .describe('All fields of the event; docs/reference/events.md.');

interface Found {
  readonly events: z.input<typeof eventOut>[];
  readonly next: number | undefined;
}

/** Looks through what is there until `limit` events that the caller sees are found. */
async function search(call: Call, query: EventQuery, limit: number): Promise<Found> {
  const { parts, domain } = call;
  const events: z.input<typeof eventOut>[] = [];
  let { before } = query;
  for (let scanned = 0; scanned < maxScanned; scanned += scanPage) {
    const page = await parts.directory.events.query({ ...query, before, limit: scanPage });
    for (const { seq, json } of page.events) {
      if (events.length === limit) return { events, next: before };
      before = seq;
      const event = JSON.parse(json) as SightedEvent;
      if (!isOfDomain(event, domain, call) || !(await seesEvent(parts.directory, event, call))) continue;
      events.push({ ...event, seq } as unknown as z.input<typeof eventOut>);
    }
    if (page.next === undefined) return { events, next: undefined };
  }
  return { events, next: before };
}

const list = route({
  method: 'GET',
  path: '/events',
  summary: 'Query events, the newest first: own ones, those about devices within reach, or all of the domain',
  scope: 'events:read',
  caller: 'user',
  inDomain: true,
  query: z.strictObject({
    ...filters,
    fromMs: ms.optional().describe('From then on, epoch ms.'),
    toMs: ms.optional().describe('Before then, epoch ms.'),
    before: ms.optional().describe('`next` of the page before.'),
    limit: z.coerce.number().int().min(1).max(1_000).optional().describe('1 to 1000; 100 unless told.'),
  }),
  answer: z.object({
    events: z.array(eventOut),
    next: z.number().int().nullable().describe('For `before`; null on the last page. A page may be empty and not it.'),
  }),
  async handler(call) {
    const { userid: userId, nodeid: nodeId, code, limit = defaultLimit, ...rest } = call.query;
    const asked = given({ ...rest, userId, nodeId, codes: code });
    const { events, next } = await search(call, { domain: call.domain, ...asked }, limit);
    return { events, next: orNull(next) };
  },
});

const live = route({
  method: 'GET',
  path: '/events/live',
  summary: 'Events as they happen: server-sent events `event`, `lost` with a count or null, and `end` when rights end',
  scope: 'events:read',
  caller: 'user',
  inDomain: true,
  query: z.strictObject(filters),
  answer: 'events',
  async handler(call) {
    const { userid, nodeid, code } = call.query;
    const wanted = (event: SightedEvent & { readonly code: string }) =>
      (userid === undefined || event.userid === userid) &&
      (nodeid === undefined || event.nodeid === nodeid) &&
      (code === undefined || code.includes(event.code));
    return { kind: 'events', status: 200, headers: {}, open: (signal) => liveEvents(call, wanted, signal) };
  },
});

export const eventRoutes: readonly Route[] = [list, live];
