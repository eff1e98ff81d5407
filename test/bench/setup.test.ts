import assert from 'node:assert/strict';
import { type AddressInfo, createServer } from 'node:net';
import { before, test } from 'node:test';
import type { WebSocket } from 'ws';
import { buildTools, type Tools } from '../../bench/build.ts';
import { coupletPeer } from '../../bench/peers/couplet.ts';
import { floorPeer } from '../../bench/peers/floor.ts';
import type { Peer } from '../../bench/peers/peer.ts';
import { wsPeer } from '../../bench/peers/ws.ts';
import { faultless, type Misdeeds, runGenerator, withTestRelay } from './generator.ts';

interface SetupResult {
  readonly seconds: number;
  readonly halves: number;
  readonly halvesPerSecond: number;
  readonly allHalves: number;
  readonly generatorCpuSeconds: number;
  readonly relayCpuSeconds: number;
  readonly relayCpuMicrosPerHalf: number;
  readonly abruptEnds: number;
  readonly errors: Readonly<Record<'refused' | 'closed' | 'protocol' | 'timeout', number>>;
}

let tools: Tools;
before(() => {
  tools = buildTools();
});

const short = { warmup: 0, duration: 0.2 } as const;
const setup = (port: number, options: Parameters<typeof runGenerator>[2] = {}) =>
  runGenerator<SetupResult>(tools.setup, port, { ...short, ...options });

const peers: Readonly<Record<string, () => Peer>> = {
  floor: () => floorPeer(tools.floor),
  ws: () => wsPeer,
  couplet: () => coupletPeer,
};
for (const [name, makePeer] of Object.entries(peers)) {
  test(`halves are set up and end at ${name}, and the figures are plausible`, { timeout: 60_000 }, async (t) => {
    const peer = makePeer();
    const missing = peer.unavailable();
    if (missing !== undefined && process.env.COUPLET_TEST_REQUIRE_SERVICES === undefined) return t.skip(missing);
    const relay = await peer.start(undefined);
    try {
      const paths = { 'user-path': relay.userPath, 'device-path': relay.devicePath };
      const run = await setup(relay.port, { ...paths, pid: relay.pid, warmup: 0.1 });
      const result = faultless(run);
      assert.ok(result.halves > 0 && result.allHalves > result.halves);
      assert.equal(result.allHalves % 2, 0);
      assert.equal(result.abruptEnds, 0);
      assert.ok(result.seconds >= short.duration);
      assert.ok(Math.abs(result.halvesPerSecond / (result.halves / result.seconds) - 1) < 0.01);
      assert.ok(result.relayCpuSeconds > 0 && result.generatorCpuSeconds > 0);
      const perHalf = (result.relayCpuSeconds * 1e6) / result.halves;
      assert.ok(Math.abs(result.relayCpuMicrosPerHalf / perHalf - 1) < 0.01);
    } finally {
      await relay.stop();
    }
  });
}

test('pairs are numbered on for ever, sides take turns in being first, and addresses spread', {
  timeout: 30_000,
}, async () => {
  await withTestRelay({}, async ({ port, upgrades }) => {
    const options = { first: 7, concurrency: 1, sources: 5 };
    const { allHalves } = faultless(await setup(port, options));
    assert.equal(upgrades.length, allHalves);
    // Both halves of a pair are on their way at once, so that only pairs are in order.
    const numbers = upgrades.map(({ url }) => Number(new URL(url, 'ws://relay').searchParams.get('id')));
    assert.deepEqual(
      numbers,
      numbers.map((_, i) => 7 + Math.floor(i / 2)),
    );
    const firstIsUser = upgrades.filter((_, i) => i % 2 === 0).map(({ url }) => url.includes('browser=1'));
    assert.deepEqual(
      firstIsUser,
      firstIsUser.map((_, i) => (7 + i) % 2 === 0),
    );
    assert.equal(new Set(upgrades.map(({ address }) => address)).size, Math.min(5, allHalves));
    const again = faultless(await setup(port, { concurrency: 3 }));
    const fresh = upgrades.slice(allHalves).map(({ url }) => url);
    assert.equal(fresh.length, again.allHalves);
    assert.equal(new Set(fresh).size, fresh.length);
    assert.ok(!fresh.includes('/relay?id=7'), 'by default the first number is random');
  });
});

