import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { createRelay } from '../../src/index.ts';
import { ClusterSite } from '../support/cluster-site.ts';
import { Postgres } from '../support/postgres.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import { readEvents } from '../support/serve.ts';

let postgres: Postgres;
before(async () => {
  postgres = await Postgres.start();
});
after(() => postgres.stop());

const [started, ended] = ['CPL-1001I', 'CPL-1002I'];

function told(event: Record<string, unknown>): string {
  return `${event.code === started ? 'start' : 'end'} ${(event.msgArgs as string[])[0]}`;
}

test('[K5] who listens at one server hears of the sessions of all, in order, each exactly once', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const [a, b] = [await site.add(), await site.add()];
  const token = await site.token();
  const [first, second] = [await site.live(b, token), await site.live(b, token)];
  /** Begins and ends a session at a server. */
  const session = async (at: typeof a, id: string) => {
    const { user, device } = await site.pair(at, at, id);
    user.ws.close(1000);
    await device.closed;
  };
  // It listens once the first event of the other server has come; what it was told until then does not count.
  let tries = 0;
  await until(async () => {
    await session(a, `begin-${tries++}`);
    return [first, second].every((stream) => stream.events(started).length > 0);
  }, 'events of A are told at B');
  await session(a, 'from-here');
  const has = (stream: typeof first) => stream.events(ended).map(told).includes('end from-here');
  await until(() => has(first) && has(second), 'what was under way has come');
  const before = [first, second].map((stream) => stream.told.length);
  const wanted: Record<'a' | 'b', string[]> = { a: [], b: [] };
  for (let index = 0; index < 40; index++) {
    const where = index % 3 === 0 ? 'b' : 'a';
    await session(where === 'a' ? a : b, `${where}-${index}`);
    wanted[where].push(`start ${where}-${index}`, `end ${where}-${index}`);
  }
  for (const [index, stream] of [first, second].entries()) {
    const since = () =>
      stream.told
        .slice(before[index])
        .filter(({ event, data }) => event === 'event' && [started, ended].includes(String(data.code)))
        .map(({ data }) => told(data));
    await until(() => since().length >= 80, 'all are told');
    assert.deepEqual(
      since().filter((text) => text.includes(' a-')),
      wanted.a,
    );
    assert.deepEqual(
      since().filter((text) => text.includes(' b-')),
      wanted.b,
    );
    assert.equal(since().length, 80);
    assert.equal(stream.gaps(), 0);
  }
  // Linked sessions are of one server: told once too.
  const { user, device } = await site.pair(a, b, 'across');
  user.ws.close(1000);
  await device.closed;
  await session(a, 'last');
  await until(() => first.events(ended).map(told).includes('end last'), 'the last is told');
  assert.deepEqual(
    first
      .events(started, ended)
      .map(told)
      .filter((text) => text.endsWith('across')),
    ['start across', 'end across'],
  );
});

test('[K5] [K6] live events go on after Redis was away, and who listens is told of the gap where it lost its data', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const [a, b] = [await site.add(), await site.add()];
  const stream = await site.live(b, await site.token());
  let count = 0;
  const hears = async (word: string) => {
    await until(
      async () => {
        await site.pair(a, a, `${word}-${count++}`);
        return stream
          .events(started)
          .map(told)
          .some((text) => text.startsWith(`start ${word}`));
      },
      `B hears of A: ${word}`,
      15_000,
    );
  };
  await hears('before');
  assert.equal(stream.gaps(), 0);
  await site.redis.restart();
  await hears('after');
  await until(() => stream.gaps() === 1, 'the gap is told once');
  const starts = stream.events(started).map(told);
  assert.equal(new Set(starts).size, starts.length, 'none twice');
  assert.equal(site.redis.isAlive, true);
});

