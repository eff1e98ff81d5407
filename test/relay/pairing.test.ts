import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Identity } from '../../src/relay/half.ts';
import { type Arrival, type Candidate, judge, Pairing, type PairingOptions } from '../../src/relay/pairing.ts';
import { Random } from '../support/random.ts';
import { anonymousIdentity, deviceIdentity, noUserIdentity, userIdentity } from '../support/relay-doubles.ts';

interface Double extends Candidate {
  gone: boolean;
}

function half(identity: Identity, more: { id?: string; domain?: string; browser?: boolean } = {}): Double {
  const { id = 'x', domain = '', browser = false } = more;
  const made: Double = { domain, id, identity, browser, gone: false, isGone: () => made.gone };
  return made;
}

const off: PairingOptions = { strictSides: false, defaultUser: '' };
const user = (name?: string) => half(userIdentity(name));
const device = (name?: string) => half(deviceIdentity(name));

function meet(first: Double, second: Double, options: Partial<PairingOptions> = {}): Arrival<Double> {
  const pairing = new Pairing<Double>({ ...off, ...options });
  assert.deepEqual(pairing.arrive(first), { verdict: 'wait' });
  return pairing.arrive(second);
}

function verdict(first: Double, second: Double, options: Partial<PairingOptions> = {}): string {
  const arrival = meet(first, second, options);
  return arrival.verdict === 'refuse' ? `${arrival.code} ${arrival.outcome}` : arrival.verdict;
}

test('[R15] the first half with an id waits, the second one meets it', () => {
  const pairing = new Pairing<Double>(off);
  const first = user();
  assert.equal(pairing.wouldWait(first), true);
  assert.deepEqual(pairing.arrive(first), { verdict: 'wait' });
  assert.equal(pairing.wouldWait(first), false);
  assert.equal(pairing.waitingCount, 1);
  const second = device();
  assert.deepEqual(pairing.arrive(second), { verdict: 'pair', waiting: first, user: first, device: second });
  assert.equal(pairing.waitingCount, 0);
  assert.equal(pairing.wouldWait(first), false, 'a third half would not wait either');
});

test('[R15] a half that leaves frees its place, once, and only its own', () => {
  const pairing = new Pairing<Double>(off);
  const first = user();
  pairing.arrive(first);
  assert.equal(pairing.leave(user()), false, 'another half with the same id');
  assert.equal(pairing.leave(first), true);
  assert.equal(pairing.leave(first), false);
  assert.equal(pairing.arrive(device()).verdict, 'wait');
});

test('[R1] halves meet by domain and id: neither alone is enough, and the two are not run together', () => {
  const pairing = new Pairing<Double>(off);
  const at = (domain: string, id: string) => half(userIdentity(), { domain, id });
  for (const [domain, id] of [
    ['', 'x'],
    ['a', 'x'],
    ['', 'y'],
    ['a', 'bc'],
    ['ab', 'c'],
    ['', '__proto__'],
    ['', 'constructor'],
  ] as const) {
    assert.equal(pairing.arrive(at(domain, id)).verdict, 'wait', `${domain} ${id}`);
  }
  assert.equal(pairing.waitingCount, 7);
});

test('[R16] the second half pairs where both stand for the same user, in either order', () => {
  assert.equal(verdict(user(), device()), 'pair');
  assert.equal(verdict(device(), user()), 'pair');
  assert.equal(verdict(user(), user()), 'pair');
  assert.equal(verdict(user('alice'), device('bob')), '4403 denied');
  assert.equal(verdict(device('alice'), user('bob')), '4403 denied');
  assert.equal(verdict(user('alice'), user('bob')), '4403 denied');
  assert.equal(verdict(user('alice'), device('Alice')), '4403 denied', 'ids are compared as they are');
});

test('[R16] a nouser cookie meets any user half, never a device half', () => {
  assert.equal(verdict(half(noUserIdentity), user()), 'pair');
  assert.equal(verdict(user('bob'), half(noUserIdentity)), 'pair');
  assert.equal(verdict(half(noUserIdentity), device()), '4403 denied');
  assert.equal(verdict(half(noUserIdentity), half(noUserIdentity)), '4403 denied');
});

test('[R16] a half that nobody authenticated pairs with no one outside the messenger', () => {
  for (const options of [{}, { defaultUser: 'admin' }]) {
    assert.equal(verdict(half(anonymousIdentity), user(), options), '4403 denied');
    assert.equal(verdict(user(), half(anonymousIdentity), options), '4403 denied');
    assert.equal(verdict(device(), half(anonymousIdentity), options), '4403 denied');
    assert.equal(verdict(half(anonymousIdentity), half(anonymousIdentity), options), '4403 denied');
  }
});

