import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Half } from '../../src/relay/session.ts';
import { Random } from '../support/random.ts';
import { admission, deviceIdentity, RelayBench, SocketDouble, userIdentity } from '../support/relay-doubles.ts';

type DoubleHalf = Half & { readonly socket: SocketDouble };

test('[R15] a half without a mate is closed with 4408 when its hold is over, and its place is free', async (t) => {
  const bench = new RelayBench(t, { holdMs: 1000 });
  const first = bench.user('x');
  await bench.pass(600);
  const later = bench.user('y');
  await bench.pass(390);
  assert.equal(first.socket.closes.length, 0);
  await bench.pass(20);
  assert.equal(first.socket.code, 4408);
  assert.match(first.socket.closes[0]!.reason, /holdMs/);
  assert.equal(later.socket.closes.length, 0);
  assert.equal(bench.observer.expired.length, 1);
  const { heldMs } = bench.observer.expired[0]!;
  assert.ok(heldMs >= 1000 && heldMs <= 1020, String(heldMs));
  await bench.pass(600);
  assert.equal(later.socket.code, 4408);
  assert.deepEqual(
    bench.observer.rendezvous.map(({ outcome }) => outcome),
    ['no-peer', 'no-peer'],
  );
  bench.relay.left(first); // its socket's close comes after it
  assert.equal(bench.observer.rendezvous.length, 2);
  assert.equal(bench.relay.pairing.waitingCount, 0);
  bench.user('x');
  assert.equal(bench.relay.pairing.waitingCount, 1);
});

test('[R15] hold times are kept while others come, pair and leave before', async (t) => {
  const bench = new RelayBench(t, { holdMs: 1000 });
  const first = bench.user('gone');
  await bench.pass(100);
  const second = bench.user('paired');
  await bench.pass(100);
  const third = bench.user('waits');
  bench.relay.left(first);
  bench.device('paired');
  await bench.pass(990);
  assert.equal(third.socket.closes.length, 0);
  await bench.pass(20);
  assert.equal(third.socket.code, 4408);
  assert.equal(second.socket.closes.length, 0);
});

test('[R15] a half that has waited elsewhere before is due by the whole of its wait', async (t) => {
  const bench = new RelayBench(t, { holdMs: 5000 });
  await bench.pass(4000);
  const first = bench.user('first');
  const socket = new SocketDouble();
  const handedOver = new Half(admission('handed-over', userIdentity()), socket);
  handedOver.arrivedMs = bench.clock.monotonicMs() - 3000;
  bench.relay.join(handedOver);
  await bench.pass(1990);
  assert.equal(socket.code, undefined);
  await bench.pass(20);
  assert.equal(socket.code, 4408);
  assert.equal(first.socket.code, undefined);
  assert.equal(bench.observer.expired.length, 1);
});

test('[R3] where protocol or device differ the user half counts, and an event says so', (t) => {
  const bench = new RelayBench(t);
  bench.device('x', { protocol: 1, nodeid: 'node//b' });
  bench.user('x', { protocol: 2, nodeid: 'node//a' });
  const [session] = bench.observer.started;
  assert.equal(session?.protocol, 2);
  assert.equal(session?.nodeid, 'node//a');
  assert.deepEqual(bench.observer.mismatches, [
    { field: 'protocol', user: '2', device: '1' },
    { field: 'nodeid', user: 'node//a', device: 'node//b' },
  ]);
});

test('[R3] protocol and device may come on either half; one alone is no mismatch', (t) => {
  const bench = new RelayBench(t);
  bench.device('x', { protocol: 5, nodeid: 'node//b' });
  bench.user('x');
  assert.equal(bench.observer.started[0]?.protocol, 5);
  assert.equal(bench.observer.started[0]?.nodeid, 'node//b');
  bench.user('y', { protocol: 2 });
  bench.device('y', { protocol: 2 });
  assert.deepEqual(bench.observer.mismatches, []);
});

test('[R20] the pair is greeted with c and gets the configured bounds; hd=1 of either half counts', (t) => {
  const bench = new RelayBench(t, { wsPingSeconds: 7, stallMs: 5000, highWaterBytes: 4096, lowWaterBytes: 1024 });
  bench.user('x');
  bench.device('x', { hardClose: true });
  const [pair] = bench.forwarder.pairs;
  assert.equal(pair?.greeting, 'c');
  assert.equal(pair?.options.pingMs, 7000);
  assert.equal(pair?.options.stallMs, 5000);
  assert.equal(pair?.options.highWaterBytes, 4096);
  assert.equal(pair?.options.lowWaterBytes, 1024);
  assert.equal(pair?.options.hardClose, true);
});

