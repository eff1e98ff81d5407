import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Events } from '../../src/audit/events.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { DirectoryEventSink } from '../../src/directory/event-sink.ts';
import type { EventLog, NewEvent } from '../../src/directory/event-store.ts';
import { MovableClock, overBoth, refused, useBackends } from './backends.ts';

useBackends();

const refusedHalf = (n: number) => ({
  domain: n % 2 === 0 ? '' : 'acme',
  id: `session-${n}`,
  address: '192.0.2.1',
  userid: `user//u${n % 3}`,
  nodeid: `node//d${n % 5}`,
  reason: 'once-used',
  status: 401,
});

overBoth(
  '[R31] events of the audit part are found by time, user, device, domain and code, page by page',
  async (place) => {
    const clock = new MovableClock();
    const directory = await place.open();
    const sink = new DirectoryEventSink({ events: directory.events });
    const events = new Events({ clock, sinks: [sink], onSinkFailure: (_, error) => assert.fail(String(error)) });
    const startMs = clock.nowMs();
    for (let n = 0; n < 250; n++) {
      clock.aheadMs = n * 1_000;
      events.halfRefused(refusedHalf(n));
    }
    events.eventsLost('log', 3);
    await sink.flush();

    const all: number[] = [];
    for (let before: number | undefined; ; ) {
      const page = await directory.events.query({ before, limit: 40 });
      all.push(...page.events.map(({ seq }) => seq));
      if (page.next === undefined) break;
      before = page.next;
    }
    assert.equal(all.length, 251);
    assert.deepEqual(
      all,
      [...new Set(all)].sort((a, b) => b - a),
      'each once, the newest first',
    );
    const count = async (query: Parameters<EventLog['query']>[0]) =>
      (await directory.events.query({ limit: 1_000, ...query })).events.length;
    assert.equal(await count({ userId: 'user//u1' }), 83);
    assert.equal(await count({ nodeId: 'node//d4' }), 50);
    assert.equal(await count({ userId: 'user//u0', nodeId: 'node//d0' }), 17);
    assert.equal(await count({ domain: 'acme' }), 125);
    assert.equal(await count({ codes: ['CPL-1101W'] }), 250);
    assert.equal(await count({ codes: ['CPL-1101W', 'CPL-9999X'], domain: '' }), 125);
    assert.equal(await count({ codes: [] }), 0);
    assert.equal(await count({ fromMs: startMs + 100_000, toMs: startMs + 110_000 }), 10);
    assert.equal(await count({ userId: "x' or 1=1 --" }), 0);
    assert.equal(await count({ userId: '\0' }), 0);
    await refused('CPL_DIRECTORY_VALUE', directory.events.query({ limit: 0 }));
    await refused('CPL_DIRECTORY_VALUE', directory.events.query({ fromMs: Number.NaN }));
    const [newest] = (await directory.events.query({ limit: 1, codes: ['CPL-1101W'] })).events;
    assert.deepEqual(
      [newest!.domain, newest!.code, JSON.parse(newest!.json).id, newest!.timeMs >= startMs + 249_000],
      ['acme', 'CPL-1101W', 'session-249', true],
    );
    let pruned = 0;
    for (let one = -1; one !== 0; pruned += one) one = await directory.events.prune(startMs + 200_000, 60);
    assert.deepEqual([pruned, await count({})], [200, 51]);
    await events.close();
  },
);

overBoth('fault 34: an event that holds anything is written, and spoils no batch', async (place) => {
  const directory = await place.open();
  const sink = new DirectoryEventSink({ events: directory.events });
  const events = new Events({ clock: new MovableClock(), sinks: [sink] });
  const hostile = ['a\0b', '\ud800', '\u202e', 'x'.repeat(5_000), "'; drop table events; --"];
  for (const text of hostile) {
    events.halfRefused({ ...refusedHalf(0), domain: text, id: text, userid: text, nodeid: text, reason: text });
  }
  events.halfRefused(refusedHalf(1));
  await events.close();
  const { events: stored } = await directory.events.query({});
  assert.equal(stored.length, 6);
  assert.deepEqual(
    stored.map(({ json }) => JSON.parse(json).id.slice(0, 100)).reverse(),
    [...hostile, 'session-1'].map((text) => text.slice(0, 100)),
  );
  assert.ok(stored.every(({ json }) => !/[\n\u0000\u202e]/.test(json)));
});

/** A database that does as it is told. */
class FakeLog implements Pick<EventLog, 'append'> {
  readonly written: NewEvent[] = [];
  fail = false;
  hang: Promise<void> | undefined;
  calls = 0;
  async append(events: readonly NewEvent[]): Promise<void> {
    this.calls++;
    await this.hang;
    if (this.fail) throw new CoupletError('CPL_DIRECTORY_UNAVAILABLE', 'down');
    this.written.push(...events);
  }
}

const event = (n: number) => ({ time: new Date(n).toISOString(), code: 'CPL-1101W', etype: '', action: '', msg: '' });

test('fault 51: a database that fails or hangs holds nobody up, costs bounded memory, and all is counted', async () => {
  const log = new FakeLog();
  const sink = new DirectoryEventSink({ events: log as unknown as EventLog, maxQueued: 500, closeMs: 100 });
  const failures: unknown[] = [];
  let lost = 0;
  sink.attach({ failed: (error) => failures.push(error), lost: (count) => (lost += count) });
  log.fail = true;
  for (let n = 0; n < 500; n++) sink.write(event(n), String(n));
  assert.equal(log.calls, 0, 'nothing is done while an event is handed over');
  for (let n = 0; n < 7; n++) assert.throws(() => sink.write(event(n), 'x'), { code: 'CPL_EVENT_LOST' });
  await sink.flush();
  assert.deepEqual([failures.length, sink.queued], [1, 500]);
  log.fail = false;
  await sink.flush();
  assert.deepEqual([log.written.length, lost, sink.queued], [500, 7, 0]);
  assert.deepEqual(
    log.written.map(({ json }) => Number(json)),
    Array.from({ length: 500 }, (_, n) => n),
  );
  assert.equal(new Set(log.written.map(({ uid }) => uid)).size, 500);
  log.hang = new Promise(() => {});
  sink.write(event(1), 'x');
  await assert.rejects(sink.close(), { code: 'CPL_EVENT_LOST' });
});

test('fault 51: what could not be written is tried again by itself', async () => {
  const log = new FakeLog();
  const sink = new DirectoryEventSink({ events: log as unknown as EventLog, flushMs: 1 });
  const failed = new Promise<void>((resolve) => sink.attach({ failed: () => resolve(), lost: () => {} }));
  log.fail = true;
  sink.write(event(1), '1');
  await failed;
  const wrote = new Promise<void>((resolve) => {
    log.append = async (events) => {
      log.written.push(...events);
      resolve();
    };
  });
  sink.write(event(2), '2');
  await wrote;
  await sink.close();
  assert.deepEqual(
    log.written.map(({ json }) => json),
    ['1', '2'],
  );
});

overBoth('[R31] a batch that is written twice is there once', async (place) => {
  const directory = await place.open();
  const batch = [1, 2].map((n) => ({
    uid: `u-${n}`,
    timeMs: n,
    code: 'CPL-1101W',
    domain: '',
    userId: '',
    nodeId: '',
    json: '{}',
  }));
  await directory.events.append(batch);
  await directory.events.append([...batch, { ...batch[0]!, uid: 'u-3' }]);
  await directory.events.append([]);
  assert.equal((await directory.events.query({})).events.length, 3);
});
