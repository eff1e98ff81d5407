import type { Clock } from '../core/clock.ts';
import type { CoupletError } from '../core/errors.ts';
import type { ForwardConnection, ForwardEvents, Listener } from './forward.ts';

const refreshMs = 500;

/** Shows what forwards do, for a program or for a person. */
export interface ForwardStatus extends ForwardEvents {
  listening(listener: Listener): void;
  end(): void;
}

/** One JSON line for each thing that happens. */
export function plainStatus(print: (line: string) => void): ForwardStatus {
  const line = (fields: Record<string, unknown>) => print(JSON.stringify(fields));
  return {
    listening: ({ address, target }) => line({ msg: 'listening', address, target }),
    opened: ({ target }) => line({ msg: 'opened', target }),
    closed: ({ target, bytesUp, bytesDown }, error) =>
      line({ msg: 'closed', target, bytesUp, bytesDown, ...(error && { error: error.message, code: error.code }) }),
    end: () => undefined,
  };
}

/** One line that is written over again: connections and throughput. What does not end well stays above it. */
export class TerminalStatus implements ForwardStatus {
  readonly #write: (text: string) => void;
  readonly #clock: Clock;
  readonly #open = new Set<ForwardConnection>();
  readonly #timer: NodeJS.Timeout;
  #connections = 0;
  /** Of connections that are closed. */
  #closedUp = 0;
  #closedDown = 0;
  #last = { up: 0, down: 0, atMs: 0 };

  constructor(write: (text: string) => void, clock: Clock) {
    this.#write = write;
    this.#clock = clock;
    this.#last.atMs = clock.monotonicMs();
    this.#timer = setInterval(() => this.#refresh(), refreshMs);
  }

  listening({ address, target }: Listener): void {
    this.#above(`listening on ${address}, to ${target}`);
  }

  opened(connection: ForwardConnection): void {
    this.#connections++;
    this.#open.add(connection);
  }

  closed(connection: ForwardConnection, error: CoupletError | undefined): void {
    this.#open.delete(connection);
    this.#closedUp += connection.bytesUp;
    this.#closedDown += connection.bytesDown;
    if (error !== undefined) this.#above(`${connection.target}: ${error.message}`);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#write('\r\x1b[K');
  }

  #above(text: string): void {
    this.#write(`\r\x1b[K${text}\n`);
  }

  #refresh(): void {
    let up = this.#closedUp;
    let down = this.#closedDown;
    for (const connection of this.#open) {
      up += connection.bytesUp;
      down += connection.bytesDown;
    }
    const atMs = this.#clock.monotonicMs();
    const seconds = Math.max(atMs - this.#last.atMs, 1) / 1000;
    const rates = `up ${rate((up - this.#last.up) / seconds)}, down ${rate((down - this.#last.down) / seconds)}`;
    this.#last = { up, down, atMs };
    this.#write(`\r\x1b[K${this.#open.size} open, ${this.#connections} in all; ${rates}`);
  }
}

function rate(bytesPerSecond: number): string {
  let value = bytesPerSecond;
  for (const unit of ['B/s', 'KiB/s', 'MiB/s']) {
    if (value < 1024) return `${value.toFixed(value < 10 && unit !== 'B/s' ? 1 : 0)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} GiB/s`;
}
