import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Events } from '../../src/audit/events.ts';
import type { EventRecord } from '../../src/audit/sink.ts';
import { systemClock } from '../../src/core/clock.ts';
import { rightBits } from '../../src/core/rights.ts';
import { DirectoryEventSink } from '../../src/directory/event-sink.ts';
import { TestApi } from './support.ts';
import { type Person, World } from './world.ts';

interface Sent {
  readonly event: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test says itself what it expects
  readonly data: any;
}

/** A stream of server-sent events, read one by one. */
class EventStream {
  readonly status: number;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #leave: AbortController;
  readonly #api: TestApi;
  #text = '';

  private constructor(api: TestApi, response: Response, leave: AbortController) {
    this.#api = api;
    this.status = response.status;
    this.#reader = response.body!.getReader();
    this.#leave = leave;
  }

  static async open(t: { after(fn: () => void): void }, api: TestApi, token: string, query = ''): Promise<EventStream> {
    const leave = new AbortController();
    t.after(() => leave.abort());
    const before = api.live.subscribers;
    const response = await api.fetch('GET', `/events/live${query}`, { token }, leave.signal);
    assert.equal(response.headers.get('content-type'), 'text/event-stream');
    while (api.live.subscribers === before) await new Promise((resolve) => setImmediate(resolve));
    return new EventStream(api, response, leave);
  }

  /** The next one; `undefined` at the end of the stream. Comments are passed over. */
  async next(): Promise<Sent | undefined> {
    for (;;) {
      const end = this.#text.indexOf('\n\n');
      if (end >= 0) {
        const lines = this.#text.slice(0, end).split('\n');
        this.#text = this.#text.slice(end + 2);
        const field = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
        const data = field('data');
        if (data !== undefined) return { event: field('event') ?? '', data: JSON.parse(data) };
        continue;
      }
      const { done, value } = await this.#reader.read();
      if (done) return undefined;
      this.#text += Buffer.from(value).toString();
    }
  }

