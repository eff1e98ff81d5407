import { CoupletError } from '../core/errors.ts';
import type { Head } from './event-file.ts';

/** Most heads that wait for the witness, those of the newest files; the heads file keeps as many. */
const MAX_WAITING = 256;

/** A second place where heads are noted, out of reach of who can only write to the events folder: the directory [R31]. */
export interface HeadsWitness {
  /** What it is called where it vouches for something, as `the directory`. */
  readonly name: string;
  /** Notes heads of the log with this id; never lowers one. May reject or never settle. */
  note(log: string, heads: readonly Head[]): Promise<void>;
  /** The heads of a log that it knows; none for a log that it does not know. May reject or never settle. */
  list(log: string): Promise<readonly Head[]>;
  /** Told of each attempt that failed; it is made again at the next upkeep of the log. */
  failed(error: unknown): void;
}

/** Hands heads to a witness, for whom nothing waits [R32]: heads that were not taken are handed on again later. */
export class HeadsHandover {
  readonly #log: string;
  readonly #witness: HeadsWitness;
  readonly #patienceMs: number;
  readonly #waiting = new Map<number, Head>();
  #handing: Promise<void> | undefined;

  /** @param patienceMs an attempt that takes longer counts as failed */
  constructor(log: string, witness: HeadsWitness, patienceMs: number) {
    this.#log = log;
    this.#witness = witness;
    this.#patienceMs = patienceMs;
  }

  /** Adds a head that is on stable storage, for the next attempt. */
  add(head: Head): void {
    this.#waiting.set(head.file, head);
    if (this.#waiting.size > MAX_WAITING) this.#waiting.delete(Math.min(...this.#waiting.keys()));
  }

  /** Hands on what waits, unless an attempt is under way. Never throws. */
  hand(): void {
    this.#handing ??= this.#hand().finally(() => {
      this.#handing = undefined;
    });
  }

  /** Hands on what still waits; resolves when it was taken, or not within `withinMs`. Never rejects. */
  async close(withinMs: number): Promise<void> {
    const all = async () => {
      // One under way may have begun before the last head was there.
      await this.#handing;
      this.hand();
      await this.#handing;
    };
    const late = () => {
      if (this.#waiting.size === 0) return;
      this.#witness.failed(lateError(this.#witness, withinMs));
    };
    await within(all(), withinMs).catch(late);
  }

  /** Never rejects. */
  async #hand(): Promise<void> {
    while (this.#waiting.size > 0) {
      const heads = [...this.#waiting.values()];
      try {
        await within(this.#witness.note(this.#log, heads), this.#patienceMs);
      } catch (error) {
        this.#witness.failed(error === LATE ? lateError(this.#witness, this.#patienceMs) : error);
        return;
      }
      for (const head of heads) {
        if (this.#waiting.get(head.file) === head) this.#waiting.delete(head.file);
      }
    }
  }
}

/** What a witness knows of a log; nothing where it cannot say, or not within `patienceMs`. Never rejects. */
export async function knownHeads(log: string, witness: HeadsWitness, patienceMs: number): Promise<readonly Head[]> {
  try {
    return await within(witness.list(log), patienceMs);
  } catch (error) {
    witness.failed(error === LATE ? lateError(witness, patienceMs) : error);
    return [];
  }
}

const LATE: unique symbol = Symbol('late');

function lateError({ name }: HeadsWitness, ms: number): CoupletError {
  return new CoupletError('CPL_EVENT_HEADS', `${name} did not answer about the event log's heads within ${ms} ms`);
}

/** Rejects with LATE where `work` takes longer; what comes of it then is nobody's. */
async function within<T>(work: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(LATE), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