test('[R16] fault 10: a refused newcomer leaves the waiting half its place', () => {
  const pairing = new Pairing<Double>(off);
  const bob = user('bob');
  pairing.arrive(bob);
  for (let i = 0; i < 100; i++) assert.equal(pairing.arrive(user('mallory')).verdict, 'refuse');
  assert.equal(pairing.waitingAt(bob), bob);
  const mate = device('bob');
  assert.deepEqual(pairing.arrive(mate), { verdict: 'pair', waiting: bob, user: bob, device: mate });
});

test('[R17] fault 3: two device halves never pair, whatever the options', () => {
  for (const strictSides of [false, true]) {
    for (const defaultUser of ['', 'admin']) {
      assert.equal(verdict(device(), device(), { strictSides, defaultUser }), '4403 denied');
    }
  }
});

test('[R17] fault 3: two user halves of one user pair unless strictSides is set: 4409', () => {
  assert.equal(verdict(user(), user()), 'pair');
  assert.equal(verdict(user(), user(), { strictSides: true }), '4409 duplicate');
  assert.equal(verdict(user(), device(), { strictSides: true }), 'pair');
  assert.equal(verdict(user('alice'), user('bob'), { strictSides: true }), '4403 denied', 'another user goes first');
});

test('[R17] of two user halves the one with browser=1 is the user side, else the first', () => {
  const sides = (first: Double, second: Double): string => {
    const arrival = meet(first, second);
    if (arrival.verdict !== 'pair') return arrival.verdict;
    assert.notEqual(arrival.user, arrival.device);
    return arrival.user === first ? 'first' : 'second';
  };
  const browser = () => half(userIdentity(), { browser: true });
  assert.equal(sides(user(), user()), 'first');
  assert.equal(sides(browser(), user()), 'first');
  assert.equal(sides(user(), browser()), 'second');
  assert.equal(sides(browser(), browser()), 'first');
  assert.equal(sides(half(deviceIdentity(), { browser: true }), user()), 'second', 'a device half stays one');
});

test('[R18] fault 2: a third half is refused with 4409 until the pair ends', () => {
  const pairing = new Pairing<Double>(off);
  const first = user();
  pairing.arrive(first);
  pairing.arrive(device());
  for (const third of [user(), device(), user('mallory'), half(noUserIdentity)]) {
    const arrival = pairing.arrive(third);
    assert.equal(arrival.verdict, 'refuse');
    assert.equal(arrival.verdict === 'refuse' && arrival.code, 4409);
    assert.equal(arrival.verdict === 'refuse' && arrival.outcome, 'duplicate');
    assert.equal(pairing.leave(third), false);
  }
  assert.equal(pairing.leave(first), false, "a paired half's leave is the session's affair");
  assert.equal(pairing.arrive(user()).verdict, 'refuse');
  pairing.end(first);
  assert.equal(pairing.arrive(user()).verdict, 'wait');
});

test('[R19] a stray end does not take the place of a half that waits', () => {
  const pairing = new Pairing<Double>(off);
  const first = user();
  pairing.arrive(first);
  pairing.end(first);
  assert.equal(pairing.waitingAt(first), first);
});

test('[R19] fault 4: a waiting half that is gone is not paired; the newcomer takes the place', () => {
  const pairing = new Pairing<Double>(off);
  const dead = user();
  pairing.arrive(dead);
  dead.gone = true;
  const second = device();
  assert.deepEqual(pairing.arrive(second), { verdict: 'wait' });
  assert.equal(pairing.leave(dead), false, 'its late close must not take the newcomer away');
  assert.equal(pairing.waitingAt(second), second);
  const third = user();
  assert.deepEqual(pairing.arrive(third), { verdict: 'pair', waiting: second, user: third, device: second });
});

test('[R11] the default user takes the place of both ids, also where both differ from it', () => {
  const options = { defaultUser: 'Admin' };
  assert.equal(verdict(user('alice'), device('bob'), options), 'pair');
  assert.equal(verdict(device('ALICE'), user('bob'), options), 'pair');
  assert.equal(verdict(user('alice'), user('bob'), options), 'pair');
});

test('[R13] messenger: two different users meet, one user twice does not, nor do two devices', () => {
  const id = 'meshmessenger/user//alice/user//bob';
  const at = (identity: Identity) => half(identity, { id });
  assert.equal(verdict(at(userIdentity('alice')), at(userIdentity('bob'))), 'pair');
  assert.equal(verdict(at(userIdentity('alice')), at(userIdentity('alice'))), '4403 denied');
  assert.equal(
    verdict(at(userIdentity('alice')), at(userIdentity('alice')), { defaultUser: 'admin' }),
    '4403 denied',
    'a default user does not make one party of two',
  );
  assert.equal(
    verdict(at(userIdentity('alice')), at(userIdentity('bob')), { defaultUser: 'admin', strictSides: true }),
    'pair',
  );
  const node = 'meshmessenger/user//alice/node//pc';
  const there = (identity: Identity) => half(identity, { id: node });
  assert.equal(verdict(there(userIdentity('alice')), there(deviceIdentity('bob'))), 'pair');
  assert.equal(verdict(there(anonymousIdentity), there(userIdentity('alice'))), 'pair');
  assert.equal(verdict(there(anonymousIdentity), there(anonymousIdentity)), '4403 denied');
  assert.equal(verdict(there(anonymousIdentity), there(deviceIdentity())), '4403 denied');
});

