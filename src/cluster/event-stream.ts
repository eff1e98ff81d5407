import type { EventRecord, EventSink, SinkReport } from '../audit/sink.ts';
import { CoupletError } from '../core/errors.ts';
import type { Redis } from './redis.ts';
import type { ValueSealer } from './sealed-value.ts';

export interface EventStreamOptions {
  readonly redis: Redis;
  readonly sealer: ValueSealer;
  /** `cluster.prefix`. */
  readonly prefix: string;
  /** This server's boot id. */
  readonly boot: string;
}

export interface EventStreamSinkOptions extends EventStreamOptions {
  /** `cluster.streamMaxEvents`. */
  readonly maxEvents: number;
  /** Most events that wait for Redis; 10,000 unless told. */
  readonly maxQueued?: number;
  /** Most bytes of JSON that wait; 16 MiB unless told. */
  readonly maxQueuedBytes?: number;
}

export function streamKeyOf(prefix: string): string {
  return `${prefix}:events`;
}

const batchSize = 256;

/**
 * [K5] Events on their way to the Redis stream for live consumers on other servers, sealed: they hold names. It never
 * waits; while Redis is down a bounded number is kept. An event whose command failed is not sent again, for it may be in
 * the stream already: it counts as lost.
 */
export class EventStreamSink implements EventSink {
  readonly name = 'stream';
  readonly #options: EventStreamSinkOptions;
  readonly #maxQueued: number;
  readonly #maxQueuedBytes: number;
  readonly #key: string;
  readonly #stopListening: () => void;
  #report: SinkReport | undefined;
  #queue: string[] = [];
  #queuedBytes = 0;
  #lost = 0;
  #sending: Promise<void> | undefined;
  #closed = false;

  constructor(options: EventStreamSinkOptions) {
    this.#options = options;
    this.#maxQueued = options.maxQueued ?? 10_000;
    this.#maxQueuedBytes = options.maxQueuedBytes ?? 16 * 1024 * 1024;
    this.#key = streamKeyOf(options.prefix);
    this.#stopListening = options.redis.onChange(() => this.#send());
  }

  /** Events that wait. */
  get queued(): number {
    return this.#queue.length;
  }

  attach(report: SinkReport): void {
    this.#report = report;
  }

  /** @throws CoupletError `CPL_EVENT_LOST` where the queue is full */
  write(_event: EventRecord, json: string): void {
    const bytes = Buffer.byteLength(json);
    if (this.#closed || this.#queue.length >= this.#maxQueued || this.#queuedBytes + bytes > this.#maxQueuedBytes) {
      this.#lost++;
      throw new CoupletError('CPL_EVENT_LOST', `${this.#queue.length} events wait for Redis; one more is lost`);
    }
    this.#queue.push(json);
    this.#queuedBytes += bytes;
    this.#send();
  }

  /** Sends what waits, where Redis is up. @throws CoupletError `CPL_EVENT_LOST` with the number that did not get through */
  async close(): Promise<void> {
    this.#closed = true;
    this.#send();
    await this.#sending;
    this.#stopListening();
    const missing = this.#queue.length + this.#lost;
    this.#queue = [];
    if (missing > 0) throw new CoupletError('CPL_EVENT_LOST', `${missing} event(s) are not in the Redis stream`);
  }

  #send(): void {
    if (this.#sending !== undefined || this.#queue.length === 0 || !this.#options.redis.isUp) return;
    this.#sending = this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  }

  async #sendAll(): Promise<void> {
    // Later in this turn: events of one turn go in one batch.
    await Promise.resolve();
    while (this.#queue.length > 0 && this.#options.redis.isUp) {
      const batch = this.#queue.splice(0, batchSize);
      for (const json of batch) this.#queuedBytes -= Buffer.byteLength(json);
      const results = await Promise.allSettled(batch.map((json) => this.#add(json)));
      const failed = results.filter((result) => result.status === 'rejected');
      this.#lost += failed.length;
      if (failed.length > 0) this.#report?.failed(failed[0]!.reason);
      else if (this.#lost > 0) {
        const count = this.#lost;
        this.#lost = 0;
        this.#report?.lost(count);
      }
    }
  }

  #add(json: string): Promise<unknown> {
    const { redis, sealer, boot, maxEvents } = this.#options;
    const fields = ['boot', boot, 'json', sealer.seal(this.#key, json)];
    return redis.command(this.#key, ['XADD', this.#key, 'MAXLEN', '~', String(maxEvents), '*', ...fields]);
  }
}