test('[R26] waiting halves are limited in all and per address; a half that would not wait is not turned away', (t) => {
  const bench = new RelayBench(t, { maxWaiting: 3, maxWaitingPerAddress: 2 });
  const ask = (id: string, address: string) => bench.relay.admitHalf(admission(id, deviceIdentity(), { address }));
  const halves = [bench.user('a'), bench.user('b')];
  assert.equal(ask('c', '10.0.0.1'), 'waiting-address');
  assert.equal(ask('c', '10.0.0.2'), undefined);
  assert.equal(ask('a', '10.0.0.1'), undefined, 'its mate waits');
  halves.push(bench.user('c', { address: '10.0.0.2' }));
  assert.equal(ask('d', '10.0.0.3'), 'waiting');
  assert.equal(ask('b', '10.0.0.3'), undefined, 'its mate waits');
  bench.device('a');
  assert.equal(ask('a', '10.0.0.1'), undefined, 'a third half [R18] would not wait');
  bench.relay.left(halves[1]!);
  assert.equal(ask('d', '10.0.0.1'), undefined);
  assert.equal(bench.relay.limits.waitingByAddress.of('10.0.0.1'), 0);
  assert.equal(bench.relay.limits.waitingByAddress.of('10.0.0.2'), 1);
});

test('[R26] sessions of a user are limited: the newcomer gets 4429, the waiting half keeps its place', (t) => {
  const bench = new RelayBench(t, { maxSessionsPerUser: 2 });
  for (const id of ['a', 'b']) {
    bench.user(id);
    bench.device(id);
  }
  const waiting = bench.device('c');
  const newcomer = bench.user('c');
  assert.equal(newcomer.socket.code, 4429);
  assert.match(newcomer.socket.closes[0]!.reason, /maxSessionsPerUser/);
  assert.equal(waiting.socket.closes.length, 0);
  assert.deepEqual(bench.observer.limits, ['user-sessions']);
  assert.equal(bench.observer.rendezvous.at(-1)?.outcome, 'limit');
  bench.user('d', {}, 'bob');
  bench.device('d', {}, 'bob');
  assert.equal(bench.relay.sessionCount, 3, 'another user is not concerned');
  bench.forwarder.pairs[0]!.over('normal', 'user');
  bench.user('c');
  assert.equal(bench.relay.sessionCount, 3);
  for (const pair of bench.forwarder.pairs) if (pair.running) pair.over('normal', 'user');
  assert.equal(bench.relay.limits.sessionsByUser.of('user//alice'), 0);
  assert.equal(bench.relay.limits.sessionsByUser.of('user//bob'), 0);
});

test('[R26] upgrades of an address are limited per second, others are not concerned; 0 is off', async (t) => {
  const bench = new RelayBench(t, { upgradesPerAddressPerSecond: 3 });
  const { limits } = bench.relay;
  const tries = (address: string, count: number) =>
    Array.from({ length: count }, () => limits.admitUpgrade(address)).filter(Boolean).length;
  await bench.pass(1000);
  assert.equal(tries('a', 10), 3);
  assert.equal(tries('b', 10), 3);
  await bench.pass(1000);
  assert.equal(tries('a', 10), 3);
  const open = new RelayBench(t, { upgradesPerAddressPerSecond: 0 });
  assert.ok(Array.from({ length: 1000 }, () => open.relay.limits.admitUpgrade('a')).every(Boolean));
});

test('[R26] the longest session ends with 4429, outcome limit, and the limit is told', async (t) => {
  const bench = new RelayBench(t, { maxSessionMs: 5000 });
  bench.user('x');
  bench.device('x');
  const [pair] = bench.forwarder.pairs;
  await bench.pass(4980);
  assert.equal(pair?.endCode, undefined);
  await bench.pass(40);
  assert.equal(pair?.endCode, 4429);
  assert.equal(bench.observer.ended[0]?.end.outcome, 'limit');
  assert.deepEqual(bench.observer.limits, ['duration']);
  assert.equal(bench.relay.sessionCount, 0);
});

test('[R6] an absolute expiry of either half ends the session at that moment with 4401', async (t) => {
  for (const side of ['user', 'device'] as const) {
    await t.test(side, async (t) => {
      const bench = new RelayBench(t, { maxSessionMs: 60_000 });
      const expiry = { expiresAtMs: bench.clock.wall + 3000 };
      bench.user('x', side === 'user' ? expiry : {});
      await bench.pass(1000);
      bench.device('x', side === 'device' ? expiry : { expiresAtMs: expiry.expiresAtMs + 5000 });
      const [pair] = bench.forwarder.pairs;
      await bench.pass(1980);
      assert.equal(pair?.endCode, undefined);
      await bench.pass(40);
      assert.equal(pair?.endCode, 4401);
      assert.equal(bench.observer.ended[0]?.end.outcome, 'expired');
      assert.deepEqual(bench.observer.limits, []);
    });
  }
});

