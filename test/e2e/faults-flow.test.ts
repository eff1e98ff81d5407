import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { describe, type TestContext, test } from 'node:test';
import { type Client, connect, connectPair } from '../support/client.ts';
import { Random } from '../support/random.ts';
import { clientFrame, openRaw, rawHalf, upgradeHead } from '../support/raw-half.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';
import { requireProgram } from '../support/services.ts';

/** The most that a server buffers: that which has the session, or one that carries a half to it. */
const buffered = async (relay: TestRelay) =>
  Math.max(await relay.metric('couplet_buffered_bytes'), await relay.metric('couplet_link_buffered_bytes'));
const outcome = (relay: TestRelay, word: string) => relay.metric(`couplet_session_outcomes_total{outcome="${word}"}`);
const mib = 1_048_576;
/** What may be buffered for one receiver by R23, with the default mark and messages of `messageBytes`. */
const bound = (messageBytes: number) => mib + messageBytes + 524_288 + 1024;

/** Sends and awaits a text each way, `times` times; the longest one in milliseconds. */
async function slowestEcho(user: Client, device: Client, times: number): Promise<number> {
  let slowest = 0;
  for (let i = 0; i < times; i++) {
    const before = performance.now();
    user.send(`there ${i}`);
    assert.equal(await device.nextText(), `there ${i}`);
    device.send(`back ${i}`);
    assert.equal(await user.nextText(), `back ${i}`);
    slowest = Math.max(slowest, performance.now() - before);
  }
  return slowest;
}

