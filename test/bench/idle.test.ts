import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import type { WebSocket } from 'ws';
import { buildTools, type Tools } from '../../bench/build.ts';
import { coupletPeer } from '../../bench/peers/couplet.ts';
import { floorPeer } from '../../bench/peers/floor.ts';
import type { Peer } from '../../bench/peers/peer.ts';
import { wsPeer } from '../../bench/peers/ws.ts';
import { faultless, type Misdeeds, runGenerator, withTestRelay } from './generator.ts';

interface MemoryFigures {
  readonly rssBytes: number;
  readonly pssBytes: number;
  readonly privateBytes: number;
  readonly anonymousBytes: number;
}

interface IdleResult {
  readonly halves: number;
  readonly baseHalves: number;
  readonly seconds: number;
  readonly baseRssBytes: number;
  readonly rssBytes: number;
  readonly residentBytesPerHalf: number;
  readonly anonymousBytesPerHalf: number;
  readonly baseMemory: MemoryFigures;
  readonly memory: MemoryFigures;
  readonly relayCpuSeconds: number;
  readonly relayCpuPercent: number;
  readonly generatorCpuSeconds: number;
  readonly pingsAnswered: number;
  readonly textsReceived: number;
  readonly probeMessages: number;
  readonly errors: Readonly<Record<'order' | 'content' | 'protocol' | 'closed' | 'lost', number>>;
}

let tools: Tools;
before(() => {
  tools = buildTools();
});

const few = { pairs: 12, 'base-pairs': 4, settle: 0, duration: 0.1, pid: process.pid };
const idle = (port: number, options: Parameters<typeof runGenerator>[2] = {}) =>
  runGenerator<IdleResult>(tools.idle, port, { ...few, ...options });

const peers: Readonly<Record<string, () => Peer>> = {
  floor: () => floorPeer(tools.floor),
  ws: () => wsPeer,
  couplet: () => coupletPeer,
};
for (const [name, makePeer] of Object.entries(peers)) {
  test(`idle halves at ${name}, and the figures are plausible`, { timeout: 60_000 }, async (t) => {
    const peer = makePeer();
    const missing = peer.unavailable();
    if (missing !== undefined && process.env.COUPLET_TEST_REQUIRE_SERVICES === undefined) return t.skip(missing);
    const relay = await peer.start(undefined);
    try {
      const paths = { 'user-path': relay.userPath, 'device-path': relay.devicePath };
      const result = faultless(await idle(relay.port, { ...paths, pid: relay.pid, pairs: 300, 'base-pairs': 50 }));
      assert.deepEqual([result.halves, result.baseHalves], [600, 100]);
      const { baseMemory, memory } = result;
      assert.deepEqual([result.baseRssBytes, result.rssBytes], [baseMemory.rssBytes, memory.rssBytes]);
      assert.ok(Math.abs(result.residentBytesPerHalf - (memory.rssBytes - baseMemory.rssBytes) / 500) < 1);
      assert.ok(Math.abs(result.anonymousBytesPerHalf - (memory.anonymousBytes - baseMemory.anonymousBytes) / 500) < 1);
      for (const { rssBytes, pssBytes, privateBytes, anonymousBytes } of [baseMemory, memory]) {
        assert.ok(anonymousBytes > 0 && anonymousBytes <= rssBytes && privateBytes <= pssBytes && pssBytes <= rssBytes);
      }
      assert.ok(result.seconds >= few.duration && result.generatorCpuSeconds > 0);
      const percent = (result.relayCpuSeconds / result.seconds) * 100;
      assert.ok(Math.abs(result.relayCpuPercent - percent) < 0.01);
      assert.ok(result.probeMessages > 2 && result.probeMessages % 2 === 0);
    } finally {
      await relay.stop();
    }
  });
}

