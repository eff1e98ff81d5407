import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { buildTools } from '../../bench/build.ts';
import {
  isFinished,
  type RecordedStamp,
  readStamps,
  recordedErrors,
  recordingsByPair,
  runStamps,
  type StampLoad,
} from '../../bench/stamps.ts';
import { RecordingReader } from '../../src/recording/reader.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { until } from '../support/relay.ts';
import { type ServeChild, startServe } from '../support/serve.ts';

/*
 * What must hold of every recorded time however busy the machine is: it lies between the moments at which the message
 * was sent and had arrived at the mate. How close to the first it comes is measured by `npm run bench --
 * recording-precision`; here it is only told.
 */

const load: StampLoad = { pairs: 105, probes: 5, rate: 10.0123, count: 30, messageBytes: 64 };

/** A request target in which the generator puts the number of the pair in the session id. */
function target(serve: ServeChild, side: 'user' | 'device'): string {
  return serve.path(side, 'stamp-PAIR').replace('PAIR', '{pair}');
}

async function recordStamps(t: TestContext, serve: ServeChild) {
  const { stamp } = buildTools();
  const paths = { userPath: target(serve, 'user'), devicePath: target(serve, 'device') };
  const result = await runStamps(stamp, { pid: serve.pid, port: serve.port, ...paths }, load);
  await until(() => {
    const files = [...recordingsByPair(serve.dataDir).values()];
    return files.length === load.pairs && files.every(isFinished);
  }, `${load.pairs} finished recordings`);
  const { p50, p99, max } = result.lateMicros;
  t.diagnostic(`sent late by p50 ${p50}, p99 ${p99}, max ${max} µs; ${result.messages} messages`);
  return { result, recordings: recordingsByPair(serve.dataDir) };
}

function endTimeMs(path: string): number {
  const reader = RecordingReader.open(path);
  try {
    return reader.finish()!.time;
  } finally {
    reader.close();
  }
}

for (const forwarder of ['native', 'portable'] as const) {
  test(`[M8] ${forwarder}: recorded times lie between sending and delivery, in order, beside 100 recorded sessions`, {
    timeout: 120_000,
  }, async (t) => {
    const settings = {
      relay: { forwarder, upgradesPerAddressPerSecond: 0 },
      recording: { mode: 'best-effort', index: false },
    };
    const serve = await startServe(t, { settings });
    const { result, recordings } = await recordStamps(t, serve);
    assert.equal(result.messages, load.pairs * load.count);
    const overMs = Date.now();
    const all: RecordedStamp[] = [];
    for (const [pair, transits] of Object.entries(result.transitNanos)) {
      const path = recordings.get(Number(pair))!;
      const stamps = readStamps(path);
      const say = (stamp: RecordedStamp): string => `pair ${pair}, message ${stamp.sequence}`;
      assert.deepEqual(
        stamps.map(({ sequence }) => sequence),
        transits.map((_, sequence) => sequence),
      );
      let lastUs = 0;
      for (const stamp of stamps) {
        const { sequence, sentNs, sentUs, timeMs, timeUs } = stamp;
        assert.ok(timeUs !== undefined, say(stamp));
        assert.equal(timeMs, Math.floor(timeUs / 1000), say(stamp));
        assert.ok(timeUs >= sentUs, `${say(stamp)}: recorded ${sentUs - timeUs} µs before it was sent`);
        const deliveredUs = Number((sentNs + BigInt(transits[sequence]!)) / 1000n);
        assert.ok(timeUs <= deliveredUs, `${say(stamp)}: recorded ${timeUs - deliveredUs} µs after it was delivered`);
        assert.ok(timeUs >= lastUs, `${say(stamp)}: ${lastUs - timeUs} µs before the one before it`);
        lastUs = timeUs;
      }
      const endMs = endTimeMs(path);
      assert.ok(endMs >= Math.floor(lastUs / 1000) && endMs <= overMs, `[M11] the end of pair ${pair}: ${endMs}`);
      all.push(...stamps);
    }
    for (const path of recordings.values()) {
      const { problems, notes, checkedBlocks, blocks } = verifyRecording(path);
      assert.deepEqual([problems, notes, checkedBlocks], [[], [], blocks], path);
      assert.equal(blocks, 1 + load.count);
    }
    assert.equal(all.length, load.probes * load.count);
    const { blockMicros: block, sidecarMicros: sidecar } = recordedErrors(all);
    t.diagnostic(`TIME − sent: p50 ${block.p50}, p99 ${block.p99}, from ${block.min} to ${block.max} µs`);
    t.diagnostic(`sidecar − sent: p50 ${sidecar.p50}, p99 ${sidecar.p99}, from ${sidecar.min} to ${sidecar.max} µs`);
  });
}
