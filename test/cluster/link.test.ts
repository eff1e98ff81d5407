import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { loadNative } from '../../src/native/binding.ts';
import { rawHalf } from '../support/raw-half.ts';
import { until } from '../support/relay.ts';
import { untilQuiet } from '../support/ws-pair.ts';
import { Client, linkedPair, type Path, twoSites } from './link-site.ts';

const setups: { readonly path: Path; readonly tls: boolean }[] = [
  { path: 'portable', tls: false },
  { path: 'portable', tls: true },
  { path: 'no-addon', tls: false },
];
if (loadNative().addon?.adoptLink !== undefined) {
  setups.push({ path: 'native', tls: false }, { path: 'native', tls: true });
}

const sizes = [0, 1, 125, 126, 127, 4095, 4096, 4097, 65_535, 65_536, 1_000_000, 3_000_000];

for (const { path, tls } of setups) {
  const over = `over a ${tls ? 'wss' : 'ws'} link, ${path}`;

  test(`[K3] messages of all sizes and both kinds pass both ways in order, ${over}`, async (t) => {
    const { a, b } = twoSites(t, { path, tls });
    const [user, device] = await linkedPair(t, a, b);
    assert.equal(user.greeting, 'c');
    assert.equal(device.greeting, 'c');
    assert.equal(a.relay.sessionCount, 0);
    assert.equal(b.relay.sessionCount, 1);
    assert.equal(a.links.outgoing, 1);
    assert.equal(b.links.incoming, 1);
    const messages = sizes.flatMap((size) =>
      [true, false].map((isBinary) => ({ data: Buffer.alloc(size, 97 + (size % 26)), isBinary })),
    );
    for (const { data, isBinary } of messages) {
      user.ws.send(data, { binary: isBinary });
      device.ws.send(data, { binary: isBinary });
    }
    for (const client of [user, device]) {
      await until(() => client.got.length === messages.length, 'all messages');
      for (const [index, { data, isBinary }] of client.got.entries()) {
        assert.equal(isBinary, messages[index]!.isBinary, `kind of message ${index}`);
        assert.ok(data.equals(messages[index]!.data), `message ${index} of ${messages[index]!.data.length} bytes`);
      }
    }
    const bytes = messages.reduce((sum, { data }) => sum + data.length, 0);
    const totals = a.links.totals();
    assert.equal(totals.bytesToPeer, bytes);
    assert.equal(totals.bytesFromPeer >= bytes, true);
    user.ws.close(1000, 'done');
    assert.deepEqual(await device.closed, { code: 1000, reason: 'peer closed' });
    await until(
      () => b.observer.ended.length === 1 && a.links.outgoing === 0 && b.links.incoming === 0,
      'the end to be seen',
    );
    assert.equal(b.observer.ended[0]!.end.outcome, 'normal');
    assert.equal(a.observer.started.length, 0);
  });

  test(`[K3] [R24] a tail sent before a close is delivered either way, ${over}`, async (t) => {
    const { a, b } = twoSites(t, { path, tls });
    for (const from of ['user', 'device'] as const) {
      const [user, device] = await linkedPair(t, a, b);
      const [sender, receiver] = from === 'user' ? [user, device] : [device, user];
      const tail = Buffer.alloc(6_000_000, 7);
      receiver.ws.pause();
      for (let i = 0; i < 3; i++) sender.ws.send(tail);
      sender.ws.close(1000);
      receiver.ws.resume();
      assert.deepEqual(await receiver.closed, { code: 1000, reason: 'peer closed' }, from);
      assert.equal(receiver.got.length, 3, from);
    }
    await until(() => b.observer.ended.length === 2, 'the end to be seen');
    assert.deepEqual(
      b.observer.ended.map(({ end }) => end.outcome),
      ['normal', 'normal'],
    );
  });

  test(`[K3] [R23] a reader that stands still holds its sender back with bounded memory, ${over}`, async (t) => {
    const { a, b } = twoSites(t, { path, tls, settings: { highWaterBytes: 262_144, lowWaterBytes: 65_536 } });
    for (const from of ['user', 'device'] as const) {
      const [user, device] = await linkedPair(t, a, b);
      const [sender, receiver] = from === 'user' ? [user, device] : [device, user];
      receiver.ws.pause();
      const count = 700;
      const message = Buffer.alloc(65_536, 1);
      for (let i = 0; i < count; i++) sender.ws.send(message);
      let most = 0;
      await untilQuiet(() => {
        const [session] = b.relay.sessions();
        most = Math.max(most, a.links.totals().bufferedBytes, session?.pair.statistics().bufferedBytes ?? 0);
        return sender.ws.bufferedAmount;
      });
      // Where nobody can be paused a whole message of the longest kind may come on top.
      assert.ok(most < (path === 'no-addon' ? 20_000_000 : 3_000_000), `${most} bytes were buffered`);
      receiver.ws.resume();
      if (path === 'no-addon') {
        // Without the addon's pause a backlog is only capped (R23).
        await receiver.closed;
        await until(() => b.relay.sessionCount === 0, 'the session to end');
        assert.equal(b.observer.ended.at(-1)!.end.outcome, 'slow');
      } else {
        // Kernel buffers have taken some; the rest has stayed with the sender.
        assert.ok(sender.ws.bufferedAmount > 5_000_000, `${sender.ws.bufferedAmount} bytes are held back`);
        await until(() => receiver.got.length === count, 'all messages', 30_000);
        sender.ws.close(1000);
        assert.equal((await receiver.closed).code, 1000);
      }
    }
  });

  if (path !== 'no-addon') {
    test(`[K3] [R21] a half that reads slowly is not taken for dead while the others are pinged, ${over}`, async (t) => {
      const { a, b } = twoSites(t, { path, tls, settings: { wsPingSeconds: 1, stallMs: 60_000 } });
      const [user, device] = await linkedPair(t, a, b);
      const [pinged] = [new Client(t, b.url('user', 'pinged')), new Client(t, b.url('device', 'pinged'))];
      await once(pinged.ws, 'message');
      let pings = 0;
      pinged.ws.on('ping', () => pings++);
      user.ws.pause();
      const sent = Array.from({ length: 32 }, (_, index) => Buffer.alloc(262_144, index));
      for (const data of sent) device.ws.send(data);
      // Whom nobody writes to is pinged each second, and has to answer within another.
      await until(() => pings >= 4, 'four pings', 20_000);
      assert.deepEqual(
        b.observer.ended.map(({ end }) => end.error),
        [],
      );
      user.ws.resume();
      await until(() => user.got.length === sent.length, 'all messages', 30_000);
    });
  }

  test(`[K3] [R27] what the owner closes the link with closes the half, and the other way round, ${over}`, async (t) => {
    const { a, b } = twoSites(t, { path, tls });
    const ends = [
      ['expired', 4401, 'token expired'],
      ['revoked', 4410, 'revoked'],
      ['idle', 4504, 'relay.idleMs: no message'],
      ['recording-failed', 4500, 'the recording failed'],
      ['shutdown', 1001, 'server going away'],
    ] as const;
    for (const [outcome, code, reason] of ends) {
      const [user, device] = await linkedPair(t, a, b);
      const [session] = b.relay.sessions();
      session!.pair.end(outcome, code, reason);
      assert.deepEqual(await user.closed, { code, reason });
      assert.deepEqual(await device.closed, { code, reason });
      await until(() => b.relay.sessionCount === 0 && a.links.outgoing === 0, 'the end to be seen');
      assert.equal(b.observer.ended.at(-1)!.end.outcome, outcome);
    }
    const [user, device] = await linkedPair(t, a, b);
    await a.links.drain(0, 0, new AbortController().signal);
    assert.deepEqual(await user.closed, { code: 1001, reason: 'server going away' });
    assert.deepEqual(await device.closed, { code: 1001, reason: 'server going away' });
    await until(() => b.relay.sessionCount === 0, 'the end to be seen');
    const { outcome, closedBy } = b.observer.ended.at(-1)!.end;
    assert.deepEqual({ outcome, closedBy }, { outcome: 'shutdown', closedBy: 'relay' });
  });

  test(`[K3] a connection that is reset ends its mate with 4502 and the session with peer-error, ${over}`, async (t) => {
    const { a, b } = twoSites(t, { path, tls });
    for (const [here, there] of [
      [a, b],
      [b, a],
    ] as const) {
      const id = `reset${here === a}`;
      const raw = await rawHalf(t, here.listener.port, here.path('user', id));
      const mate = new Client(t, there.url('device', id));
      await once(mate.ws, 'message');
      raw.socket.resetAndDestroy();
      assert.deepEqual(await mate.closed, { code: 4502, reason: 'peer connection lost' });
      await until(
        () => b.relay.sessionCount === 0 && a.links.outgoing === 0 && b.links.incoming === 0,
        'the end to be seen',
      );
      assert.equal(b.observer.ended.at(-1)!.end.outcome, 'peer-error');
      assert.equal(b.observer.ended.at(-1)!.end.closedBy, 'user');
    }
  });

  test(`[K3] a message past the limit ends both halves with 1009 and the session with limit, ${over}`, async (t) => {
    const { a, b } = twoSites(t, { path, tls, settings: { maxMessageBytes: 100_000 } });
    const [user, device] = await linkedPair(t, a, b);
    user.ws.send(Buffer.alloc(100_001));
    assert.equal((await device.closed).code, 1009);
    await user.closed;
    await until(() => b.observer.ended.length === 1, 'the end to be seen');
    assert.equal(b.observer.ended[0]!.end.outcome, 'limit');
    assert.deepEqual(b.observer.limits, ['message-size']);
  });

  test(`[K3] a half that stands still ends its session with slow, ${over}`, async (t) => {
    if (path === 'no-addon') return; // there a backlog is capped long before
    const settings = { stallMs: 500, highWaterBytes: 65_536, lowWaterBytes: 16_384 };
    const { a, b } = twoSites(t, { path, tls, settings });
    const [user, device] = await linkedPair(t, a, b);
    user.ws.pause();
    const message = Buffer.alloc(65_536);
    for (let i = 0; i < 600; i++) device.ws.send(message);
    assert.equal((await device.closed).code, 4503);
    await until(() => b.observer.ended.length === 1, 'the session to end');
    assert.equal(b.observer.ended[0]!.end.outcome, 'slow');
  });

  test(`[K7] a server that dies ends its halves with 4502 and their sessions with peer-error, ${over}`, async (t) => {
    const { a, b } = twoSites(t, { path, tls });
    const [user, device] = await linkedPair(t, a, b);
    const back = await linkedPairBack();
    a.close();
    assert.equal((await device.closed).code, 4502);
    assert.equal((await back.closed).code, 4502);
    await until(() => b.relay.sessionCount === 0, 'the end to be seen');
    assert.equal(b.observer.ended[0]!.end.outcome, 'peer-error');
    await user.closed;

    /** A half at B whose session is A's. */
    async function linkedPairBack(): Promise<Client> {
      a.owner = undefined;
      b.owner = a;
      const [here] = await linkedPair(t, b, a);
      return here;
    }
  });
}
