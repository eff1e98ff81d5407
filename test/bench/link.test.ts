import assert from 'node:assert/strict';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { test } from 'node:test';
import { buildTools } from '../../bench/build.ts';
import { measureScenario } from '../../bench/kinds.ts';
import { relayOptions } from '../../bench/measure.ts';
import { coupletClusterPeer, coupletLinkPeer, coupletLinkPortablePeer } from '../../bench/peers/couplet-link.ts';
import { floorPeer } from '../../bench/peers/floor.ts';
import { runProgram } from '../../bench/program.ts';
import type { Scenario } from '../../bench/scenarios.ts';

const tools = buildTools();
const unpinned = { relayCpu: undefined, generatorCpu: undefined };
const around = { tools, interval: { warmupSeconds: 0.05, durationSeconds: 0.2 }, affinity: unpinned };
const described = { name: 'brief', title: '', peers: [], references: [], asked: [] };
const forwarding = { mode: 'pipeline', pairs: 4, inFlight: 8, messageBytes: 65536 } as const;
const brief: readonly Scenario[] = [
  { ...described, kind: 'forwarding', load: forwarding },
  { ...described, kind: 'setup', load: { pairs: 4 } },
  { ...described, kind: 'latency', load: { pairs: 4, rate: 500, messageBytes: 64 } },
];

for (const peer of [coupletLinkPeer, coupletLinkPortablePeer, coupletClusterPeer]) {
  test(`${peer.name} delivers every message, and sets up halves`, { timeout: 60_000 }, async (t) => {
    const missing = peer.unavailable();
    if (missing !== undefined && process.env.COUPLET_TEST_REQUIRE_SERVICES === undefined) return t.skip(missing);
    for (const scenario of brief) {
      const { figures } = await measureScenario(scenario, peer, around);
      const cost = figures.cpuMicrosPerMessage ?? figures.cpuMicrosPerHalf;
      assert.ok(cost! > 0, JSON.stringify(figures));
    }
  });
}

test('the halves of couplet-link are on two servers, and both processes count', { timeout: 60_000 }, async (t) => {
  const missing = coupletLinkPeer.unavailable();
  if (missing !== undefined && process.env.COUPLET_TEST_REQUIRE_SERVICES === undefined) return t.skip(missing);
  const relay = await coupletLinkPeer.start(undefined);
  try {
    const { pid, otherPids, port, devicePort } = relay;
    assert.ok(devicePort !== undefined && devicePort !== port);
    assert.equal(new Set([pid, ...otherPids!]).size, 2);
    const target = relayOptions(relay);
    assert.deepEqual([target.pid, target['device-port']], [`${pid},${otherPids![0]}`, devicePort]);
  } finally {
    await relay.stop();
  }
  for (const pid of [relay.pid, ...relay.otherPids!]) assert.throws(() => process.kill(pid, 0), /ESRCH/);
});

/** A port that only tells who has asked for what, and hangs up. */
async function listener(seen: string[]): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', (request) => {
      seen.push(String(request).split('\r\n').slice(0, 2).join(' '));
      socket.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

for (const name of ['load', 'setup', 'paced'] as const) {
  const paths = { 'user-path': '/user?id=1', 'device-path': '/device?id=1' };

  test(`${name} sends device halves to --device-port`, { timeout: 30_000 }, async (t) => {
    const seen: string[] = [];
    const [users, devices] = [await floorPeer(tools.floor).start(undefined), await listener(seen)];
    t.after(async () => {
      devices.close();
      await users.stop();
    });
    const devicePort = (devices.address() as AddressInfo).port;
    const options = { ...paths, port: users.port, 'device-port': devicePort, duration: 0.1, warmup: 0 };
    // Nobody answers the device halves: what counts is who was asked for what.
    await runProgram(tools[name], options, 20_000).catch(() => undefined);
    assert.deepEqual([...new Set(seen)], [`GET /device?id=1 HTTP/1.1 Host: 127.0.0.1:${devicePort}`]);
    for (const wrong of ['0', '65536', 'x']) {
      await assert.rejects(runProgram(tools[name], { ...options, 'device-port': wrong }, 20_000), /usage: /, wrong);
    }
  });

  test(`${name} reads the CPU time of every process of --pid, and takes nothing else for one`, async () => {
    const run = (pid: string) => runProgram(tools[name], { ...paths, port: 1, pid }, 20_000);
    for (const wrong of ['', 'x', '0', '-1', '1,', ',1', '1;2', '1,2,x']) {
      await assert.rejects(run(wrong), /usage: /, wrong);
    }
    // Above the most that Linux numbers processes with.
    await assert.rejects(run(`${process.pid},4999999`), /--pid/);
  });
}
