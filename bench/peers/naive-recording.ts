import { closeSync, openSync, write } from 'node:fs';

/** A recording in the way that suggests itself: one block and one `fs.write` for each message. */
export class NaiveRecording {
  readonly #fd: number;
  #end = 0;
  #pendingBytes = 0;
  #ended = false;

  constructor(path: string) {
    this.#fd = openSync(path, 'wx');
    this.#write(1, 0, Buffer.from('{}'));
  }

  /** Handed to `fs.write` and not written yet. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  append(data: Buffer, binary: boolean, fromUser: boolean, written: () => void): void {
    this.#write(2, (binary ? 1 : 0) | (fromUser ? 2 : 0), data, written);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#write(3, 0, Buffer.from('MeshCentralMCREC'));
  }

  #write(type: number, flags: number, data: Buffer, written?: () => void): void {
    const block = Buffer.allocUnsafe(16 + data.length);
    block.writeUInt16BE(type, 0);
    block.writeUInt16BE(flags, 2);
    block.writeUInt32BE(data.length, 4);
    block.writeBigUInt64BE(BigInt(Date.now()), 8);
    data.copy(block, 16);
    const at = this.#end;
    this.#end += block.length;
    this.#pendingBytes += block.length;
    // At its place, as several are under way at a time.
    write(this.#fd, block, 0, block.length, at, (error, count) => {
      if (error !== null || count !== block.length)
        throw error ?? new Error(`${count} of ${block.length} bytes written`);
      this.#pendingBytes -= count;
      if (this.#ended && this.#pendingBytes === 0) closeSync(this.#fd);
      written?.();
    });
  }
}
