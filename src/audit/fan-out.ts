import { CoupletError } from '../core/errors.ts';
import type { EventRecord, EventSink } from './sink.ts';

/** Promises of one sink that may be open at once; past it the sink counts as hanging and gets no further events. */
const MAX_UNSETTLED = 1_000;

/** Told of every failure that is counted; for a log line. What it throws is ignored. */
export type SinkFailureListener = (sink: string, error: unknown) => void;

interface AttachedSink {
  readonly sink: EventSink;
  unsettled: number;
  failures: number;
  /** Events not handed over while too many were under way. */
  dropped: number;
}

/** Hands each event to every sink. A sink that throws, rejects or hangs is counted, and nobody waits for it (fault 51). */
export class FanOut {
  readonly #sinks: readonly AttachedSink[];
  readonly #listener: SinkFailureListener;
  readonly #lost: (sink: string, count: number) => void;

  /** @param lost called when a sink works again and events are missing from it. */
  constructor(sinks: readonly EventSink[], listener: SinkFailureListener, lost: (sink: string, count: number) => void) {
    this.#listener = listener;
    this.#lost = lost;
    this.#sinks = sinks.map((sink) => ({ sink, unsettled: 0, failures: 0, dropped: 0 }));
    for (const attached of this.#sinks) {
      attached.sink.attach?.({
        failed: (error) => this.#failed(attached, error),
        lost: (count) => this.#lost(attached.sink.name, count),
      });
    }
  }

  /** Failures since the start by sink. */
  failures(): Map<string, number> {
    return new Map(this.#sinks.map(({ sink, failures }) => [sink.name, failures]));
  }

  hand(event: EventRecord, json: string): void {
    for (const attached of this.#sinks) this.#handTo(attached, event, json);
  }

  tell(sink: string, error: unknown): void {
    try {
      this.#listener(sink, error);
    } catch {
      // A listener that throws must not stop a session; the failure itself is already counted.
    }
  }

  async flushDurable(): Promise<void> {
    await Promise.all(this.#sinks.map(({ sink }) => sink.flushDurable?.()));
  }

  /** Never rejects; a sink not closed after `deadlineMs` is given up on and counted. */
  async close(deadlineMs: number): Promise<void> {
    await Promise.all(this.#sinks.map((attached) => this.#closeOne(attached, deadlineMs)));
  }

  #handTo(attached: AttachedSink, event: EventRecord, json: string): void {
    if (attached.unsettled >= MAX_UNSETTLED) {
      attached.dropped++;
      const text = `the sink ${attached.sink.name} hangs: ${MAX_UNSETTLED} events are under way; one more is lost`;
      this.#failed(attached, new CoupletError('CPL_EVENT_LOST', text));
      return;
    }
    try {
      const result: unknown = attached.sink.write(event, json);
      if (!(result instanceof Promise)) return;
      attached.unsettled++;
      result.then(
        () => this.#settled(attached),
        (error: unknown) => {
          this.#failed(attached, error);
          this.#settled(attached);
        },
      );
    } catch (error) {
      this.#failed(attached, error);
    }
  }

  #settled(attached: AttachedSink): void {
    attached.unsettled--;
    if (attached.dropped === 0 || attached.unsettled > MAX_UNSETTLED / 2) return;
    const count = attached.dropped;
    attached.dropped = 0;
    this.#lost(attached.sink.name, count);
  }

  async #closeOne(attached: AttachedSink, deadlineMs: number): Promise<void> {
    const { sink } = attached;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      const text = `the sink ${sink.name} is not closed within ${deadlineMs} ms`;
      timer = setTimeout(() => reject(new CoupletError('CPL_EVENT_LOST', text)), deadlineMs);
    });
    try {
      await Promise.race([sink.close?.(), late]);
    } catch (error) {
      this.#failed(attached, error);
    } finally {
      clearTimeout(timer);
    }
  }

  #failed(attached: AttachedSink, error: unknown): void {
    attached.failures++;
    this.tell(attached.sink.name, error);
  }
}
