import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { systemClock } from '../../src/core/clock.ts';
import { parseRelayQuery } from '../../src/protocol/relay-query.ts';
import { PortableForwarder } from '../../src/relay/portable-forwarder.ts';
import { Relay, type RelayObserver, type RelaySettings } from '../../src/relay/relay.ts';
import type { SessionEnd } from '../../src/relay/session.ts';
import { Listener } from '../../src/server/app.ts';
import { RelayEndpoint } from '../../src/server/relay-endpoint.ts';
import { connect } from '../support/client.ts';
import { until } from '../support/relay.ts';

/*
 * The portable path where the addon cannot be loaded at all: nobody can pause a socket, so backlogs are capped. The
 * server's own parts, put together without it.
 */

const settings: RelaySettings = {
  holdMs: 30_000,
  highWaterBytes: 1_048_576,
  lowWaterBytes: 262_144,
  maxMessageBytes: 1_048_576,
  pingSeconds: 0,
  pongSeconds: 0,
  wsPingSeconds: 60,
  stallMs: 120_000,
  lingerMs: 30_000,
  strictSides: false,
  idleMs: 0,
  maxSessionMs: 0,
  sessionBytesPerSecond: 0,
  userBytesPerSecond: 0,
  maxWaiting: 100,
  maxWaitingPerAddress: 100,
  maxSessionsPerUser: 0,
  upgradesPerAddressPerSecond: 0,
  defaultUser: '',
};

interface Started {
  readonly relay: Relay;
  readonly ends: SessionEnd[];
  readonly outcomes: string[];
  readonly forwarder: PortableForwarder;
  url(side: 'user' | 'device', id: string): string;
}

function start(t: TestContext): Started {
  const ends: SessionEnd[] = [];
  const outcomes: string[] = [];
  const observer: RelayObserver = {
    sessionStarting: () => {},
    sessionEnded: (_session, end) => ends.push(end),
    rendezvousEnded: (_admission, outcome) => outcomes.push(outcome),
    pairingRefused: () => {},
    holdExpired: () => {},
    mismatch: () => {},
    limitHit: () => {},
  };
  const forwarder = new PortableForwarder(systemClock);
  const relay = new Relay(settings, forwarder, observer, systemClock);
  const endpoint = new RelayEndpoint({
    relay,
    join: (half) => relay.join(half),
    addon: undefined,
    decide: ({ query }) => {
      const parsed = parseRelayQuery(query);
      assert.ok(parsed.ok);
      const side = parsed.query.browser ? 'user' : 'device';
      const identity = { kind: side, side, userid: 'user//alice', username: 'alice' } as const;
      return { ok: true, admission: { ...parsed.query, domain: '', identity, address: '127.0.0.1' } };
    },
    clientAddress: ({ tcp }) => tcp,
    pendingMs: () => 5000,
    maxEarlyBytes: () => settings.highWaterBytes,
    accepting: () => true,
    refused: () => {},
    limitHit: () => {},
    failed: (error) => assert.fail(String(error)),
  });
  const listener = new Listener({
    host: '127.0.0.1',
    port: 0,
    tls: undefined,
    register: (app, ssl) => endpoint.register(app, ssl, settings.maxMessageBytes),
  });
  listener.listen();
  t.after(() => listener.close());
  const url = (side: 'user' | 'device', id: string) =>
    `ws://127.0.0.1:${listener.port}/relay?id=${id}${side === 'user' ? '&browser=1' : ''}`;
  return { relay, ends, outcomes, forwarder, url };
}

test('[R22] without the addon messages are forwarded, early ones first, and ends are passed on', async (t) => {
  const { url, ends } = start(t);
  const user = await connect(t, url('user', 'plain'));
  user.send('early');
  user.send(Buffer.alloc(300_000, 1));
  const device = await connect(t, url('device', 'plain'));
  assert.equal(await device.nextText(), 'c');
  assert.equal(await device.nextText(), 'early');
  assert.equal((await device.next()).data.length, 300_000);
  assert.equal(await user.nextText(), 'c');
  device.send('answer');
  assert.equal(await user.nextText(), 'answer');
  user.ws.close(1000);
  assert.equal((await device.closed).code, 1000);
  await until(() => ends.length === 1, 'the end');
  assert.deepEqual([ends[0]!.outcome, ends[0]!.closedBy], ['normal', 'user']);
});

test('[R23] without the addon the backlog is capped, and a half past it closes with slow', async (t) => {
  const { url, ends, forwarder } = start(t);
  const user = await connect(t, url('user', 'flood'));
  const device = await connect(t, url('device', 'flood'));
  await user.nextText();
  await device.nextText();
  device.ws.pause();
  let most = 0;
  while (!user.isClosed) {
    if (user.ws.bufferedAmount < 4_194_304) user.send(Buffer.alloc(262_144));
    most = Math.max(most, forwarder.totals().bufferedBytes);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal((await user.closed).code, 4503);
  assert.equal(ends[0]?.outcome, 'slow');
  // The cap, and what one read may still bring before it is looked at.
  assert.ok(most <= settings.highWaterBytes + settings.maxMessageBytes + 2 * 524_288, `${most} bytes were buffered`);
});

test('[R15] without the addon what a waiting half sends is kept up to the high-water mark', async (t) => {
  const { url, outcomes, relay } = start(t);
  const user = await connect(t, url('user', 'early-flood'));
  for (let i = 0; i < 5; i++) user.send(Buffer.alloc(262_144));
  assert.equal((await user.closed).code, 4503);
  assert.deepEqual(outcomes, ['slow']);
  assert.equal(relay.pairing.waitingCount, 0);
});

test('[R26] without the addon an early message above a limit that a reload lowered ends the session as it starts', async (t) => {
  const { url, ends, relay } = start(t);
  const user = await connect(t, url('user', 'lowered'));
  user.send(Buffer.alloc(300_000));
  await connect(t, url('device', 'other')); // by then it is kept
  relay.configure({ ...settings, maxMessageBytes: 1000, maxSessionMs: 60_000 });
  const mate = await connect(t, url('device', 'lowered'));
  assert.equal((await user.closed).code, 1009);
  assert.equal((await mate.closed).code, 1009);
  assert.deepEqual(
    ends.map(({ outcome, error }) => [outcome, error]),
    [['limit', 'too-big']],
  );
  assert.equal(relay.sessionCount, 0);
});
