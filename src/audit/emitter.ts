import type { Clock } from '../core/clock.ts';
import { type EventName, eventKinds } from './codes.ts';
import { FanOut, type SinkFailureListener } from './fan-out.ts';
import { toSafeJson } from './safe-text.ts';
import type { EventRecord, EventSink, EventValue } from './sink.ts';

/** Longest string in an event, in UTF-16 units; longer ones are cut and end in an ellipsis. */
const MAX_TEXT = 1_024;

export interface EventsOptions {
  readonly clock: Clock;
  readonly sinks: readonly EventSink[];
  readonly onSinkFailure?: SinkFailureListener;
}

export type Fields = Readonly<Record<string, EventValue | undefined>>;

function clip(text: string): string {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT - 1)}…` : text;
}

function clean(value: EventValue): EventValue {
  if (typeof value === 'string') return clip(value);
  if (typeof value === 'object') return value.map((item) => (typeof item === 'string' ? clip(item) : item));
  return value;
}

/** What makes an event of its fields, counts it and hands it to the sinks. Nothing here throws or waits (R32, fault 51). */
export abstract class Emitter {
  protected readonly clock: Clock;
  readonly #fanOut: FanOut;
  readonly #counts = new Map<string, number>();
  #notMade = 0;

  constructor(options: EventsOptions) {
    this.clock = options.clock;
    for (const kind of Object.values(eventKinds)) this.#counts.set(kind.code, 0);
    const lost = (sink: string, count: number) => this.eventsLost(sink, count);
    this.#fanOut = new FanOut(options.sinks, options.onSinkFailure ?? (() => {}), lost);
  }

  /** What a sink missed is itself on record, also in that sink. */
  abstract eventsLost(sink: string, count: number): void;

  /** Events per code since the start, for `couplet_events_total{code}`; every known code is there, from 0. */
  get counts(): ReadonlyMap<string, number> {
    return this.#counts;
  }

  /**
   * Failures per sink since the start, for `couplet_event_sink_failures_total{sink}`. `events` counts events that
   * could not even be made (a fault in the server).
   */
  sinkFailures(): Map<string, number> {
    return this.#fanOut.failures().set('events', this.#notMade);
  }

  /**
   * Resolves when every event emitted so far is on stable storage in each sink that can promise it; rejects where one
   * cannot. Strict mode waits for it before the first relayed byte (R32); the caller brings its own deadline.
   */
  async flushDurable(): Promise<void> {
    await this.#fanOut.flushDurable();
  }

  /** Closes the sinks; one that has not closed after `deadlineMs` is given up on and counted as failed. */
  protected async closeSinks(deadlineMs: number): Promise<void> {
    await this.#fanOut.close(deadlineMs);
  }

  protected emit(name: EventName, makeFields: () => Fields): void {
    const { code } = eventKinds[name];
    let event: EventRecord;
    let json: string;
    try {
      const record: Record<string, EventValue> = { time: new Date(this.clock.nowMs()).toISOString(), code };
      const fields = makeFields();
      for (const field in fields) {
        const value = fields[field];
        if (value !== undefined) record[field] = clean(value);
      }
      event = record as unknown as EventRecord;
      json = toSafeJson(event);
      this.#counts.set(code, (this.#counts.get(code) ?? 0) + 1);
    } catch (error) {
      this.#notMade++;
      this.#fanOut.tell('events', error);
      return;
    }
    this.#fanOut.hand(event, json);
  }
}
