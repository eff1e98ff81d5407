import type { LiveEvent } from '../audit/sinks/live.ts';
import { isOfDomain, type SightedEvent, seesEvent } from './event-sight.ts';
import { serverSentEvent } from './request.ts';
import type { Call } from './route.ts';
import { watchCaller } from './watch.ts';

/** What a caller asked for. */
export type LiveWanted = (event: SightedEvent & { readonly code: string }) => boolean;

/**
 * Events of the domain as they happen, as server-sent events: `event` with the event itself, `lost` with the number of
 * those that a slow reader missed (null: events of other servers, nobody knows how many), and last `end` where the
 * caller may not listen any more. Takes what the audit part keeps for a slow listener, and no more memory: the next ones
 * are taken when these are written.
 * @param signal the peer is gone
 */
export async function* liveEvents(call: Call, wanted: LiveWanted, signal: AbortSignal): AsyncGenerator<string, void> {
  const { parts, domain } = call;
  const watch = watchCaller(call, () => {});
  const batches: { readonly texts: readonly string[]; readonly taken: () => void }[] = [];
  let wake = () => {};
  const stir = () => wake();
  signal.addEventListener('abort', stir);
  watch.signal.addEventListener('abort', stir);

  let failure: unknown;
  const take = async (events: readonly LiveEvent[], lost: number) => {
    const texts = lost > 0 ? [serverSentEvent({ event: 'lost', data: { count: lost } })] : [];
    for (const { event } of events) {
      // Rights are those of now, not of when the event came.
      if (!isOfDomain(event, domain, watch.standing)) continue;
      if (await seesEvent(parts.directory, event, watch.standing)) {
        texts.push(serverSentEvent({ event: 'event', data: event }));
      }
    }
    if (texts.length === 0) return;
    await new Promise<void>((taken) => {
      batches.push({ texts, taken });
      stir();
    });
  };
  /** The audit part takes a listener that fails off its list: the peer must not wait for events that never come. */
  const takeOrFail = async (events: readonly LiveEvent[], lost: number) => {
    try {
      await take(events, lost);
    } catch (error) {
      failure = error;
      stir();
      throw error;
    }
  };
  const isTold = (event: LiveEvent['event']) => isOfDomain(event, domain, watch.standing) && wanted(event);
  let hasGap = false;
  const unsubscribe = parts.live.subscribe(isTold, takeOrFail, () => {
    hasGap = true;
    stir();
  });
  const isOver = () => signal.aborted || watch.signal.aborted;
  try {
    while (!isOver()) {
      if (failure !== undefined) throw failure;
      if (hasGap) {
        hasGap = false;
        yield serverSentEvent({ event: 'lost', data: { count: null } });
        continue;
      }
      const batch = batches.shift();
      if (batch === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      for (const text of batch.texts) {
        if (isOver()) break;
        yield text;
      }
      batch.taken();
    }
    if (watch.signal.aborted) yield serverSentEvent({ event: 'end', data: { reason: 'revoked' } });
  } finally {
    unsubscribe();
    watch.stop();
    for (const { taken } of batches) taken();
    signal.removeEventListener('abort', stir);
    watch.signal.removeEventListener('abort', stir);
  }
}
