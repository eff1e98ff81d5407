import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CookieSealer, type OpenResult } from '../../src/auth/cookie.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { keyHex, loginKey, SetClock, sealByHand, sealBytesByHand, sealCbcByHand } from './fixtures.ts';

const clock = new SetClock();
const sealer = new CookieSealer(loginKey, clock);
const now = clock.seconds;
const user = { userid: 'user//alice', domainid: '', time: now };
const device = { ruserid: 'user//alice', time: now };
const share = { nid: 'node//n1', pid: 'share1', p: 3, gn: 'Guest Ä', expire: 120, vo: true, time: now };

function faultOf(result: OpenResult): string {
  return result.ok ? 'opened' : result.fault;
}

test('[R5] cookies sealed by hand open, and those sealed here open by hand: base64 with @ and $, and hex', () => {
  let signs = '';
  for (let round = 0; round < 200; round++) {
    const text = sealByHand({ ...user, filler: 'x'.repeat(round % 5) });
    signs += text.replace(/[A-Za-z0-9]/g, '');
    assert.equal(faultOf(sealer.open(text, 'auth')), 'opened');
    assert.equal(faultOf(sealer.open(sealer.seal({ ...user, filler: 'x'.repeat(round % 7) }), 'auth')), 'opened');
  }
  assert.deepEqual([...new Set(signs)].sort(), ['$', '=', '@'], 'all three signs were seen, and no other');
  const hexSealer = new CookieSealer(loginKey, clock, 'hex');
  assert.equal(faultOf(hexSealer.open(sealByHand(user, 'hex'), 'auth')), 'opened');
  assert.match(hexSealer.seal(user), /^[0-9a-f]+$/);
});

test('[R6] a cookie that has been opened before is judged anew each time, and a changed one is another', () => {
  const clock = new SetClock();
  const sealer = new CookieSealer(loginKey, clock);
  const text = sealer.seal({ userid: 'user//alice', domainid: '', expire: 2 });
  assert.equal(faultOf(sealer.open(text, 'auth')), 'opened');
  assert.equal(faultOf(sealer.open(text, 'auth')), 'opened');
  assert.equal(faultOf(sealer.open(text, 'rauth')), 'cookie-parameter');
  const other = `${text.slice(0, -8)}${text.at(-8) === 'A' ? 'B' : 'A'}${text.slice(-7)}`;
  assert.equal(faultOf(sealer.open(other, 'auth')), 'cookie-forged');
  clock.ms += 121_000;
  assert.equal(faultOf(sealer.open(text, 'auth')), 'cookie-expired');
  const once = sealer.seal({ userid: 'user//alice', domainid: '', once: 1 });
  const prints = [1, 2].map(() => {
    const opened = sealer.open(once, 'auth');
    return opened.ok && opened.once?.fingerprint;
  });
  assert.match(String(prints[0]), /^[0-9a-f]{64}$/);
  assert.equal(prints[0], prints[1]);
  // More cookies than are kept: none is forgotten to be opened.
  const many = Array.from({ length: 600 }, (_, n) => sealer.seal({ userid: `user//u${n}`, domainid: '' }));
  for (const round of [0, 1]) {
    for (const [n, one] of many.entries()) {
      const opened = sealer.open(one, 'auth');
      assert.ok(opened.ok && opened.cookie.kind === 'user' && opened.cookie.userid === `user//u${n}`, `${round} ${n}`);
    }
  }
});

test('[R5] only the configured encoding is taken, in its one form', () => {
  const hexSealer = new CookieSealer(loginKey, clock, 'hex');
  const base64 = sealByHand({ ...user, filler: 'xx' });
  const hex = sealByHand(user, 'hex');
  assert.equal(faultOf(sealer.open(hex, 'auth')), hex.length % 4 === 0 ? 'cookie-forged' : 'cookie-encoding');
  assert.equal(faultOf(hexSealer.open(base64, 'auth')), 'cookie-encoding');
  assert.equal(faultOf(hexSealer.open(hex.toUpperCase(), 'auth')), 'cookie-encoding');
  for (let round = 0; round < 50; round++) {
    const text = sealByHand({ ...user, filler: 'x'.repeat(round % 5) });
    const others = [
      text.replaceAll('@', '+').replaceAll('$', '/'),
      text.replaceAll('@', '-').replaceAll('$', '_'),
      text.replace(/=+$/, ''),
      `${text}=`,
      `${text}====`,
      ` ${text}`,
      `${text}\n`,
    ];
    for (const other of others)
      if (other !== text) assert.equal(faultOf(sealer.open(other, 'auth')), 'cookie-encoding');
  }
});

test('[R5] an empty text, one too short and one too long are refused', () => {
  for (const text of ['', '=', '====', 'AAAA', sealBytesByHand(Buffer.alloc(0)), 'A'.repeat(1_000_000)]) {
    assert.equal(faultOf(sealer.open(text, 'auth')), 'cookie-encoding');
  }
  assert.equal(faultOf(sealer.open(sealByHand({ ...user, filler: 'x'.repeat(5000) }), 'auth')), 'opened');
});

