import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type Client, connect, connectPair } from '../support/client.ts';
import { freePort } from '../support/processes.ts';
import { clientFrame, type RawHalf, rawHalf, upgradeHead } from '../support/raw-half.ts';
import { startRedis } from '../support/redis.ts';
import { until } from '../support/relay.ts';
import { readEvents, type ServeChild, startServe } from '../support/serve.ts';
import { missing, requireProgram } from '../support/services.ts';

/** A scrape on a connection of its own, as after a restart of Prometheus; `undefined` where it cannot be had. */
async function freshMetric(serve: ServeChild, name: string): Promise<number | undefined> {
  try {
    const headers = { connection: 'close' };
    const response = await fetch(`http://${serve.metricsAddress}/metrics`, {
      headers,
      signal: AbortSignal.timeout(1000),
    });
    const line = (await response.text()).split('\n').find((text) => text.startsWith(`${name} `));
    return line === undefined ? undefined : Number(line.slice(name.length + 1));
  } catch {
    return undefined;
  }
}

async function echo(from: Client, to: Client, word: string): Promise<void> {
  from.send(word);
  assert.equal(await to.nextText(), word);
}

const count = (serve: ServeChild, code: string) => serve.events().filter((event) => event.code === code).length;

/** Opens TCP connections all at once, each with an upgrade request of a half that will wait. */
function burst(t: TestContext, serve: ServeChild, connections: number, prefix: string): Socket[] {
  return Array.from({ length: connections }, (_, i) => {
    const socket = connectTcp({ host: '127.0.0.1', port: serve.port });
    t.after(() => socket.destroy());
    socket.on('error', () => {}); // refused or reset: what the relay does for want of descriptors
    socket.write(upgradeHead(serve.path('user', `${prefix}${i}`)));
    return socket;
  });
}

