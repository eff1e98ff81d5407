import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { newChallenge } from '../../src/cluster/link-seal.ts';
import { LinkTickets } from '../../src/cluster/link-tickets.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { linkDialSchema, maxUrlTicketChars } from '../../src/protocol/link-messages.ts';
import type { Admission } from '../../src/relay/half.ts';
import { admission, userIdentity } from '../support/relay-doubles.ts';
import { newSeal } from './link-site.ts';

class ClockDouble {
  monotonic = 5000;
  nowMs(): number {
    throw new Error('no wall clock is asked');
  }
  monotonicMs(): number {
    return this.monotonic;
  }
}

function servers(maxExpected = 100) {
  const seal = newSeal();
  const clock = new ClockDouble();
  const [bootA, bootB] = [newChallenge(), newChallenge()];
  const a = new LinkTickets({ seal, boot: bootA, clock });
  const b = new LinkTickets({ seal, boot: bootB, clock, maxExpected });
  const half = admission('one', userIdentity());
  const issue = (of: Admission = half, challenge = b.expect({ boot: bootA, domain: of.domain, id: of.id })) =>
    a.issue(bootB, { challenge, fence: 7, waitedMs: 12, admission: of });
  return { seal, clock, bootA, bootB, a, b, half, issue };
}

test('[K3] a ticket brings the half as it was admitted, and its answer proves the owner', () => {
  const { bootA, b, issue } = servers();
  const whole: Admission = {
    ...admission('sitzung', { ...userIdentity(), guestname: 'Änne "Gast"\n', shareid: 's1' }),
    expiresAtMs: 1_800_000_000_000.5,
    issuedSeconds: 1,
    routing: { nodeid: 'node//x', transport: 'tcp', port: 22, address: '127.0.0.1' },
  };
  const ticket = issue(whole);
  const link = b.accept(ticket.text);
  assert.ok(typeof link === 'object');
  assert.deepEqual(link.admission, whole);
  assert.deepEqual([link.boot, link.fence, link.waitedMs], [bootA, 7, 12]);
  assert.equal(ticket.proves(link.proof), true);
  assert.equal(b.expectedCount, 0);
});

test('[K3] a ticket is refused twice, late, by another server, for another id, under another key (fault 43)', () => {
  const { seal, clock, bootA, bootB, a, b, half, issue } = servers();
  const first = issue();
  assert.equal(typeof b.accept(first.text), 'object');
  assert.equal(b.accept(first.text), 'challenge', 'twice');

  const late = issue();
  clock.monotonic += 10_000;
  assert.equal(b.accept(late.text), 'challenge', 'late');

  // B after a restart, and a third server: another boot id, another memory.
  const restarted = new LinkTickets({ seal, boot: newChallenge(), clock });
  assert.equal(restarted.accept(issue().text), 'boot', 'another boot');
  const sameBoot = new LinkTickets({ seal, boot: bootB, clock });
  assert.equal(sameBoot.accept(issue().text), 'challenge', 'nothing remembered');

  const stranger = new LinkTickets({ seal, boot: newChallenge(), clock });
  const challenge = b.expect({ boot: bootA, domain: '', id: 'one' });
  const stolen = stranger.issue(bootB, { challenge, fence: 1, waitedMs: 0, admission: half });
  assert.equal(b.accept(stolen.text), 'boot', 'a challenge that another server was given');

  const other = b.expect({ boot: bootA, domain: '', id: 'two' });
  assert.equal(b.accept(a.issue(bootB, { challenge: other, fence: 1, waitedMs: 0, admission: half }).text), 'id');
  const domain = b.expect({ boot: bootA, domain: 'x', id: 'one' });
  assert.equal(b.accept(a.issue(bootB, { challenge: domain, fence: 1, waitedMs: 0, admission: half }).text), 'id');

  const foreign = new LinkTickets({ seal: newSeal(), boot: bootA, clock });
  const forged = foreign.issue(bootB, {
    challenge: b.expect({ boot: bootA, domain: '', id: 'one' }),
    fence: 1,
    waitedMs: 0,
    admission: half,
  });
  assert.equal(b.accept(forged.text), 'forged');
  assert.equal(b.accept(''), 'forged');
});

test('[K3] an admission inside a ticket that is another id than the ticket is refused', () => {
  const { seal, bootA, bootB, b, half } = servers();
  const challenge = b.expect({ boot: bootA, domain: '', id: 'one' });
  const dial = { dir: 'dial', kind: 'link', from: bootA, to: bootB, challenge, reply: newChallenge() };
  const text = seal.seal({ ...dial, domain: '', id: 'one', fence: 0, waitedMs: 0, admission: { ...half, id: 'two' } });
  assert.equal(b.accept(text), 'admission');
  const more = seal.seal({ ...dial, domain: '', id: 'one', fence: 0, waitedMs: 0, admission: { ...half, extra: 1 } });
  assert.equal(b.accept(more), 'forged', 'unknown keys are refused');
});