test('[R6] fault 8: age is accepted from -30 s to the limit of 60 minutes for auth and 240 for rauth', () => {
  for (const [content, parameter, limit] of [
    [user, 'auth', 3600],
    [device, 'rauth', 14_400],
  ] as const) {
    const open = (age: number) => faultOf(sealer.open(sealByHand({ ...content, time: now - age }), parameter));
    assert.equal(open(-31), 'cookie-early');
    assert.equal(open(-30), 'opened');
    assert.equal(open(0), 'opened');
    assert.equal(open(limit), 'opened');
    assert.equal(open(limit + 1), 'cookie-expired');
  }
});

test('[R6] fault 8: expire in minutes replaces the limit, and 0 takes it away', () => {
  const open = (age: number, expire: number) =>
    faultOf(sealer.open(sealByHand({ ...user, time: now - age, expire }), 'auth'));
  assert.equal(open(60, 1), 'opened');
  assert.equal(open(61, 1), 'cookie-expired');
  assert.equal(open(20, 1 / 3), 'opened');
  assert.equal(open(21, 1 / 3), 'cookie-expired');
  assert.equal(open(100_000 * 60, 100_000), 'opened');
  assert.equal(open(100_000 * 60 + 1, 100_000), 'cookie-expired');
  assert.equal(open(now, 0), 'opened');
  assert.equal(open(-31, 0), 'cookie-early');
  assert.equal(open(now, 1e10), 'opened', '10^10 is minutes still');
  const opened = sealer.open(sealByHand({ ...user, expire: 1 }), 'auth');
  assert.ok(opened.ok && opened.expiresAtMs === undefined, 'minutes do not end the session');
});

test('[R6] fault 8: expire above 10^10 is an absolute time, which also ends the session', () => {
  const at = (expire: number, age = 0) => sealer.open(sealByHand({ ...user, time: now - age, expire }), 'auth');
  const opened = at(clock.ms + 1, 50_000);
  assert.ok(opened.ok);
  assert.equal(opened.expiresAtMs, clock.ms + 1);
  assert.equal(faultOf(at(clock.ms)), 'cookie-expired');
  assert.equal(faultOf(at(1e10 + 1)), 'cookie-expired', 'just above 10^10 it is a moment of 1970');
  assert.equal(faultOf(at(clock.ms + 1, -31)), 'cookie-early');
});

test('[R6] fault 9: time and expire of wrong types or out of range are refused', () => {
  for (const time of [undefined, null, '1760000000', 1.5, -1, true, [now], 1e300]) {
    assert.equal(faultOf(sealer.open(sealByHand({ ...user, time }), 'auth')), 'cookie-content', String(time));
  }
  for (const expire of [null, '60', true, -1, [5], {}, 1e17]) {
    assert.equal(faultOf(sealer.open(sealByHand({ ...user, expire }), 'auth')), 'cookie-content', String(expire));
  }
  const infinite = Buffer.from(`{"userid":"user//alice","domainid":"","time":${now},"expire":1e999}`);
  assert.equal(faultOf(sealer.open(sealBytesByHand(infinite), 'auth')), 'cookie-content');
});

test('[R7] auth takes user and share cookies, rauth device cookies', () => {
  const noUser = { nouser: 1, id: 'x', time: now };
  for (const [content, parameter, kind] of [
    [user, 'auth', 'user'],
    [share, 'auth', 'share'],
    [device, 'rauth', 'device'],
    [noUser, 'rauth', 'nouser'],
  ] as const) {
    const opened = sealer.open(sealByHand(content), parameter);
    assert.ok(opened.ok);
    assert.equal(opened.cookie.kind, kind);
    const other = parameter === 'auth' ? 'rauth' : 'auth';
    assert.equal(faultOf(sealer.open(sealByHand(content), other)), 'cookie-parameter');
  }
});

test('[R7] once is remembered until the cookie expires, and refused where that is never', () => {
  const open = (content: object) => sealer.open(sealByHand({ ...user, ...content }), 'auth');
  const byLimit = open({ once: 1, time: now - 100 });
  assert.ok(byLimit.ok && byLimit.once);
  assert.equal(byLimit.once.expiredAtMs, (now - 100 + 3601) * 1000, 'its age is 3600 s until that second is over');
  const byMinutes = open({ once: true, expire: 2 });
  assert.equal(byMinutes.ok && byMinutes.once?.expiredAtMs, (now + 121) * 1000);
  const absolute = open({ once: true, expire: clock.ms + 500 });
  assert.equal(absolute.ok && absolute.once?.expiredAtMs, clock.ms + 500);
  for (const once of [0, false]) {
    const opened = open({ once });
    assert.ok(opened.ok && opened.once === undefined);
  }
  assert.equal(faultOf(open({ once: 1, expire: 0 })), 'once-forever');
  for (const once of [2, 'true', null, {}]) assert.equal(faultOf(open({ once })), 'cookie-content');
});

