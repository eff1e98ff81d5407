import { createSecretKey, hkdfSync, type KeyObject, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { CoupletError } from '../core/errors.ts';

/** What a derived key is for; each purpose has a key of its own (R5). The words enter the derivation: never change one. */
export const keyLabels = ['signed-ids', 'audit-chain', 'link-tickets', 'server-id', 'cluster-values'] as const;

export type KeyLabel = (typeof keyLabels)[number];

const loginKeyBytes = 80;
const cookieKeyBytes = 32;
const derivedKeyBytes = 32;

/** The 80-byte login key. Its bytes are in private fields: neither `util.inspect` nor `JSON.stringify` shows them. */
export class LoginKey {
  readonly #bytes: Buffer;

  private constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /**
   * [R5] Reads 160 hex digits, upper or lower case. `origin` names the place they came from in the error.
   * @throws CoupletError `CPL_LOGIN_KEY`, which says how long the text is and never what it is.
   */
  static parse(hex: string, origin = 'the login key'): LoginKey {
    if (hex.length !== loginKeyBytes * 2 || !/^[0-9a-fA-F]+$/.test(hex)) {
      const fault = hex.length === loginKeyBytes * 2 ? 'has characters that are not hex digits' : `has ${hex.length}`;
      throw new CoupletError('CPL_LOGIN_KEY', `${origin} ${fault}: it must be ${loginKeyBytes * 2} hex digits`, {
        level: 'error',
      });
    }
    return new LoginKey(Buffer.from(hex, 'hex'));
  }

  /** A new random login key. */
  static generate(): LoginKey {
    return new LoginKey(randomBytes(loginKeyBytes));
  }

  /**
   * Reads a file that holds the 160 hex digits; white space around them is ignored.
   * @throws CoupletError `CPL_LOGIN_KEY` where the file cannot be read or holds something else.
   */
  static readFile(path: string): LoginKey {
    let text: string;
    try {
      text = readFileSync(path, 'latin1');
    } catch (cause) {
      const why = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
      throw new CoupletError('CPL_LOGIN_KEY', `cannot read the login key file ${JSON.stringify(path)}: ${why}`, {
        level: 'error',
        cause,
      });
    }
    return LoginKey.parse(text.trim(), `the login key file ${JSON.stringify(path)}`);
  }

  /** The 160 hex digits, for writing a key file; never for a log. */
  toHex(): string {
    return this.#bytes.toString('hex');
  }

  /** [R5] The AES-256 key of sealed cookies: the first 32 bytes. */
  cookieKey(): KeyObject {
    return createSecretKey(this.#bytes.subarray(0, cookieKeyBytes));
  }

  /** [R5] A 32-byte key for everything else: HKDF-SHA256 over all 80 bytes, no salt, `couplet LABEL` as info. */
  derive(label: KeyLabel): KeyObject {
    const key = hkdfSync('sha256', this.#bytes, Buffer.alloc(0), `couplet ${label}`, derivedKeyBytes);
    return createSecretKey(Buffer.from(key));
  }
}
