import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import { type Client, connect, connectPair, Refused } from '../support/client.ts';
import { Random } from '../support/random.ts';
import { deviceCookie, relayPath, status, upgradeAnswer, userCookie } from '../support/raw-answer.ts';
import { clientFrame, type RawHalf, rawHalf, tlsHalfOverTcp } from '../support/raw-half.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';

const waiting = (relay: TestRelay) => relay.metric('couplet_halves{state="waiting"}');
const outcome = (relay: TestRelay, word: string) => relay.metric(`couplet_session_outcomes_total{outcome="${word}"}`);
const events = (relay: TestRelay, action: string) => relay.events().filter((event) => event.action === action);

/** Closed with this code, and a reason in words. */
async function closedWith(client: Client, code: number): Promise<void> {
  const end = await client.closed;
  assert.equal(end.code, code);
  assert.notEqual(end.reason, '');
}

test('[R16] fault 10: another user at the id gets 4403, is on record, and the waiting half keeps its place', async (t) => {
  const relay = await startRelay(t);
  const bob = await connect(t, relay.url('user', 'x', {}, 'bob'));
  for (const side of ['user', 'device'] as const) {
    await closedWith(await connect(t, relay.url(side, 'x', {}, 'mallory')), 4403);
  }
  const refused = events(relay, 'pairingrefused');
  assert.equal(refused.length, 2);
  assert.equal(refused[0]?.userid, 'user//mallory');
  assert.equal(refused[0]?.waitinguserid, 'user//bob');
  assert.equal(refused[0]?.closecode, 4403);
  assert.equal(refused[0]?.outcome, 'denied');
  const device = await connect(t, relay.url('device', 'x', {}, 'bob'));
  assert.equal(await bob.nextText(), 'c');
  assert.equal(await device.nextText(), 'c');
  assert.equal(await outcome(relay, 'denied'), 2);
});

test('[R16] a nouser cookie pairs with a user half at its id, with no device half', async (t) => {
  const relay = await startRelay(t, { settings: { auth: { allowNoUser: true } } });
  const rauth = relay.sealer.seal({ nouser: 1, id: 'x' });
  const base = `ws://127.0.0.1:${relay.portOf('device')}`;
  const device = await connect(t, base + relayPath({ rauth, id: 'x' }));
  await closedWith(await connect(t, relay.url('device', 'x')), 4403);
  const user = await connect(t, relay.url('user', 'x'));
  assert.equal(await device.nextText(), 'c');
  assert.equal(await user.nextText(), 'c');
  const strict = await startRelay(t);
  const foreign = strict.sealer.seal({ nouser: 1, id: 'x' });
  assert.equal(await status(upgradeAnswer(t, strict, relayPath({ rauth: foreign, id: 'x' }))), 401, 'off by default');
});

test('[R17] fault 3: two device halves never pair; two user halves do, unless relay.strictSides', async (t) => {
  for (const strictSides of [false, true]) {
    const relay = await startRelay(t, { settings: { relay: { strictSides, upgradesPerAddressPerSecond: 0 } } });
    const first = await connect(t, relay.url('device', 'd'));
    await closedWith(await connect(t, relay.url('device', 'd')), 4403);
    assert.equal(first.isClosed, false);
    const user = await connect(t, relay.url('user', 'u'));
    const second = await connect(t, relay.url('user', 'u'));
    if (strictSides) {
      await closedWith(second, 4409);
      assert.equal(user.isClosed, false);
      assert.equal(await outcome(relay, 'duplicate'), 1);
    } else {
      assert.equal(await user.nextText(), 'c');
      assert.equal(await second.nextText(), 'c');
    }
  }
});

test('[R18] fault 2: a third half gets 4409 and the pair does not notice', async (t) => {
  const relay = await startRelay(t);
  const { user, device } = await connectPair(t, relay, 'x');
  for (let i = 0; i < 5; i++) {
    await closedWith(await connect(t, relay.url(i % 2 === 0 ? 'user' : 'device', 'x')), 4409);
    user.send(`still here ${i}`);
    assert.equal(await device.nextText(), `still here ${i}`);
  }
  assert.equal(user.received.length + device.received.length, 0);
  assert.equal(await outcome(relay, 'duplicate'), 5);
  assert.equal(events(relay, 'pairingrefused').length, 5);
});