test('[R7] the fingerprint of a once cookie is of its sealed bytes', () => {
  const text = sealByHand({ ...user, once: 1 });
  const hex = Buffer.from(text.replaceAll('@', '+').replaceAll('$', '/'), 'base64').toString('hex');
  const first = sealer.open(text, 'auth');
  const second = new CookieSealer(loginKey, clock, 'hex').open(hex, 'auth');
  assert.ok(first.ok && second.ok && first.once && second.once);
  assert.equal(first.once.fingerprint, second.once.fingerprint);
  const other = sealer.open(sealByHand({ ...user, once: 1 }), 'auth');
  assert.ok(other.ok && other.once?.fingerprint !== first.once.fingerprint);
});

test('[R8] fault 9: any flipped bit of any character, and any truncation, is refused', () => {
  for (const encoding of ['base64', 'hex'] as const) {
    const opener = new CookieSealer(loginKey, clock, encoding);
    for (const filler of ['', 'x', 'xx']) {
      const text = sealByHand({ ...user, filler }, encoding);
      assert.equal(faultOf(opener.open(text, 'auth')), 'opened');
      for (let at = 0; at < text.length; at++) {
        assert.equal(opener.open(text.slice(0, at), 'auth').ok, false, `cut at ${at}`);
        assert.equal(opener.open(text.slice(at + 1), 'auth').ok, false, `cut before ${at}`);
        for (let bit = 0; bit < 16; bit++) {
          const flipped = String.fromCharCode(text.charCodeAt(at) ^ (1 << bit));
          const changed = text.slice(0, at) + flipped + text.slice(at + 1);
          assert.equal(opener.open(changed, 'auth').ok, false, `character ${at}, bit ${bit}`);
        }
      }
    }
  }
});

test('[R8] fault 9: any flipped bit of any sealed byte is refused', () => {
  const sealed = Buffer.from(sealByHand(user, 'hex'), 'hex');
  const opener = new CookieSealer(loginKey, clock, 'hex');
  for (let at = 0; at < sealed.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const changed = Buffer.from(sealed);
      changed[at]! ^= 1 << bit;
      assert.equal(faultOf(opener.open(changed.toString('hex'), 'auth')), 'cookie-forged');
    }
  }
});

test('[R5] fault 9: another key and other algorithms are refused', () => {
  assert.equal(faultOf(sealer.open(sealByHand(user, 'base64', LoginKey.generate().toHex()), 'auth')), 'cookie-forged');
  const otherTail = keyHex.slice(0, 64) + '00'.repeat(48);
  assert.equal(faultOf(sealer.open(sealByHand(user, 'base64', otherTail), 'auth')), 'opened', 'the tail seals nothing');
  for (let round = 0; round < 20; round++) {
    assert.equal(sealer.open(sealCbcByHand({ ...user, round }), 'auth').ok, false);
  }
  const plain = Buffer.from(JSON.stringify(user)).toString('base64').replaceAll('+', '@').replaceAll('/', '$');
  assert.equal(sealer.open(plain, 'auth').ok, false);
});

test('[R8] fault 9: sealed bytes that are no JSON object, or no UTF-8, are refused', () => {
  const invalidUtf8 = Buffer.concat([
    Buffer.from(`{"userid":"user//alice","domainid":"","time":${now},"x":"`),
    Buffer.from([0xff]),
    Buffer.from('"}'),
  ]);
  for (const plain of ['null', '[]', '"text"', '5', '{', '', ' ', '{"a":1}x'].map((text) => Buffer.from(text))) {
    assert.equal(sealer.open(sealBytesByHand(plain), 'auth').ok, false, plain.toString());
  }
  assert.equal(faultOf(sealer.open(sealBytesByHand(invalidUtf8), 'auth')), 'cookie-content');
});

test('[R8] no text and no sealed content makes opening throw', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.equal(sealer.open(text, 'auth').ok, false);
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.constantFrom('auth', 'rauth'), (bytes, parameter) => {
      sealer.open(sealer.sealBytes(bytes), parameter);
    }),
  );
  const key = fc.constantFrom(
    ...'time expire once userid domainid ip nodeid tcpport tcpaddr udpport udpaddr id'.split(' '),
    ...'ruserid nouser nid pid p gn vo __proto__ constructor'.split(' '),
  );
  const value = fc.oneof(fc.jsonValue(), fc.constantFrom(now, 'user//alice', 'node//n1', '', 0, 1, 22));
  fc.assert(
    fc.property(fc.dictionary(key, value), fc.constantFrom('auth', 'rauth'), (content, parameter) => {
      sealer.open(sealByHand(content), parameter);
      sealer.open(sealByHand({ ...user, ...content }), parameter);
    }),
    { numRuns: 500 },
  );
});