describe('file descriptors', () => {
  test('[R41] fault 26: none left: the listener rests, an alarm rises, sessions go on, it recovers by itself', async (t) => {
    const prlimit = requireProgram(t, 'prlimit');
    if (prlimit === undefined) return;
    const serve = await startServe(t, { under: [prlimit, '--nofile=256:256'] });
    const pairs = [await connectPair(t, serve, 'one'), await connectPair(t, serve, 'two')];
    for (let round = 1; round <= 2; round++) {
      const crowd = burst(t, serve, 400, `r${round}-`);
      await until(() => count(serve, 'CPL-2006E') === round, 'the event that it rests');
      assert.equal(serve.events().findLast(({ code }) => code === 'CPL-2006E')?.reason, 'EMFILE');
      // Several at once: there is room for scrapes, files and logs, not just what the listener itself gave back.
      const scrapes = () =>
        Promise.all(Array.from({ length: 6 }, () => freshMetric(serve, 'couplet_listener_resting')));
      await until(async () => (await scrapes()).every((value) => value === 1), 'the alarm');

      const before = serve.cpuMs();
      // A few that leave make no room to speak of: it must not wake for them only to rest again.
      for (const socket of crowd.splice(0, 3)) socket.destroy();
      await delay(1000);
      const spentMs = serve.cpuMs() - before;
      assert.ok(spentMs < 300, `${spentMs} ms of CPU in a second of rest`);
      assert.equal(count(serve, 'CPL-2007I'), round - 1, 'it flutters');
      for (const { user, device } of pairs) {
        await echo(user, device, `round ${round}`);
        await echo(device, user, `round ${round}`);
      }
      await assert.rejects(connect(t, serve.url('user', 'none')), /ECONNREFUSED|ECONNRESET/);

      for (const socket of crowd) socket.destroy();
      await until(() => count(serve, 'CPL-2007I') === round, 'the event that it recovered');
      const { user, device } = await connectPair(t, serve, `after ${round}`);
      await echo(user, device, 'as before');
      user.ws.close();
      await device.closed;
      assert.equal(await freshMetric(serve, 'couplet_listener_resting'), 0);
      assert.equal(await freshMetric(serve, 'couplet_listener_rests_total'), round);
    }
    serve.signal('SIGTERM');
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    assert.equal((await serve.verify()).code, 0);
  });

  test('[R41] [R39] fault 26: SIGTERM while it rests ends it in order', async (t) => {
    const prlimit = requireProgram(t, 'prlimit');
    if (prlimit === undefined) return;
    const serve = await startServe(t, { under: [prlimit, '--nofile=256:256'] });
    burst(t, serve, 400, 'w');
    await until(() => count(serve, 'CPL-2006E') === 1, 'it rests');
    serve.signal('SIGTERM');
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    assert.equal(serve.events().at(-1)?.action, 'stopped');
    const { stdout } = await serve.verify();
    assert.doesNotMatch(stdout, /no closing line/);
  });

  test('[R41] [K3] fault 26: none left in a cluster: links are not accepted either until it recovers', async (t) => {
    const prlimit = requireProgram(t, 'prlimit');
    const redis = await startRedis(t);
    if (prlimit === undefined || redis === undefined) return;
    const linkPort = await freePort();
    const cluster = { redis: redis.url, linkListen: `127.0.0.1:${linkPort}` };
    const serve = await startServe(t, { under: [prlimit, '--nofile=256:256'], settings: { cluster } });
    const takesLinks = async () => {
      const socket = connectTcp({ host: '127.0.0.1', port: linkPort });
      const isTaken = await once(socket, 'connect').then(
        () => true,
        () => false,
      );
      socket.destroy();
      return isTaken;
    };
    assert.equal(await takesLinks(), true);
    const { user, device } = await connectPair(t, serve, 'stays');
    const rest = async (round: number) => {
      const crowd = burst(t, serve, 400, `w${round}-`);
      await until(() => count(serve, 'CPL-2006E') === round, 'it rests');
      assert.equal(await takesLinks(), false);
      return crowd;
    };
    const crowd = await rest(1);
    // Somebody else has the port of the links meanwhile: halves are taken again all the same.
    const stranger = createServer().listen(linkPort, '127.0.0.1');
    t.after(() => stranger.close());
    await once(stranger, 'listening');
    for (const socket of crowd) socket.destroy();
    await until(() => count(serve, 'CPL-2007I') === 1, 'it recovered');
    assert.equal(await freshMetric(serve, 'couplet_listener_resting'), 0);
    stranger.close();
    await once(stranger, 'close');
    await until(takesLinks, 'it takes links again');

    // Who drains is still asked by the other servers.
    await rest(2);
    serve.signal('SIGTERM');
    await until(takesLinks, 'other servers reach it while it drains');
    await echo(user, device, 'goes on');
    user.ws.close(1000);
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
  });
});

