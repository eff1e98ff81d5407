/** How a sealed cookie is written (`auth.cookieEncoding`). */
export type CookieEncoding = 'base64' | 'hex';

/** Bytes a sealed cookie may have; its text comes in a request line, which is shorter still. */
export const maxCookieBytes = 6144;

const invalid = 0xff;
const sextets = digitTable('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@$');
const nibbles = digitTable('0123456789abcdef');
const equalsSign = 0x3d;

function digitTable(digits: string): Uint8Array {
  const table = new Uint8Array(128).fill(invalid);
  for (let value = 0; value < digits.length; value++) table[digits.charCodeAt(value)] = value;
  return table;
}

/** [R5] Writes a cookie's bytes as base64 with padding, `+` as `@` and `/` as `$`, or as lower-case hex. */
export function encodeCookieText(bytes: Buffer, encoding: CookieEncoding): string {
  if (encoding === 'hex') return bytes.toString('hex');
  return bytes.toString('base64').replaceAll('+', '@').replaceAll('/', '$');
}

/**
 * [R5] Reads a cookie's text into `out`; returns the number of bytes, or -1 where the text is not exactly what
 * `encodeCookieText` writes. One cookie has one text: no other alphabet, no missing padding, no stray bits in the last
 * digit, so that no changed character goes unnoticed. Nothing is allocated.
 */
export function decodeCookieText(text: string, encoding: CookieEncoding, out: Uint8Array): number {
  return encoding === 'hex' ? decodeHex(text, out) : decodeBase64(text, out);
}

function decodeBase64(text: string, out: Uint8Array): number {
  const length = text.length;
  if (length === 0 || length % 4 !== 0 || (length / 4) * 3 > out.length) return -1;
  let digits = length;
  if (text.charCodeAt(digits - 1) === equalsSign) digits--;
  if (digits < length && text.charCodeAt(digits - 1) === equalsSign) digits--;
  let bits = 0;
  let bitCount = 0;
  let size = 0;
  for (let at = 0; at < digits; at++) {
    const sextet = sextets[text.charCodeAt(at)] ?? invalid;
    if (sextet === invalid) return -1;
    bits = ((bits << 6) | sextet) & 0xffff;
    bitCount += 6;
    if (bitCount >= 8) {
      bitCount -= 8;
      out[size++] = bits >> bitCount;
    }
  }
  return (bits & ((1 << bitCount) - 1)) === 0 ? size : -1;
}

function decodeHex(text: string, out: Uint8Array): number {
  const length = text.length;
  if (length === 0 || length % 2 !== 0 || length / 2 > out.length) return -1;
  for (let at = 0; at < length; at += 2) {
    const high = nibbles[text.charCodeAt(at)] ?? invalid;
    const low = nibbles[text.charCodeAt(at + 1)] ?? invalid;
    if (high === invalid || low === invalid) return -1;
    out[at / 2] = (high << 4) | low;
  }
  return length / 2;
}