test('halves are set up over TLS, and a relay that speaks none is noticed', { timeout: 30_000 }, async (t) => {
  if (tools.tls !== undefined) return t.skip(tools.tls);
  await withTestRelay({ tls: true }, async ({ port, upgrades }) => {
    const { allHalves } = faultless(await setup(port, { tls: true }));
    assert.ok(allHalves > 0);
    assert.equal(upgrades.length, allHalves);
  });
  await withTestRelay({}, async ({ port }) => {
    const { result, status, stderr } = await setup(port, { tls: true });
    assert.equal(status, 1);
    assert.ok(result!.errors.protocol > 0, JSON.stringify(result!.errors));
    assert.match(stderr, /upgrade of \/relay failed: TLS was not agreed upon/);
  });
});

const rawSocket = (half: WebSocket) => (half as unknown as { _socket: { write(data: Uint8Array): void } })._socket;
const onThird =
  (misdeed: (user: WebSocket, device: WebSocket) => void): NonNullable<Misdeeds['onPair']> =>
  (user, device, n, greet) => {
    greet();
    if (n === 3) misdeed(user, device);
  };
const faults: readonly [string, keyof SetupResult['errors'], RegExp, Misdeeds][] = [
  [
    'an upgrade that is refused',
    'refused',
    /^load: upgrade of \/relay failed: HTTP\/1\.1 401 Unauthorized\n$/,
    { verifyClient: (_, allow) => allow(false) },
  ],
  ['a pair without greeting', 'timeout', /before the greeting/, { onPair: (_u, _d, n, greet) => n !== 3 && greet() }],
  [
    'a greeting on one half only',
    'timeout',
    /before the greeting/,
    { onPair: (user, _, n, greet) => (n === 3 ? user.send('c') : greet()) },
  ],
  [
    'a half that is closed unasked',
    'closed',
    /nobody asked for/,
    { onPair: (_, device, n, greet) => (n === 3 ? device.close() : greet()) },
  ],
  // The relay tells the mate, whose close frame may be seen before the cut.
  [
    'a half that is cut off',
    'closed',
    /without a close frame|nobody asked for/,
    { onPair: onThird((user) => user.terminate()) },
  ],
  [
    'a cut before the greeting',
    'closed',
    /without a close frame|nobody asked for/,
    { onPair: (user, _, n, greet) => (n === 3 ? user.terminate() : greet()) },
  ],
  [
    'a message nobody sent',
    'protocol',
    /not what a relay sends/,
    { onPair: onThird((user) => user.send(Buffer.of(1))) },
  ],
  [
    'what is no frame',
    'protocol',
    /not what a relay sends/,
    { onPair: onThird((_, device) => rawSocket(device).write(Buffer.of(0xf2, 0))) },
  ],
  ['a device half that is not closed', 'timeout', /while the pair ended/, { onEnd: () => undefined }],
  ['a device half that is just cut off', 'closed', /without a close frame/, { onEnd: (mate) => mate.terminate() }],
];
for (const [what, error, words, misdeeds] of faults) {
  test(`set-up notices ${what}`, { timeout: 20_000 }, async () => {
    await withTestRelay(misdeeds, async ({ port }) => {
      const options = { 'user-path': '/relay?browser=1&auth=SECRET&id={pair}', timeout: 0.3, duration: 0.4 };
      const { result, status, stderr } = await setup(port, { concurrency: 2, ...options });
      assert.equal(status, 1);
      assert.ok(result!.errors[error] > 0, JSON.stringify(result!.errors));
      assert.match(stderr, words);
      assert.doesNotMatch(stderr, /SECRET/);
    });
  });
}

test('set-up ends early at a relay that is not there', { timeout: 20_000 }, async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  const { result, status, stderr } = await setup(port, { duration: 25 });
  assert.equal(status, 1);
  assert.ok(result!.errors.refused >= 1000 && result!.seconds < 25);
  assert.match(stderr, /Connection refused/);
});

test('abrupt ends are counted, and are no fault where that is asked for', { timeout: 20_000 }, async () => {
  await withTestRelay({ onEnd: (mate) => mate.terminate() }, async ({ port }) => {
    const result = faultless(await setup(port, { 'allow-abrupt-ends': true }));
    assert.ok(result.abruptEnds > 0);
    assert.equal(result.abruptEnds, result.allHalves / 2);
  });
});
