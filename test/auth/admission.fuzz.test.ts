import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Admitter } from '../../src/auth/admission.ts';
import { parseRelayQuery } from '../../src/protocol/relay-query.ts';
import { admissionOptions, SetClock, sealByHand, sealCbcByHand } from './fixtures.ts';

const clock = new SetClock();
const user = { userid: 'user//alice', domainid: '', time: clock.seconds };
const admitters = [
  new Admitter(admissionOptions(clock)),
  new Admitter(admissionOptions(clock, { allowNoUser: true, anonymousDevice: true, routing: true })),
  new Admitter(admissionOptions(clock, { signedIds: true, resolveShare: () => ({ userid: 'user//alice' }) })),
];

/** The answer to a raw query: `200`, or the status of the refusal. */
function statusOf(raw: string, admitter = admitters[0]!): number {
  const parsed = parseRelayQuery(raw);
  if (!parsed.ok) return parsed.httpStatus;
  const result = admitter.admit({ domain: '', query: parsed.query, address: '192.0.2.1' });
  assert.ok(!(result instanceof Promise));
  return result.ok ? 200 : result.httpStatus;
}

test('[R8] fault 9: a raw query whose cookie has any bit flipped, or is cut anywhere, is answered 401', () => {
  for (const filler of ['', 'x', 'xx']) {
    const cookie = sealByHand({ ...user, filler });
    assert.equal(statusOf(`id=s&auth=${cookie}`), 200);
    for (let at = 0; at < cookie.length; at++) {
      assert.equal(statusOf(`id=s&auth=${cookie.slice(0, at)}`), 401, `cut at ${at}`);
      for (let bit = 0; bit < 8; bit++) {
        const flipped = String.fromCharCode(cookie.charCodeAt(at) ^ (1 << bit));
        const raw = `id=s&auth=${cookie.slice(0, at)}${flipped}${cookie.slice(at + 1)}`;
        assert.equal(statusOf(raw), 401, `character ${at}, bit ${bit}`);
      }
    }
  }
  assert.equal(statusOf(`id=s&auth=${sealCbcByHand(user)}`), 401);
});

test('[R42] a cookie put into the query unescaped, and one percent-encoded, both open', () => {
  for (let round = 0; round < 100; round++) {
    const cookie = sealByHand({ ...user, filler: 'x'.repeat(round % 5) });
    assert.equal(statusOf(`auth=${cookie}&id=a@b$c`), 200);
    assert.equal(statusOf(`auth=${encodeURIComponent(cookie)}&id=a%40b%24c`), 200);
  }
});

test('[R8] no query and no cookie makes admission throw', () => {
  const names = 'id auth rauth browser p nodeid tcpport tcpaddr udpport udpaddr noping hd x'.split(' ');
  const key = fc.constantFrom(
    ...'time expire once userid domainid ip nodeid tcpport tcpaddr udpport id ruserid nouser nid pid p gn vo'.split(
      ' ',
    ),
  );
  const plausible = fc.constantFrom<unknown>(clock.seconds, 'user//alice', 'node//n1', '', 's', 0, 1, 22, '192.0.2.9');
  const content = fc.dictionary(key, fc.oneof(plausible, fc.jsonValue()));
  const cookie = content.map((keys) => sealByHand({ time: clock.seconds, ...keys }));
  const base = fc.constantFrom(
    user,
    { ruserid: 'user//alice', time: clock.seconds },
    { nouser: 1, id: 's', time: clock.seconds },
    { nid: 'node//n1', pid: 'x', p: 1, gn: 'g', expire: 5, time: clock.seconds },
  );
  const nearly = fc.tuple(base, content).map(([keys, more]) => sealByHand({ ...keys, ...more }));
  const value = fc.oneof(
    fc.constantFrom('s', '1', '22', 'node//n1', '%', '%zz', '%00', '', 'meshmessenger/user//alice/node//n1'),
    fc.string({ unit: 'binary' }),
    cookie,
    nearly,
  );
  const parameter = fc.tuple(fc.constantFrom(...names), value).map(([name, text]) => `${name}=${text}`);
  const query = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(parameter, { maxLength: 8 }).map((parameters) => parameters.join('&')),
    // Seldom enough does one of the above get in.
    nearly.map((sealed) => `id=s&auth=${sealed}`),
  );
  const seen = new Set<number>();
  fc.assert(
    fc.property(query, fc.constantFrom(...admitters), (raw, admitter) => {
      seen.add(statusOf(raw, admitter));
    }),
    { numRuns: 5000 },
  );
  assert.ok(seen.has(200) && seen.has(400) && seen.has(401), `the queries reach every answer: ${[...seen]}`);
});
