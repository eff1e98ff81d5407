import { isUtf8 } from 'node:buffer';
import { createCipheriv, createDecipheriv, type KeyObject, randomBytes } from 'node:crypto';
import type { z } from 'zod';

const algorithm = 'aes-256-gcm';
const ivBytes = 12;
const tagBytes = 16;
/** Longest sealed text that is looked at, characters. */
const maxSealedChars = 64 * 1024;

/** A new challenge or boot id: 128 random bits, base64url. */
export function newChallenge(): string {
  return randomBytes(16).toString('base64url');
}

/** [K3] Seals and opens what servers prove to each other: JSON under AES-256-GCM, base64url. */
export class LinkSeal {
  readonly #key: KeyObject;

  /** @param key 32 bytes, derived for link tickets (R5) */
  constructor(key: KeyObject) {
    this.#key = key;
  }

  seal(content: object): string {
    const iv = randomBytes(ivBytes);
    const cipher = createCipheriv(algorithm, this.#key, iv, { authTagLength: tagBytes });
    const ciphertext = cipher.update(JSON.stringify(content), 'utf8');
    cipher.final();
    return Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString('base64url');
  }

  /** The content, where the text was sealed under this key, unchanged, and fits; else `undefined`, whatever is wrong. */
  open<T>(text: string, schema: z.ZodType<T>): T | undefined {
    if (text.length > maxSealedChars || !/^[A-Za-z0-9_-]+$/.test(text)) return undefined;
    const sealed = Buffer.from(text, 'base64url');
    // A text whose last character has spare bits set is another text for the same bytes.
    if (sealed.length <= ivBytes + tagBytes || sealed.toString('base64url') !== text) return undefined;
    const decipher = createDecipheriv(algorithm, this.#key, sealed.subarray(0, ivBytes), { authTagLength: tagBytes });
    decipher.setAuthTag(sealed.subarray(ivBytes, ivBytes + tagBytes));
    const plain = decipher.update(sealed.subarray(ivBytes + tagBytes));
    try {
      decipher.final();
    } catch {
      return undefined; // final() throws for one reason: the tag does not match
    }
    if (!isUtf8(plain)) return undefined;
    let value: unknown;
    try {
      value = JSON.parse(plain.toString());
    } catch {
      return undefined; // sealed by the right key, yet no JSON
    }
    const parsed = schema.safeParse(value);
    return parsed.success ? parsed.data : undefined;
  }
}