describe('an event log that cannot be written', () => {
  const failures = 'couplet_event_sink_failures_total{sink="file"}';

  async function assertForwards(t: TestContext, serve: ServeChild, id: string, sessions: number): Promise<void> {
    for (let i = 0; i < sessions; i++) {
      const { user, device } = await connectPair(t, serve, `${id}${i}`);
      await echo(user, device, 'data');
      user.ws.close(1000);
      await device.closed;
    }
  }

  test('[R32] fault 51: disk full: forwarding goes on, the metric rises, nothing is lost once there is room', async (t) => {
    const unshare = requireProgram(t, 'unshare');
    if (unshare === undefined || process.getuid?.() !== 0) return missing(t, 'mounting a small disk needs root');
    // A disk of 64 KiB in a mount namespace that goes with the child.
    const script = 'mkdir -p "$0" && mount -t tmpfs -o size=64k,mode=700 tmpfs "$0" && exec "$@"';
    const disk = mkdtempSync(join(tmpdir(), 'couplet-disk-'));
    t.after(() => rmSync(disk, { recursive: true }));
    const serve = await startServe(t, {
      under: [unshare, '-m', '--propagation', 'private', 'bash', '-c', script, disk],
      settings: { audit: { dir: disk } },
    });
    const inside = join(`/proc/${serve.pid}/root`, disk);
    const running = await connectPair(t, serve, 'running');
    assert.throws(() => writeFileSync(join(inside, 'filler'), Buffer.alloc(1_000_000)), /ENOSPC/);
    await assertForwards(t, serve, 'full', 15);
    await echo(running.user, running.device, 'goes on');
    assert.ok((await serve.metric(failures)) > 0);
    const starts = () => readEvents(inside).filter(({ code }) => code === 'CPL-1001I');
    const written = starts().length;
    assert.ok(written < 16, `${written} start events on a full disk`);
    rmSync(join(inside, 'filler'));
    await until(() => starts().length === 16, 'the events that waited');
    assert.equal((await serve.verify(inside)).code, 0);
    assert.equal((await fetch(`http://${serve.address}/readyz`)).status, 200);
  });

  test('[R32] fault 51: the folder is gone: forwarding goes on, the metric rises, it heals', async (t) => {
    const serve = await startServe(t, { settings: { audit: { maxFileBytes: 4000 } } });
    const away = `${serve.eventsDir}-away`;
    renameSync(serve.eventsDir, away);
    await assertForwards(t, serve, 'gone', 15);
    await until(async () => (await serve.metric(failures)) > 0, 'the metric', 15_000);
    await assertForwards(t, serve, 'still', 2);
    renameSync(away, serve.eventsDir);
    let healed = 0;
    await until(async () => {
      await assertForwards(t, serve, `healed${healed++}-`, 1);
      return existsSync(join(serve.eventsDir, 'events-00000002.jsonl'));
    }, 'the next file');
    serve.signal('SIGTERM');
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    assert.equal(serve.events().filter(({ code }) => code === 'CPL-1001I').length, 17 + healed);
    assert.equal((await serve.verify()).code, 0);
  });

  test('fault 51: the reader of the log goes away: forwarding and events go on', async (t) => {
    const serve = await startServe(t, { settings: { log: { level: 'debug' } } });
    serve.child.stdout!.destroy();
    await assertForwards(t, serve, 'unread', 20);
    assert.ok((await serve.metric('couplet_log_lines_dropped_total')) > 0);
    serve.signal('SIGTERM');
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    assert.equal(serve.events().filter(({ code }) => code === 'CPL-1002I').length, 20);
  });
});

/** A pair as raw sockets, past its greeting; the frames that come are not kept. */
async function rawPair(t: TestContext, serve: ServeChild, id: string): Promise<{ user: RawHalf; device: RawHalf }> {
  const user = await rawHalf(t, serve.port, serve.path('user', id));
  const device = await rawHalf(t, serve.port, serve.path('device', id));
  for (const half of [user, device]) await half.next(({ payload }) => payload.toString() === 'c');
  return { user, device };
}

const MiB = 1024 * 1024;
const messageBytes = 65_536;
const message = clientFrame(2, Buffer.alloc(messageBytes, 7));
/** What a direction may hold (R23): the high-water mark, a message and a socket read. */
const boundBytes = MiB + messageBytes + MiB / 2;
/** What malloc keeps; on the portable path also copies that wait for the garbage collector. */
const slackBytes = { native: 24 * MiB, portable: 72 * MiB };

/** Hands the same buffer over again and again: the sender's own memory stays small. */
function pour(half: RawHalf, messages: number): void {
  for (let i = 0; i < messages; i++) half.socket.write(message);
}

/** Reads on and counts bytes alone; resolves when `bytes` have come. */
function drained(half: RawHalf, bytes: number): Promise<void> {
  half.socket.removeAllListeners('data');
  let got = 0;
  return new Promise((resolve) => {
    half.socket.on('data', (chunk) => {
      got += chunk.length;
      if (got >= bytes) resolve();
    });
    half.socket.resume();
  });
}

/** Resolves when the number of bytes that the relay holds does not change between two looks any more. */
async function settled(serve: ServeChild): Promise<number> {
  let before = -1;
  let now = -1;
  await until(async () => {
    before = now;
    now = await serve.metric('couplet_buffered_bytes');
    await delay(50);
    return now > 0 && now === before;
  }, 'buffers that are full');
  return now;
}

