import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from 'node:crypto';

const saltBytes = 16;
const nonceBytes = 12;
const tagBytes = 16;
const maxKnownKeys = 1024;

/**
 * Seals texts for Redis with AES-256-GCM; base64url of salt, nonce, what is sealed and tag. Each process seals with a
 * key of its own, derived by its random salt, and counts nonces: so none comes twice however much is written.
 */
export class ValueSealer {
  readonly #key: KeyObject;
  readonly #salt = randomBytes(saltBytes);
  readonly #own: KeyObject;
  readonly #known = new Map<string, KeyObject>();
  #count = 0n;

  /** @param key 32 bytes, derived from the login key under the label `cluster-values` */
  constructor(key: KeyObject) {
    this.#key = key;
    this.#own = this.#derive(this.#salt);
  }

  /** @param name of the key under which it stands: it opens under no other */
  seal(name: string, text: string): string {
    const nonce = Buffer.alloc(nonceBytes);
    nonce.writeBigUInt64BE(this.#count++, nonceBytes - 8);
    const cipher = createCipheriv('aes-256-gcm', this.#own, nonce).setAAD(Buffer.from(name));
    const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
    return Buffer.concat([this.#salt, nonce, body, cipher.getAuthTag()]).toString('base64url');
  }

  /** The text; `undefined` where it was sealed under another key or name, or is damaged. */
  open(name: string, sealed: string): string | undefined {
    const bytes = Buffer.from(sealed, 'base64url');
    if (bytes.length < saltBytes + nonceBytes + tagBytes) return undefined;
    const salt = bytes.subarray(0, saltBytes);
    const nonce = bytes.subarray(saltBytes, saltBytes + nonceBytes);
    const decipher = createDecipheriv('aes-256-gcm', this.#keyOf(salt), nonce, { authTagLength: tagBytes });
    decipher.setAAD(Buffer.from(name)).setAuthTag(bytes.subarray(-tagBytes));
    try {
      const body = bytes.subarray(saltBytes + nonceBytes, -tagBytes);
      return Buffer.concat([decipher.update(body), decipher.final()]).toString('utf8');
    } catch {
      return undefined;
    }
  }

  /** 96 bits that only holders of the key can tell from another text's. */
  digest(text: string): string {
    return createHmac('sha256', this.#key).update(text).digest().subarray(0, 12).toString('base64url');
  }

  #keyOf(salt: Buffer): KeyObject {
    const name = salt.toString('base64url');
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    // Salts come from Redis: whoever can write there must not fill the memory.
    if (this.#known.size >= maxKnownKeys) this.#known.clear();
    const key = this.#derive(salt);
    this.#known.set(name, key);
    return key;
  }

  #derive(salt: Buffer): KeyObject {
    return createSecretKey(Buffer.from(hkdfSync('sha256', this.#key.export(), salt, 'couplet sealed value', 32)));
  }
}