for (const forwarder of ['native', 'portable'] as const) {
  for (const tls of [false, true]) {
    describe(`${forwarder}, ${tls ? 'TLS' : 'plain'}`, () => {
      test('[R23][R25] fault 20: a slow reader costs bounded memory and other pairs do not notice', async (t) => {
        const relay = await startRelay(t, { forwarder, tls });
        const slow = await connectPair(t, relay, 'slow');
        const other = await connectPair(t, relay, 'other');
        slow.device.ws.pause();
        const count = 512 * relay.depth;
        for (let i = 0; i < count; i++) slow.user.send(Buffer.alloc(65_536, i & 0xff));
        await until(async () => (await relay.metric('couplet_flow_pauses_total')) > 0, 'the sender is held back');
        for (let i = 0; i < 10; i++) {
          const slowest = await slowestEcho(other.user, other.device, 20);
          assert.ok(slowest < 500, `the other pair waited ${slowest} ms`);
          const bytes = await buffered(relay);
          assert.ok(bytes > 0 && bytes <= bound(65_536), `${bytes} bytes are buffered`);
        }
        slow.device.ws.resume();
        for (let i = 0; i < count; i++) assert.equal((await slow.device.next()).data[100], i & 0xff);
        assert.equal(await buffered(relay), 0);
      });

      test('[R23] fault 21: both readers stall: bounded, and ended by relay.stallMs with slow', async (t) => {
        const settings = { relay: { stallMs: 2000, forwarder, upgradesPerAddressPerSecond: 0 } };
        const relay = await startRelay(t, { settings, tls });
        const { user, device } = await connectPair(t, relay, 'x');
        user.ws.pause();
        device.ws.pause();
        for (let i = 0; i < 256 * relay.depth; i++) {
          user.send(Buffer.alloc(65_536));
          device.send(Buffer.alloc(65_536));
        }
        await until(async () => (await relay.metric('couplet_flow_pauses_total')) >= 2, 'both are held back');
        const before = Date.now();
        let most = 0;
        await until(
          async () => {
            most = Math.max(most, await buffered(relay));
            return (await outcome(relay, 'slow')) === 1;
          },
          'the end',
          8000,
        );
        const took = Date.now() - before;
        assert.ok(took > 1000 && took < 6000, `${took} ms`);
        assert.ok(most <= 2 * bound(65_536), `${most} bytes were buffered`);
        await until(async () => (await buffered(relay)) === 0, 'nothing is left', 5000);
        assert.equal(await relay.metric('couplet_half_errors_total{reason="stalled"}'), 1);
        assert.equal(await relay.metric('couplet_halves{state="paired"}'), 0);
      });

      test('[R21] fault 22: a flood of pings whose pongs nobody reads is bounded', async (t) => {
        const relay = await startRelay(t, { forwarder, tls });
        const flooder = await rawHalf(t, relay.port, relay.path('user', 'x'), tls);
        const device = await connect(t, relay.url('device', 'x'));
        const other = await connectPair(t, relay, 'other');
        assert.equal(await device.nextText(), 'c');
        flooder.socket.pause();
        const pings = Buffer.concat(Array.from({ length: 4000 }, () => clientFrame(9, Buffer.alloc(125, 1))));
        let sent = 0;
        for (let i = 0; i < 80; i++) {
          flooder.socket.write(pings, () => {
            sent++;
          });
          await slowestEcho(other.user, other.device, 1);
          const bytes = await buffered(relay);
          assert.ok(bytes <= bound(125), `${bytes} bytes are buffered after ${sent} bursts`);
        }
        flooder.socket.resume();
        await until(() => sent === 80, 'it can go on');
        flooder.send(1, 'alive');
        assert.equal(await device.nextText(), 'alive');
        assert.ok(
          flooder.frames.some(({ opcode }) => opcode === 10),
          'it got pongs',
        );
      });

      test('[R23] fault 23: sends of 16 KiB and more while the receiver drains do not stall', async (t) => {
        const relay = await startRelay(t, { forwarder, tls });
        const random = new Random();
        t.diagnostic(`seed ${random.seed}`);
        const { user, device } = await connectPair(t, relay, 'x');
        const lengths: number[] = [];
        for (let round = 0; round < 6; round++) {
          device.ws.pause();
          // Above the low-water mark, where a sender that is held back already stays held back.
          while ((await buffered(relay)) <= mib / 4) {
            assert.ok(lengths.length < 3000, `seed ${random.seed}: no backlog comes about`);
            for (let i = 0; i < 40; i++) {
              const length = 16_384 + random.below(131_072);
              lengths.push(length);
              user.send(Buffer.alloc(length, lengths.length & 0xff));
            }
            await new Promise((resolve) => setTimeout(resolve, 10));
          }
          device.ws.resume();
          for (let i = 0; i < 40; i++) {
            const length = 16_384 + random.below(65_536);
            lengths.push(length);
            user.send(Buffer.alloc(length, lengths.length & 0xff));
            await new Promise((resolve) => setImmediate(resolve));
          }
        }
        for (const [i, length] of lengths.entries()) {
          const { data } = await device.next();
          assert.equal(data.length, length, `seed ${random.seed}, message ${i}`);
          assert.equal(data[length - 1], (i + 1) & 0xff);
        }
      });

      for (const goodbye of [true, false]) {
        // An end of stream without a close frame is owed nothing by the rules; what came whole is delivered all the same.
        if (tls && !goodbye) continue;
        const what = goodbye
          ? 'a close frame and at once the end of the stream'
          : 'an end of stream without a close frame';
        test(`[R24] fault 24: ${what}: the tail arrives first`, async (t) => {
          for (const stalled of [false, true]) {
            const relay = await startRelay(t, { forwarder, tls });
            const count = stalled ? 64 * relay.depth : 5;
            const user = await rawHalf(t, relay.port, relay.path('user', 'x'), tls);
            const device = await connect(t, relay.url('device', 'x'));
            assert.equal(await device.nextText(), 'c');
            if (stalled) device.ws.pause();
            for (let i = 0; i < count; i++) user.send(2, Buffer.alloc(100_000, i));
            if (goodbye) user.send(8, Buffer.from([3, 232]));
            user.socket.end();
            if (stalled) await until(async () => (await relay.metric('couplet_flow_pauses_total')) > 0, 'a backlog');
            device.ws.resume();
            assert.equal((await device.closed).code, goodbye ? 1000 : 4502);
            assert.equal(device.received.length, count);
            for (const [i, { data }] of device.received.entries()) assert.equal(data[99_999], i);
            await until(async () => (await outcome(relay, goodbye ? 'normal' : 'peer-error')) === 1, 'the outcome');
          }
        });
      }
    });
  }

  test(`[R19] a half that ends as its mate is reset leaves no pair behind, nor a busy loop (${forwarder})`, async (t) => {
    const relay = await startRelay(t, { forwarder });
    for (let i = 0; i < 20; i++) {
      const user = await rawHalf(t, relay.port, relay.path('user', `x${i}`));
      const device = await rawHalf(t, relay.portOf('device'), relay.path('device', `x${i}`));
      await user.next(({ opcode }) => opcode === 1);
      // The reset reaches the relay after it has read the end and before it writes the close frame.
      device.socket.on('data', () => device.socket.resetAndDestroy());
      user.send(1, 'bye');
      user.socket.end();
      await device.closed;
    }
    const cpu = process.cpuUsage();
    await until(() => relay.sessions().length === 0, 'all sessions are over', 4000);
    const { user, system } = process.cpuUsage(cpu);
    assert.ok(user + system < 1_500_000, `${(user + system) / 1000} ms of CPU`);
    await until(async () => (await outcome(relay, 'peer-error')) === 20, 'the outcomes');
  });

  test(`fault 28: an event loop that stood still for 5 s disconnects nobody (${forwarder})`, async (t) => {
    const relay = await startRelay(t, {
      settings: { relay: { wsPingSeconds: 1, idleMs: 4000, stallMs: 4000, forwarder, upgradesPerAddressPerSecond: 0 } },
    });
    const pairs = await Promise.all(Array.from({ length: 20 }, (_, i) => connectPair(t, relay, `p${i}`)));
    const backlog = await connectPair(t, relay, 'backlog');
    backlog.device.ws.pause();
    const count = 100 * relay.depth;
    for (let i = 0; i < count; i++) backlog.user.send(Buffer.alloc(65_536));
    await until(async () => (await relay.metric('couplet_flow_pauses_total')) > 0, 'a backlog');
    // Long enough for pings to be under way when it stops.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    for (const { user } of pairs) user.send('alive');
    for (const { device } of pairs) assert.equal(await device.nextText(), 'alive');
    const end = performance.now() + 5000;
    while (performance.now() < end);
    await new Promise((resolve) => setTimeout(resolve, 1200));
    for (const { user, device } of pairs) await slowestEcho(user, device, 1);
    backlog.device.ws.resume();
    for (let i = 0; i < count; i++) await backlog.device.next();
    assert.equal(relay.sessions().length, pairs.length + 1);
    assert.deepEqual(
      relay.events().filter(({ outcome: word }) => word !== undefined),
      [],
    );
  });

  test(`[R21] fault 18: a half whose link is down is reaped by the ping timeout (${forwarder})`, async (t) => {
    const net = await namespace(t);
    if (net === undefined) return;
    const relay = await startRelay(t, {
      settings: {
        server: { listen: `${net.host}:0` },
        relay: { wsPingSeconds: 1, forwarder, upgradesPerAddressPerSecond: 0 },
      },
    });
    const url = relay.url('device', 'x').replace('127.0.0.1', net.host);
    const script = `const { WebSocket } = require('ws'); const ws = new WebSocket(process.argv[1]);
      ws.on('message', (data) => { console.log(String(data)); ws.send('here'); });`;
    const child = spawn(net.ip, ['netns', 'exec', net.name, process.execPath, '-e', script, url], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => child.kill('SIGKILL'));
    const [greeting] = await Promise.all([
      once(createInterface({ input: child.stdout }), 'line'),
      connect(t, relay.url('user', 'x').replace('127.0.0.1', net.host)).then((user) => {
        mate = user;
      }),
    ]);
    assert.equal(String(greeting), 'c');
    assert.equal(await mate!.nextText(), 'c');
    assert.equal(await mate!.nextText(), 'here');
    // Pings that are answered keep it.
    await new Promise((resolve) => setTimeout(resolve, 2500));
    assert.equal(mate!.isClosed, false);
    net.down();
    const before = Date.now();
    assert.equal((await mate!.closed).code, 4502);
    assert.ok(Date.now() - before < 5500, `${Date.now() - before} ms`);
    await until(async () => (await outcome(relay, 'peer-error')) === 1, 'the outcome');
    // Why exactly the connection was given up is not told to the server that has the session.
    const reason = relay.other === undefined ? 'ping-timeout' : 'broken';
    assert.equal(await relay.metric(`couplet_half_errors_total{reason="${reason}"}`), 1);
    assert.equal(await relay.metric('couplet_halves{state="paired"}'), 0);
  });
}