for (const forwarder of ['native', 'portable'] as const) {
  describe(`memory, ${forwarder}`, () => {
    const settings = { relay: { forwarder, upgradesPerAddressPerSecond: 0 } };

    test('[R23] [R25] fault 20: stalled readers cost a bounded amount, other pairs are undisturbed', async (t) => {
      const serve = await startServe(t, { settings });
      const other = await connectPair(t, serve, 'other');
      const pairs = await Promise.all(Array.from({ length: 12 }, (_, i) => rawPair(t, serve, `p${i}`)));
      const before = serve.residentBytes();
      const messages = 480;
      for (const { user, device } of pairs) {
        device.socket.pause();
        pour(user, messages);
      }
      const buffered = await settled(serve);
      assert.ok(buffered <= pairs.length * boundBytes, `${buffered} bytes buffered`);
      const grown = serve.residentBytes() - before;
      assert.ok(
        grown <= pairs.length * boundBytes + slackBytes[forwarder],
        `${grown / MiB} MiB more for ${pairs.length} pairs`,
      );
      assert.ok(
        pairs.every(({ user }) => user.socket.writableLength > 0),
        'each sender is held back',
      );
      for (let i = 0; i < 300; i++) await echo(other.user, other.device, `${i}`);
      const header = 10;
      await Promise.all(pairs.map(({ device }) => drained(device, messages * (messageBytes + header))));
      await until(async () => (await serve.metric('couplet_buffered_bytes')) === 0, 'empty buffers');
    });

    test('[R21] [R23] fault 21: both readers stall: no deadlock, no growth, relay.stallMs ends it', async (t) => {
      const serve = await startServe(t, { settings: { relay: { ...settings.relay, stallMs: 2000 } } });
      const descriptors = serve.descriptors();
      const pairs = await Promise.all(Array.from({ length: 8 }, (_, i) => rawPair(t, serve, `b${i}`)));
      const before = serve.residentBytes();
      let most = 0;
      let buffered = 0;
      for (const { user, device } of pairs) {
        for (const half of [user, device]) {
          half.socket.pause();
          pour(half, 320);
        }
      }
      const ends = () => serve.events().filter(({ code }) => code === 'CPL-1002I');
      await until(async () => {
        most = Math.max(most, serve.residentBytes());
        buffered = Math.max(buffered, await serve.metric('couplet_buffered_bytes'));
        return ends().length === pairs.length;
      }, 'the deadline');
      assert.ok(
        most - before <= 2 * pairs.length * boundBytes + slackBytes[forwarder],
        `${(most - before) / MiB} MiB more`,
      );
      assert.ok(buffered > 0 && buffered <= 2 * pairs.length * boundBytes, `${buffered} bytes buffered`);
      assert.ok(ends().every(({ outcome }) => outcome === 'slow'));
      await until(() => serve.descriptors() <= descriptors + 1, 'their sockets are gone');
      await connectPair(t, serve, 'afterwards');
    });
  });
}

test('[R25] fault 29: a blaster and a slow pair do not stop the others, and all of those get on', async (t) => {
  const serve = await startServe(t);
  const blaster = await rawPair(t, serve, 'blaster');
  const slow = await rawPair(t, serve, 'slow');
  slow.device.socket.pause();
  pour(slow.user, 100);
  let blasted = 0;
  blaster.device.socket.removeAllListeners('data').on('data', (chunk) => {
    blasted += chunk.length;
  });
  let over = false;
  const blast = () => {
    while (!over && blaster.user.socket.write(message));
  };
  blaster.user.socket.on('drain', blast);
  blast();
  const pairs = await Promise.all(Array.from({ length: 20 }, (_, i) => connectPair(t, serve, `n${i}`)));
  const wanted = 2000;
  let total = 0;
  const counts = await Promise.all(
    pairs.map(async ({ user, device }, index) => {
      let own = 0;
      while (total < wanted) {
        await echo(user, device, `${index}:${own}`);
        await echo(device, user, `${own}:${index}`);
        own++;
        total++;
      }
      return own;
    }),
  );
  over = true;
  assert.ok(Math.min(...counts) >= wanted / pairs.length / 3, `round trips of each: ${counts}`);
  assert.ok(blasted > 10 * MiB, `the blaster was at work: ${blasted} bytes`);
  assert.equal(slow.user.ended, false);
});

