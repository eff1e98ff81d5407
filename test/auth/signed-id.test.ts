import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { LoginKey } from '../../src/auth/keys.ts';
import { IdSigner, pairingIdOf } from '../../src/auth/signed-id.ts';
import { loginKey, SetClock } from './fixtures.ts';

const clock = new SetClock();
const signer = new IdSigner(loginKey, clock);

function signByHand(random: string, epochMs: number | string): string {
  const hmac = createHmac('sha384', loginKey.derive('signed-ids')).update(`${random}:${epochMs}`).digest('hex');
  return `${random}:${epochMs}:${hmac}`;
}

function faultOf(id: string): string {
  const checked = signer.check(id);
  return checked.ok ? checked.random : checked.fault;
}

test('[R14] a minted id reads RANDOM:EPOCHMS:HEXHMAC under the derived key, and gives RANDOM', () => {
  const id = signer.sign();
  const [random, epochMs, hmac] = id.split(':') as [string, string, string];
  assert.equal(Number(epochMs), clock.ms);
  assert.equal(id, signByHand(random, epochMs));
  assert.match(hmac, /^[0-9a-f]{96}$/);
  assert.equal(faultOf(id), random);
  assert.equal(pairingIdOf(id), random);
  assert.notEqual(signer.sign(), id);
});

test('[R4][R14] a minted id carries at least 128 random bits', () => {
  const randoms = Array.from({ length: 500 }, () => pairingIdOf(signer.sign()));
  assert.equal(new Set(randoms).size, 500);
  for (const random of randoms) assert.ok(Buffer.from(random, 'base64url').length * 8 >= 128);
});

test('[R14] not older than 120 s nor more than 30 s ahead', () => {
  assert.equal(faultOf(signByHand('r', clock.ms - 120_000)), 'r');
  assert.equal(faultOf(signByHand('r', clock.ms - 120_001)), 'id-age');
  assert.equal(faultOf(signByHand('r', clock.ms + 30_000)), 'r');
  assert.equal(faultOf(signByHand('r', clock.ms + 30_001)), 'id-age');
});

test('[R14] RANDOM may hold colons, as a messenger id of such names does', () => {
  assert.equal(faultOf(signByHand('meshmessenger/user//a:b/user//c', clock.ms)), 'meshmessenger/user//a:b/user//c');
  assert.equal(faultOf(signByHand('a:1', clock.ms)), 'a:1');
});

test('[R14] any changed character, and any other form, is refused', () => {
  const id = signByHand('random', clock.ms);
  for (let at = 0; at < id.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const changed = id.slice(0, at) + String.fromCharCode(id.charCodeAt(at) ^ (1 << bit)) + id.slice(at + 1);
      assert.equal(faultOf(changed), 'id-signature', changed);
    }
    assert.equal(faultOf(id.slice(0, at)), 'id-signature');
  }
  const ofAnotherKey = new IdSigner(LoginKey.generate(), clock).sign();
  for (const bad of ['', 'random', '::', ofAnotherKey, `${id}0`, signByHand('', clock.ms), signByHand('r', '1e3')]) {
    assert.equal(faultOf(bad), 'id-signature', bad);
  }
  const underCookieKey = createHmac('sha384', loginKey.cookieKey()).update(`r:${clock.ms}`).digest('hex');
  assert.equal(faultOf(`r:${clock.ms}:${underCookieKey}`), 'id-signature');
});

test('[R14] no text makes the check throw', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => faultOf(text) === 'id-signature'));
  fc.assert(
    fc.property(fc.string({ minLength: 1, maxLength: 60 }), (random) => {
      assert.equal(faultOf(signer.sign(random)), random);
    }),
  );
});
