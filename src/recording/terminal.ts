import { blockFlag, blockType } from './format.ts';
import type { Block } from './reader.ts';

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** What a terminal has until the user half tells its size. */
export const defaultTerminalSize: TerminalSize = { columns: 80, rows: 25 };

export type TerminalEvent =
  /** The device's output: bytes of UTF-8, of which a character may be split between two blocks. */
  | { readonly kind: 'output'; readonly data: Buffer }
  /** What the user typed. */
  | { readonly kind: 'input'; readonly data: Buffer }
  | { readonly kind: 'size'; readonly size: TerminalSize };

const maxCells = 10_000;
/** Longer texts are no control messages. */
const maxControlBytes = 4096;

/**
 * What a block means on a terminal session; `undefined` for control messages and blocks of other types. Sizes come as
 * texts of the user half, `{"type":"options"|"termsize","cols":…,"rows":…}`.
 */
export function terminalEvent(block: Block): TerminalEvent | undefined {
  if (block.type !== blockType.data) return undefined;
  const { data, flags } = block;
  const fromUser = (flags & blockFlag.user) !== 0;
  if ((flags & blockFlag.binary) !== 0) return { kind: fromUser ? 'input' : 'output', data };
  const control = parseControl(data);
  if (!fromUser) return control === undefined ? { kind: 'output', data } : undefined;
  // Other texts of the user half are control messages as well: the protocol's number comes as one.
  const size = control === undefined ? undefined : sizeIn(control);
  return size === undefined ? undefined : { kind: 'size', size };
}

function parseControl(data: Buffer): Record<string, unknown> | undefined {
  if (data[0] !== 0x7b || data.length > maxControlBytes) return undefined;
  try {
    const value = JSON.parse(data.toString('utf8')) as Record<string, unknown>;
    return 'ctrlChannel' in value || 'type' in value ? value : undefined;
  } catch {
    return undefined;
  }
}

function sizeIn({ type, cols, rows }: Record<string, unknown>): TerminalSize | undefined {
  if (type !== 'options' && type !== 'termsize') return undefined;
  return isCount(cols) && isCount(rows) ? { columns: cols, rows } : undefined;
}

function isCount(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) > 0 && (value as number) <= maxCells;
}

/**
 * Erase display (2, or from the top left corner), reset, and the switch to the alternate screen: behind each of these
 * the screen holds nothing of before. The switch back shows what was there before the alternate screen.
 */
const screenChange = /\x1b(?:(c)|\[2J|\[(?:1;1|;|1)?[Hf]\x1b\[0?J|\[\?(?:47|1047|1049)([hl]))/g;
/** The longest sequence of {@link screenChange}, less one. */
const carryBytes = 10;

export interface ScreenChange {
  readonly kind: 'clear' | 'reset' | 'alternate' | 'main';
  /** Of the block in which the sequence begins. */
  readonly pointer: number;
}

/** Finds screen clears and switches in a terminal's output, also where a sequence is split between blocks. */
export class ScreenChangeFinder {
  /** The last bytes of the output before, and where their blocks begin. */
  #carry = '';
  #carryPointers: number[] = [];

  /** The changes whose sequence ends in this output, in order. To be run to its end. */
  *feed(data: Buffer, pointer: number): Generator<ScreenChange, void> {
    const text = this.#carry + data.toString('latin1');
    const carried = this.#carry.length;
    for (const match of text.matchAll(screenChange)) {
      const { index } = match;
      // What ends in the carried part was found before.
      if (index + match[0].length <= carried) continue;
      const kind = match[1] ? 'reset' : match[2] === 'h' ? 'alternate' : match[2] === 'l' ? 'main' : 'clear';
      yield { kind, pointer: index < carried ? this.#carryPointers[index]! : pointer };
    }
    const kept = Math.min(carryBytes, text.length);
    const fresh = Math.min(kept, data.length);
    const old = kept - fresh;
    this.#carryPointers = [
      ...this.#carryPointers.slice(this.#carryPointers.length - old),
      ...Array<number>(fresh).fill(pointer),
    ];
    this.#carry = text.slice(text.length - kept);
  }
}