test('[R19] fault 1: two halves in one tick, many times: one pair each, one start event, no orphan', async (t) => {
  const relay = await startRelay(t);
  const rounds = 20;
  const perRound = 25;
  for (let round = 0; round < rounds; round++) {
    const ids = Array.from({ length: perRound }, (_, i) => `r${round}-${i}`);
    // Four halves for each id: two pair, and two come too many.
    const halves = await Promise.all(
      ids.flatMap((id) => [0, 1, 2, 3].map((n) => connect(t, relay.url(n % 2 === 0 ? 'user' : 'device', id)))),
    );
    for (let i = 0; i < perRound; i++) {
      const four = halves.slice(i * 4, i * 4 + 4);
      await until(() => four.filter((half) => half.isClosed).length === 2, `two of ${ids[i]} are refused`);
      const paired = four.filter((half) => !half.isClosed);
      for (const half of four) if (half.isClosed) assert.ok([4403, 4409].includes((await half.closed).code));
      for (const half of paired) assert.equal(await half.nextText(), 'c');
      paired[0]!.send(ids[i]!);
      assert.equal(await paired[1]!.nextText(), ids[i]);
    }
    for (const half of halves) half.ws.terminate();
  }
  await until(async () => (await relay.metric('couplet_halves{state="paired"}')) === 0, 'all are over');
  await until(() => relay.events().filter(({ msgid }) => msgid === 9).length === rounds * perRound, 'the end events');
  const started = relay.events().filter(({ msgid }) => msgid === 13);
  assert.equal(started.length, rounds * perRound);
  assert.equal(new Set(started.map(({ msgArgs }) => (msgArgs as string[])[0])).size, rounds * perRound);
  assert.equal(await waiting(relay), 0);
});

type Leaving = 'reset' | 'fin' | 'close frame';

function leave(half: RawHalf, how: Leaving): void {
  if (how === 'reset') half.socket.resetAndDestroy();
  else if (how === 'fin') half.socket.end();
  else half.socket.write(clientFrame(8, Buffer.from([3, 232])));
}

for (const forwarder of ['native', 'portable'] as const) {
  test(`[R19] fault 4: a half leaves as its mate arrives, in any order: no orphan (${forwarder})`, async (t) => {
    const relay = await startRelay(t, { forwarder });
    const random = new Random();
    t.diagnostic(`seed ${random.seed}`);
    const rounds = 240;
    let met = 0;
    const one = async (n: number) => {
      const id = `race-${n}`;
      const [first, second] = random.chance(0.5) ? (['user', 'device'] as const) : (['device', 'user'] as const);
      const leaving = random.pick<Leaving>(['reset', 'fin', 'close frame']);
      const delay = random.below(4);
      const leaver = await rawHalf(t, relay.portOf(first), relay.path(first, id));
      const coming = rawHalf(t, relay.portOf(second), relay.path(second, id));
      for (let i = 0; i < delay; i++) await new Promise((resolve) => setImmediate(resolve));
      leave(leaver, leaving);
      const mate = await coming;
      // Either they met and the mate is told so and closed, or the mate waits for another, as the first half does.
      const third = await rawHalf(t, relay.portOf(first), relay.path(first, id));
      await until(() => mate.ended || mate.frames.length > 0, `seed ${random.seed}, ${id}: ${leaving} after ${delay}`);
      const texts = mate.frames.filter(({ opcode }) => opcode === 1).map(({ payload }) => payload.toString());
      if (texts.length > 0) assert.deepEqual(texts, ['c'], id);
      met += mate.frames.some(({ opcode }) => opcode === 8) ? 1 : 0;
      for (const half of [leaver, mate, third]) half.socket.destroy();
    };
    for (let n = 0; n < rounds; n += 8) await Promise.all(Array.from({ length: 8 }, (_, i) => one(n + i)));
    await until(async () => (await relay.metric('couplet_halves{state="paired"}')) === 0, 'no pair is left');
    await until(async () => (await waiting(relay)) === 0, 'no half is left waiting');
    const count = (msgid: number) => relay.events().filter((event) => event.msgid === msgid).length;
    await until(() => count(9) === count(13), 'as many ends as starts');
    t.diagnostic(`${met} of ${rounds} met before they were parted`);
  });
}

for (const tls of [false, true]) {
  describe(tls ? 'TLS' : 'plain', () => {
    test('[R15] a half without a mate is closed with 4408 at relay.holdMs', async (t) => {
      const relay = await startRelay(t, { tls, settings: { relay: { holdMs: 500, upgradesPerAddressPerSecond: 0 } } });
      const before = Date.now();
      const half = await rawHalf(t, relay.port, relay.path('user', 'x'), tls);
      half.send(2, Buffer.alloc(1000));
      assert.equal(await half.closeCode(), 4408);
      const took = Date.now() - before;
      assert.ok(took >= 490 && took < 1500, `${took} ms`);
      await until(() => half.ended, 'the end of the connection', 2500);
      assert.equal(await outcome(relay, 'no-peer'), 1);
      await until(() => events(relay, 'holdexpired').length === 1, 'the event');
      assert.equal(await waiting(relay), 0);
    });

    // More than the socket takes keeps a FIN or a close frame from arriving at all: nobody can see it without reading.
    const cases = [
      ['reset', 0],
      ['reset', 200_000],
      ['fin', 0],
      ['fin', 30_000],
      ['close frame', 0],
      ['close frame', 30_000],
    ] as const;
    for (const [how, sent] of cases) {
      test(`[R15] a waiting half that hangs up (${how}, after ${sent} bytes) is gone within 2 s`, async (t) => {
        const relay = await startRelay(t, { tls });
        const path = relay.path('user', 'x');
        const { half, tcp } = tls
          ? await tlsHalfOverTcp(t, relay.port, path)
          : { half: await rawHalf(t, relay.port, path), tcp: undefined };
        if (sent > 0) half.send(2, Buffer.alloc(sent));
        assert.equal(await waiting(relay), 1);
        if (how === 'reset') (tcp ?? half.socket).resetAndDestroy();
        else leave(half, how);
        await until(async () => (await waiting(relay)) === 0, 'its place is free', 2000);
        assert.equal(await outcome(relay, 'no-peer'), 1);
        await half.closed;
        const device = await connect(t, relay.url('device', 'x'));
        const user = await connect(t, relay.url('user', 'x'));
        assert.equal(await device.nextText(), 'c');
        assert.equal(await user.nextText(), 'c');
      });
    }
  });
}