test('[K3] proofs are of no use in the other direction, of the other kind, over another challenge', () => {
  const { seal, clock, bootA, bootB, a, b, issue } = servers();
  const ticket = issue();
  const link = b.accept(ticket.text);
  assert.ok(typeof link === 'object');
  assert.equal(ticket.proves(ticket.text), false, 'the ticket itself');
  assert.equal(issue().proves(link.proof), false, "another ticket's answer");
  assert.equal(b.accept(link.proof), 'direction');
  const third = new LinkTickets({ seal, boot: newChallenge(), clock });

  const mine = newChallenge();
  const { proof, next } = b.answerChannel(bootA, mine);
  const first = a.proveChannel(proof, bootB, mine);
  assert.ok(first !== undefined);
  assert.equal(b.isChannelProof(first, bootA, next), true);
  assert.equal(a.proveChannel(proof, bootB, newChallenge()), undefined, 'a replayed answer');
  assert.equal(a.proveChannel(proof, newChallenge(), mine), undefined, 'from another server');
  assert.equal(third.proveChannel(proof, bootB, mine), undefined, 'to another server');
  assert.equal(a.proveChannel(first, bootB, mine), undefined, 'the other direction');
  assert.equal(a.proveChannel(link.proof, bootB, mine), undefined, 'the other kind');
  assert.equal(b.isChannelProof(first, bootA, newChallenge()), false, 'replayed on another connection');
  assert.equal(b.isChannelProof(first, newChallenge(), next), false, 'for another server');
  assert.equal(third.isChannelProof(first, bootA, next), false, 'at another server');
  assert.equal(b.isChannelProof(proof, bootA, next), false, 'reflected');
  // What A answers to a dialler that says it is B is no proof of B towards A.
  const reflected = a.answerChannel(bootB, mine);
  assert.equal(a.proveChannel(reflected.proof, bootB, mine), undefined, "A's own answer");
});

test('[K3] a sealed text with any bit flipped, cut or lengthened opens nothing', () => {
  const { seal, b, issue } = servers();
  const text = issue().text;
  const bytes = Buffer.from(text, 'base64url');
  fc.assert(
    fc.property(fc.nat({ max: bytes.length - 1 }), fc.integer({ min: 1, max: 255 }), (at, mask) => {
      const changed = Buffer.from(bytes);
      changed[at]! ^= mask;
      assert.equal(b.accept(changed.toString('base64url')), 'forged');
    }),
    { numRuns: 500 },
  );
  for (let length = 0; length < text.length; length++) assert.equal(b.accept(text.slice(0, length)), 'forged');
  for (const extra of ['A', '=', ' ', '%', '\n', 'é']) assert.equal(b.accept(text + extra), 'forged');
  assert.equal(b.accept('A'.repeat(1_000_000)), 'forged');
  // The last character's spare bits: another text of the same bytes.
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  for (const last of alphabet) {
    if (last !== text.at(-1)) assert.equal(seal.open(text.slice(0, -1) + last, linkDialSchema), undefined);
  }
  assert.equal(typeof b.accept(text), 'object', 'the text itself still opens');
});

test('[K3] no more links are expected than the limit, and those whose time is over make room', () => {
  const { clock, bootA, b } = servers(3);
  for (let i = 0; i < 3; i++) b.expect({ boot: bootA, domain: '', id: `${i}` });
  assert.throws(() => b.expect({ boot: bootA, domain: '', id: '3' }), CoupletError);
  assert.equal(b.expectedCount, 3);
  clock.monotonic += 10_000;
  b.expect({ boot: bootA, domain: '', id: '3' });
  assert.equal(b.expectedCount, 1);
});

test('[K3] an admission too long for a URL comes over the channel, from its own server, for its own id', () => {
  const { bootA, b, issue } = servers();
  const long = admission('one', { ...userIdentity(), username: 'n'.repeat(4000) });
  const ticket = issue(long);
  assert.ok(ticket.text.length <= maxUrlTicketChars);
  assert.ok(ticket.deposit !== undefined);
  assert.throws(() => b.deposit(ticket.deposit, newChallenge()), CoupletError, 'from another server');
  const foreign = { ...ticket.deposit, admission: { ...long, id: 'two' } };
  assert.throws(() => b.deposit(foreign, bootA), CoupletError, 'for another id');
  assert.throws(() => b.deposit({ ...ticket.deposit, challenge: newChallenge() }, bootA), CoupletError);
  assert.throws(() => b.deposit({ ...ticket.deposit, more: 1 }, bootA), CoupletError);
  b.deposit(ticket.deposit, bootA);
  const link = b.accept(ticket.text);
  assert.ok(typeof link === 'object');
  assert.deepEqual(link.admission, long);
  assert.equal(ticket.proves(link.proof), true);
  assert.equal(b.accept(issue(long).text), 'admission', 'where none came before');
});

test('[K3] an admission past 16 KiB is in no ticket', () => {
  const { issue } = servers();
  const huge = admission('one', { ...userIdentity(), username: 'n'.repeat(17_000) });
  assert.throws(() => issue(huge), /admission has \d+ bytes/);
});