test('[R6] an expiry weeks ahead does not end the session now, and one that is past admits nobody', async (t) => {
  const bench = new RelayBench(t);
  const longestTimerMs = 2 ** 31 - 1;
  const set = t.mock.method(globalThis, 'setTimeout');
  bench.user('x', { expiresAtMs: bench.clock.wall + longestTimerMs + 5000 });
  bench.device('x');
  bench.leap(longestTimerMs);
  assert.equal(bench.forwarder.pairs[0]?.endCode, undefined);
  // Node.js takes a longer delay for 1 ms, which the mocked timers do not imitate.
  assert.ok(set.mock.calls.every(({ arguments: [, delayMs] }) => (delayMs ?? 0) <= longestTimerMs));
  await bench.pass(5010);
  assert.equal(bench.forwarder.pairs[0]?.endCode, 4401);
  const late = bench.user('y', { expiresAtMs: bench.clock.wall });
  assert.equal(late.socket.code, 4401);
  assert.equal(bench.observer.rendezvous.at(-1)?.outcome, 'expired');
  assert.equal(bench.relay.pairing.waitingCount, 0);
});

test('[R26] a session that ended takes its timers along', async (t) => {
  const bench = new RelayBench(t, { maxSessionMs: 1000 });
  bench.user('x');
  bench.device('x');
  bench.forwarder.pairs[0]!.over('normal', 'user');
  await bench.pass(2000);
  assert.deepEqual(bench.observer.limits, []);
  assert.equal(bench.observer.ended.length, 1);
});

test('[R19] fault 4: a waiting half found gone is not paired; its late close changes nothing', (t) => {
  const bench = new RelayBench(t);
  const dead = bench.user('x');
  dead.socket.gone = true;
  const second = bench.device('x');
  assert.equal(bench.relay.sessionCount, 0);
  bench.relay.left(dead);
  assert.deepEqual(
    bench.observer.rendezvous.map(({ outcome }) => outcome),
    ['no-peer'],
  );
  assert.equal(bench.relay.pairing.waitingAt(second), second);
  bench.user('x');
  assert.equal(bench.observer.started.length, 1);
  assert.equal(bench.relay.limits.waitingByAddress.of('10.0.0.1'), 0);
});

test('[R19] the start event is there before the halves are paired, once', (t) => {
  const bench = new RelayBench(t);
  const order: string[] = [];
  const { forwarder, observer } = bench;
  const pair = forwarder.pair.bind(forwarder);
  forwarder.pair = (...args) => {
    order.push('pair');
    return pair(...args);
  };
  observer.sessionStarting = () => order.push('start');
  bench.user('x');
  bench.device('x');
  bench.device('x');
  assert.deepEqual(order, ['start', 'pair']);
});

test('[R21] keepalive texts go to both halves at their interval; noping=1 of either half spares both', async (t) => {
  const bench = new RelayBench(t, { pingSeconds: 2, pongSeconds: 3 });
  bench.user('x');
  bench.device('x');
  bench.user('quiet', { noping: true });
  bench.device('quiet');
  await bench.pass(6000);
  const [pair, quiet] = bench.forwarder.pairs;
  const sent = (type: string, to: string) =>
    pair!.texts.filter(({ to: side, text }) => side === to && JSON.parse(text).type === type).length;
  assert.deepEqual(
    [sent('ping', 'user'), sent('ping', 'device'), sent('pong', 'user'), sent('pong', 'device')],
    [3, 3, 2, 2],
  );
  assert.equal(pair!.texts[0]!.text, '{"ctrlChannel":"102938","type":"ping"}');
  assert.deepEqual(quiet!.texts, []);
});

test('[R39] drain closes waiting halves at once with 1001, sessions at the deadline, newcomers at once', async (t) => {
  const bench = new RelayBench(t, { holdMs: 100 });
  const waiting = bench.user('w');
  for (const id of ['a', 'b', 'c']) {
    bench.user(id);
    bench.device(id);
  }
  let done = false;
  const drained = bench.relay.drain(1000, 300, new AbortController().signal).then(() => {
    done = true;
  });
  assert.equal(waiting.socket.code, 1001);
  const newcomer = bench.user('n');
  assert.equal(newcomer.socket.code, 1001);
  bench.forwarder.pairs[0]!.over('normal', 'user');
  await bench.pass(980);
  assert.equal(bench.forwarder.pairs[1]!.endCode, undefined);
  await bench.pass(50);
  assert.equal(bench.forwarder.pairs[1]!.endCode, 1001);
  assert.equal(bench.forwarder.pairs[1]!.endDrains, true, 'what is buffered is delivered');
  assert.equal(bench.forwarder.pairs[2]!.endCode, undefined, 'closes are spread');
  await bench.pass(400);
  await drained;
  assert.equal(done, true);
  assert.deepEqual(
    bench.observer.ended.map(({ end }) => end.outcome),
    ['normal', 'shutdown', 'shutdown'],
  );
  assert.deepEqual(
    bench.observer.rendezvous.map(({ outcome }) => outcome),
    ['shutdown', 'shutdown'],
  );
});