let mate: Client | undefined;

/** A network namespace with a link to this one; `undefined` where it cannot be made (the test is skipped then). */
async function namespace(t: TestContext) {
  const ip = requireProgram(t, 'ip');
  if (ip === undefined) return undefined;
  if (process.getuid?.() !== 0) {
    if (process.env.COUPLET_TEST_REQUIRE_SERVICES === '1') throw new Error('a network namespace needs root');
    t.skip('a network namespace needs root');
    return undefined;
  }
  const tag = `${process.pid % 10_000}${Math.floor(Math.random() * 1000)}`;
  const name = `couplet-${tag}`;
  const [here, there] = [`cpl${tag}a`, `cpl${tag}b`];
  const net = `10.${200 + Math.floor(Math.random() * 50)}.${Math.floor(Math.random() * 250)}`;
  const run = (...args: string[]) => execFileSync(ip, args, { stdio: 'pipe' });
  run('netns', 'add', name);
  t.after(() => run('netns', 'del', name)); // takes the link along
  run('link', 'add', here, 'type', 'veth', 'peer', 'name', there, 'netns', name);
  run('addr', 'add', `${net}.1/30`, 'dev', here);
  run('link', 'set', here, 'up');
  run('-n', name, 'addr', 'add', `${net}.2/30`, 'dev', there);
  run('-n', name, 'link', 'set', there, 'up');
  await until(() => run('-n', name, 'addr', 'show', there).toString().includes('state UP'), 'the link is up');
  return { ip, name, host: `${net}.1`, down: () => run('-n', name, 'link', 'set', there, 'down') };
}

