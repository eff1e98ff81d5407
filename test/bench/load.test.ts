import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { before, test } from 'node:test';
import { type WebSocket, WebSocketServer } from 'ws';
import { buildTools, type Tools } from '../../bench/build.ts';
import { type LoadResult, measure, runLoad } from '../../bench/measure.ts';
import { coupletPeer, coupletRecordedPeer } from '../../bench/peers/couplet.ts';
import { floorPeer } from '../../bench/peers/floor.ts';
import type { Peer } from '../../bench/peers/peer.ts';
import { wsPeer, wsRecordedPeer } from '../../bench/peers/ws.ts';
import { type Load, scenarios } from '../../bench/scenarios.ts';

const unpinned = { relayCpu: undefined, generatorCpu: undefined };
const noErrors = { order: 0, content: 0, protocol: 0, closed: 0, lost: 0 };
const paths = { userPath: '/relay?id={pair}&browser=1', devicePath: '/relay?id={pair}' };
const forwarding = scenarios.filter((scenario) => scenario.kind === 'forwarding');
/** Some differ in their peers alone. */
const loads = [...new Map(forwarding.map((scenario) => [JSON.stringify(scenario.load), scenario])).values()];
let tools: Tools;

before(() => {
  tools = buildTools();
});

/** A relay in this process that does to the n-th message from the user what `tamper` says; [] loses it. */
async function startTampering(tamper: (message: Buffer, n: number, from: WebSocket) => readonly Buffer[]) {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false });
  const waiting = new Map<string, WebSocket>();
  const targets: string[] = [];
  let count = 0;
  server.on('connection', (device, request) => {
    targets.push(request.url ?? '');
    const id = new URL(request.url ?? '', 'ws://relay').searchParams.get('id')!;
    const user = waiting.get(id);
    if (user === undefined) {
      waiting.set(id, device);
      return;
    }
    user.on('message', (data: Buffer) => {
      for (const message of tamper(data, ++count, user)) device.send(message);
    });
    device.on('message', (data: Buffer) => user.send(data));
    for (const half of [user, device]) half.send('c');
  });
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    targets,
    count: () => count,
    close: () => {
      for (const half of server.clients) half.terminate();
      server.close();
    },
  };
}

async function loadTampered(tamper: Parameters<typeof startTampering>[0], load: Partial<Load> = {}) {
  const relay = await startTampering(tamper);
  try {
    const work: Load = { mode: 'pipeline', pairs: 2, inFlight: 8, messageBytes: 64, ...load };
    const interval = { warmupSeconds: 0, durationSeconds: 0.3 };
    const result = await runLoad(tools.load, { port: relay.port, ...paths }, work, interval);
    return { result, targets: relay.targets, count: relay.count() };
  } finally {
    relay.close();
  }
}

const peers: Readonly<Record<string, () => Peer>> = {
  floor: () => floorPeer(tools.floor),
  ws: () => wsPeer,
  couplet: () => coupletPeer,
};
for (const [name, makePeer] of Object.entries(peers)) {
  test(`every load of a scenario runs against ${name}, and its figures are plausible`, {
    timeout: 60_000,
  }, async (t) => {
    const peer = makePeer();
    const missing = peer.unavailable();
    if (missing !== undefined && process.env.COUPLET_TEST_REQUIRE_SERVICES === undefined) return t.skip(missing);
    const interval = { warmupSeconds: 0.05, durationSeconds: 0.2 };
    for (const { name: scenario, load } of loads) {
      const result = await measure(tools.load, peer, load, interval, unpinned);
      assert.ok(result.messages > 0, scenario);
      assert.equal(result.bytes, result.messages * load.messageBytes, scenario);
      assert.ok(result.seconds >= interval.durationSeconds, scenario);
      assert.ok(result.relayCpuSeconds > 0, scenario);
      const perMessage = (result.relayCpuSeconds * 1e6) / result.messages;
      assert.ok(Math.abs(result.relayCpuMicrosPerMessage / perMessage - 1) < 0.01, scenario);
      assert.equal(result.roundTripMicros !== undefined, load.mode === 'pingpong', scenario);
      if (result.roundTripMicros === undefined) continue;
      const { p50, p99, max } = result.roundTripMicros;
      assert.ok(p50 > 0 && p50 <= p99 && p99 <= max, scenario);
    }
  });
}

