import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { EventRecord } from '../../src/audit/sink.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { EventStreamSink, type EventStreamSinkOptions } from '../../src/cluster/event-stream.ts';
import { EventStreamReader, type StreamEvent } from '../../src/cluster/event-stream-reader.ts';
import { RedisStore } from '../../src/cluster/redis-store.ts';
import { parseRedisUrl } from '../../src/config/redis-url.ts';
import { startRedis, startRedisCluster } from '../support/redis.ts';
import { until } from '../support/relay.ts';
import { makeMember, sealerOf, upRedis } from './support.ts';

function eventOf(msg: string): EventRecord {
  return { time: '2024-01-01T00:00:00.000Z', code: 'CPL-1001I', etype: 'relay', action: 'x', msg };
}

interface End {
  readonly sink: EventStreamSink;
  readonly reader: EventStreamReader;
  readonly redis: Awaited<ReturnType<typeof upRedis>>['redis'];
  readonly failures: unknown[];
  readonly losses: number[];
  readonly gaps: (number | undefined)[];
  readonly problems: string[];
  /** Writes an event as the fan-out would: what it throws is a failure. */
  emit(msg: string): void;
  /** Texts of the events that it is handed from now on. */
  listen(): Promise<{ texts: string[]; events: StreamEvent[]; end: () => void }>;
}

async function startEnd(
  t: TestContext,
  url: string,
  boot: string,
  options: Partial<EventStreamSinkOptions> = {},
  key = sealerOf(),
): Promise<End> {
  const { redis } = await upRedis(t, url, { heartbeatMs: 1000 });
  const common = { redis, sealer: key, prefix: 'test', boot };
  const sink = new EventStreamSink({ ...common, maxEvents: 10_000, ...options });
  const [failures, losses, gaps, problems]: [unknown[], number[], (number | undefined)[], string[]] = [[], [], [], []];
  sink.attach({ failed: (error) => failures.push(error), lost: (count) => losses.push(count) });
  const reader = new EventStreamReader({
    ...common,
    target: parseRedisUrl(url)!,
    commandMs: 500,
    onGap: (lost) => gaps.push(lost),
    onProblem: (text) => problems.push(text),
  });
  t.after(() => reader.close());
  return {
    sink,
    reader,
    redis,
    failures,
    losses,
    gaps,
    problems,
    emit(msg) {
      const event = eventOf(msg);
      try {
        sink.write(event, JSON.stringify(event));
      } catch (error) {
        failures.push(error);
      }
    },
    async listen() {
      const events: StreamEvent[] = [];
      const texts: string[] = [];
      const end = reader.subscribe((event) => {
        events.push(event);
        texts.push(event.event.msg);
      });
      await until(() => reader.isReading, 'the reader has its place');
      return { texts, events, end };
    },
  };
}

const numbered = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `event ${from + i}`);

async function inOrder(t: TestContext, url: string): Promise<void> {
  const [a, b, c] = [await startEnd(t, url, 'a'), await startEnd(t, url, 'b'), await startEnd(t, url, 'c')];
  a.emit('before anyone listens');
  await a.sink.close().catch(() => assert.fail('all got through'));
  const a2 = await startEnd(t, url, 'a');
  const heard = await b.listen();
  for (const text of numbered(0, 1000)) {
    a2.emit(text);
    b.emit('its own');
    c.emit(`c ${text}`);
  }
  await until(() => heard.texts.length === 2000, 'all events of the others', 20_000);
  assert.deepEqual(
    heard.events.filter(({ boot }) => boot === 'a').map(({ event }) => event.msg),
    numbered(0, 1000),
  );
  assert.deepEqual(
    heard.events.filter(({ boot }) => boot === 'c').map(({ event }) => event.msg),
    numbered(0, 1000).map((text) => `c ${text}`),
  );
  assert.deepEqual(JSON.parse(heard.events[0]!.json), heard.events[0]!.event);
  assert.deepEqual([b.gaps, b.problems, a2.failures], [[], [], []]);
  heard.end();
  a2.emit('nobody listens');
  const again = await b.listen();
  a2.emit('last');
  await until(() => again.texts.includes('last'), 'a later subscription');
  assert.equal(heard.texts.length, 2000);
}

