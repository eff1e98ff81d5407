/** A desktop player to the pixel, as plain as can be: what the screen model is held to. */

const blank = 0;

interface Pixel {
  /** Differs for every pixel of every tile. */
  readonly value: number;
  readonly block: number;
  /** Of a copied pixel, the one it was copied from. */
  readonly from: Pixel | undefined;
}

export class PixelPlayer {
  width = 0;
  height = 0;
  #pixels: (Pixel | undefined)[] = [];

  /** Sets the canvas, as an index entry tells it. */
  resize(width: number, height: number): void {
    this.width = width;
    this.height = height;
    this.#pixels = Array(width * height).fill(undefined);
  }

  play(block: number, data: Buffer): void {
    for (let at = 0; at < data.length; ) {
      let size = data.readUInt16BE(at + 2);
      if (data.readUInt16BE(at) === 27) {
        size = data.readUInt32BE(at + 4);
        at += 8;
      }
      this.#command(block, data.subarray(at, at + size));
      at += size;
    }
  }

  values(): number[] {
    return this.#pixels.map((pixel) => pixel?.value ?? blank);
  }

  /** The blocks without which the screen is not what it is. */
  needed(): number[] {
    const blocks = new Set<number>();
    const seen = new Set<Pixel>();
    for (let pixel of this.#pixels) {
      for (; pixel !== undefined && !seen.has(pixel); pixel = pixel.from) {
        seen.add(pixel);
        blocks.add(pixel.block);
      }
    }
    return [...blocks].sort((a, b) => a - b);
  }

  #command(block: number, command: Buffer): void {
    const field = (n: number) => command.readUInt16BE(4 + 2 * n);
    const kind = command.readUInt16BE(0);
    if (kind === 7) this.resize(field(0), field(1));
    if (kind === 3) {
      const picture = command.subarray(8);
      const width = picture.readUInt16BE(9);
      const id = picture.readUInt32BE(13);
      for (let y = 0; y < picture.readUInt16BE(7); y++) {
        for (let x = 0; x < width; x++) {
          this.#set(field(0) + x, field(1) + y, { value: id * 100_000 + y * width + x + 1, block, from: undefined });
        }
      }
    }
    if (kind === 4) {
      const before = [...this.#pixels];
      for (let y = 0; y < field(5); y++) {
        for (let x = 0; x < field(4); x++) {
          if (field(0) + x >= this.width || field(1) + y >= this.height) continue;
          if (field(0) === field(2) && field(1) === field(3)) continue;
          const from = before[(field(1) + y) * this.width + field(0) + x];
          this.#set(field(2) + x, field(3) + y, { value: from?.value ?? blank, block, from });
        }
      }
    }
  }

  #set(x: number, y: number, pixel: Pixel): void {
    if (x < this.width && y < this.height) this.#pixels[y * this.width + x] = pixel;
  }
}

function command(kind: number, fields: readonly number[], rest: Buffer = Buffer.alloc(0)): Buffer {
  const size = 4 + 2 * fields.length + rest.length;
  const bytes = Buffer.alloc(size);
  bytes.writeUInt16BE(kind, 0);
  bytes.writeUInt16BE(size % 0x10000, 2);
  for (const [n, field] of fields.entries()) bytes.writeUInt16BE(field, 4 + 2 * n);
  rest.copy(bytes, size - rest.length);
  return bytes;
}

/** The beginning of a JPEG picture that holds no more than its size, and `id`. */
export function picture(width: number, height: number, id = 0): Buffer {
  const bytes = Buffer.from('ffd8ffc000110800000000000000000003012200021101031101', 'hex');
  bytes.writeUInt16BE(height, 7);
  bytes.writeUInt16BE(width, 9);
  bytes.writeUInt32BE(id, 13);
  return bytes;
}

export const screenSize = (width: number, height: number): Buffer => command(7, [width, height]);
export const tile = (x: number, y: number, width: number, height: number, id = 0): Buffer =>
  command(3, [x, y], picture(width, height, id));
export const copy = (...fields: [number, number, number, number, number, number]): Buffer => command(4, fields);

/** A command in its jumbo wrapper; its own size says nothing. */
export function jumbo(inner: Buffer, ownSize = 0, size = inner.length): Buffer {
  const wrapper = Buffer.from('001b000800000000', 'hex');
  wrapper.writeUInt32BE(size, 4);
  const bytes = Buffer.from(inner);
  bytes.writeUInt16BE(ownSize, 2);
  return Buffer.concat([wrapper, bytes]);
}
