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

test('[K2] [K6] claims that Redis may have lost are made anew few at a time, and all of them', async (t) => {
  const count = 1000;
  const relay = new Relay(defaultSettings, new ForwarderDouble(), new ObserverDouble(), systemClock);
  const redis = { isUp: true, epoch: 0, beatMs: Number.MAX_SAFE_INTEGER };
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
  const rendezvous = new Rendezvous({
    boot: 'this',
    relay,
    store: { claim: set, take: set, release: async () => {} },
    redis,
    servers: { has: () => false, refresh: async () => {} },
    ask: () => assert.fail('nobody else is there'),
    askResign: () => assert.fail('nobody else is there'),
    dial: () => assert.fail('nobody else is there'),
    carry: () => assert.fail('nobody else is there'),
    challenge: () => assert.fail('nobody else is there'),
    seal: (_key, { fence }) => String(fence),
    unseal: () => undefined,
    clock: systemClock,
    holdMs: () => 60_000,
    heartbeatMs: 10_000,
    pause: async () => {},
  });
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
