import { openRegularFile, type RecordingFs, readFully, realFs } from './file-system.ts';
import {
  type BlockHeader,
  blockType,
  decodeBlockHeader,
  decodeEnd,
  END_BYTES,
  HEADER_BYTES,
  parseSessionHeader,
  type SessionHeader,
} from './format.ts';

/** One whole block of a recording. */
export interface Block extends BlockHeader {
  /** Of the block's header, from the start of the file. */
  readonly offset: number;
  /** The data's first bytes, at most {@link ReaderOptions.maxDataBytes}; `data.length < size`: there are more. */
  readonly data: Buffer;
}

/** How a walk over the blocks ended. `offset` is where reading stopped, in bytes. */
export type WalkEnd =
  | {
      readonly state: 'complete';
      /** Of the end block. */
      readonly offset: number;
      readonly indexed: boolean;
      /** TIME of the end block that finishes the file: its end in milliseconds, or where indexed the index's offset. */
      readonly time: number;
      /** Bytes after the block that ends the walk: an indexer was interrupted [M7]. */
      readonly leftoverBytes: number;
    }
  /** Whole blocks up to the end of the file, but no end block: still being recorded, or a crash. */
  | { readonly state: 'unfinished'; readonly offset: number; readonly text: string }
  /** The block at `offset` runs past the end of the file. */
  | { readonly state: 'torn'; readonly offset: number; readonly text: string }
  /** The bytes at `offset` are no block. */
  | { readonly state: 'damaged'; readonly offset: number; readonly text: string };

export interface ReaderOptions {
  /** Most bytes of a block's data that are handed over, and with it the memory the reader takes. 16 MiB. */
  readonly maxDataBytes?: number;
  readonly noFollow?: boolean;
  readonly fs?: RecordingFs;
}

const defaultMaxDataBytes = 16 * 1024 * 1024;
const windowBytes = 256 * 1024;
/** Longer ones than this are no header block: the header is a small object. */
export const maxSessionHeaderBytes = 1024 * 1024;

/**
 * Reads a recording, the incumbent's too, indexed or not, finished, cut or damaged, block by block in constant memory
 * [M10]: whatever the bytes, each step moves on by at least 16 of them, and no more than one block is held. Synchronous:
 * for commands and worker threads, not for the server's event loop.
 */
export class RecordingReader {
  readonly size: number;
  readonly modifiedMs: number;
  #end: WalkEnd | undefined;
  readonly #fd: number;
  readonly #fs: RecordingFs;
  readonly #maxDataBytes: number;
  readonly #window = Buffer.allocUnsafe(windowBytes);
  #windowAt = 0;
  #windowLength = 0;

  private constructor(fd: number, options: ReaderOptions) {
    this.#fs = options.fs ?? realFs;
    this.#fd = fd;
    this.#maxDataBytes = options.maxDataBytes ?? defaultMaxDataBytes;
    const stats = this.#fs.fstatSync(fd);
    this.size = stats.size;
    this.modifiedMs = stats.mtimeMs;
  }

  /** @throws CoupletError `CPL_RECORDING_FILE` where the file cannot be opened or is no regular file */
  static open(path: string, options: ReaderOptions = {}): RecordingReader {
    return new RecordingReader(openRegularFile(path, options, options.fs), options);
  }

  close(): void {
    this.#fs.closeSync(this.#fd);
  }