test('[K5] the stream in Redis keeps about as many events as it may', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const a = await site.add({ cluster: { streamMaxEvents: 100 } });
  const added = async () =>
    Number(/entries-added\n(\d+)/.exec(await site.redis.cli('XINFO', 'STREAM', 'couplet:events'))?.[1]);
  for (let index = 0; index < 250; index++) {
    const { user, device } = await site.pair(a, a, `session-of-alice-${index}`);
    user.ws.close(1000);
    await device.closed;
  }
  await until(async () => (await added()) >= 500, 'all were written');
  const kept = Number(await site.redis.cli('XLEN', 'couplet:events'));
  // Redis cuts whole nodes, of 100 entries unless configured otherwise.
  assert.ok(kept >= 100 && kept <= 200, `${kept} of ${await added()}`);
  const text = await site.redis.cli('XRANGE', 'couplet:events', '-', '+');
  assert.doesNotMatch(text, /session-of-|"outcome"/, 'sealed');
});

test('[R30] [K1] [K6] [K7] it is on record how Redis and the other servers come and go', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const a = await site.add();
  const cluster = () => site.eventsOf(a).filter(({ etype }) => etype === 'cluster');
  const codes = () => cluster().map(({ code }) => code);
  assert.deepEqual(codes(), [], 'alone, with Redis');
  const b = await site.add();
  await until(() => codes().includes('CPL-2103I'), 'B is there');
  assert.deepEqual(
    site
      .eventsOf(b)
      .filter(({ etype }) => etype === 'cluster')
      .map(({ code }) => code),
    ['CPL-2103I'],
  );
  const c = await site.spawn();
  await until(() => codes().length === 2, 'C is there');
  await b.close();
  await until(() => codes().length === 3, 'B took itself out');
  c.signal('SIGKILL');
  await until(() => codes().length === 4, 'C is dead', 15_000);
  const [bIn, cIn, bOut, cOut] = cluster();
  assert.deepEqual([bOut!.code, bOut!.server, bOut!.link], ['CPL-2104I', bIn!.server, bIn!.link]);
  assert.deepEqual([cOut!.code, cOut!.server, cOut!.link], ['CPL-2104I', cIn!.server, cIn!.link]);
  assert.notEqual(bIn!.server, cIn!.server);
  assert.match(String(bIn!.link), /^ws:\/\/127\.0\.0\.1:\d+$/);
  await site.redis.kill();
  await until(() => codes().length === 5, 'Redis is lost');
  await site.redis.start();
  await until(() => codes().length === 6, 'Redis is back');
  const [lost, back] = cluster().slice(4);
  assert.deepEqual([lost!.code, lost!.redis], ['CPL-2101W', `redis://${site.redis.address}`]);
  assert.notEqual(lost!.reason, '');
  assert.equal(back!.code, 'CPL-2102I');
  assert.ok(Number(back!.downms) > 0);
  // One that starts without Redis says so too, and goes on; one that stops tells nothing of it.
  await site.redis.kill();
  const d = await site.add();
  const ofD = () => site.eventsOf(d).map(({ code }) => code);
  assert.deepEqual(ofD(), ['CPL-2101W', 'CPL-2001I']);
  await site.redis.start();
  await until(() => ofD().includes('CPL-2102I'), 'D has it');
  await until(() => codes().filter((code) => code === 'CPL-2103I').length === 3, 'D is there');
  await d.close();
  assert.deepEqual(ofD().slice(-1), ['CPL-2002I']);
  assert.equal(ofD().filter((code) => code === 'CPL-2101W').length, 1);
});

test('[R30] [K8] a server that is kept out because of its directory has it on record', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  await site.add();
  const folder = temporaryFolder(t);
  const settings = {
    server: { listen: '127.0.0.1:0', metricsListen: '127.0.0.1:0', dataDir: folder },
    auth: { loginKey: site.loginKey.toHex() },
    cluster: { redis: site.redis.url },
    log: { level: 'error' },
  };
  await assert.rejects(createRelay({ settings, logTo: '/dev/null' }), { code: 'CPL_CLUSTER_DIRECTORY' });
  const events = readEvents(join(folder, 'events'));
  assert.deepEqual(
    events.map(({ code }) => code),
    ['CPL-2103I', 'CPL-2105E', 'CPL-2002I'],
  );
  assert.match(String(events[1]!.reason), /all servers of a cluster must use the same one/);
});
