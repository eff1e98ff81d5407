import { isUtf8 } from 'node:buffer';
import { createCipheriv, createDecipheriv, createHash, type KeyObject, randomBytes } from 'node:crypto';
import type { Clock } from '../core/clock.ts';
import { ownCopy } from '../core/ids.ts';
import { type CookieContent, type CookieKinds, type KindFault, readFlag, readKind } from './cookie-kinds.ts';
import { type CookieEncoding, decodeCookieText, encodeCookieText, maxCookieBytes } from './cookie-text.ts';
import type { LoginKey } from './keys.ts';

/** The query parameter a cookie came in: `auth` takes user and share cookies, `rauth` device cookies (R7). */
export type CookieParameter = 'auth' | 'rauth';

/** The true reason why a cookie is bad, for the audit event alone: every one of them is answered with 401 (R8). */
export type CookieFault =
  | KindFault
  /** Not the text of any cookie in the configured encoding. */
  | 'cookie-encoding'
  /** Not sealed under this key, or changed since. */
  | 'cookie-forged'
  /** Issued more than 30 s ahead of our clock. */
  | 'cookie-early'
  | 'cookie-expired'
  /** A device cookie as `auth`, a user or share cookie as `rauth`. */
  | 'cookie-parameter'
  /** `once` that would have to be remembered for ever. */
  | 'once-forever';

/** What the single-use memory must keep of a cookie with `once`. */
export interface OnceRecord {
  /** SHA-256 of the sealed bytes (IV, tag, ciphertext), hex: the same however the text was written. */
  readonly fingerprint: string;
  /** Wall clock, ms: from then on the cookie is refused for its age. */
  readonly expiredAtMs: number;
}

export interface OpenedCookie {
  readonly ok: true;
  readonly cookie: CookieKinds;
  /** [R6] `time`, epoch seconds. */
  readonly issuedSeconds: number;
  /** [R6] Epoch ms at which the cookie also ends the running session; `undefined` where it does not. */
  readonly expiresAtMs: number | undefined;
  readonly once: OnceRecord | undefined;
}

export type OpenResult = OpenedCookie | { readonly ok: false; readonly fault: CookieFault };

const ivBytes = 12;
const tagBytes = 16;
const headBytes = ivBytes + tagBytes;
const algorithm = 'aes-256-gcm';

/** So many cookies' contents are kept: a page opens its sessions by one cookie, and opening costs 5 µs, finding 0.3. */
const keptContents = 256;

const earliestAgeSeconds = -30;
const limitMinutes: Readonly<Record<CookieParameter, number>> = { auth: 60, rauth: 240 };
/** A larger `expire` is an absolute time in epoch ms (R6). */
const maxExpireMinutes = 1e10;
/** The last moment a JavaScript date can name; a later `expire` is nonsense. */
const maxEpochMs = 8.64e15;

/** Seals and opens cookies (R5–R8) under one login key. Opening is on the way of every half that is set up. */
export class CookieSealer {
  readonly #key: KeyObject;
  readonly #clock: Clock;
  readonly #encoding: CookieEncoding;
  // Opening is synchronous, so that one place for the sealed bytes serves every cookie.
  readonly #sealed = Buffer.alloc(maxCookieBytes);
  readonly #iv = this.#sealed.subarray(0, ivBytes);
  readonly #tag = this.#sealed.subarray(ivBytes, headBytes);
  // By text, which is the cookie itself: who has it may open it. Whether it still holds is asked each time.
  readonly #contents = new Map<string, CookieContent>();

  constructor(loginKey: LoginKey, clock: Clock, encoding: CookieEncoding = 'base64') {
    this.#key = loginKey.cookieKey();
    this.#clock = clock;
    this.#encoding = encoding;
  }

