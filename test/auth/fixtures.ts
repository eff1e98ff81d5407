import { createCipheriv, createHmac, randomBytes } from 'node:crypto';
import type { AdmissionOptions, AdmissionResult, Refusal } from '../../src/auth/admission-types.ts';
import type { CookieEncoding } from '../../src/auth/cookie-text.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import type { SingleUse } from '../../src/auth/single-use.ts';
import type { Clock } from '../../src/core/clock.ts';
import { parseRelayQuery, type RelayQuery } from '../../src/protocol/relay-query.ts';

/** A clock that stands until it is set. */
export class SetClock implements Clock {
  ms: number;
  constructor(ms = 1_760_000_000_000) {
    this.ms = ms;
  }
  nowMs(): number {
    return this.ms;
  }
  monotonicMs(): number {
    return this.ms;
  }
  get seconds(): number {
    return Math.floor(this.ms / 1000);
  }
}

export const keyHex = Buffer.from(Array.from({ length: 80 }, (_, at) => (at * 7 + 3) & 0xff)).toString('hex');
export const loginKey = LoginKey.parse(keyHex);

/** The layout of R5, written down a second time from the specification. */
export function sealBytesByHand(plain: Buffer, encoding: CookieEncoding = 'base64', hex = keyHex): string {
  const iv = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', Buffer.from(hex, 'hex').subarray(0, 32), iv);
  const ciphertext = Buffer.concat([cipher.update(plain), cipher.final()]);
  const sealed = Buffer.concat([iv, cipher.getAuthTag(), ciphertext]);
  if (encoding === 'hex') return sealed.toString('hex');
  return sealed.toString('base64').replace(/\+/g, '@').replace(/\//g, '$');
}

export function sealByHand(content: unknown, encoding: CookieEncoding = 'base64', hex = keyHex): string {
  return sealBytesByHand(Buffer.from(JSON.stringify(content)), encoding, hex);
}

/** What must never be accepted: AES-256-CBC with an HMAC-SHA384 in front, under parts of the same login key. */
export function sealCbcByHand(content: unknown): string {
  const key = Buffer.from(keyHex, 'hex');
  const iv = randomBytes(16);
  const cipher = createCipheriv('aes-256-cbc', key.subarray(0, 32), iv);
  const ciphertext = Buffer.concat([cipher.update(JSON.stringify(content)), cipher.final()]);
  const mac = createHmac('sha384', key.subarray(32)).update(ciphertext).digest();
  return Buffer.concat([iv, mac, ciphertext]).toString('base64').replace(/\+/g, '@').replace(/\//g, '$');
}

/** A memory for tests that are not about it. */
export const anySingleUse: SingleUse = { use: () => 'fresh' };

export function admissionOptions(clock: Clock, changes: Partial<AdmissionOptions> = {}): AdmissionOptions {
  return {
    loginKey,
    cookieEncoding: 'base64',
    clock,
    singleUse: anySingleUse,
    allowNoUser: false,
    signedIds: false,
    anonymousDevice: false,
    routing: false,
    knownDomain: () => true,
    ...changes,
  };
}

/** A query from its parameters; every value percent-encoded. Fails where the query is refused. */
export function queryOf(parameters: Record<string, string>): RelayQuery {
  const raw = Object.entries(parameters).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  const parsed = parseRelayQuery(raw.join('&'));
  if (!parsed.ok) throw new Error(`query refused: ${parsed.detail}`);
  return parsed.query;
}

export function assertRefused(result: AdmissionResult): asserts result is Refusal {
  if (result.ok) throw new Error(`admitted: ${JSON.stringify(result.half)}`);
}
