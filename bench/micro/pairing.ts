import assert from 'node:assert/strict';
import type { Identity } from '../../src/relay/half.ts';
import { type Candidate, Pairing } from '../../src/relay/pairing.ts';
import { runSuite } from './suite.ts';

// One rendezvous from the first half to its end, with none and with many others waiting.

function candidate(id: string, side: Identity['side'], userid = 'user//bench'): Candidate {
  const identity: Identity = { kind: side, side, userid, username: 'bench' };
  return { domain: '', id, identity, browser: side === 'user', isGone: () => false };
}

function pairingWith(waiting: number): Pairing<Candidate> {
  const pairing = new Pairing<Candidate>({ strictSides: false, defaultUser: '' });
  for (let i = 0; i < waiting; i++) pairing.arrive(candidate(`waiting-${i}`, 'device'));
  return pairing;
}

/** Every session brings a new id; a Map that meets one key again and again walks over all its deleted entries. */
const sessions = Array.from({ length: 1 << 16 }, (_, i) => ({
  user: candidate(`session-${i}`, 'user'),
  device: candidate(`session-${i}`, 'device'),
}));
const { user, device } = sessions[0]!;
const stranger = candidate(user.id, 'user', 'user//stranger');
const empty = pairingWith(0);
const full = pairingWith(100_000);
const occupied = pairingWith(0);
occupied.arrive(device);

let turn = 0;
function rendezvous(pairing: Pairing<Candidate>): void {
  const session = sessions[turn++ & 0xffff]!;
  pairing.arrive(session.user);
  pairing.arrive(session.device);
  pairing.end(session.user);
}

assert.equal(empty.arrive(user).verdict, 'wait');
assert.equal(empty.arrive(device).verdict, 'pair');
empty.end(user);
assert.equal(occupied.arrive(stranger).verdict, 'refuse');

await runSuite('pairing', {
  'wait, pair, end': () => rendezvous(empty),
  'wait, pair, end; 100,000 others waiting': () => rendezvous(full),
  'refuse a stranger': () => occupied.arrive(stranger),
});
