import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Random } from '../support/random.ts';
import { RecordingDouble, RelayBench } from '../support/relay-doubles.ts';

/** Two halves that have met, and whose recording is being opened. */
function starting(t: TestContext, settings = {}) {
  const bench = new RelayBench(t, settings);
  const user = bench.user('a', { protocol: 1 });
  const device = bench.device('a');
  return { bench, user, device, answer: bench.recorder.begun[0]!.answer };
}

/** Lets what a settled promise started run. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

test('[R20] [R35] nothing is forwarded before the recording stands; then both are greeted with cr', async (t) => {
  const { bench, user, device, answer } = starting(t);
  assert.equal(bench.forwarder.pairs.length, 0);
  assert.equal(bench.relay.sessionCount, 1);
  assert.ok(user.socket.promised && device.socket.promised);
  const recording = new RecordingDouble();
  answer(recording);
  await settle();
  const [pair] = bench.forwarder.pairs;
  assert.equal(pair?.greeting, 'cr');
  assert.equal(pair?.options.recording, recording);
  assert.equal([...bench.relay.sessions()][0]?.recording, recording);
  pair?.over('normal', 'user');
  assert.equal(recording.closed, 1);
  assert.equal(bench.observer.ended[0]?.end.recording, 'a.mcrec');
});

test('[R33] a session that is not recorded starts at once, with c', (t) => {
  const bench = new RelayBench(t);
  bench.user('a', { protocol: 5 });
  bench.device('a');
  assert.equal(bench.forwarder.pairs[0]?.greeting, 'c');
  assert.equal(bench.forwarder.pairs[0]?.options.recording, undefined);
});

test('[R35] best-effort: a recording that cannot start gives c', async (t) => {
  const { bench, answer } = starting(t);
  answer('unrecorded');
  await settle();
  assert.equal(bench.forwarder.pairs[0]?.greeting, 'c');
  bench.forwarder.pairs[0]?.over('normal', 'user');
  assert.equal(bench.observer.ended[0]?.end.recording, undefined);
});

test('[R28] [R35] strict: a recording that cannot start closes both halves with 4500, outcome recording-failed', async (t) => {
  const { bench, user, device, answer } = starting(t);
  answer('refused');
  await settle();
  assert.deepEqual([user.socket.code, device.socket.code], [4500, 4500]);
  assert.equal(bench.forwarder.pairs.length, 0);
  assert.deepEqual(
    bench.observer.ended.map(({ end }) => end.outcome),
    ['recording-failed'],
  );
  assert.equal(bench.relay.sessionCount, 0);
});

test('[R24] a half whose connection breaks while the recording is opened ends the session; a late recording is closed', async (t) => {
  const { bench, user, device, answer } = starting(t);
  bench.relay.left(device);
  assert.equal(user.socket.code, 4502);
  assert.equal(bench.observer.ended[0]?.end.outcome, 'peer-error');
  assert.equal(bench.observer.ended[0]?.end.closedBy, 'device');
  const recording = new RecordingDouble();
  answer(recording);
  await settle();
  assert.equal(recording.closed, 1);
  assert.equal(bench.forwarder.pairs.length, 0);
});

test('[R39] [R18] a drain and a third half while the recording is opened', async (t) => {
  const { bench, user, device } = starting(t);
  const third = bench.user('a', { protocol: 1 });
  assert.equal(third.socket.code, 4409);
  const drained = bench.relay.drain(0, 0, AbortSignal.abort());
  await settle();
  assert.deepEqual([user.socket.code, device.socket.code], [1001, 1001]);
  assert.deepEqual(
    bench.observer.ended.map(({ end }) => end.outcome),
    ['shutdown'],
  );
  await drained;
});

test('[R28] a session whose recording is opened ends once and closes its recording once, in whatever order things happen', async (t) => {
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  for (let round = 0; round < 500; round++) {
    const { bench, user, device, answer } = starting(t, { maxSessionMs: 1000 });
    const recording = new RecordingDouble();
    const outcomes = ['unrecorded', 'refused', recording] as const;
    const steps = [
      () => answer(outcomes[random.below(3)]!),
      () => bench.relay.left(user),
      () => bench.relay.left(device),
      () => bench.relay.revoke('', 'a'),
      () => bench.leap(1001),
      () => bench.forwarder.pairs[0]?.over('normal', 'user'),
      () => settle(),
    ];
    const order = Array.from({ length: 12 }, () => random.below(steps.length));
    for (const step of [...order, 0, 6, 3, 6, 5]) await steps[step]!();
    await settle();
    const where = `round ${round}: ${order}`;
    assert.equal(bench.observer.started.length, 1, where);
    assert.equal(bench.observer.ended.length, 1, where);
    assert.equal(bench.relay.sessionCount, 0, where);
    assert.ok(recording.closed <= 1, where);
    const { end } = bench.observer.ended[0]!;
    if (end.recording !== undefined) assert.equal(recording.closed, 1, where);
    assert.ok(bench.forwarder.pairs.length <= 1, where);
  }
});
