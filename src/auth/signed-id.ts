import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../core/clock.ts';
import { isPrintableId, mintId } from '../core/ids.ts';
import type { LoginKey } from './keys.ts';

export type SignedIdFault = 'id-signature' | 'id-age';

const maxAgeMs = 120_000;
const maxAheadMs = 30_000;
const shape = /^(.+):([0-9]{1,15}):([0-9a-f]{96})$/;

/** The part of an id that pairing uses: `RANDOM` of a signed id, another id as it is (R14). Proves nothing. */
export function pairingIdOf(id: string): string {
  return shape.exec(id)?.[1] ?? id;
}

/** Signs and checks session ids, `RANDOM:EPOCHMS:HEXHMAC` (R14), under the key that the login key has for that. */
export class IdSigner {
  readonly #key: KeyObject;
  readonly #clock: Clock;

  constructor(loginKey: LoginKey, clock: Clock) {
    this.#key = loginKey.derive('signed-ids');
    this.#clock = clock;
  }

  /** [R14] Signs `random`, a freshly minted one unless told otherwise, as of now. */
  sign(random: string = mintId()): string {
    const signed = `${random}:${this.#clock.nowMs()}`;
    return `${signed}:${this.#mac(signed)}`;
  }

  /**
   * [R14] Checks a signed id: the signature in constant time, then that it is not older than 120 s nor more than 30 s
   * ahead. Gives the RANDOM part, which may hold colons itself.
   */
  check(
    id: string,
  ): { readonly ok: true; readonly random: string } | { readonly ok: false; readonly fault: SignedIdFault } {
    const match = isPrintableId(id) ? shape.exec(id) : null;
    if (match === null) return { ok: false, fault: 'id-signature' };
    const [, random, epochMs, hmac] = match;
    const expected = Buffer.from(this.#mac(`${random}:${epochMs}`), 'latin1');
    if (!timingSafeEqual(expected, Buffer.from(hmac!, 'latin1'))) return { ok: false, fault: 'id-signature' };
    const ageMs = this.#clock.nowMs() - Number(epochMs);
    if (ageMs > maxAgeMs || ageMs < -maxAheadMs) return { ok: false, fault: 'id-age' };
    return { ok: true, random: random! };
  }

  #mac(signed: string): string {
    return createHmac('sha384', this.#key).update(signed).digest('hex');
  }
}