test('[R39] an aborted drain does not wait, nor does one without sessions', async (t) => {
  const bench = new RelayBench(t);
  bench.user('x');
  bench.device('x');
  const hurry = new AbortController();
  const drained = bench.relay.drain(60_000, 3000, hurry.signal);
  await bench.pass(100);
  assert.equal(bench.forwarder.pairs[0]!.endCode, undefined);
  hurry.abort();
  await drained;
  assert.equal(bench.forwarder.pairs[0]!.endDrains, false);
  await new RelayBench(t).relay.drain(60_000, 3000, new AbortController().signal);
});

test('fault 11: a revoked session ends with 4410 at once; others, and other domains, go on', async (t) => {
  const bench = new RelayBench(t);
  for (const id of ['x', 'y']) {
    bench.user(id);
    bench.device(id);
  }
  assert.equal(bench.relay.revoke('other', 'x'), false);
  assert.equal(bench.relay.revoke('', 'nothing'), false);
  assert.equal(bench.relay.revoke('', 'x'), true);
  assert.equal(bench.forwarder.pairs[0]!.endCode, 4410);
  await Promise.resolve();
  assert.equal(bench.observer.ended[0]?.end.outcome, 'revoked');
  assert.equal(bench.forwarder.pairs[1]!.endCode, undefined);
});

test('[R28] in random histories every rendezvous has exactly one outcome and every count returns to 0', async (t) => {
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  let sessions = 0;
  for (let round = 0; round < 300; round++) {
    const where = `seed ${random.seed}, round ${round}`;
    const bench = new RelayBench(t, { holdMs: 500, maxSessionMs: 800, maxSessionsPerUser: 2 });
    const { observer, forwarder, relay } = bench;
    const halves: DoubleHalf[] = [];
    const closed = new Set<DoubleHalf>();
    const leave = (half: DoubleHalf) => {
      if (closed.has(half)) return;
      closed.add(half);
      relay.left(half);
    };
    for (let step = 0; step < 40; step++) {
      const act = random.below(12);
      if (act < 6) {
        const who = random.pick(['alice', 'alice', 'bob']);
        const identity = random.chance(0.5) ? userIdentity(who) : deviceIdentity(who);
        const expiry = random.chance(0.2) ? { expiresAtMs: bench.clock.wall + random.below(600) - 50 } : {};
        halves.push(bench.join(admission(random.pick(['x', 'y', 'z']), identity, expiry)));
      } else if (act < 8 && halves.length > 0) {
        const half = random.pick(halves);
        if (half.state === 'waiting' && random.chance(0.5)) half.socket.gone = true;
        else if (half.state !== 'paired') leave(half);
      } else if (act < 9) {
        const running = forwarder.pairs.filter((pair) => pair.running);
        if (running.length > 0) random.pick(running).over(random.pick(['normal', 'peer-error', 'slow']), 'user');
      } else if (act < 10 && halves.length > 0) {
        relay.revoke('', random.pick(halves).id);
      } else if (act < 11) {
        await bench.pass(random.below(300));
      } else if (halves.length > 0) {
        relay.flooded(random.pick(halves));
      }
    }
    const drained = relay.drain(0, 0, new AbortController().signal);
    await bench.pass(50);
    await drained;
    for (const half of halves) leave(half);

    sessions += observer.started.length;
    assert.equal(observer.ended.length, observer.started.length, `${where}: each start has one end`);
    assert.equal(new Set(observer.ended.map(({ session }) => session)).size, observer.started.length);
    // A session stands for both its halves; every other half has an outcome of its own.
    const told = observer.rendezvous.map(({ admission: of }) => of);
    const inSession = observer.ended.flatMap(({ session }) => [session.user, session.device]);
    const all = [...told, ...inSession];
    assert.equal(all.length, halves.length, `${where}: an outcome is missing or doubled`);
    assert.deepEqual(new Set(all), new Set(halves.map((half) => half.admission)));
    assert.equal(relay.sessionCount, 0);
    assert.equal(relay.pairing.waitingCount, 0);
    assert.equal(relay.limits.waitingByAddress.of('10.0.0.1'), 0);
    for (const who of ['user//alice', 'user//bob']) assert.equal(relay.limits.sessionsByUser.of(who), 0);
    for (const half of halves) assert.ok(half.socket.closes.length <= 1, `${where}: a half was closed twice`);
  }
  assert.ok(sessions > 500, `only ${sessions} sessions: the test tests nothing`);
});
