import { CoupletError } from '../../core/errors.ts';
import type { EventRecord, EventSink, SinkReport } from '../sink.ts';

export interface LiveEvent {
  readonly event: EventRecord;
  /** The same on one escaped line. */
  readonly json: string;
}

/** Whether a subscriber is told of an event. Asked while the event is emitted: it must be quick. */
export type LiveFilter = (event: EventRecord) => boolean;

/**
 * Takes events in their order, never while they are emitted. The next ones come when what it returns has settled.
 * @param lost events that it missed just before these, because it was slow
 */
export type LiveListener = (events: readonly LiveEvent[], lost: number) => void | Promise<void>;

export interface LiveEventsOptions {
  /** Events that wait for one subscriber; past it new ones are lost for it, and counted. Default 1000. */
  readonly maxQueued?: number;
  /** Most subscribers. Default 1000. */
  readonly maxSubscribers?: number;
}

interface Subscriber {
  readonly filter: LiveFilter;
  readonly listener: LiveListener;
  queue: LiveEvent[];
  /** Events lost behind the last one of the queue. */
  lost: number;
  isDelivering: boolean;
  isGone: boolean;
}

/** Events for whoever listens now. Nobody listens: nothing is done. A slow listener holds up nobody and takes bounded memory. */
export class LiveEvents implements EventSink {
  readonly name = 'live';
  readonly #maxQueued: number;
  readonly #maxSubscribers: number;
  readonly #subscribers = new Set<Subscriber>();
  #report: SinkReport | undefined;

  constructor(options: LiveEventsOptions = {}) {
    this.#maxQueued = options.maxQueued ?? 1_000;
    this.#maxSubscribers = options.maxSubscribers ?? 1_000;
  }

  get subscribers(): number {
    return this.#subscribers.size;
  }

  attach(report: SinkReport): void {
    this.#report = report;
  }

  /**
   * Hands over every event from now on that the filter takes. A filter or listener that throws (or rejects) is counted
   * as a failure of this sink; a listener gets nothing more then.
   * @returns ends the subscription; nothing is handed over from then on
   * @throws CoupletError `CPL_EVENT_SUBSCRIBERS` (503) where there are too many
   */
  subscribe(filter: LiveFilter, listener: LiveListener): () => void {
    if (this.#subscribers.size >= this.#maxSubscribers) {
      const text = `${this.#subscribers.size} listen to live events already: allowed are ${this.#maxSubscribers}`;
      throw new CoupletError('CPL_EVENT_SUBSCRIBERS', text, { httpStatus: 503 });
    }
    const subscriber = { filter, listener, queue: [], lost: 0, isDelivering: false, isGone: false };
    this.#subscribers.add(subscriber);
    return () => this.#end(subscriber);
  }

  write(event: EventRecord, json: string): void {
    for (const subscriber of this.#subscribers) {
      if (!this.#wants(subscriber, event)) continue;
      // Once one is lost so are those behind it until the queue was taken: `lost` then tells where the gap is.
      if (subscriber.lost > 0 || subscriber.queue.length >= this.#maxQueued) subscriber.lost++;
      else subscriber.queue.push({ event, json });
      if (subscriber.isDelivering) continue;
      subscriber.isDelivering = true;
      setImmediate(() => void this.#deliver(subscriber));
    }
  }

  async close(): Promise<void> {
    for (const subscriber of this.#subscribers) this.#end(subscriber);
  }

  #wants({ filter }: Subscriber, event: EventRecord): boolean {
    try {
      return filter(event);
    } catch (error) {
      this.#report?.failed(error);
      return false;
    }
  }

  /** Never rejects. */
  async #deliver(subscriber: Subscriber): Promise<void> {
    let lostBefore = 0;
    while (!subscriber.isGone && (subscriber.queue.length > 0 || subscriber.lost > 0 || lostBefore > 0)) {
      const { queue, lost } = subscriber;
      subscriber.queue = [];
      subscriber.lost = 0;
      try {
        await subscriber.listener(queue, lostBefore);
      } catch (error) {
        this.#end(subscriber);
        this.#report?.failed(error);
      }
      lostBefore = lost;
    }
    subscriber.isDelivering = false;
  }

  #end(subscriber: Subscriber): void {
    subscriber.isGone = true;
    subscriber.queue = [];
    this.#subscribers.delete(subscriber);
  }
}