for (const peer of [coupletRecordedPeer, wsRecordedPeer]) {
  test(`${peer.name} records every message, and one that is not recorded is noticed`, {
    timeout: 60_000,
  }, async (t) => {
    const missing = peer.unavailable();
    if (missing !== undefined) return t.skip(missing);
    for (const { name, load } of forwarding.filter(({ peers }) => peers.includes(peer.name))) {
      const relay = await peer.start(undefined);
      const recordings = relay.recordings!;
      try {
        const result = await runLoad(tools.load, relay, load, { warmupSeconds: 0.05, durationSeconds: 0.1 });
        assert.deepEqual(result.errors, noErrors, name);
        await relay.stop();
        assert.ok(result.allMessages >= result.messages && result.messages > 0, name);
        recordings.check(result.allMessages, load.messageBytes);
        assert.throws(() => recordings.check(result.allMessages + 1, load.messageBytes), /recorded were/);
      } finally {
        await relay.stop();
        recordings.remove();
      }
    }
  });
}

test('floor and generator for a second: nothing lost, and one thread uses at most one core', async () => {
  const load: Load = { mode: 'pipeline', pairs: 16, inFlight: 64, messageBytes: 64 };
  const relay = await floorPeer(tools.floor).start(undefined);
  try {
    const result = await runLoad(tools.load, relay, load, { warmupSeconds: 0, durationSeconds: 1 });
    assert.deepEqual(result.errors, noErrors);
    assert.ok(result.messages >= load.pairs * load.inFlight);
    assert.ok(result.relayCpuSeconds! <= result.seconds * 1.02 && result.generatorCpuSeconds <= result.seconds * 1.02);
  } finally {
    await relay.stop();
  }
});

test('the generator counts what the relay delivered, and fills in the pair', async () => {
  const { result, targets, count } = await loadTampered((message) => [message]);
  assert.deepEqual(result.errors, noErrors);
  assert.ok(result.messages > 0 && result.messages <= count, `${result.messages} counted, ${count} relayed`);
  // Without a warm-up only what is drained after the interval is relayed and not counted.
  assert.ok(count - result.messages <= 2 * 8, `${result.messages} counted, ${count} relayed`);
  assert.deepEqual(targets, ['/relay?id=0&browser=1', '/relay?id=0', '/relay?id=1&browser=1', '/relay?id=1']);
});

const faults: readonly [string, keyof LoadResult['errors'], Parameters<typeof startTampering>[0]][] = [
  ['a lost message', 'order', (message, n) => (n === 20 ? [] : [message])],
  ['a repeated message', 'order', (message, n) => (n === 20 ? [message, message] : [message])],
  ['a shortened message', 'content', (message, n) => [n === 20 ? message.subarray(0, 63) : message]],
  ['a lengthened message', 'content', (message, n) => [n === 20 ? Buffer.concat([message, message]) : message]],
  [
    'a changed tail',
    'content',
    (message, n) => [n === 20 ? Buffer.concat([message.subarray(0, 63), Buffer.of(0x33)]) : message],
  ],
  ['the last messages lost', 'lost', (message, n) => (n >= 20 ? [] : [message])],
  [
    'a half that is cut off',
    'closed',
    (message, n, from) => {
      if (n === 20) from.terminate();
      return [message];
    },
  ],
];
for (const [what, error, tamper] of faults) {
  test(`the generator notices ${what}`, { timeout: 20_000 }, async () => {
    const { result } = await loadTampered(tamper);
    assert.ok(result.errors[error] > 0, JSON.stringify(result.errors));
  });
}

test('the generator ends early where it is told how many bytes are enough', async () => {
  const relay = await startTampering((message) => [message]);
  try {
    const load: Load = { mode: 'pipeline', pairs: 2, inFlight: 8, messageBytes: 64 };
    const bounded = { port: relay.port, ...paths, maxBytes: 64 * 4000 };
    const result = await runLoad(tools.load, bounded, load, { warmupSeconds: 10, durationSeconds: 10 });
    assert.deepEqual(result.errors, noErrors);
    assert.equal(result.allMessages, relay.count());
    // The end is looked at between reads, which bring at most what is under way.
    assert.ok(result.allMessages >= 4000 && result.allMessages <= 4000 + 2 * 2 * 8, `${result.allMessages} in all`);
    assert.ok(result.messages >= 3000 - 2 * 8 && result.messages <= 3000 + 2 * 8, `${result.messages} measured`);
    assert.ok(result.seconds < 10);
  } finally {
    relay.close();
  }
});

test('the generator says why it cannot connect, without the query', async () => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, verifyClient: () => false });
  await once(server, 'listening');
  const relay = { port: (server.address() as AddressInfo).port, userPath: '/relay?auth=SECRET', devicePath: '/relay' };
  const load: Load = { mode: 'pipeline', pairs: 1, inFlight: 1, messageBytes: 64 };
  const interval = { warmupSeconds: 0, durationSeconds: 0.1 };
  await assert.rejects(runLoad(tools.load, relay, load, interval), (error: Error) => {
    assert.match(error.message, /upgrade of \/relay failed: HTTP\/1\.1 401/);
    assert.doesNotMatch(error.message, /SECRET/);
    return true;
  });
  server.close();
});