  /** Resolves when the server has noticed. */
  async leave(): Promise<void> {
    const before = this.#api.live.subscribers;
    this.#leave.abort();
    while (this.#api.live.subscribers === before) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The API with real events: told live, and kept in the directory. */
async function setUp(t: { after(fn: () => Promise<void>): void }) {
  const cleanUps: (() => unknown)[] = [];
  const api = await TestApi.start({ after: (cleanUp) => void cleanUps.push(cleanUp as () => unknown) });
  const world = await World.make(api);
  const stored = new DirectoryEventSink({ events: api.directory.events });
  const events = new Events({ clock: systemClock, sinks: [api.live, stored] });
  t.after(async () => {
    // The directory goes last: what waits is written to it.
    await events.close();
    for (const cleanUp of cleanUps) await cleanUp();
  });
  const { other, stranger, user } = world.ids;
  const seen = await world.device(rightBits['remote-control']);
  const limited = await world.device(rightBits['remote-control'] | rightBits['limit-events']);
  const session = { id: 'abc', protocol: 1, actorid: '' };
  /** One event of each kind of reach; `id` tells them apart. */
  const tell = () => {
    events.sessionKilled({ ...session, id: 'own', domain: '', userid: user, nodeid: '' });
    events.sessionKilled({ ...session, id: 'acted', domain: '', userid: stranger, nodeid: '', actorid: user });
    events.sessionKilled({ ...session, id: 'device', domain: '', userid: stranger, nodeid: seen.id });
    events.sessionKilled({ ...session, id: 'limited', domain: '', userid: stranger, nodeid: limited.id });
    events.sessionKilled({ ...session, id: 'unknown-device', domain: '', userid: stranger, nodeid: 'node//none' });
    events.sessionKilled({ ...session, id: 'other-domain', domain: 'other', userid: other, nodeid: '' });
    events.recordingIndexFailed({ file: 'relaysession-other-x.mcrec', reason: 'server' });
  };
  return { api, world, events, stored, tell, seen };
}

/** What each kind of caller sees of what `tell` tells, in that order; `groupAdmin` has all rights over both devices. */
const sight: Record<Person, string[]> = {
  user: ['own', 'acted', 'device'],
  stranger: ['acted', 'device', 'limited', 'unknown-device'],
  groupAdmin: ['device', 'limited'],
  manager: ['own', 'acted', 'device', 'limited', 'unknown-device'],
  admin: ['own', 'acted', 'device', 'limited', 'unknown-device', 'server'],
  other: ['other-domain'],
};
type Shown = { id?: string; reason?: string };
const nameOf = ({ id, reason }: Shown) => id ?? reason;

test('[R30] everybody finds own events and those about devices within reach, site managers all of the domain', async (t) => {
  const { api, world, stored, tell } = await setUp(t);
  tell();
  await stored.flush();
  for (const [who, expected] of Object.entries(sight) as [Person, string[]][]) {
    const { status, body } = await api.call('GET', '/events', { token: await world.token(who) });
    assert.equal(status, 200);
    assert.deepEqual(body.events.map(nameOf), expected.toReversed(), who);
    assert.equal(body.next, null);
  }
  const admin = await world.token('admin');
  const there = await api.call('GET', '/events?domain=other', { token: admin });
  assert.deepEqual(there.body.events.map(nameOf), ['other-domain']);
  const [event] = there.body.events;
  assert.deepEqual([event.code, event.etype, event.userid], ['CPL-1003I', 'relay', world.ids.other]);
});

test('[R30] the same holds for events as they happen', async (t) => {
  const { api, world, events, tell } = await setUp(t);
  for (const [who, expected] of Object.entries(sight) as [Person, string[]][]) {
    const stream = await EventStream.open(t, api, await world.token(who));
    tell();
    const userid = world.ids[who];
    const domain = who === 'other' ? 'other' : '';
    events.sessionKilled({ domain, id: 'last', userid, nodeid: '', protocol: 0, actorid: '' });
    const got: (string | undefined)[] = [];
    for (;;) {
      const sent = await stream.next();
      assert.equal(sent?.event, 'event');
      if (sent.data.id === 'last') break;
      got.push(nameOf(sent.data));
    }
    assert.deepEqual(got, expected, who);
    await stream.leave();
  }
  assert.deepEqual(api.failures, []);
});

test('[R30] events are found by user, device, code and time, and come in pages', async (t) => {
  const { api, world, events, stored, tell, seen } = await setUp(t);
  tell();
  for (let count = 0; count < 7; count++) {
    events.login({ domain: '', userid: world.ids.user, username: 'user', address: `192.0.2.${count}` });
  }
  await stored.flush();
  const token = await world.token('manager');
  const find = async (query: string) => (await api.call('GET', `/events?${query}`, { token })).body;
  const encoded = encodeURIComponent;
  assert.equal((await find(`userid=${encoded(world.ids.user)}`)).events.length, 8);
  assert.deepEqual((await find(`nodeid=${encoded(seen.id)}`)).events.map(nameOf), ['device']);
  assert.equal((await find('code=CPL-1501I')).events.length, 7);
  assert.equal((await find('code=CPL-1501I,%20CPL-1003I')).events.length, 12);
  const [{ time }] = (await find('limit=1')).events;
  assert.equal((await find(`toMs=${Date.parse(time) - 3_600_000}`)).events.length, 0);
  assert.equal((await find(`fromMs=${Date.parse(time) - 3_600_000}`)).events.length, 12);

  const seqs: number[] = [];
  for (let next: number | null | undefined; next !== null; ) {
    const page: { events: { seq: number }[]; next: number | null } = await find(
      `code=CPL-1501I&limit=3${next === undefined ? '' : `&before=${next}`}`,
    );
    seqs.push(...page.events.map(({ seq }) => seq));
    next = page.next;
  }
  assert.equal(seqs.length, 7);
  assert.deepEqual(
    seqs,
    [...new Set(seqs)].sort((a, b) => b - a),
    'the newest first, each once',
  );
  for (const query of ['code=x', 'fromMs=-1', 'before=x', 'limit=0', 'other=1']) {
    assert.equal((await api.call('GET', `/events?${query}`, { token })).status, 400, query);
  }
});

test('[R30] a page of one who sees little of much is short, and its next goes on', async (t) => {
  const { api, world, events, stored } = await setUp(t);
  const one = (id: string, userid: string) =>
    events.sessionKilled({ domain: '', id, userid, nodeid: '', protocol: 0, actorid: '' });
  one('first', world.ids.user);
  for (let count = 0; count < 5_500; count++) one('x', world.ids.stranger);
  one('last', world.ids.user);
  await stored.flush();
  const token = await world.token('user');
  const { events: first, next } = (await api.call('GET', '/events', { token })).body;
  assert.deepEqual(first.map(nameOf), ['last']);
  assert.ok(next > 0);
  const second = (await api.call('GET', `/events?before=${next}`, { token })).body;
  assert.deepEqual([second.events.map(nameOf), second.next], [['first'], null]);
});

test('[R30] live events are filtered by user, device and code', async (t) => {
  const { api, world, events, tell, seen } = await setUp(t);
  const token = await world.token('manager');
  const byDevice = await EventStream.open(t, api, token, `?nodeid=${encodeURIComponent(seen.id)}`);
  const byCode = await EventStream.open(t, api, token, '?code=CPL-1501I');
  const byUser = await EventStream.open(t, api, token, `?userid=${encodeURIComponent(world.ids.user)}`);
  tell();
  events.login({ domain: '', userid: world.ids.stranger, username: 's', address: '' });
  assert.equal((await byDevice.next())?.data.id, 'device');
  assert.equal((await byCode.next())?.data.code, 'CPL-1501I');
  assert.equal((await byUser.next())?.data.id, 'own');
});

for (const [what, revoke] of [
  ['the user is locked', (api: TestApi, id: string) => api.directory.users.update(id, { locked: true })],
  ['the user is removed', (api: TestApi, id: string) => api.directory.users.remove(id)],
  ['the login session is ended', (api: TestApi, id: string) => api.directory.loginSessions.endAll(id)],
] as const) {
  test(`[T4] a stream of events ends within about 1 s when ${what}`, async (t) => {
    const { api, world } = await setUp(t);
    const stream = await EventStream.open(t, api, await world.token('manager'));
    const startedMs = systemClock.monotonicMs();
    await revoke(api, world.ids.manager);
    assert.deepEqual(await stream.next(), { event: 'end', data: { reason: 'revoked' } });
    assert.equal(await stream.next(), undefined);
    assert.ok(systemClock.monotonicMs() - startedMs < 1_500);
    assert.equal(api.live.subscribers, 0);
    assert.deepEqual(api.failures, []);
  });
}

test('[T4] a stream ends with the API token that it came by, and goes on when another one is revoked', async (t) => {
  const { api, world, events } = await setUp(t);
  const { apiTokens } = api.directory;
  const [kept, revoked] = await Promise.all(
    ['kept', 'revoked'].map((name) => apiTokens.create(world.ids.manager, { name, scopes: ['events:read'] })),
  );
  const stays = await EventStream.open(t, api, kept!.secret);
  const ends = await EventStream.open(t, api, revoked!.secret);
  await apiTokens.revoke(revoked!.token.id);
  assert.equal((await ends.next())?.event, 'end');
  events.login({ domain: '', userid: world.ids.user, username: 'user', address: '' });
  assert.equal((await stays.next())?.data.code, 'CPL-1501I');
});

test('[T4] a stream goes on with fewer rights: what may not be seen any more is not sent', async (t) => {
  const { api, world, events, seen } = await setUp(t);
  const { links, users } = api.directory;
  const one = (id: string, userid: string, nodeid = '') =>
    events.sessionKilled({ domain: '', id, userid, nodeid, protocol: 0, actorid: '' });
  const manager = await EventStream.open(t, api, await world.token('manager'));
  const user = await EventStream.open(t, api, await world.token('user'));
  one('a', world.ids.stranger, seen.id);
  assert.equal((await manager.next())?.data.id, 'a');
  assert.equal((await user.next())?.data.id, 'a');
  await users.update(world.ids.manager, { siteRights: 0 });
  await links.revoke(world.ids.user, seen.id);
  // A change is heard within 1 s.
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  one('b', world.ids.stranger, seen.id);
  one('mine', world.ids.manager);
  one('mine', world.ids.user);
  assert.equal((await manager.next())?.data.id, 'mine');
  assert.equal((await user.next())?.data.id, 'mine');
});

test('fault 34: whatever an event holds, it stays one event of the stream', async (t) => {
  const { api, world, events } = await setUp(t);
  const stream = await EventStream.open(t, api, await world.token('admin'));
  const evil = 'a\n\nevent: end\ndata: {}\n\n\r\n\u2028\u0085\u001b[2J\u0000\u202e';
  events.loginFailed({ domain: '', username: evil, address: evil, reason: evil });
  events.login({ domain: '', userid: 'user//x', username: 'x', address: '' });
  assert.equal((await stream.next())?.data.username, evil);
  assert.equal((await stream.next())?.data.code, 'CPL-1501I');
});

test('a stream ends where nobody can be asked any more whether its caller sees an event', async (t) => {
  const { api, world, events, seen } = await setUp(t);
  const stream = await EventStream.open(t, api, await world.token('user'));
  const down = new Error('no database');
  t.mock.method(api.directory, 'access', () => Promise.reject(down));
  events.agentOnline({ domain: '', nodeid: seen.id, address: '' });
  assert.equal(await stream.next(), undefined);
  assert.deepEqual(api.failures, [down]);
  assert.equal(api.live.subscribers, 0);
});

test('a reader that does not read loses events, is told how many, and holds up nobody', {
  timeout: 60_000,
}, async (t) => {
  const { api, world, events } = await setUp(t);
  const stream = await EventStream.open(t, api, await world.token('manager'));
  const total = 20_000;
  const filler = 'x'.repeat(1_000);
  for (let count = 0; count < total; count++) {
    events.sessionKilled({ domain: '', id: `${count}`, userid: filler, nodeid: '', protocol: 0, actorid: '' });
    if (count % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  let got = 0;
  let lost = 0;
  let following = 0;
  while (got + lost < total) {
    const sent = await stream.next();
    if (sent?.event === 'lost') {
      lost += sent.data.count;
      following += sent.data.count;
      continue;
    }
    assert.equal(sent?.data.id, `${following++}`, 'in order, and the gap is where it is told');
    got++;
  }
  assert.ok(lost > 0, 'more than what is kept for one reader');
  assert.ok(got >= 1_000);
  assert.equal(api.live.subscribers, 1);
  await stream.leave();
  assert.equal(api.live.subscribers, 0);
});

test('[K5] live events of other servers come by the same rights, and what was missed of them is told without a number', async (t) => {
  let tell: (event: EventRecord) => void = () => assert.fail('nobody listens');
  const others = {
    subscribe(listener: typeof tell) {
      tell = listener;
      return () => {};
    },
  };
  const api = await TestApi.start(t, { others });
  const world = await World.make(api);
  const seen = await world.device(rightBits['remote-control']);
  const stream = await EventStream.open(t, api, await world.token('user'), '?code=CPL-1402I');
  const facts = { time: '2026-01-01T00:00:00.000Z', code: 'CPL-1402I', etype: 'x', action: 'x', msg: 'm' };
  tell({ ...facts, domain: '', userid: world.ids.stranger, nodeid: '', id: 'hidden' });
  tell({ ...facts, domain: 'other', userid: world.ids.user, nodeid: '', id: 'other-domain' });
  tell({ ...facts, domain: '', userid: world.ids.user, nodeid: '', id: 'other-code', code: 'CPL-1001I' });
  tell({ ...facts, domain: '', userid: world.ids.stranger, nodeid: seen.id, id: 'device' });
  const { event, data } = (await stream.next())!;
  assert.deepEqual([event, data.id], ['event', 'device']);
  api.clusterLive.missed();
  assert.deepEqual(await stream.next(), { event: 'lost', data: { count: null } });
  tell({ ...facts, domain: '', userid: world.ids.user, nodeid: '', id: 'own' });
  assert.equal((await stream.next())!.data.id, 'own');
  await stream.leave();
});