test('[K5] events of other servers come in order, sealed in Redis, its own do not', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  await inOrder(t, server.url);
  const stored = await server.cli('XRANGE', 'test:events', '-', '+', 'COUNT', '5');
  assert.ok(stored.length > 100 && !stored.includes('event') && !stored.includes('CPL'), 'no plain text');
  // The reader's connection ends with its last listener; those of commands stay.
  const end = await startEnd(t, server.url, 'x');
  const count = async () => (await server.cli('CLIENT', 'LIST', 'TYPE', 'normal')).split('\n').length;
  const before = await count();
  const heard = await end.listen();
  assert.equal(await count(), before + 1);
  heard.end();
  await until(async () => (await count()) === before, 'the connection is closed');
});

test('[K5] events over a Redis Cluster', async (t) => {
  const cluster = await startRedisCluster(t, 3, 0);
  if (cluster === undefined) return;
  await inOrder(t, cluster.url);
});

test('[K5] the stream is cut to about its maximum', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const a = await startEnd(t, server.url, 'a', { maxEvents: 300 });
  for (const text of numbered(0, 3000)) a.emit(text);
  await until(() => a.sink.queued === 0, 'all are sent');
  await a.sink.close();
  const length = Number(await server.cli('XLEN', 'test:events'));
  assert.ok(length >= 300 && length < 600, `${length}`);
});

test('[K5] [K6] while Redis is down events wait, past the bound they are dropped and counted, then told as lost', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const a = await startEnd(t, server.url, 'a', { maxQueued: 100 });
  const b = await startEnd(t, server.url, 'b');
  await server.kill();
  await until(() => !a.redis.isUp && !b.redis.isUp, 'down');
  for (const text of numbered(0, 130)) a.emit(text);
  assert.equal(a.sink.queued, 100);
  assert.equal(a.failures.length, 30);
  assert.match(String(a.failures[0]), /100 events wait for Redis; one more is lost/);
  await server.start();
  await until(() => a.losses.length > 0, 'the loss is told');
  assert.deepEqual(a.losses, [30]);
  await until(async () => Number(await server.cli('XLEN', 'test:events')) === 100, 'those that waited are there');
});

test('[K5] the bytes that wait are bounded too', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const a = await startEnd(t, server.url, 'a', { maxQueuedBytes: 10_000 });
  await server.kill();
  await until(() => !a.redis.isUp, 'down');
  for (let i = 0; i < 5; i++) a.emit('x'.repeat(3000));
  assert.equal(a.failures.length, 2);
  await assert.rejects(a.sink.close(), /5 event\(s\) are not in the Redis stream/);
});

test('[K5] [K6] an event under way when Redis hangs is lost, not written twice', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const a = await startEnd(t, server.url, 'a');
  server.pause();
  a.emit('under way');
  await until(() => a.failures.length === 1, 'its deadline');
  a.emit('waits');
  server.resume();
  await until(() => a.losses.length === 1, 'up again');
  assert.deepEqual(a.losses, [1]);
  // Redis runs what it had received before it was paused, if at all, once.
  assert.ok([1, 2].includes(Number(await server.cli('XLEN', 'test:events'))));
});

test('[K5] [K6] the reader goes on after a restart of Redis that lost the stream, and tells the gap', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const [a, b] = [await startEnd(t, server.url, 'a'), await startEnd(t, server.url, 'b')];
  const heard = await b.listen();
  a.emit('one');
  await until(() => heard.texts.length === 1, 'the first event');
  await server.restart();
  await until(() => a.redis.isUp && b.redis.isUp && a.redis.epoch > 0 && b.redis.epoch > 0, 'up again');
  const attempts = async () => {
    a.emit('two');
    return heard.texts.includes('two');
  };
  await until(attempts, 'events come again');
  assert.deepEqual(b.gaps, [undefined]);
});

