import type { IndexEntry } from './index-block.ts';
import type { Block } from './reader.ts';
import { defaultTerminalSize, ScreenChangeFinder, type TerminalSize, terminalEvent } from './terminal.ts';

const maxKeyframes = 50_000;
const firstGapMs = 1000;

/**
 * Where one can begin to play a terminal session [M7]: at each block that clears or resizes the screen. A clear is
 * where a moment's screen can be rebuilt from; behind the return from the alternate screen that is the last clear
 * before it.
 */
export class TerminalKeyframes {
  readonly list: IndexEntry[] = [];
  readonly #finder = new ScreenChangeFinder();
  readonly #max: number;
  /** Of all that fall into one such span of time only the last is kept; 0: all. */
  #gapMs = 0;
  #size: TerminalSize = defaultTerminalSize;
  #main: IndexEntry = [0, defaultTerminalSize.columns, defaultTerminalSize.rows];
  #alternate: IndexEntry | undefined;

  constructor(max = maxKeyframes) {
    this.#max = max;
  }

  /** `ms`: milliseconds from the first data block; `pieces`: the block's whole data. */
  feed(block: Block, pointer: number, ms: number, pieces: Iterable<Buffer>): void {
    const event = terminalEvent(block);
    if (event?.kind === 'size') this.#resize(event.size, pointer, ms);
    else if (event?.kind === 'output') {
      for (const piece of pieces) {
        for (const change of this.#finder.feed(piece, pointer)) this.#change(change.kind, change.pointer, ms);
      }
    }
  }

  /** `[pointer, columns, rows]`: played from there on, the screen is what it is now. */
  entry(): IndexEntry {
    return this.#alternate ?? this.#main;
  }

  #resize(size: TerminalSize, pointer: number, ms: number): void {
    const { columns, rows } = this.#size;
    if (this.list.length > 0 && size.columns === columns && size.rows === rows) return;
    this.#size = size;
    this.#add(pointer, ms);
  }

  #change(kind: 'clear' | 'reset' | 'alternate' | 'main', pointer: number, ms: number): void {
    if (kind === 'main') {
      this.#alternate = undefined;
      return;
    }
    const entry = [pointer, this.#size.columns, this.#size.rows];
    if (kind === 'alternate' || (kind === 'clear' && this.#alternate !== undefined)) this.#alternate = entry;
    else {
      this.#alternate = undefined;
      this.#main = entry;
    }
    this.#add(pointer, ms);
  }

  #add(pointer: number, ms: number): void {
    const last = this.list.at(-1);
    if (last !== undefined && (last[0] === pointer || this.#inOneSpan(last, ms))) this.list.pop();
    this.list.push([pointer, ms, this.#size.columns, this.#size.rows]);
    while (this.list.length > this.#max) this.#thin();
  }

  #inOneSpan(before: IndexEntry, ms: number): boolean {
    return this.#gapMs > 0 && Math.floor(before[1]! / this.#gapMs) === Math.floor(ms / this.#gapMs);
  }

  #thin(): void {
    this.#gapMs = this.#gapMs === 0 ? firstGapMs : this.#gapMs * 2;
    let kept = 0;
    for (const [at, keyframe] of this.list.entries()) {
      const next = this.list[at + 1];
      if (next === undefined || !this.#inOneSpan(keyframe, next[1]!)) this.list[kept++] = keyframe;
    }
    this.list.length = kept;
  }
}