test('fault 11: a revoked session is closed with 4410 within 1 s, also with a backlog', async (t) => {
  const relay = await startRelay(t);
  const { user, device } = await connectPair(t, relay, 'x');
  device.ws.pause();
  for (let i = 0; i < 64 * relay.depth; i++) user.send(Buffer.alloc(262_144));
  await until(async () => (await relay.metric('couplet_flow_pauses_total')) > 0, 'a backlog');
  const before = Date.now();
  assert.equal(relay.revoke('', 'y'), false);
  assert.equal(relay.revoke('', 'x'), true);
  assert.equal((await user.closed).code, 4410);
  assert.ok(Date.now() - before < 1000);
  await until(async () => (await outcome(relay, 'revoked')) === 1, 'the outcome', 4000);
  assert.equal(relay.revoke('', 'x'), false);
});

test('[R26] fault 27: waiting halves are capped per address (429) and in all (503), and the caps let go again', async (t) => {
  const relay = await startRelay(t, {
    settings: {
      server: { trustedProxies: ['127.0.0.1'] },
      relay: { maxWaiting: 5, maxWaitingPerAddress: 3, upgradesPerAddressPerSecond: 0 },
    },
  });
  const come = (id: string, address: string, side: 'user' | 'device' = 'user') =>
    connect(t, relay.url(side, id), { headers: { 'X-Forwarded-For': address } });
  const refusedWith = async (attempt: Promise<Client>, code: number) => {
    await assert.rejects(attempt, (error) => error instanceof Refused && error.status === code);
  };
  const halves = [await come('a', '192.0.2.1'), await come('b', '192.0.2.1'), await come('c', '192.0.2.1')];
  await refusedWith(come('d', '192.0.2.1'), 429);
  halves.push(await come('d', '192.0.2.2'), await come('e', '192.0.2.3'));
  await refusedWith(come('f', '192.0.2.4'), 503);
  assert.equal(await relay.metric('couplet_refused_total{reason="waiting-address"}'), 1);
  assert.equal(await relay.metric('couplet_refused_total{reason="waiting"}'), 1);

  const mate = await come('a', '192.0.2.1', 'device');
  assert.equal(await mate.nextText(), 'c', 'who would not wait is not turned away');
  const third = await come('f', '192.0.2.4'); // the pair has left the count
  await refusedWith(come('g', '192.0.2.5'), 503);
  assert.equal((await (await come('a', '192.0.2.9')).closed).code, 4409, '[R18] holds when the caps are reached');
  halves[1]!.ws.terminate();
  third.ws.close();
  await until(async () => (await waiting(relay)) === 3, 'two left');
  await come('g', '192.0.2.1');
});

test('[R7] a single-use cookie is not used up by a limit that turns the half away', async (t) => {
  const relay = await startRelay(t, { settings: { relay: { maxWaiting: 1, upgradesPerAddressPerSecond: 0 } } });
  const first = await connect(t, relay.url('user', 'a'));
  const path = relayPath({ rauth: deviceCookie(relay, { once: 1 }), id: 'b' });
  assert.equal(await status(upgradeAnswer(t, relay, path)), 503);
  first.ws.terminate();
  await until(async () => (await waiting(relay)) === 0, 'the place is free');
  assert.equal(await status(upgradeAnswer(t, relay, path)), 101);
});

test('[R6] a cookie with an absolute expiry ends the running session at that moment with 4401', async (t: TestContext) => {
  const relay = await startRelay(t);
  const expire = Date.now() + 1500;
  const base = `ws://127.0.0.1:${relay.port}`;
  const user = await connect(t, base + relayPath({ auth: userCookie(relay, { expire }), id: 'x' }));
  const device = await connect(t, relay.url('device', 'x'));
  assert.equal(await device.nextText(), 'c');
  await closedWith(user, 4401);
  await closedWith(device, 4401);
  const late = Date.now() - expire;
  assert.ok(late >= -5 && late < 500, `${late} ms`);
  await until(async () => (await outcome(relay, 'expired')) === 1, 'the outcome');
});