test('[K5] [K6] a connection that breaks loses nothing: the reader goes on from where it was', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const [a, b] = [await startEnd(t, server.url, 'a'), await startEnd(t, server.url, 'b')];
  const heard = await b.listen();
  for (let i = 0; i < 20; i++) {
    a.emit(`event ${i}`);
    await until(() => a.sink.queued === 0, 'sent');
    await until(() => heard.texts.length >= i, 'not far behind');
    if (i % 5 === 2) await server.cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    await until(() => a.redis.isUp, 'up');
  }
  const expected = 20 - a.losses.reduce((sum, count) => sum + count, 0);
  await until(() => heard.texts.length === expected, 'every event that was written');
  assert.deepEqual(heard.texts, [...new Set(heard.texts)], 'none twice');
  assert.deepEqual(b.gaps, []);
});

test('[K5] events trimmed before they were read are told by their number', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const b = await startEnd(t, server.url, 'b');
  const heard = await b.listen();
  const add = ['XADD', 'test:events', '*', 'boot', 'a', 'json', sealerOf().seal('test:events', '{"msg":"x"}')];
  await server.cli(...add);
  await until(() => heard.texts.length === 1, 'the first event');
  // All in one transaction: for the reader they come and go at once.
  const script = `
    for i = 1, 50 do redis.call('XADD', KEYS[1], '*', 'boot', 'a', 'json', ARGV[1]) end
    redis.call('XTRIM', KEYS[1], 'MAXLEN', 20)`;
  await server.cli('EVAL', script, '1', 'test:events', add.at(-1)!);
  await until(() => heard.texts.length === 21, 'what is left');
  assert.deepEqual(b.gaps, [30]);
  await server.cli(...add);
  await until(() => heard.texts.length === 22, 'it goes on');
  assert.deepEqual(b.gaps, [30]);
});

test('[K5] events under another login key are told once and skipped', async (t) => {
  const server = await startRedis(t);
  if (server === undefined) return;
  const stranger = await startEnd(t, server.url, 'a', {}, sealerOf(LoginKey.generate()));
  const b = await startEnd(t, server.url, 'b');
  const c = await startEnd(t, server.url, 'c');
  const heard = await b.listen();
  stranger.emit('one');
  stranger.emit('two');
  await stranger.sink.close();
  c.emit('three');
  await until(() => heard.texts.length === 1, 'the event that opens');
  assert.deepEqual(heard.texts, ['three']);
  assert.equal(b.problems.length, 1);
});

/** What an ACL user needs; the guide names the same. */
const rules =
  '~test:* -@all +set +get +del +eval +evalsha +time +info +hset +hgetall +hdel +pexpire +exists +xadd +xread +xrange +xinfo';

test('[K1] an ACL user with no more than these rights can do everything', async (t) => {
  const server = await startRedis(t, { user: { name: 'relay', password: 'pass', rules: `${rules} +ping` } });
  if (server === undefined) return;
  const [a, b] = [await startEnd(t, server.url, 'a'), await startEnd(t, server.url, 'b')];
  const heard = await b.listen();
  a.emit('one');
  await until(() => heard.texts.length === 1, 'the event');
  const store = new RedisStore(a.redis, 'test');
  await store.claim('k', 'x', 1000);
  await store.take('k', 'x', 1000);
  await store.exchange('k', 'x', 1000);
  await store.release('k', 'x');
  await store.once('k', 1000);
  const member = makeMember(t, server.url);
  await member.servers.start();
  assert.equal(member.servers.state, 'joined');
  await member.servers.stop();
  const counters = [a, b, member].map(({ redis }) => redis.counters.error);
  assert.deepEqual(counters, [0, 0, 0]);
  assert.deepEqual([a.failures, b.problems, member.problems], [[], [], []]);
});
