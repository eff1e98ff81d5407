import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Rendezvous } from '../../src/cluster/rendezvous.ts';
import { systemClock } from '../../src/core/clock.ts';
import { Relay } from '../../src/relay/relay.ts';
import { Half } from '../../src/relay/session.ts';
import { until } from '../support/relay.ts';
import {
  admission,
  defaultSettings,
  ForwarderDouble,
  ObserverDouble,
  SocketDouble,
  userIdentity,
} from '../support/relay-doubles.ts';

type Parts = ConstructorParameters<typeof Rendezvous>[0];

/** The rendezvous of a server whose peers, where it has any, only ask. */
function alone(relay: Relay, redis: Parts['redis'], store: Parts['store']): Rendezvous {
  return new Rendezvous({
    boot: 'this',
    relay,
    store,
    redis,
    servers: { has: () => false, refresh: async () => {} },
    ask: () => assert.fail('nobody else is there'),
    askResign: () => assert.fail('nobody else is there'),
    dial: () => assert.fail('nobody else is there'),
    carry: () => assert.fail('nobody else is there'),
    challenge: () => 'challenge',
    seal: (_key, { fence }) => String(fence),
    unseal: () => undefined,
    clock: systemClock,
    holdMs: () => 60_000,
    heartbeatMs: 10_000,
    pause: async () => {},
  });
}

const newRelay = () => new Relay(defaultSettings, new ForwarderDouble(), new ObserverDouble(), systemClock);
const steady = () => ({ isUp: true, epoch: 0, beatMs: Number.MAX_SAFE_INTEGER });

test('[K2] [K6] claims that Redis may have lost are made anew few at a time, and all of them', async (t) => {
  const count = 1000;
  const relay = newRelay();
  const redis = steady();
  const standing = new Map<string, string>();
  let underWay = 0;
  let most = 0;
  const set = async (key: string, value: string) => {
    underWay++;
    most = Math.max(most, underWay);
    await new Promise((resolve) => setImmediate(resolve));
    underWay--;
    standing.set(key, value);
    return undefined;
  };
  const store = { claim: set, take: set, release: async () => {} };
  const rendezvous = alone(relay, redis, store);
  const halves = Array.from(
    { length: count },
    (_, i) => new Half(admission(`id-${i}`, userIdentity()), new SocketDouble()),
  );
  // Its timers go with its halves.
  t.after(() => relay.drain(0, 0, AbortSignal.abort()));
  for (const half of halves) rendezvous.enter(half);
  await until(() => standing.size === count, 'all are claimed');
  standing.clear();
  most = 0;
  redis.epoch++;
  rendezvous.sweep();
  await until(() => standing.size === count, 'all are claimed again');
  assert.ok(most <= 100, `${most} commands at once`);
});

test('[K2] [R39] a server that drains gives an id up whose half has left, whoever was to come', async () => {
  const relay = newRelay();
  const claimed: string[] = [];
  const claim = async (_key: string, value: string) => void claimed.push(value);
  const rendezvous = alone(relay, steady(), { claim, take: claim, release: async () => {} });
  const half = new Half(admission('x', userIdentity()), new SocketDouble());
  rendezvous.enter(half);
  await until(() => half.state === 'waiting', 'it waits');
  const question = { domain: half.admission.domain, id: 'x', fence: Number(claimed[0]) };
  assert.deepEqual(rendezvous.expect('other', question), { challenge: 'challenge', hardClose: false });
  await relay.drain(0, 0, AbortSignal.abort());
  assert.equal(half.state, 'closed');
  // The link that was expected has been refused, and who dialled it asks again.
  assert.deepEqual(rendezvous.expect('other', question), { stale: true });
});

test('[K2] a claim answers for its last eight numbers: who has read an older one looks again', async (t) => {
  const relay = newRelay();
  const redis = steady();
  const fences: number[] = [];
  const claim = async (_key: string, value: string) => void fences.push(Number(value));
  const rendezvous = alone(relay, redis, { claim, take: claim, release: async () => {} });
  rendezvous.start();
  t.after(() => rendezvous.stop());
  const half = new Half(admission('x', userIdentity()), new SocketDouble());
  rendezvous.enter(half);
  for (let count = 1; count <= 10; count++) {
    await until(() => fences.length === count && half.state === 'waiting', 'it is claimed');
    redis.epoch++;
    rendezvous.sweep();
  }
  await until(() => fences.length === 11, 'the last claim');
  const answers = fences.map((fence) => rendezvous.expect('other', { domain: '', id: 'x', fence }));
  assert.deepEqual(
    answers.map((answer) => 'challenge' in answer),
    fences.map((_fence, i) => i >= fences.length - 8),
  );
});
