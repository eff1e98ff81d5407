import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildTools } from '../../bench/build.ts';
import { floorPeer } from '../../bench/peers/floor.ts';
import { faults, noErrors, onNth, runProgram, startTampering, type Tamper } from './load-programs.ts';

const tools = buildTools();
const limits = { timeout: 30_000 };
const slowBytes = 16_384;
const isSlow = (message: Buffer): boolean => message.length === slowBytes;
const brief = { pairs: 4, 'slow-pairs': 2, warmup: 0.1, duration: 0.2 };

async function runFloor(options: Record<string, string | number>) {
  const relay = await floorPeer(tools.floor).start(undefined);
  try {
    return await runProgram(tools.slow, relay, { ...brief, pid: relay.pid, ...options });
  } finally {
    await relay.stop();
  }
}

async function runTampered(tamper: Tamper) {
  const relay = await startTampering(tamper);
  try {
    // Bounded, for this relay takes all there is.
    return await runProgram(tools.slow, relay, { ...brief, 'max-bytes': 100 * slowBytes });
  } finally {
    relay.close();
  }
}

test('readers that do not read stop their senders; then all that was taken arrives', limits, async () => {
  const maxBytes = 1e9;
  const { status, output } = await runFloor({ 'read-rate': 0, 'max-bytes': maxBytes });
  assert.deepEqual(output.errors, noErrors);
  assert.equal(status, 0);
  assert.equal(output.slowMessages, 0);
  const { min, mean, max } = output.acceptedBytesPerSlowPair;
  assert.ok(min > 0 && min <= mean && mean <= max && max < maxBytes / 2, `${min}, ${mean}, ${max} bytes accepted`);
  assert.ok(output.allSlowMessages * slowBytes >= 2 * mean * 0.99);
  assert.ok(output.messages > 0 && output.roundTripMicros.max >= output.roundTripMicros.p50);
  assert.ok(output.aloneRoundTripMicros.p50 > 0);
  assert.ok(output.relayCpuPercent > 0);
  assert.ok(output.relayResidentBytes.before > 0 && output.relayResidentBytes.after > 0);
});

test('slow readers get what they read, no more, and then the rest', limits, async () => {
  const { status, output } = await runFloor({ 'read-rate': 1e6 });
  assert.deepEqual(output.errors, noErrors);
  assert.equal(status, 0);
  assert.ok(output.slowMessages > 0 && output.slowMessages * slowBytes <= 2 * 1e6 * output.seconds);
  assert.ok(output.allSlowMessages > output.slowMessages);
});

test('what is sent is bounded', limits, async () => {
  const { status, output } = await runFloor({ 'read-rate': 0, 'max-bytes': 11 * slowBytes });
  assert.equal(status, 0);
  assert.equal(output.allSlowMessages, 10); // the same for each of two pairs
});

test('nothing is wrong with a relay that takes all at once', limits, async () => {
  const { status, output } = await runTampered((message) => [message]);
  assert.deepEqual(output.errors, noErrors);
  assert.equal(status, 0);
  assert.equal(output.allSlowMessages, 100);
});

for (const [what, error, fault] of faults) {
  test(`slow readers: ${what} is noticed, of a slow pair and of a healthy one`, limits, async () => {
    // Of a healthy pair one message is under way, so that nothing comes out of order behind it.
    const ofHealthy = error === 'order' && what === 'a lost message' ? 'lost' : error;
    for (const [n, applies, told] of [
      [20, isSlow, error],
      [5, (message: Buffer) => !isSlow(message), ofHealthy],
    ] as const) {
      const { status, output } = await runTampered(onNth(n, applies, fault));
      assert.equal(status, 1);
      assert.ok(output.errors[told] > 0, JSON.stringify(output.errors));
    }
  });
}

test('slow readers: the last message lost is noticed', limits, async () => {
  const { status, output } = await runTampered(onNth(100, isSlow, () => []));
  assert.equal(status, 1);
  assert.equal(output.errors.lost, 1);
});
