import type { Events } from '../audit/events.ts';
import type { Clock } from '../core/clock.ts';
import type { Listener } from '../server/app.ts';
import { DescriptorWatch } from '../server/descriptor-watch.ts';

type Resting = Pick<Listener, 'rest' | 'wake' | 'listening'>;

export interface RestParts {
  /** Where halves come, and in a cluster the links of other servers. */
  readonly listeners: readonly Resting[];
  readonly events: Events;
  readonly clock: Clock;
  /** `HOST:PORT` of the first listener. */
  readonly address: string;
  readonly onProblem: (error: unknown, message: string) => void;
}

const tryAgainMs = 1000;

/** The listeners rest while there are no file descriptors left [R41]. */
export class Rest {
  /** Times they rested. */
  count = 0;
  readonly #parts: RestParts;
  readonly #watch: DescriptorWatch;
  /** Monotonic ms since when they rest, or the first one cannot be opened again. */
  #sinceMs: number | undefined;
  /** Those that could not be opened again, as was told. */
  readonly #stuck = new Set<Resting>();
  #again: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(parts: RestParts) {
    this.#parts = parts;
    this.#watch = new DescriptorWatch(
      (reason) => this.#rest(reason),
      () => this.#wake(),
    );
  }

  get isResting(): boolean {
    return this.#sinceMs !== undefined;
  }

  /** The server drains: no more halves come, but other servers may still have something to ask. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    clearTimeout(this.#again);
    this.#watch.stop();
    for (const listener of this.#parts.listeners.slice(1)) this.#open(listener);
  }

  #rest(reason: string): void {
    clearTimeout(this.#again);
    const { clock, listeners, events, address: listen } = this.#parts;
    this.#sinceMs ??= clock.monotonicMs();
    this.count++;
    for (const listener of listeners) listener.rest();
    events.listenerResting({ listen, reason });
  }

  #wake(): void {
    if (this.#stopped) return;
    const { clock, listeners, events, address: listen } = this.#parts;
    for (const listener of listeners) this.#open(listener);
    if (this.#stuck.size > 0) this.#again = setTimeout(() => this.#wake(), tryAgainMs).unref();
    const since = this.#sinceMs;
    if (since === undefined || !listeners[0]!.listening) return;
    this.#sinceMs = undefined;
    events.listenerRecovered({ listen, restedMs: clock.monotonicMs() - since });
  }

  /** Somebody else may have the port for a moment. */
  #open(listener: Resting): void {
    try {
      listener.wake();
      this.#stuck.delete(listener);
    } catch (error) {
      if (!this.#stuck.has(listener)) this.#parts.onProblem(error, 'a listener could not wake, and tries again');
      this.#stuck.add(listener);
    }
  }
}
