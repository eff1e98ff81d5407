import type { Database } from './database.ts';
import { badValue } from './errors.ts';
import { storableId } from './names.ts';

/** An event as it was written to the log [R29][R30]. */
export interface StoredEvent {
  /** Place in the order of writing; later is greater. */
  readonly seq: number;
  readonly timeMs: number;
  readonly code: string;
  readonly domain: string;
  /** All of it, as one line of JSON. */
  readonly json: string;
}

/** All that is given must match. */
export interface EventQuery {
  readonly domain?: string | undefined;
  /** From then on. */
  readonly fromMs?: number | undefined;
  /** Before then. */
  readonly toMs?: number | undefined;
  readonly userId?: string | undefined;
  readonly nodeId?: string | undefined;
  /** One of these. */
  readonly codes?: readonly string[] | undefined;
  /** `next` of the page before: what was written before it. */
  readonly before?: number | undefined;
  /** 1 to 1000; 100 unless told. */
  readonly limit?: number | undefined;
}

export interface EventPage {
  /** The newest first. */
  readonly events: StoredEvent[];
  /** For `before`; `undefined` on the last page. */
  readonly next: number | undefined;
}

/** What is to be written of an event; `uid` makes writing it twice harmless. */
export interface NewEvent {
  readonly uid: string;
  readonly timeMs: number;
  readonly code: string;
  readonly domain: string;
  readonly userId: string;
  readonly nodeId: string;
  readonly json: string;
}

/** Events in the database, for asking; the log on disk is what vouches for them [R31]. */
export interface EventLog {
  query(query: EventQuery): Promise<EventPage>;
  /** Writes events, each once whatever happens; for the sink. */
  append(events: readonly NewEvent[]): Promise<void>;
  /** Deletes events older than that. @returns how many; at most `limit` at a time, so that nobody waits long */
  prune(olderThanMs: number, limit?: number): Promise<number>;
}

const defaultLimit = 100;
const maxLimit = 1_000;
const maxCodes = 64;

export class EventStore implements EventLog {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async query(asked: EventQuery): Promise<EventPage> {
    const { domain, fromMs, toMs, userId, nodeId, codes, before, limit = defaultLimit } = asked;
    for (const [name, value] of Object.entries({ fromMs, toMs, before })) {
      if (value === undefined || Number.isSafeInteger(value)) continue;
      throw badValue(`${name} ${String(value)}: allowed are whole numbers`);
    }
    if (!Number.isInteger(limit) || limit < 1 || limit > maxLimit) {
      throw badValue(`limit ${String(limit)}: allowed are whole numbers of 1 to ${maxLimit}`);
    }
    if (codes !== undefined && codes.length > maxCodes) throw badValue(`codes: allowed are up to ${maxCodes}`);
    const texts = [userId, nodeId, ...(codes ?? [])].filter((text) => text !== undefined);
    // No event has an id that is none, and PostgreSQL takes no such text.
    const impossible = texts.some((text) => storableId(text) === null) || domain?.includes('\0') === true;
    if (impossible || codes?.length === 0) return { events: [], next: undefined };

    const rows = await this.#database.read((db) => {
      let query = db.selectFrom('events').select(['seq', 'time_ms', 'code', 'domain', 'json']);
      if (domain !== undefined) query = query.where('domain', '=', domain);
      if (fromMs !== undefined) query = query.where('time_ms', '>=', fromMs);
      if (toMs !== undefined) query = query.where('time_ms', '<', toMs);
      if (userId !== undefined) query = query.where('user_id', '=', userId);
      if (nodeId !== undefined) query = query.where('node_id', '=', nodeId);
      if (codes !== undefined) query = query.where('code', 'in', codes);
      if (before !== undefined) query = query.where('seq', '<', before);
      // One more than asked for tells whether there is another page.
      return query
        .orderBy('seq', 'desc')
        .limit(limit + 1)
        .execute();
    });
    const events = rows.slice(0, limit).map(({ seq, time_ms: timeMs, code, domain, json }) => {
      return { seq, timeMs, code, domain, json };
    });
    return { events, next: rows.length > limit ? events.at(-1)?.seq : undefined };
  }

  async append(events: readonly NewEvent[]): Promise<void> {
    if (events.length === 0) return;
    const rows = events.map((event) => ({
      uid: event.uid,
      time_ms: event.timeMs,
      code: event.code,
      domain: storableId(event.domain) ?? '',
      user_id: storableId(event.userId),
      node_id: storableId(event.nodeId),
      json: event.json,
    }));
    await this.#database.relaxed((tx) =>
      tx
        .insertInto('events')
        .values(rows)
        .onConflict((conflict) => conflict.column('uid').doNothing())
        .execute(),
    );
  }

  async prune(olderThanMs: number, limit = 1_000): Promise<number> {
    return await this.#database.relaxed(async (tx) => {
      const old = tx.selectFrom('events').select('seq').where('time_ms', '<', olderThanMs).limit(limit);
      const { numDeletedRows } = await tx.deleteFrom('events').where('seq', 'in', old).executeTakeFirst();
      return Number(numDeletedRows);
    });
  }
}
