import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { type WebSocket, WebSocketServer } from 'ws';
import { buildTools } from '../../bench/build.ts';
import { floorPeer } from '../../bench/peers/floor.ts';
import { checkPrecision, formatPrecision, type PrecisionReport } from '../../bench/precision.ts';
import { distribution, type RecordedStamp, recordedErrors, runStamps } from '../../bench/stamps.ts';
import { temporaryFolder } from '../support/relay.ts';

const load = { pairs: 7, probes: 3, rate: 50, count: 10, messageBytes: 64 };
const tools = buildTools();

function stamp(sequence: number, sentNs: bigint, timeUs: number | undefined): RecordedStamp {
  const timeMs = Math.floor((timeUs ?? 0) / 1000);
  return { sequence, sentNs, sentUs: Number(sentNs / 1000n), timeMs, timeUs };
}

function reportOf(blockP99: number, sidecarP50: number): PrecisionReport {
  const of = (p50: number, p99: number) => ({ min: -999, p50, p99, max: 5000 });
  return {
    name: 'recording-precision',
    pairs: 1020,
    probeMessages: 4000,
    messagesPerSecond: 10_200,
    blockMicros: of(-500, 20),
    blockDistanceMicros: of(500, blockP99),
    sidecarMicros: of(sidecarP50, 90),
    relayCpuPercent: 30,
    generatorCpuPercent: 40,
    lateMicros: { p50: 1, p99: 2, max: 3 },
  };
}

test('percentiles are values that occurred', () => {
  const values = Array.from({ length: 200 }, (_, i) => 200 - i);
  assert.deepEqual(distribution(values), { min: 1, p50: 100, p99: 198, max: 200 });
  assert.deepEqual(distribution([7]), { min: 7, p50: 7, p99: 7, max: 7 });
  assert.throws(() => distribution([]));
});

test('errors are recorded time less sent time; TIME cut to milliseconds is early', () => {
  const sentNs = 1_700_000_000_000_900_999n;
  const errors = recordedErrors([stamp(0, sentNs, 1_700_000_000_000_950), stamp(1, sentNs, 1_700_000_000_002_400)]);
  assert.deepEqual(errors.sidecarMicros, { min: 50, p50: 50, p99: 1500, max: 1500 });
  assert.deepEqual(errors.blockMicros, { min: -900, p50: -900, p99: 1100, max: 1100 });
  assert.deepEqual(errors.blockDistanceMicros, { min: 900, p50: 900, p99: 1100, max: 1100 });
  assert.throws(() => recordedErrors([stamp(3, sentNs, undefined)]), /no time of message 3/);
});

test('the check holds what is asked of recorded times, and its limits themselves', () => {
  assert.deepEqual(checkPrecision(reportOf(1000, 100)), []);
  assert.match(checkPrecision(reportOf(1001, 100)).join(), /^recording-precision: block TIME is 1001 µs off/);
  assert.match(checkPrecision(reportOf(1000, 101)).join(), /^recording-precision: the sidecar is 101 µs off/);
  assert.equal(checkPrecision(reportOf(1001, -101)).length, 2);
  assert.match(formatPrecision(reportOf(1000, 100)), /sidecar − sent {7}p50 100 µs/);
});

test('the stamping generator sends what it is told, evenly, and times the probes', { timeout: 30_000 }, async () => {
  const relay = await floorPeer(tools.floor).start(undefined);
  try {
    const result = await runStamps(tools.stamp, relay, load);
    assert.equal(result.messages, load.pairs * load.count);
    assert.deepEqual(Object.keys(result.transitNanos), ['0', '2', '4']);
    for (const transits of Object.values(result.transitNanos)) {
      assert.equal(transits.length, load.count);
      assert.ok(transits.every((nanos) => nanos > 0 && nanos < 1e9 * result.seconds));
    }
    // The first message leaves at once, the last one a step before the end of the time.
    const asked = load.count / load.rate;
    assert.ok(result.seconds >= asked * (1 - 1 / (load.pairs * load.count)), `${result.seconds} s`);
    assert.ok(result.relayCpuSeconds > 0 && result.generatorCpuSeconds > 0);
  } finally {
    await relay.stop();
  }
});

/** A relay in this process that passes on what `keep` says. */
async function startRelay(keep: (n: number) => boolean) {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false });
  const waiting = new Map<string, WebSocket>();
  const stamps: { sentNs: bigint; nowMs: number }[] = [];
  server.on('connection', (device, request) => {
    const user = waiting.get(request.url!);
    if (user === undefined) return waiting.set(request.url!, device);
    user.on('message', (data: Buffer) => {
      stamps.push({ sentNs: data.readBigUInt64LE(8), nowMs: Date.now() });
      if (keep(stamps.length)) device.send(data);
    });
    for (const half of [user, device]) half.send('cr');
  });
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const close = (): void => {
    for (const half of server.clients) half.terminate();
    server.close();
  };
  return { pid: process.pid, port, userPath: '/{pair}', devicePath: '/{pair}', stamps, close };
}

test('a stamp is the wall clock right before its message leaves', { timeout: 30_000 }, async () => {
  const beginMs = Date.now();
  const relay = await startRelay(() => true);
  try {
    await runStamps(tools.stamp, relay, load);
  } finally {
    relay.close();
  }
  assert.equal(relay.stamps.length, load.pairs * load.count);
  for (const { sentNs, nowMs } of relay.stamps) {
    assert.ok(sentNs >= BigInt(beginMs) * 1_000_000n && Number(sentNs / 1_000_000n) <= nowMs, `${sentNs} at ${nowMs}`);
  }
  // Not all the same moment: each is read anew.
  assert.equal(new Set(relay.stamps.map(({ sentNs }) => sentNs)).size, relay.stamps.length);
});

test('a run during which the wall clock was set says nothing: it fails', async (t) => {
  const program = join(temporaryFolder(t), 'generator');
  const print = (wallStepNanos: number): void =>
    writeFileSync(program, `#!/bin/sh\necho '{"wallStepNanos":${wallStepNanos}}'\n`, { mode: 0o755 });
  const relay = { pid: 1, port: 1, userPath: '/', devicePath: '/' };
  print(-2_000_000);
  await assert.rejects(runStamps(program, relay, load), /the wall clock was set by -2000000 ns meanwhile/);
  print(300);
  assert.equal((await runStamps(program, relay, load)).wallStepNanos, 300);
});

test('a message that does not come through has no time: the run fails', { timeout: 30_000 }, async () => {
  const relay = await startRelay((n) => n !== load.pairs * load.count);
  try {
    await assert.rejects(runStamps(tools.stamp, relay, load), /not every message came through: .*"lost":1/);
  } finally {
    relay.close();
  }
});