  /** [R5] Seals an object as it is; `time` is now unless the object brings its own. Whether it makes sense, `open` tells. */
  seal(content: CookieContent): string {
    const time = Math.floor(this.#clock.nowMs() / 1000);
    return this.sealBytes(Buffer.from(JSON.stringify({ time, ...content })));
  }

  /** Seals any bytes. */
  sealBytes(plain: Uint8Array): string {
    const iv = randomBytes(ivBytes);
    const cipher = createCipheriv(algorithm, this.#key, iv, { authTagLength: tagBytes });
    const ciphertext = cipher.update(plain);
    cipher.final();
    return encodeCookieText(Buffer.concat([iv, cipher.getAuthTag(), ciphertext]), this.#encoding);
  }

  /**
   * [R5]–[R8] Opens a cookie and checks everything that can be checked without the request: seal, age, kind, and that
   * the kind belongs into this parameter. Never throws; the result holds nothing of the cookie's text.
   */
  open(text: string, parameter: CookieParameter): OpenResult {
    const content = this.#contents.get(text) ?? this.#unseal(text);
    if (typeof content === 'string') return refused(content);
    const nowMs = this.#clock.nowMs();
    const validity = readValidity(content, parameter);
    if (validity === undefined) return refused('cookie-content');
    const ageSeconds = Math.floor(nowMs / 1000) - validity.timeSeconds;
    if (ageSeconds < earliestAgeSeconds) return refused('cookie-early');
    if (ageSeconds > validity.limitSeconds) return refused('cookie-expired');
    if (validity.expiresAtMs !== undefined && nowMs >= validity.expiresAtMs) return refused('cookie-expired');
    const cookie = readKind(content);
    if (typeof cookie === 'string') return refused(cookie);
    const forDevices = cookie.kind === 'device' || cookie.kind === 'nouser';
    if (forDevices !== (parameter === 'rauth')) return refused('cookie-parameter');
    const once = readFlag(content.once);
    if (once === undefined) return refused('cookie-content');
    const opened = {
      ok: true,
      cookie,
      issuedSeconds: validity.timeSeconds,
      expiresAtMs: validity.expiresAtMs,
    } as const;
    if (!once) return { ...opened, once: undefined };
    const expiredAtMs = validity.expiresAtMs ?? (validity.timeSeconds + validity.limitSeconds + 1) * 1000;
    if (expiredAtMs === Number.POSITIVE_INFINITY) return refused('once-forever');
    const size = decodeCookieText(text, this.#encoding, this.#sealed);
    const fingerprint = createHash('sha256').update(this.#sealed.subarray(0, size)).digest('hex');
    return { ...opened, once: { fingerprint, expiredAtMs } };
  }

  #unseal(text: string): CookieContent | CookieFault {
    const size = decodeCookieText(text, this.#encoding, this.#sealed);
    if (size <= headBytes) return 'cookie-encoding';
    const plain = this.#decrypt(size);
    if (plain === undefined) return 'cookie-forged';
    const content = parseObject(plain);
    if (content === undefined) return 'cookie-content';
    if (this.#contents.size === keptContents) this.#contents.delete(this.#contents.keys().next().value!);
    this.#contents.set(ownCopy(text), content);
    return content;
  }

  #decrypt(size: number): Buffer | undefined {
    const decipher = createDecipheriv(algorithm, this.#key, this.#iv, { authTagLength: tagBytes });
    decipher.setAuthTag(this.#tag);
    const plain = decipher.update(this.#sealed.subarray(headBytes, size));
    try {
      decipher.final();
    } catch {
      return undefined; // final() throws for one reason: the tag does not match
    }
    return plain;
  }
}

/** One object per fault: refusing a flood of bad cookies allocates nothing. */
const refusals = new Map<CookieFault, OpenResult>();

function refused(fault: CookieFault): OpenResult {
  let refusal = refusals.get(fault);
  if (refusal === undefined) {
    refusal = Object.freeze({ ok: false, fault });
    refusals.set(fault, refusal);
  }
  return refusal;
}

function parseObject(plain: Buffer): CookieContent | undefined {
  if (!isUtf8(plain)) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(plain.toString('utf8'));
  } catch {
    return undefined; // sealed by the right key, yet no JSON
  }
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as CookieContent) : undefined;
}

interface Validity {
  readonly timeSeconds: number;
  /** Oldest age; infinite where the cookie has no limit or an absolute one. */
  readonly limitSeconds: number;
  readonly expiresAtMs: number | undefined;
}

/** [R6] `time` and `expire`; `undefined` where one is of a wrong type or out of all range. */
function readValidity(content: CookieContent, parameter: CookieParameter): Validity | undefined {
  const { time, expire } = content;
  if (typeof time !== 'number' || !Number.isSafeInteger(time) || time < 0) return undefined;
  if (expire === undefined) {
    return { timeSeconds: time, limitSeconds: limitMinutes[parameter] * 60, expiresAtMs: undefined };
  }
  if (typeof expire !== 'number' || expire < 0 || expire > maxEpochMs) return undefined;
  if (expire > maxExpireMinutes) {
    return { timeSeconds: time, limitSeconds: Number.POSITIVE_INFINITY, expiresAtMs: expire };
  }
  // Rounded: a third of a minute is 20 s, whatever its binary fraction says.
  const limitSeconds = expire === 0 ? Number.POSITIVE_INFINITY : Math.round(expire * 60);
  return { timeSeconds: time, limitSeconds, expiresAtMs: undefined };
}
