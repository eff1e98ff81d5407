/** A block: a 16-byte big-endian header (TYPE 2, FLAGS 2, SIZE 4, TIME 8), then SIZE bytes of data [M1]. */
export const HEADER_BYTES = 16;

export const blockType = {
  /** The first block: JSON about the session [M2]. */
  header: 1,
  /** One message [M1]. */
  data: 2,
  /** The last block [M3]. */
  end: 3,
  /** JSON that was found out afterwards: the index [M7]. */
  metadata: 4,
} as const;

export const blockFlag = {
  /** The message was binary, else text. */
  binary: 0x0001,
  /** From the user half, else from the device half. */
  user: 0x0002,
} as const;

/** `magic` of the header block's JSON [M2]. */
export const SESSION_MAGIC = 'MeshCentralRelaySession';
/** Data of the end block of a plain file [M3]. */
export const END_PLAIN = 'MeshCentralMCREC';
/** Data of the end block of an indexed file [M7]. */
export const END_INDEXED = 'MeshCentralMCNDX';
/** Header and data of an end block: a finished file's last bytes [M3]. */
export const END_BYTES = 32;
/** Seconds from one index entry to the next [M7]. */
export const INDEX_INTERVAL_SECONDS = 10;
/** SIZE is a u32; TIME is kept to its lower six bytes [M4]. */
export const MAX_SIZE = 0xffff_ffff;
export const MAX_TIME = 2 ** 48 - 1;

export interface BlockHeader {
  readonly type: number;
  readonly flags: number;
  /** Length of the data in bytes. */
  readonly size: number;
  /** Milliseconds since 1970-01-01 UTC; in an indexed file's end block an offset in bytes. */
  readonly time: number;
}

/** A block header as it stands in the file; `reserved` are bytes 8–9, zero in every good file [M4]. */
export interface RawBlockHeader extends BlockHeader {
  readonly reserved: number;
}

/** The header block's JSON [M2]. Further keys are allowed, and any of them may be missing in a strange file. */
export interface SessionHeader {
  readonly magic: typeof SESSION_MAGIC;
  readonly ver: number;
  readonly userid?: string;
  readonly username?: string;
  readonly sessionid?: string;
  readonly ipaddr1?: string;
  readonly ipaddr2?: string;
  readonly time?: string;
  readonly protocol?: number;
  readonly nodeid?: string;
  readonly devicename?: string;
  readonly [key: string]: unknown;
}

/**
 * Writes a block header into `into` at `at` [M1] [M4].
 * @throws RangeError where SIZE or TIME do not fit
 */
export function encodeBlockHeader(header: BlockHeader, into: Buffer = Buffer.alloc(HEADER_BYTES), at = 0): Buffer {
  if (!(header.time >= 0 && header.time <= MAX_TIME)) throw new RangeError(`TIME ${header.time} does not fit 48 bits`);
  into.writeUInt16BE(header.type, at);
  into.writeUInt16BE(header.flags, at + 2);
  into.writeUInt32BE(header.size, at + 4);
  into.writeUInt16BE(0, at + 8);
  into.writeUIntBE(header.time, at + 10, 6);
  return into;
}

/** Reads a block header [M1]; `bytes` holds at least 16 bytes from `at`. Any bytes give a header: judging is the reader's. */
export function decodeBlockHeader(bytes: Buffer, at = 0): RawBlockHeader {
  return {
    type: bytes.readUInt16BE(at),
    flags: bytes.readUInt16BE(at + 2),
    size: bytes.readUInt32BE(at + 4),
    reserved: bytes.readUInt16BE(at + 8),
    time: bytes.readUIntBE(at + 10, 6),
  };
}

/** A whole block. */
export function encodeBlock(type: number, flags: number, time: number, data: Uint8Array): Buffer {
  const block = Buffer.allocUnsafe(HEADER_BYTES + data.length);
  encodeBlockHeader({ type, flags, size: data.length, time }, block);
  block.set(data, HEADER_BYTES);
  return block;
}

/** The 32 bytes that finish a file [M3]: `time` is the session's end, or where `indexed` the index's offset [M7]. */
export function encodeEnd(time: number, indexed = false): Buffer {
  return encodeBlock(blockType.end, 0, time, Buffer.from(indexed ? END_INDEXED : END_PLAIN, 'latin1'));
}

/** What 32 bytes say as an end block; `undefined` where they are none. */
export function decodeEnd(bytes: Buffer): { readonly time: number; readonly indexed: boolean } | undefined {
  if (bytes.length !== END_BYTES) return undefined;
  const header = decodeBlockHeader(bytes);
  if (header.type !== blockType.end || header.size !== END_BYTES - HEADER_BYTES || header.reserved !== 0) {
    return undefined;
  }
  const magic = bytes.toString('latin1', HEADER_BYTES);
  if (magic !== END_PLAIN && magic !== END_INDEXED) return undefined;
  return { time: header.time, indexed: magic === END_INDEXED };
}

/** The header block's JSON, or what is wrong with it [M2]. */
export function parseSessionHeader(data: Buffer): SessionHeader | string {
  let value: unknown;
  try {
    value = JSON.parse(data.toString('utf8'));
  } catch {
    return 'the header block holds no JSON';
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'the header block holds no object';
  const { magic, ver } = value as Record<string, unknown>;
  if (magic !== SESSION_MAGIC) return `the header block's magic is not ${SESSION_MAGIC}`;
  if (ver !== 1) return `the header block's version is ${JSON.stringify(ver)}, not 1`;
  return value as SessionHeader;
}

/** Protocols whose device half sends terminal output, and those that send desktop commands [R3]. */
export const terminalProtocols: ReadonlySet<number> = new Set([1, 6, 8, 9]);
export const desktopProtocol = 2;

/** The session's protocol number; the incumbent has written it as text too. */
export function protocolOf(header: SessionHeader | undefined): number {
  const protocol = Number(header?.protocol);
  return Number.isInteger(protocol) ? protocol : 0;
}
