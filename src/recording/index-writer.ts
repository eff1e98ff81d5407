import { CoupletError } from '../core/errors.ts';
import { openRegularFile, type RecordingFs, readFully, writeFully } from './file-system.ts';
import { blockType, decodeEnd, END_BYTES, encodeBlockHeader, encodeEnd, HEADER_BYTES } from './format.ts';

/** Smallest unit that a disk writes as a whole; memory pages, which a kill leaves whole, are multiples of it. */
const sectorBytes = 512;
const blank = 0x20;

/** A finished recording without an index, as it was when it was looked at. */
export interface PlainEnd {
  readonly path: string;
  /** Of the end block; the file ends with it. */
  readonly offset: number;
  /** TIME of the end block: the end of the session, milliseconds. */
  readonly endMs: number;
  readonly noFollow: boolean;
}

/**
 * Puts an index in the place of the end block [M7]. Killed at any byte, or with the power cut, the file's last 32 bytes
 * are an end block and the reader finds all blocks; the steps are those of docs/reference/mcrec.md. Where the disk has
 * no room the file is left as it was.
 * @returns the file's length
 * @throws CoupletError `CPL_RECORDING_INDEX` where the file has changed, and what the disk throws
 */
export function writeIndex(io: RecordingFs, end: PlainEnd, json: string): number {
  const { offset, endMs } = end;
  const data = Buffer.alloc(indexBytes(offset, Buffer.byteLength(json)), blank);
  data.write(json);
  const endAt = offset + HEADER_BYTES + data.length;
  const header = encodeBlockHeader({ type: blockType.metadata, flags: 0, size: data.length, time: endMs });
  withFile(io, end, (put, fd) => {
    try {
      put(encodeEnd(endMs), endAt);
      put(data.subarray(HEADER_BYTES), offset + END_BYTES);
    } catch (error) {
      tryTo(() => io.ftruncateSync(fd, offset + END_BYTES));
      throw error;
    }
    put(Buffer.concat([header.subarray(4), data.subarray(0, HEADER_BYTES)]), offset + 4);
    put(header.subarray(0, 2), offset);
    put(encodeEnd(offset, true), endAt);
  });
  return endAt + END_BYTES;
}

/** The last step alone: the index at `indexOffset` stands already, directly before the end block. */
export function nameIndex(io: RecordingFs, end: PlainEnd, indexOffset: number): number {
  withFile(io, end, (put) => put(encodeEnd(indexOffset, true), end.offset));
  return end.offset + END_BYTES;
}

/**
 * SIZE of the index's block: that of its JSON and of as many blanks that the new end block lies within one sector, so
 * that it is written as a whole or not at all; and that where SIZE itself lies across a border of sectors, what is
 * there with only one of them written is either 16, the old end block's, or the new SIZE.
 */
function indexBytes(offset: number, jsonBytes: number): number {
  const inFirst = sectorBytes - ((offset + 4) % sectorBytes);
  const range = inFirst < 4 ? 256 ** (4 - inFirst) : Number.POSITIVE_INFINITY;
  const oldBytes = END_BYTES - HEADER_BYTES;
  for (let size = jsonBytes; ; size++) {
    const endAt = offset + HEADER_BYTES + size;
    const endIsWhole = (endAt % sectorBytes) + END_BYTES <= sectorBytes;
    if (endIsWhole && (size < range || size % range === oldBytes)) return size;
  }
}

type Put = (bytes: Buffer, position: number) => void;

function withFile(io: RecordingFs, { path, offset, endMs, noFollow }: PlainEnd, run: (put: Put, fd: number) => void) {
  const fd = openRegularFile(path, { write: true, noFollow }, io);
  try {
    const old = Buffer.alloc(END_BYTES);
    const length = readFully(io, fd, old, offset);
    const found = decodeEnd(old.subarray(0, length));
    if (io.fstatSync(fd).size !== offset + END_BYTES || found?.time !== endMs || found.indexed) {
      throw new CoupletError('CPL_RECORDING_INDEX', `${path}: offset ${offset}: the file changed while it was indexed`);
    }
    const put: Put = (bytes, position) => {
      writeFully(io, fd, bytes, position);
      io.fsyncSync(fd);
    };
    // FLAGS are zero in every end block but a strange one's; the reader knows an interrupted indexing by that.
    if (!old.equals(encodeEnd(endMs))) put(encodeEnd(endMs), offset);
    run(put, fd);
  } finally {
    io.closeSync(fd);
  }
}

/** For making good after an error, which is the one to tell of: what is left is found and removed later on. */
function tryTo(undo: () => void): void {
  try {
    undo();
  } catch {
    // The reader steps over it, and repair and the next indexing take it away.
  }
}
