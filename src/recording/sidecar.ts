import { crc32c } from './crc32c.ts';
import { openRegularFile, type RecordingFs, readFully, realFs } from './file-system.ts';
import type { Block } from './reader.ts';

/**
 * The sidecar `NAME.mcrec.cpt` [M8]: a 24-byte header, then one 24-byte record for each block of TYPE 1 and 2 in their
 * order, all big-endian. The layout is the writer's, `native/mcrec.h`.
 */
export const SIDECAR_RECORD_BYTES = 24;
const magic = 'MCRECCPT';
const version = 1;
const recordsPerRead = 2048;

export interface SidecarRecord {
  /** Arrival of the block's message, microseconds since 1970-01-01 UTC. */
  readonly timeUs: number;
  /** The block's number among TYPE 1 and 2, from 0, modulo 2^32. */
  readonly number: number;
  readonly size: number;
  /** CRC-32C of the block's data. */
  readonly crc: number;
}

/** The sidecar's path of a recording's. */
export function sidecarPath(recording: string): string {
  return `${recording}.cpt`;
}

/**
 * Reads a sidecar's records in order and in constant memory. A record that does not check ends it, and so does a file
 * that is no sidecar: the sidecar may be missing or damaged without harm to the recording.
 */
export class SidecarReader {
  /** Why there are no more records, where that is not the plain end of the file. */
  fault: { readonly offset: number; readonly text: string } | undefined;
  /** The header is not there, or zeros, as a crash or a full disk leaves it. */
  readonly isEmpty: boolean;
  /** Wall clock when the recording was opened, nanoseconds since 1970-01-01 UTC. */
  readonly startNs: bigint;
  readonly #fd: number;
  readonly #fs: RecordingFs;
  readonly #buffer = Buffer.allocUnsafe(recordsPerRead * SIDECAR_RECORD_BYTES);
  #length = 0;
  #at = 0;
  /** File offset of `#buffer`'s end. */
  #position = SIDECAR_RECORD_BYTES;

  private constructor(fd: number, io: RecordingFs) {
    this.#fd = fd;
    this.#fs = io;
    const header = Buffer.alloc(SIDECAR_RECORD_BYTES);
    const length = readFully(io, fd, header, 0);
    this.isEmpty = length < header.length || header.every((byte) => byte === 0);
    const text = headerFault(header.subarray(0, length));
    if (text !== undefined) this.fault = { offset: 0, text };
    this.startNs = text === undefined ? header.readBigUInt64BE(16) : 0n;
  }

  /** `undefined` where the recording has no sidecar. @throws CoupletError `CPL_RECORDING_FILE` where it is no file */
  static open(recording: string, io: RecordingFs = realFs, noFollow = false): SidecarReader | undefined {
    try {
      return new SidecarReader(openRegularFile(sidecarPath(recording), { noFollow }, io), io);
    } catch (error) {
      if ((error as { cause?: { code?: unknown } }).cause?.code === 'ENOENT') return undefined;
      throw error;
    }
  }

  close(): void {
    this.#fs.closeSync(this.#fd);
  }

  next(): SidecarRecord | undefined {
    if (this.fault !== undefined) return undefined;
    if (this.#at + SIDECAR_RECORD_BYTES > this.#length && !this.#refill()) return undefined;
    const record = this.#buffer.subarray(this.#at, this.#at + SIDECAR_RECORD_BYTES);
    const text = recordFault(record);
    if (text !== undefined) {
      this.fault = { offset: this.#position - this.#length + this.#at, text };
      return undefined;
    }
    this.#at += SIDECAR_RECORD_BYTES;
    return {
      timeUs: Number(record.readBigUInt64BE(0)),
      number: record.readUInt32BE(8),
      size: record.readUInt32BE(12),
      crc: record.readUInt32BE(16),
    };
  }

  #refill(): boolean {
    this.#length = readFully(this.#fs, this.#fd, this.#buffer, this.#position);
    this.#at = 0;
    this.#position += this.#length;
    if (this.#length >= SIDECAR_RECORD_BYTES) return true;
    if (this.#length > 0) {
      this.fault = { offset: this.#position - this.#length, text: `the last record is cut to ${this.#length} bytes` };
    }
    return false;
  }
}

function headerFault(header: Buffer): string | undefined {
  if (header.length < SIDECAR_RECORD_BYTES) return `the sidecar's header is cut to ${header.length} bytes`;
  if (header.toString('latin1', 0, 8) !== magic) return `the sidecar does not begin with ${magic}`;
  if (crc32c(header.subarray(16), crc32c(header.subarray(0, 12))) !== header.readUInt32BE(12)) {
    return "the sidecar's header does not match its CRC";
  }
  if (header.readUInt16BE(8) !== version) return `the sidecar has version ${header.readUInt16BE(8)}, not ${version}`;
  const length = header.readUInt16BE(10);
  return length === SIDECAR_RECORD_BYTES ? undefined : `the sidecar's records have ${length} bytes, not 24`;
}

function recordFault(record: Buffer): string | undefined {
  return crc32c(record.subarray(0, 20)) === record.readUInt32BE(20) ? undefined : 'the record does not match its CRC';
}

/** Whether a block has a record in the sidecar. */
export function isCovered(block: Pick<Block, 'type'>): boolean {
  return block.type === 1 || block.type === 2;
}

/** Arrival times of blocks walked in order: to the microsecond where the sidecar tells, else TIME. */
export class PreciseTimes {
  #sidecar: SidecarReader | undefined;
  #number = 0;

  constructor(sidecar: SidecarReader | undefined) {
    this.#sidecar = sidecar;
  }

  /** Microseconds since 1970-01-01 UTC from the sidecar; `undefined` where it does not tell. One call for each block. */
  of(block: Block): number | undefined {
    if (this.#sidecar === undefined || !isCovered(block)) return undefined;
    const record = this.#sidecar.next();
    if (record?.number !== this.#number++ % 2 ** 32 || record.size !== block.size) {
      // Once out of step nothing it says can be put to a block.
      this.#sidecar = undefined;
      return undefined;
    }
    return record.timeUs;
  }
}