test('fault 17: an upgrade that comes at 1 byte/s, or not at all, is closed within 12 s', async (t) => {
  const plain = await startRelay(t);
  const secure = await startRelay(t, { tls: true });
  const before = Date.now();
  const closedAfter: Record<string, number> = {};
  const slow = async (what: string, relay: TestRelay, tls: boolean, first: string, drip: string) => {
    const half = await openRaw(t, relay.port, tls);
    if (first !== '') half.socket.write(first);
    let at = 0;
    const timer = setInterval(() => {
      if (at < drip.length) half.socket.write(drip[at++]!);
    }, 1000);
    await half.closed.finally(() => clearInterval(timer));
    closedAfter[what] = Date.now() - before;
    assert.equal(half.status.includes(' 101 '), false, what);
  };
  const head = upgradeHead('/relay?id=x');
  const all = Promise.all([
    slow('1 byte/s', plain, false, '', head),
    slow('1 byte/s over TLS', secure, true, '', head),
    slow('nothing', plain, false, '', ''),
    slow('all but the last line', plain, false, head.slice(0, -2), ''),
    slow('headers without end', plain, false, head.slice(0, -2), 'X-A: 1\r\n'.repeat(20)),
    slow('no TLS handshake', secure, false, '', ''),
  ]);
  await Promise.race([all, new Promise((resolve) => setTimeout(resolve, 15_000).unref())]);
  const late = Object.entries(closedAfter).filter(([, ms]) => ms > 12_500);
  assert.deepEqual(late, []);
  assert.equal(Object.keys(closedAfter).length, 6, `only these were closed: ${Object.keys(closedAfter)}`);
});
