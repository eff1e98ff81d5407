import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { EventRecord } from '../../src/audit/sink.ts';
import { LiveEvents } from '../../src/audit/sinks/live.ts';
import { ClusterLive } from '../../src/compose/cluster-events.ts';

const event = (msg: string): EventRecord => ({ time: '', code: 'CPL-1001I', etype: 'x', action: 'x', msg });

/** Events of other servers, and whether somebody reads them. */
class Others {
  listeners = 0;
  started = 0;
  tell: (event: EventRecord) => void = () => assert.fail('nobody reads');

  subscribe(listener: (event: EventRecord) => void): () => void {
    this.listeners++;
    this.started++;
    this.tell = listener;
    return () => {
      this.listeners--;
    };
  }
}

test('[K5] who listens gets the events of this server and of the others, by the same filter, each once', async () => {
  const live = new LiveEvents();
  const others = new Others();
  const cluster = new ClusterLive(live, others);
  const got: string[][] = [[], []];
  const ends = got.map((list, index) =>
    cluster.subscribe(
      ({ msg }) => index === 0 || msg.startsWith('far'),
      (events) => void list.push(...events.map(({ event: { msg }, json }) => `${msg} ${json.includes(msg)}`)),
    ),
  );
  live.write(event('near'), '"near"');
  others.tell(event('far'));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(got, [['near true', 'far true'], ['far true']]);
  assert.equal(others.started, 1, 'read once for all');
  for (const end of ends) end();
});

test('[K5] the other servers are read only while somebody listens', () => {
  const live = new LiveEvents({ maxSubscribers: 2 });
  const others = new Others();
  const cluster = new ClusterLive(live, others);
  const listen = () =>
    cluster.subscribe(
      () => true,
      () => {},
    );
  assert.equal(others.listeners, 0);
  const [first, second] = [listen(), listen()];
  assert.throws(listen, { code: 'CPL_EVENT_SUBSCRIBERS' });
  first();
  first();
  assert.equal(others.listeners, 1, 'ended twice is ended once');
  second();
  assert.equal(others.listeners, 0);
  listen()();
  assert.deepEqual([others.started, others.listeners, live.subscribers], [2, 0, 0]);
});

test('[K5] a gap is told to everybody who listens then', () => {
  const cluster = new ClusterLive(new LiveEvents(), new Others());
  const told: string[] = [];
  const end = cluster.subscribe(
    () => true,
    () => {},
    () => told.push('first'),
  );
  cluster.subscribe(
    () => true,
    () => {},
    () => told.push('second'),
  );
  cluster.subscribe(
    () => true,
    () => {},
  );
  cluster.missed();
  end();
  cluster.missed();
  assert.deepEqual(told, ['first', 'second', 'second']);
});
