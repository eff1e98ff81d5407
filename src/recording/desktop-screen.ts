import { type DesktopCommand, desktopCommands } from './desktop-commands.ts';

/** Most blocks an index entry names: more are no screen that anybody draws. */
const maxBlocksPerEntry = 20_000;
/** Together they bound the model's memory to a few tens of megabytes. */
const maxPieces = 200_000;
const maxOrigins = 200_000;
const maxCells = 4096;
const smallestCellShift = 6;
/** Pieces looked at: what each byte of a recording allows, and how much may be saved up. */
const workPerByte = 8;
const maxWork = 10_000_000;

/**
 * What pixels were drawn by: a block, and where it drew them by copying, what the copied pixels were drawn by (without
 * it: nothing). Counted by pieces and by other origins that stand on it; with no more of them it is gone.
 */
interface Origin {
  readonly block: number;
  readonly under: Origin | undefined;
  uses: number;
}

/** A rectangle of pixels drawn by one origin; right and bottom are exclusive. */
interface Piece {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
  readonly origin: Origin;
}

type Area = Omit<Piece, 'origin'>;

/**
 * Which blocks draw the pixels that a desktop's screen shows [M7]: exactly those from which, drawn in their order, the
 * screen is rebuilt. The screen is divided into cells, each with its visible pieces, which do not overlap. Pictures
 * count as opaque. A block that is not understood stays until the screen is emptied or drawn over as a whole.
 *
 * Memory and time are bounded whatever a recording holds [M10]: where a limit is reached the model gives up
 * (`blocks()` is `undefined`) until the screen is next emptied or drawn over as a whole.
 */
export class DesktopScreen {
  width = 0;
  height = 0;
  #cells: Piece[][] = [];
  #cellShift = smallestCellShift;
  #columns = 0;
  /** Origins by block, in the order of the blocks: a block comes in only while it is fed. */
  readonly #blocks = new Map<number, number>();
  #pieces = 0;
  #origins = 0;
  #work = maxWork;
  /** The last block that was kept because it is not understood. */
  #kept: number | undefined;
  #isLost = false;

  /** The device's next binary block. `whole`: `data` is all of it. */
  feed(block: number, data: Buffer, whole = true): void {
    this.#work = Math.min(maxWork, this.#work + data.length * workPerByte);
    for (const command of desktopCommands(data)) this.#run(block, command);
    if (!whole) this.#lose();
  }

  /** The blocks that make up the screen, in order; `undefined`: not known. */
  blocks(): number[] | undefined {
    return this.#isLost || this.#blocks.size > maxBlocksPerEntry ? undefined : [...this.#blocks.keys()];
  }

  #run(block: number, command: DesktopCommand): void {
    if (command.kind === 'size') {
      this.width = command.width;
      this.height = command.height;
      this.#empty();
    } else if (command.kind === 'tile') this.#tile(block, command);
    else if (this.#isLost) return;
    else if (command.kind === 'copy') this.#copy(block, command);
    else this.#keep(block);
  }

  #keep(block: number): void {
    if (this.#kept === block) return;
    this.#kept = block;
    this.#makeOrigin(block, undefined).uses++;
  }

  #tile(block: number, { x, y, width, height }: Extract<DesktopCommand, { kind: 'tile' }>): void {
    const area = { left: x, top: y, right: Math.min(x + width, this.width), bottom: Math.min(y + height, this.height) };
    if (area.left >= area.right || area.top >= area.bottom) return;
    if (x === 0 && y === 0 && area.right === this.width && area.bottom === this.height) this.#empty();
    if (!this.#isLost) this.#paint(area, this.#makeOrigin(block, undefined));
  }

