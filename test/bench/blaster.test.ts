import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildTools } from '../../bench/build.ts';
import { floorPeer } from '../../bench/peers/floor.ts';
import { faults, noErrors, onNth, runProgram, startTampering, type Tamper } from './load-programs.ts';

const tools = buildTools();
const limits = { timeout: 30_000 };
const brief = { mode: 'pingpong', pairs: 5, warmup: 0.05, duration: 0.2 };

for (const bytes of [64, 65_536]) {
  test(`a blaster of ${bytes} bytes beside ping-pong pairs: both kinds are counted`, limits, async () => {
    const relay = await floorPeer(tools.floor).start(undefined);
    try {
      const options = { ...brief, blasters: 2, 'blaster-bytes': bytes, 'message-bytes': 100, pid: relay.pid };
      const { status, output } = await runProgram(tools.load, relay, options);
      assert.deepEqual(output.errors, noErrors);
      assert.equal(status, 0);
      assert.ok(output.messages > 0 && output.blasters.messages > 0);
      assert.equal(output.bytes, output.messages * 100);
      assert.equal(output.blasters.bytes, output.blasters.messages * bytes);
      assert.ok(output.roundTripMicros.p50 > 0 && output.roundTripMicros.p999 <= output.roundTripMicros.max);
    } finally {
      await relay.stop();
    }
  });
}

async function runTampered(tamper: Tamper) {
  const relay = await startTampering(tamper);
  try {
    return await runProgram(tools.load, relay, {
      ...brief,
      blasters: 1,
      'blaster-bytes': 2000,
      'blaster-in-flight': 8,
    });
  } finally {
    relay.close();
  }
}

test('the blaster keeps as much under way as it is told', limits, async () => {
  let [held, most]: [number, number] = [0, 0];
  const { output } = await runTampered((message, _fromUser, _from, to) => {
    if (message.length !== 2000) return [message];
    most = Math.max(most, ++held);
    setImmediate(() => {
      held--;
      to.send(message);
    });
    return [];
  });
  assert.deepEqual(output.errors, noErrors);
  assert.ok(most > 1 && most <= 8, `${most} at once`);
});

for (const [what, error, fault] of faults) {
  test(`blaster: ${what} is noticed`, limits, async () => {
    const { status, output } = await runTampered(onNth(20, (message) => message.length === 2000, fault));
    assert.equal(status, 1);
    assert.ok(output.errors[error] > 0, JSON.stringify(output.errors));
  });
}