const memoryReport = `
import v8 from 'node:v8';
import vm from 'node:vm';
v8.setFlagsFromString('--expose-gc');
const gc = vm.runInNewContext('gc');
let reports = 0;
process.on('SIGUSR2', () => setImmediate(() => {
  gc();
  const { heapUsed, external } = process.memoryUsage();
  console.log(JSON.stringify({ level: 'info', msg: 'memory ' + ++reports, bytes: heapUsed + external }));
}));`;

test('[R19] [R25] 10,000 sessions that come and go leave no descriptor, no half and no memory', async (t) => {
  const preload = memoryReport;
  const serve = await startServe(t, { preload, settings: { log: { level: 'error' } } });
  const paths = [serve.path('user', ''), serve.path('device', '')];
  const open = (side: number, id: string): Promise<Socket> => {
    const socket = connectTcp({ host: '127.0.0.1', port: serve.port });
    socket.on('error', () => {}); // how it ends is the relay's choice
    socket.write(upgradeHead(`${paths[side]}${id}`));
    return new Promise((resolve) => socket.once('data', () => resolve(socket)));
  };
  const gone = (socket: Socket) => new Promise<void>((resolve) => socket.on('close', () => resolve()));
  const closeFrame = clientFrame(8, Buffer.from([0x03, 0xe8]));
  const cycle = async (i: number): Promise<void> => {
    const first = await open(i & 1, `c${i}`);
    if (i % 10 === 9) return void first.destroy(); // leaves while it waits
    const greeted = new Promise((resolve) => first.once('data', resolve));
    const second = await open(1 - (i & 1), `c${i}`);
    await greeted;
    const ends = [gone(first), gone(second)];
    const [leaver, other] = i & 2 ? [first, second] : [second, first];
    if (i % 4 === 0) leaver.resetAndDestroy();
    else leaver.write(closeFrame);
    // Its mate's close frame is answered, or each cycle would take the relay's two seconds of patience.
    other.on('data', (chunk) => {
      if (chunk.includes(0x88)) other.end(closeFrame);
    });
    leaver.resume().on('end', () => leaver.destroy());
    await Promise.all(ends);
  };
  const cycles = async (from: number, to: number) => {
    let next = from;
    const work = async () => {
      while (next < to) await cycle(next++);
    };
    await Promise.all(Array.from({ length: 32 }, work));
    const halves = async (state: string) => serve.metric(`couplet_halves{state="${state}"}`);
    await until(async () => (await halves('waiting')) + (await halves('paired')) === 0, 'no half is left');
  };
  let reports = 0;
  const memory = async () => {
    serve.signal('SIGUSR2');
    const name = `memory ${++reports}`;
    const { bytes } = await serve.line(({ msg }) => msg === name);
    return { heap: Number(bytes), resident: serve.residentBytes(), descriptors: serve.descriptors() };
  };
  await cycles(0, 2000);
  const before = await memory();
  await cycles(2000, 10_000);
  const after = await memory();
  // A scrape's keep-alive connection may come or go.
  assert.ok(after.descriptors <= before.descriptors + 1, `${before.descriptors} → ${after.descriptors} descriptors`);
  assert.ok(after.heap - before.heap < 2 * MiB, `${(after.heap - before.heap) / 8000} bytes of heap per session`);
  // What waits for the collector comes and goes: tens of MiB, whatever the number of sessions.
  assert.ok(after.resident - before.resident < 96 * MiB, `${(after.resident - before.resident) / MiB} MiB resident`);
  const sessions = 'couplet_sessions_total{protocol="0"}';
  assert.equal(await serve.metric(sessions), 9000);
  assert.equal(await serve.metric('couplet_sessions{protocol="0",recorded="false"}'), 0);
});
