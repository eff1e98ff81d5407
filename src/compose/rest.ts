import type { Events } from '../audit/events.ts';
import type { Clock } from '../core/clock.ts';
import type { Listener } from '../server/app.ts';
import { DescriptorWatch } from '../server/descriptor-watch.ts';

export interface RestParts {
  /** Where halves come, and in a cluster the links of other servers. */
  readonly listeners: readonly Listener[];
  readonly events: Events;
  readonly clock: Clock;
  /** `HOST:PORT` of the first listener. */
  readonly address: string;
  readonly onProblem: (error: unknown, message: string) => void;
}

const tryAgainMs = 1000;

/** The listeners rest while there are no file descriptors left [R41]. */
export class Rest {
  /** Times it rested. */
  count = 0;
  readonly #parts: RestParts;
  readonly #watch: DescriptorWatch;
  #sinceMs: number | undefined;
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

  stop(): void {
    this.#stopped = true;
    this.#watch.stop();
  }

  #rest(reason: string): void {
    const { clock, listeners, events, address: listen } = this.#parts;
    this.#sinceMs = clock.monotonicMs();
    this.count++;
    for (const listener of listeners) listener.rest();
    events.listenerResting({ listen, reason });
  }

  #wake(): void {
    const since = this.#sinceMs;
    if (since === undefined || this.#stopped) return;
    const { clock, listeners, events, address: listen, onProblem } = this.#parts;
    try {
      for (const listener of listeners) listener.wake();
    } catch (error) {
      // Somebody else may have the port for a moment.
      onProblem(error, 'a listener could not wake');
      setTimeout(() => this.#wake(), tryAgainMs).unref();
      return;
    }
    this.#sinceMs = undefined;
    events.listenerRecovered({ listen, restedMs: clock.monotonicMs() - since });
  }
}
