import { INDEX_INTERVAL_SECONDS } from './format.ts';

/** `[pointer, width, height, block pointers…]`; a pointer is a block's offset from the first data block [M7]. */
export type IndexEntry = readonly number[];

/** Longer indexes than this are not read. */
export const maxIndexBytes = 64 * 1024 * 1024;

/** The JSON of a TYPE 4 block. */
export interface RecordingIndex {
  /** Seconds from one entry to the next; entry n, from 1, belongs to `indexStartTime` + n × `indexInterval`. */
  readonly indexInterval: number;
  /** TIME of the first data block, milliseconds since 1970-01-01 UTC. */
  readonly indexStartTime: number;
  readonly indexes: readonly IndexEntry[];
  /** Terminal sessions: `[pointer, milliseconds from indexStartTime, columns, rows]`. */
  readonly keyframes?: readonly IndexEntry[];
}

/**
 * How often the signs of JSON's structure may come: what is parsed takes many times their bytes of memory, and an index
 * needs few of them.
 */
const maxSigns: ReadonlyMap<number, number> = new Map(
  [
    ['[', 250_000],
    [',', 8_000_000],
    ['{', 1000],
    [':', 1000],
    ['"', 2000],
  ].map(([sign, count]) => [(sign as string).charCodeAt(0), count as number]),
);

function isTooLarge(data: Buffer): boolean {
  const counts = new Uint32Array(256);
  for (const byte of data) counts[byte]!++;
  return [...maxSigns].some(([byte, most]) => counts[byte]! > most);
}

/** An index block's data, or what is wrong with it. `dataBytes`: length of the blocks that pointers may name. */
export function parseIndex(data: Buffer, dataBytes: number): RecordingIndex | string {
  if (isTooLarge(data)) return 'the index has more parts than an index has';
  let value: unknown;
  try {
    value = JSON.parse(data.toString('latin1'));
  } catch {
    return 'the index holds no JSON';
  }
  if (typeof value !== 'object' || value === null) return 'the index holds no object';
  const { indexInterval, indexStartTime, indexes, keyframes } = value as Record<string, unknown>;
  if (!isCount(indexInterval) || indexInterval === 0) return 'the index has no interval';
  if (!isCount(indexStartTime)) return 'the index has no start time';
  if (!Array.isArray(indexes)) return 'the index has no entries';
  const fault = entriesFault('entry', indexes, dataBytes, 3) ?? entriesFault('keyframe', keyframes, dataBytes, 4);
  if (fault !== undefined) return fault;
  return {
    indexInterval,
    indexStartTime,
    indexes: indexes as IndexEntry[],
    ...(keyframes !== undefined && { keyframes: keyframes as IndexEntry[] }),
  };
}

function entriesFault(name: string, entries: unknown, dataBytes: number, least: number): string | undefined {
  if (entries === undefined) return undefined;
  if (!Array.isArray(entries)) return `the index's ${name} list is none`;
  const number = entries.findIndex((entry) => !isEntry(entry, dataBytes, least));
  return number < 0 ? undefined : `the index has a bad ${name}, number ${number + 1}`;
}

function isEntry(entry: unknown, dataBytes: number, least: number): boolean {
  if (!Array.isArray(entry) || entry.length < least) return false;
  return entry.every((value, at) => isCount(value) && (value < dataBytes || (at > 0 && at < least)));
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Compares an index's pointers with the blocks, which come in order. */
export class PointerCheck {
  readonly #pointers: Float64Array;
  #at = 0;

  constructor({ indexes, keyframes = [] }: RecordingIndex) {
    const pointers = new Set<number>();
    for (const entry of indexes) for (const [at, value] of entry.entries()) if (at === 0 || at > 2) pointers.add(value);
    for (const [pointer] of keyframes) pointers.add(pointer!);
    this.#pointers = Float64Array.from(pointers).sort();
  }

  /** The next data block's pointer. Returns a pointer at which no data block begins, where it has gone past one. */
  pass(pointer: number): number | undefined {
    const next = this.#pointers[this.#at];
    if (next === undefined || next > pointer) return undefined;
    this.#at++;
    return next < pointer ? next : undefined;
  }

  /** Behind the last block: a pointer that no block had. */
  rest(): number | undefined {
    return this.#pointers[this.#at];
  }
}

/** What keeps an index small, however long the recording is. */
export interface IndexLimits {
  readonly maxEntries: number;
  /** In all entries together: pointers, widths and heights. */
  readonly maxNumbers: number;
}

const defaultLimits: IndexLimits = { maxEntries: 50_000, maxNumbers: 1_000_000 };

/** An index's entries, one for each interval. The interval doubles, and every other entry goes, where a limit is passed. */
export class IndexEntries {
  readonly startMs: number;
  intervalSeconds = INDEX_INTERVAL_SECONDS;
  list: IndexEntry[] = [];
  #timeMs: number;
  #numbers = 0;
  readonly #limits: IndexLimits;

  constructor(startMs: number, limits: IndexLimits = defaultLimits) {
    this.startMs = startMs;
    this.#timeMs = startMs;
    this.#limits = limits;
  }

  /** Of the blocks so far, from the first. */
  get elapsedMs(): number {
    return this.#timeMs - this.startMs;
  }

  /** Before the block of time `timeMs` is looked at: adds `entry()` for each interval that is over by then. */
  advance(timeMs: number, entry: () => IndexEntry): void {
    // The clock of a strange file may step back.
    this.#timeMs = Math.max(this.#timeMs, timeMs);
    if (this.#due() <= this.list.length) return;
    const made = entry();
    while (this.#due() > this.list.length) {
      this.list.push(made);
      this.#numbers += made.length;
      const { maxEntries, maxNumbers } = this.#limits;
      if (this.list.length > maxEntries || this.#numbers > maxNumbers) this.#halve();
    }
  }

  #due(): number {
    return Math.floor((this.#timeMs - this.startMs) / (this.intervalSeconds * 1000));
  }

  #halve(): void {
    this.intervalSeconds *= 2;
    this.list = this.list.filter((_, at) => at % 2 === 1);
    this.#numbers = this.list.reduce((sum, { length }) => sum + length, 0);
  }
}