  /** Reads all of the source before it writes: the two may overlap. */
  #copy(block: number, command: Extract<DesktopCommand, { kind: 'copy' }>): void {
    const { fromX, fromY, toX, toY, width, height } = command;
    const right = Math.min(fromX + width, this.width, fromX + this.width - toX);
    const bottom = Math.min(fromY + height, this.height, fromY + this.height - toY);
    const x = toX - fromX;
    const y = toY - fromY;
    if (fromX >= right || fromY >= bottom || (x === 0 && y === 0)) return;
    const source = { left: fromX, top: fromY, right, bottom };
    const origins = new Map<Origin, Origin>();
    const copied: Piece[] = [];
    for (const cell of this.#cellsOf(source)) {
      const pieces = this.#cells[cell] ?? [];
      if (!this.#spend(pieces.length + 1)) return;
      for (const piece of pieces) {
        const part = overlap(piece, source);
        if (part === undefined) continue;
        let origin = origins.get(piece.origin);
        if (origin === undefined) {
          origin = this.#makeOrigin(block, piece.origin);
          origins.set(piece.origin, origin);
        }
        copied.push({ ...moved(part, x, y), origin });
      }
    }
    if (this.#isLost) return;
    // Where nothing was drawn yet, nothing is copied over what is there.
    this.#paint(moved(source, x, y), this.#makeOrigin(block, undefined));
    for (const piece of copied) {
      if (this.#isLost) return;
      this.#paint(piece, piece.origin);
    }
  }

  #paint({ left, top, right, bottom }: Area, origin: Origin): void {
    const shift = this.#cellShift;
    for (let row = top >> shift; row <= (bottom - 1) >> shift; row++) {
      for (let column = left >> shift; column <= (right - 1) >> shift; column++) {
        const piece = {
          left: Math.max(left, column << shift),
          top: Math.max(top, row << shift),
          right: Math.min(right, (column + 1) << shift),
          bottom: Math.min(bottom, (row + 1) << shift),
          origin,
        };
        this.#put(row * this.#columns + column, piece);
        if (this.#isLost) return;
      }
    }
  }

  /** A piece that lies in one cell, over what is there. */
  #put(cell: number, piece: Piece): void {
    const old = this.#cells[cell];
    // The new piece first: what it stands on may be among those that go.
    piece.origin.uses++;
    const remaining: Piece[] = [];
    if (old !== undefined) for (const one of old) this.#cut(one, piece, remaining);
    remaining.push(piece);
    this.#cells[cell] = remaining;
    const before = old?.length ?? 0;
    this.#pieces += remaining.length - before;
    if (this.#pieces > maxPieces) this.#lose();
    else this.#spend(before + 1);
  }

  /** What remains of a piece beside `area`: all of it, up to four parts, or nothing. */
  #cut(piece: Piece, area: Area, into: Piece[]): void {
    const { left, top, right, bottom, origin } = piece;
    if (left >= area.left && top >= area.top && right <= area.right && bottom <= area.bottom) {
      this.#release(origin);
      return;
    }
    const gone = overlap(piece, area);
    if (gone === undefined) {
      into.push(piece);
      return;
    }
    const before = into.length;
    if (top < gone.top) into.push({ left, top, right, bottom: gone.top, origin });
    if (gone.bottom < bottom) into.push({ left, top: gone.bottom, right, bottom, origin });
    if (left < gone.left) into.push({ left, top: gone.top, right: gone.left, bottom: gone.bottom, origin });
    if (gone.right < right) into.push({ left: gone.right, top: gone.top, right, bottom: gone.bottom, origin });
    origin.uses += into.length - before;
    this.#release(origin);
  }

  #makeOrigin(block: number, under: Origin | undefined): Origin {
    if (under !== undefined) under.uses++;
    this.#blocks.set(block, (this.#blocks.get(block) ?? 0) + 1);
    if (++this.#origins > maxOrigins) this.#lose();
    return { block, under, uses: 0 };
  }

  #release(last: Origin): void {
    for (let origin: Origin | undefined = last; origin !== undefined && --origin.uses === 0; origin = origin.under) {
      this.#origins--;
      const count = this.#blocks.get(origin.block)! - 1;
      if (count === 0) this.#blocks.delete(origin.block);
      else this.#blocks.set(origin.block, count);
    }
  }

  #spend(work: number): boolean {
    if (this.#work < work) this.#lose();
    this.#work = Math.max(0, this.#work - work);
    return !this.#isLost;
  }

  #lose(): void {
    this.#forget();
    this.#isLost = true;
  }

  #empty(): void {
    this.#forget();
    this.#isLost = false;
    let shift = smallestCellShift;
    while (cells(this.width, shift) * cells(this.height, shift) > maxCells) shift++;
    this.#cellShift = shift;
    this.#columns = cells(this.width, shift);
  }

  #forget(): void {
    this.#cells = [];
    this.#blocks.clear();
    this.#kept = undefined;
    this.#pieces = 0;
    this.#origins = 0;
  }

  *#cellsOf({ left, top, right, bottom }: Area): Generator<number, void> {
    const shift = this.#cellShift;
    for (let row = top >> shift; row <= (bottom - 1) >> shift; row++) {
      for (let column = left >> shift; column <= (right - 1) >> shift; column++) yield row * this.#columns + column;
    }
  }
}

function cells(pixels: number, shift: number): number {
  return Math.ceil(pixels / 2 ** shift);
}

function moved({ left, top, right, bottom }: Area, x: number, y: number): Area {
  return { left: left + x, top: top + y, right: right + x, bottom: bottom + y };
}

function overlap(a: Area, b: Area): Area | undefined {
  const left = Math.max(a.left, b.left);
  const top = Math.max(a.top, b.top);
  const right = Math.min(a.right, b.right);
  const bottom = Math.min(a.bottom, b.bottom);
  return left < right && top < bottom ? { left, top, right, bottom } : undefined;
}