  /** How the last walk that went to its end ended. */
  get end(): WalkEnd {
    if (this.#end === undefined) throw new Error('the walk is not over');
    return this.#end;
  }

  /**
   * Every whole block in order, the header block included, the end block not; then {@link end} says how it ended.
   * Blocks of unknown types are handed over: skipping them is the consumer's. Throws only what the disk throws.
   */
  *blocks(): Generator<Block, void> {
    this.#end = undefined;
    for (let offset = 0; ; ) {
      const header = this.#headerAt(offset);
      if (header === undefined) return;
      if (header.type === blockType.end) {
        this.#end = this.#endAt(offset, header);
        return;
      }
      const { type, flags, size, time } = header;
      const wanted = Math.min(size, this.#maxDataBytes);
      const data = this.#read(offset + HEADER_BYTES, wanted);
      if (data.length < wanted) return this.#stop('torn', offset, 'the file became shorter while it was read');
      yield { offset, type, flags, size, time, data };
      offset += HEADER_BYTES + size;
    }
  }

  /** The header block's JSON, or in words what is wrong with it. Reads the file's beginning only. */
  sessionHeader(): SessionHeader | string {
    const bytes = this.#read(0, HEADER_BYTES);
    if (bytes.length < HEADER_BYTES) return 'the file is too short for a header block';
    const { type, size } = decodeBlockHeader(bytes);
    if (type !== blockType.header) return 'the file does not begin with a header block';
    if (size > maxSessionHeaderBytes) return `the header block says it has ${size} bytes, more than a header has`;
    const data = this.#read(HEADER_BYTES, size);
    if (data.length < size) return 'the header block is cut';
    return parseSessionHeader(data);
  }

  /** What the file's last 32 bytes say: `undefined` where the file is not finished [M3]. */
  finish(): { readonly time: number; readonly indexed: boolean } | undefined {
    if (this.size < END_BYTES) return undefined;
    return decodeEnd(this.#read(this.size - END_BYTES, END_BYTES));
  }

  /** The block at an offset, for an index's pointers; `undefined` where no whole block stands there. */
  blockAt(offset: number, maxDataBytes = this.#maxDataBytes): Block | undefined {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset > this.size - HEADER_BYTES) return undefined;
    const { type, flags, size, time } = decodeBlockHeader(this.#read(offset, HEADER_BYTES));
    if (offset + HEADER_BYTES + size > this.size) return undefined;
    return { offset, type, flags, size, time, data: this.#read(offset + HEADER_BYTES, Math.min(size, maxDataBytes)) };
  }

  /** Up to `length` bytes at `position`, fewer only at the end of the file. */
  bytesAt(position: number, length: number): Buffer {
    return this.#read(position, length);
  }

  /** A block's data in pieces of at most 256 KiB, however long it is. */
  *dataOf(block: Block): Generator<Buffer, void> {
    if (block.data.length === block.size) {
      yield block.data;
      return;
    }
    for (let done = 0; done < block.size; ) {
      const piece = this.#read(block.offset + HEADER_BYTES + done, Math.min(windowBytes, block.size - done));
      if (piece.length === 0) return;
      yield piece;
      done += piece.length;
    }
  }

  #stop(state: 'unfinished' | 'torn' | 'damaged', offset: number, text: string): undefined {
    this.#end = { state, offset, text };
  }

  #headerAt(offset: number): ReturnType<typeof decodeBlockHeader> | undefined {
    const left = this.size - offset;
    if (left === 0) return this.#stop('unfinished', offset, 'the file ends without an end block');
    const bytes = this.#read(offset, HEADER_BYTES);
    if (bytes.length < HEADER_BYTES) {
      return this.#stop('torn', offset, `the file ends ${bytes.length} bytes into a block's header`);
    }
    const header = decodeBlockHeader(bytes);
    const { type, size, reserved } = header;
    if (offset === 0 && type !== blockType.header) {
      return this.#stop('damaged', 0, `the file does not begin with a header block but with type ${type}`);
    }
    if (type === 0) return this.#stop('damaged', offset, 'no block begins here (type 0)');
    if (type === blockType.header && offset > 0) return this.#stop('damaged', offset, 'a second header block');
    if (reserved !== 0) return this.#stop('damaged', offset, `no block begins here (bytes 8-9 are ${reserved}, not 0)`);
    if (HEADER_BYTES + size > left) {
      const missing = HEADER_BYTES + size - left;
      return this.#stop('torn', offset, `the block of ${size} bytes runs ${missing} bytes past the end of the file`);
    }
    return header;
  }

  /**
   * An end block ends the walk wherever it stands. In a good file it is the last thing. An interrupted indexer leaves
   * it, or what it had made of it so far, in front of an index that does not count yet: then the same end block stands
   * at the end of the file once more.
   */
  #endAt(offset: number, { flags, size, time }: BlockHeader): WalkEnd {
    const finish = this.finish();
    const here = decodeEnd(this.#read(offset, END_BYTES));
    const leftoverBytes = this.size - offset - END_BYTES;
    if (here !== undefined && leftoverBytes === 0) return { state: 'complete', offset, leftoverBytes, ...here };
    const reachesEnd = here !== undefined || size === END_BYTES - HEADER_BYTES || size === leftoverBytes - HEADER_BYTES;
    if (finish?.indexed === false && finish.time === time && flags === 0 && reachesEnd && leftoverBytes > 0) {
      return { state: 'complete', offset, leftoverBytes, ...finish };
    }
    if (here === undefined) return { state: 'damaged', offset, text: 'an end block without its magic' };
    return { state: 'damaged', offset: offset + END_BYTES, text: `${leftoverBytes} bytes after the end block` };
  }

  /** A copy of up to `length` bytes at `position`, through the window where they fit in it. */
  #read(position: number, length: number): Buffer {
    if (length > windowBytes / 2) {
      const bytes = Buffer.allocUnsafe(length);
      return bytes.subarray(0, readFully(this.#fs, this.#fd, bytes, position));
    }
    const from = position - this.#windowAt;
    if (from < 0 || from + length > this.#windowLength) {
      this.#windowAt = position;
      this.#windowLength = readFully(this.#fs, this.#fd, this.#window, position);
    }
    const start = position - this.#windowAt;
    return Buffer.from(this.#window.subarray(start, Math.min(start + length, this.#windowLength)));
  }
}