test('pings and keepalive texts are answered and counted', { timeout: 20_000 }, async () => {
  let pongs = 0;
  const ask = (half: WebSocket): void => {
    half.ping('still there');
    half.send('{"ctrlChannel":"102938","type":"ping"}');
  };
  const misdeeds: Misdeeds = {
    onPair: (user, device, n, greet) => {
      greet();
      if (n > 1) return;
      for (const half of [user, device]) {
        half.on('pong', (data) => {
          assert.equal(data.toString(), 'still there');
          pongs++;
          setImmediate(() => half.readyState === half.OPEN && ask(half));
        });
        ask(half);
      }
    },
  };
  await withTestRelay(misdeeds, async ({ port, texts }) => {
    const result = faultless(await idle(port));
    assert.ok(pongs > 0 && texts.length > 0);
    for (const text of texts) assert.equal(text, '{"ctrlChannel":"102938","type":"pong"}');
    // Before and after the interval they are answered too. Of texts come the relay's and the mate's answers to them.
    assert.ok(result.pingsAnswered > 0 && result.pingsAnswered <= pongs + texts.length, `${result.pingsAnswered}`);
    assert.ok(result.textsReceived > 0 && result.textsReceived <= pongs + 2 + texts.length);
  });
});

test('no more upgrades than asked for are under way at once', { timeout: 20_000 }, async () => {
  for (const concurrency of [1, 5]) {
    let underWay = 0;
    let most = 0;
    const misdeeds: Misdeeds = {
      verifyClient: (_, allow) => {
        most = Math.max(most, ++underWay);
        setTimeout(() => {
          underWay--;
          allow(true);
        }, 2);
      },
    };
    await withTestRelay(misdeeds, async ({ port }) => faultless(await idle(port, { concurrency })));
    assert.equal(most, concurrency);
  }
});

test('idle halves over TLS', { timeout: 20_000 }, async (t) => {
  if (tools.tls !== undefined) return t.skip(tools.tls);
  await withTestRelay({ tls: true }, async ({ port, upgrades }) => {
    faultless(await idle(port, { tls: true }));
    assert.equal(upgrades.length, 2 * few.pairs);
  });
});

const onNinth =
  (misdeed: (user: WebSocket, device: WebSocket) => void): NonNullable<Misdeeds['onPair']> =>
  (user, device, n, greet) => {
    greet();
    if (n === 9) misdeed(user, device);
  };
const faults: readonly [string, keyof IdleResult['errors'], Misdeeds][] = [
  ['a half that is cut off', 'closed', { onPair: onNinth((user) => user.terminate()) }],
  ['a half that is closed', 'closed', { onPair: onNinth((_, device) => device.close()) }],
  ['a lost message', 'lost', { tamper: (message, n) => (n === 3 ? [] : [message]) }],
  ['a repeated message', 'order', { tamper: (message, n) => (n === 3 ? [message, message] : [message]) }],
  ['a shortened message', 'content', { tamper: (message, n) => [n === 3 ? message.subarray(1) : message] }],
];
for (const [what, error, misdeeds] of faults) {
  test(`idle halves: ${what} is noticed`, { timeout: 20_000 }, async () => {
    await withTestRelay(misdeeds, async ({ port }) => {
      const { result, status } = await idle(port);
      assert.equal(status, 1);
      assert.ok(result!.errors[error] > 0, JSON.stringify(result!.errors));
    });
  });
}

test('what cannot be connected is told', { timeout: 20_000 }, async () => {
  await withTestRelay({ verifyClient: (_, allow) => allow(false, 503) }, async ({ port }) => {
    const refused = await idle(port);
    assert.deepEqual([refused.status, refused.result], [1, undefined]);
    assert.match(refused.stderr, /upgrade of \/relay failed: HTTP\/1\.1 503/);
    const tooMany = await idle(port, { pairs: 1_000_000_000 });
    assert.deepEqual([tooMany.status, tooMany.result], [1, undefined]);
    assert.match(
      tooMany.stderr,
      /2000000000 sockets need a limit of open files \(RLIMIT_NOFILE, ulimit -n\) of \d+; \d+ is/,
    );
  });
});
