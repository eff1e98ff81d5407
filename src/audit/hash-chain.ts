import { createHmac, createSecretKey, type KeyObject } from 'node:crypto';
import { CoupletError } from '../core/errors.ts';

/** `,"mac":"` + 64 hex digits + `"}`: how every line ends, always the same number of bytes. */
const SUFFIX_BYTES = 8 + 64 + 2;
const suffix = /^,"mac":"([0-9a-f]{64})"\}$/;
const numbered = /,"line":([1-9][0-9]{0,14})$/;

/** What the first line of a file is chained to. */
export const CHAIN_START: Buffer = Buffer.alloc(32);

/** The key of the event log, derived by HKDF from the login key (R5); 32 bytes. `id` names it without telling it. */
export interface ChainKey {
  readonly secret: KeyObject;
  /** 16 hex digits; stands in each file's first line, so that files of an earlier key are told from forged ones. */
  readonly id: string;
}

/** Throws CPL_EVENT_KEY where the key is not 32 bytes. */
export function createChainKey(key: Uint8Array): ChainKey {
  if (key.length !== 32) {
    throw new CoupletError('CPL_EVENT_KEY', `the event log key has ${key.length} bytes; it must have 32`);
  }
  const secret = createSecretKey(key);
  const id = createHmac('sha256', secret).update('couplet event log key id').digest('hex').slice(0, 16);
  return { secret, id };
}

/** The MAC of a line: HMAC-SHA256 over the MAC of the line before (32 bytes) and all of the line before its own MAC. */
export function lineMac(key: ChainKey, before: Uint8Array, body: string | Uint8Array): Buffer {
  return createHmac('sha256', key.secret).update(before).update(body).digest();
}

/** Writes the lines of one file: numbers them from 1 and chains each to the one before it (R31). */
export class HashChain {
  readonly #key: ChainKey;
  #mac: Buffer = CHAIN_START;
  #line = 0;

  constructor(key: ChainKey) {
    this.#key = key;
  }

  /** Number of the last line made; 0 before the first. */
  get line(): number {
    return this.#line;
  }

  /** MAC of the last line made, hex. */
  get mac(): string {
    return this.#mac.toString('hex');
  }

  /** @param json an object with at least one field, on one line. @returns the finished line with its line feed. */
  append(json: string): Buffer {
    const line = this.#line + 1;
    const body = `${json.slice(0, -1)},"line":${line}`;
    this.#mac = lineMac(this.#key, this.#mac, body);
    this.#line = line;
    return Buffer.from(`${body},"mac":"${this.#mac.toString('hex')}"}\n`);
  }
}

export interface ChainedLine {
  /** All that the MAC covers. */
  readonly body: Buffer;
  readonly line: number;
  readonly mac: Buffer;
}

/** Takes a line (without line feed) apart; `undefined` where it does not end in a line number and a MAC. */
export function parseChainedLine(bytes: Buffer): ChainedLine | undefined {
  if (bytes.length <= SUFFIX_BYTES) return undefined;
  const body = bytes.subarray(0, bytes.length - SUFFIX_BYTES);
  const mac = suffix.exec(bytes.toString('latin1', body.length))?.[1];
  const line = numbered.exec(body.toString('latin1', Math.max(0, body.length - 32)))?.[1];
  if (mac === undefined || line === undefined) return undefined;
  return { body, line: Number(line), mac: Buffer.from(mac, 'hex') };
}