test('[R16] judging is symmetric: who came first does not decide whether two may meet', () => {
  const identities = [userIdentity(), userIdentity('bob'), deviceIdentity(), deviceIdentity('bob')];
  const all = [...identities, noUserIdentity, anonymousIdentity];
  for (const id of ['x', 'meshmessenger/user//alice/user//bob']) {
    for (const strictSides of [false, true]) {
      for (const a of all) {
        for (const b of all) {
          const options = { strictSides, defaultUser: '' };
          assert.deepEqual(
            judge(half(a, { id }), half(b, { id }), options),
            judge(half(b, { id }), half(a, { id }), options),
          );
        }
      }
    }
  }
});

test('a veto keeps the waiting half and names its reason', () => {
  const pairing = new Pairing<Double>(off);
  const first = user();
  pairing.arrive(first);
  const refusal = { outcome: 'limit', code: 4429, reason: 'enough' } as const;
  assert.deepEqual(
    pairing.arrive(device(), () => refusal),
    { verdict: 'refuse', ...refusal },
  );
  assert.equal(pairing.waitingAt(first), first);
});

/** What must be true, written down as plainly as can be: for each id who waits and who is paired. */
class Model {
  readonly waiting = new Map<string, Double>();
  readonly paired = new Map<string, readonly [Double, Double]>();

  arrive(half: Double): 'wait' | 'pair' | 'refuse' {
    if (this.paired.has(half.id)) return 'refuse';
    const first = this.waiting.get(half.id);
    if (first === undefined || first.gone) {
      this.waiting.set(half.id, half);
      return 'wait';
    }
    const sides = [first.identity.side, half.identity.side];
    if (!sides.includes('user') || first.identity.userid !== half.identity.userid) return 'refuse';
    this.waiting.delete(half.id);
    this.paired.set(half.id, [first, half]);
    return 'pair';
  }
}

test('[R19] fault 1: 10,000 random interleavings make exactly one pair each and leave no orphan', (t) => {
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  let pairs = 0;
  for (let round = 0; round < 10_000; round++) {
    const where = `seed ${random.seed}, round ${round}`;
    const pairing = new Pairing<Double>(off);
    const model = new Model();
    const known: Double[] = [];
    const pairsOf = new Map<Double, number>();
    const steps = 4 + random.below(16);
    for (let step = 0; step < steps; step++) {
      const act = random.below(10);
      const old = known.length > 0 ? random.pick(known) : undefined;
      if (act < 6 || old === undefined) {
        const identity = random.chance(0.5) ? userIdentity : deviceIdentity;
        const newcomer = half(identity(random.chance(0.9) ? 'alice' : 'bob'), { id: random.pick(['x', 'x', 'y']) });
        known.push(newcomer);
        const expected = model.arrive(newcomer);
        const arrival = pairing.arrive(newcomer);
        assert.equal(arrival.verdict, expected, where);
        if (arrival.verdict !== 'pair') continue;
        pairs++;
        assert.deepEqual(new Set([arrival.user, arrival.device]), new Set(model.paired.get(newcomer.id)), where);
        for (const one of [arrival.user, arrival.device]) pairsOf.set(one, (pairsOf.get(one) ?? 0) + 1);
      } else if (act < 7) {
        old.gone = true; // hung up, not seen yet
      } else if (act < 9) {
        const waits = model.waiting.get(old.id) === old;
        if (waits) model.waiting.delete(old.id);
        old.gone = true;
        assert.equal(pairing.leave(old), waits, where);
      } else {
        model.paired.delete(old.id);
        pairing.end(old);
      }
    }
    assert.ok(
      [...pairsOf.values()].every((count) => count === 1),
      `${where}: a half was paired twice`,
    );
    assert.deepEqual(new Set(pairing.waiting()), new Set(model.waiting.values()), `${where}: an orphan`);
    assert.equal(pairing.waitingCount, model.waiting.size, where);
    for (const id of ['x', 'y']) {
      const probe = half(userIdentity('nobody'), { id });
      const free = !model.paired.has(id) && (model.waiting.get(id)?.gone ?? true);
      assert.equal(pairing.arrive(probe).verdict === 'wait', free, `${where}: the place at ${id}`);
    }
  }
  assert.ok(pairs > 10_000, `only ${pairs} pairs came about: the test tests nothing`);
});
