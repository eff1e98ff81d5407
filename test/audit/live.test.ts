import assert from 'node:assert/strict';
import test from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Events } from '../../src/audit/events.ts';
import { type LiveEvent, LiveEvents, type LiveListener } from '../../src/audit/sinks/live.ts';
import { systemClock } from '../../src/core/clock.ts';

function setUp(options: { maxQueued?: number; maxSubscribers?: number } = {}) {
  const live = new LiveEvents(options);
  const events = new Events({ clock: systemClock, sinks: [live] });
  /** Tells an event that the others are told apart from by its number. */
  const tell = (number: number, domain = '') =>
    events.recordingsListed({ domain, userid: 'user//ann', username: 'ann', address: '', count: number });
  return { live, events, tell };
}

const numbers = (batch: readonly LiveEvent[]) => batch.map(({ event }) => event.count);

test('live events: each subscriber gets what its filter takes, in order, as the very line of the log', async () => {
  const { live, tell } = setUp();
  const all: LiveEvent[] = [];
  const ofOne: LiveEvent[] = [];
  live.subscribe(
    () => true,
    (batch) => void all.push(...batch),
  );
  const end = live.subscribe(
    ({ domain }) => domain === 'a',
    (batch) => void ofOne.push(...batch),
  );
  tell(1, 'a');
  tell(2, 'b');
  tell(3, 'a');
  assert.equal(all.length, 0, 'never while an event is emitted');
  await turn();
  assert.deepEqual(
    [numbers(all), numbers(ofOne)],
    [
      [1, 2, 3],
      [1, 3],
    ],
  );
  assert.deepEqual(JSON.parse(all[0]!.json), all[0]!.event);
  tell(4, 'a');
  end();
  tell(5, 'a');
  await turn();
  assert.deepEqual(
    [numbers(all), numbers(ofOne)],
    [
      [1, 2, 3, 4, 5],
      [1, 3],
    ],
    'nothing after the end',
  );
  assert.equal(live.subscribers, 1);
});

test('live events: a slow subscriber loses events, is told how many and where, and holds up nobody', async () => {
  const { live, tell } = setUp({ maxQueued: 3 });
  const slow: [unknown[], number][] = [];
  const quick: unknown[] = [];
  let release = () => {};
  const listener: LiveListener = (batch, lost) => {
    slow.push([numbers(batch), lost]);
    return new Promise((resolve) => {
      release = resolve;
    });
  };
  live.subscribe(() => true, listener);
  live.subscribe(
    () => true,
    (batch) => void quick.push(...numbers(batch)),
  );
  tell(1);
  await turn();
  for (let number = 2; number <= 9; number++) {
    tell(number);
    await turn();
  }
  assert.deepEqual(quick, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.deepEqual(slow, [[[1], 0]]);
  release();
  await turn();
  assert.deepEqual(slow.slice(1), [[[2, 3, 4], 0]]);
  tell(10);
  release();
  await turn();
  assert.deepEqual(slow.slice(2), [[[10], 5]], 'those between 4 and 10');
  release();
  await turn();
  assert.equal(slow.length, 3, 'the loss is told once');
});

test('live events: a loss is told also where nothing comes behind it', async () => {
  const { live, tell } = setUp({ maxQueued: 1 });
  const told: [unknown[], number][] = [];
  live.subscribe(
    () => true,
    (batch, lost) => void told.push([numbers(batch), lost]),
  );
  tell(1);
  tell(2);
  await turn();
  await turn();
  assert.deepEqual(told, [
    [[1], 0],
    [[], 1],
  ]);
});

test('fault 51: a filter or listener that fails is counted, and stops neither the event nor the other subscribers', async () => {
  const { live, events, tell } = setUp();
  const good: unknown[] = [];
  let calls = 0;
  const take = () => void calls++;
  live.subscribe(() => {
    throw new Error('filter');
  }, take);
  live.subscribe(
    () => true,
    () => Promise.reject(new Error('listener')),
  );
  live.subscribe(
    () => true,
    () => {
      throw new Error('listener');
    },
  );
  live.subscribe(
    () => true,
    (batch) => void good.push(...numbers(batch)),
  );
  tell(1);
  await turn();
  tell(2);
  await turn();
  assert.deepEqual(good, [1, 2]);
  assert.equal(calls, 0);
  assert.equal(live.subscribers, 2, 'a listener that failed gets nothing more');
  assert.equal(events.sinkFailures().get('live'), 4, 'a filter twice, two listeners once');
});

test('live events: there is a bound on subscribers, and closing ends them all', async () => {
  const { live, events, tell } = setUp({ maxSubscribers: 2 });
  const got: unknown[] = [];
  const subscribe = () =>
    live.subscribe(
      () => true,
      (batch) => void got.push(...numbers(batch)),
    );
  const end = subscribe();
  subscribe();
  assert.throws(subscribe, { code: 'CPL_EVENT_SUBSCRIBERS', httpStatus: 503 });
  end();
  subscribe();
  tell(1);
  await events.close();
  tell(2);
  await turn();
  assert.equal(live.subscribers, 0);
  assert.deepEqual(got, []);
});
