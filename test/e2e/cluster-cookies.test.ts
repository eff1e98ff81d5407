import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { CookieSealer, systemClock } from '../../src/index.ts';
import { type Client, connect, Refused } from '../support/client.ts';
import { type ClusterPlace, ClusterSite } from '../support/cluster-site.ts';
import { Postgres } from '../support/postgres.ts';
import { until } from '../support/relay.ts';

let postgres: Postgres;
before(async () => {
  postgres = await Postgres.start();
});
after(() => postgres.stop());

/** Shifts the wall clock of a process; the monotonic one stays. */
const fakeTimeLibrary = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1';

/** A user half with this cookie: 101, or the status with which it is refused. */
async function use(site: ClusterSite, at: ClusterPlace, id: string, cookie: string): Promise<number> {
  try {
    const half: Client = await connect(
      site.t,
      `${site.ws(at)}/meshrelay.ashx?id=${id}&auth=${encodeURIComponent(cookie)}`,
    );
    half.ws.terminate();
    return 101;
  } catch (error) {
    if (error instanceof Refused) return error.status;
    throw error;
  }
}

function onceCookie(site: ClusterSite): string {
  return site.sealer.seal({ userid: site.alice.id, domainid: '', once: 1, expire: 5 });
}

test('[K5] [R7] of four servers exactly one takes a single-use cookie, however close they come', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const places = await Promise.all([site.spawn(), site.spawn(), site.spawn(), site.spawn()]);
  const wins = new Map<ClusterPlace, number>();
  for (let round = 0; round < 50; round++) {
    const cookie = onceCookie(site);
    const order = places.map((_, index) => places[(index + round) % places.length]!);
    const statuses: number[] = await Promise.all(order.map((place) => use(site, place, `r${round}`, cookie)));
    assert.deepEqual(statuses.toSorted(), [101, 401, 401, 401], `round ${round}`);
    const winner = order[statuses.indexOf(101)]!;
    wins.set(winner, (wins.get(winner) ?? 0) + 1);
    assert.equal(await use(site, order[1]!, `r${round}`, cookie), 401, 'nor later');
  }
  assert.ok(wins.size > 1, 'more than one server won');
  for (const place of places) {
    assert.equal(await site.metric(place, 'couplet_refused_total{reason="once-unavailable"}'), 0);
  }
});

test('[K5] [K6] [R7] a single-use cookie is refused where Redis cannot be asked, and where it was used before Redis lost all', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const [a, b] = [await site.add(), await site.add()];
  const used = onceCookie(site);
  assert.equal(await use(site, a, 'one', used), 101);
  assert.equal(await use(site, b, 'one', used), 401);
  const unused = onceCookie(site);
  await site.redis.kill();
  for (const place of [a, b]) {
    assert.equal(await use(site, place, 'two', unused), 401);
    assert.equal(await site.metric(place, 'couplet_refused_total{reason="once-unavailable"}'), 1);
    // Cookies that may be used again do not need Redis.
    const plain = site.sealer.seal({ userid: site.alice.id, domainid: '' });
    assert.equal(await use(site, place, 'three', plain), 101);
  }
  await site.redis.start();
  for (const place of [a, b]) {
    await until(async () => (await site.metric(place, 'couplet_cluster_redis_up')) === 1, 'Redis is back');
  }
  assert.equal(await use(site, a, 'one', used), 401, 'the server that took it remembers it');
  assert.equal(await use(site, b, 'two', unused), 101, 'what was refused is not used up');
  assert.equal(await use(site, a, 'two', unused), 401);
});

test('[K5] fault 44: servers whose clocks are 10 min apart judge the ages of cookies alike', async (t) => {
  if (!existsSync(fakeTimeLibrary)) return t.skip('libfaketime is not installed');
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const shifted = (seconds: string) => ({
    env: { LD_PRELOAD: fakeTimeLibrary, FAKETIME: seconds, FAKETIME_DONT_FAKE_MONOTONIC: '1' },
  });
  const places = await Promise.all([site.spawn(shifted('-300s')), site.spawn(), site.spawn(shifted('+300s'))]);
  for (const [index, seconds] of [300, 0, -300].entries()) {
    const name = 'couplet_cluster_clock_offset_seconds';
    const offset = await site.metric(places[index]!, name);
    assert.ok(Math.abs(offset - seconds) < 1, `${offset} for ${seconds}`);
  }
  const token = await site.token();
  const { agent, nodeid } = await site.agent(places[1]!);
  /** As it would have been sealed `minutes` ago; for somebody whom the directory does not know, for alice is younger. */
  const sealed = (minutes: number, content: object) => {
    const clock = { ...systemClock, nowMs: () => Date.now() - minutes * 60_000 };
    return new CookieSealer(site.loginKey, clock, 'base64').seal({
      userid: 'user//somebody',
      domainid: '',
      ...content,
    });
  };
  for (const [index, place] of places.entries()) {
    // Minted by each, good at each.
    for (const at of places) {
      const target = { nodeid, transport: 'tcp', host: '127.0.0.1', port: 22 };
      const minted = await site.api(place, token, 'POST', '/tunnels', target);
      assert.equal(minted.status, 200, JSON.stringify(minted.body));
      const { url, id, cookie } = minted.body;
      const user = await connect(t, `${site.ws(at)}${url}?id=${id}&auth=${encodeURIComponent(cookie)}`);
      // And so is what the agent is given.
      const { value } = await agent.command();
      const device = await site.answer(places[index]!, value);
      assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
    }
    assert.equal(await use(site, place, `fresh-${index}`, sealed(4, { expire: 5 })), 101);
    assert.equal(await use(site, place, `old-${index}`, sealed(6, { expire: 5 })), 401);
    assert.equal(await use(site, place, `absolute-${index}`, sealed(0, { expire: Date.now() + 60_000 })), 101);
    assert.equal(await use(site, place, `past-${index}`, sealed(0, { expire: Date.now() - 60_000 })), 401);
  }
});
