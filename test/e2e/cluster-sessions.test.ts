import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type ApiAnswer, type ClusterPlace, ClusterSite } from '../support/cluster-site.ts';
import { Postgres } from '../support/postgres.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import { couplet } from '../support/serve.ts';

let postgres: Postgres;
before(async () => {
  postgres = await Postgres.start();
});
after(() => postgres.stop());

const names = (text: string, count: number) => Array.from({ length: count }, (_, index) => `${text}-${index}`);

test('[K9] any of three servers lists and ends the sessions of all; who may see one only sees that', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const places = [await site.add(), await site.add(), await site.add()];
  const [root, own] = [await site.token(), await site.token(site.bob)];
  // Each server owns some, and each has halves of others'.
  const ids = names('s', 9);
  for (const [index, id] of ids.entries()) {
    const [userAt, deviceAt] = [places[index % 3]!, places[Math.floor(index / 3)]!];
    await site.pair(userAt, deviceAt, id, index % 4 === 0 ? site.bob : site.alice);
  }
  assert.deepEqual(
    places.map((place) => place.sessions().length),
    [3, 3, 3],
  );
  const bobs = ids.filter((_, index) => index % 4 === 0);
  const allPages = async (at: ClusterPlace, token: string, limit: number): Promise<string[]> => {
    const listed: string[] = [];
    for (;;) {
      const path = `/sessions?limit=${limit}&after=${listed.at(-1) ?? ''}`;
      const { status, body }: ApiAnswer = await site.api(at, token, 'GET', path);
      assert.deepEqual([status, body.missingServers], [200, 0]);
      listed.push(...body.sessions.map(({ id }: { id: string }) => id));
      if (body.sessions.length < limit) return listed;
    }
  };
  for (const place of places) {
    assert.deepEqual(await allPages(place, root, 2), ids, 'in order, none twice, none left out');
    assert.deepEqual(await allPages(place, root, 100), ids);
    assert.deepEqual(await allPages(place, own, 2), bobs, 'bob sees his own');
  }
  const carried = ids.indexOf('s-1');
  assert.equal(
    places[carried % 3]!.sessions().some(({ id }) => id === 's-1'),
    true,
  );
  // Ended at a server that has neither of its halves.
  const { user, device } = await site.pair(places[0]!, places[1]!, 'ends');
  assert.equal((await site.api(places[2]!, own, 'DELETE', '/sessions/ends')).status, 404, 'not bob’s to see');
  assert.equal((await site.api(places[2]!, root, 'DELETE', '/sessions/ends')).status, 204);
  assert.deepEqual([(await user.closed).code, (await device.closed).code], [4410, 4410]);
  assert.equal((await site.api(places[2]!, root, 'DELETE', '/sessions/ends')).status, 404);
  assert.equal((await site.api(places[2]!, own, 'DELETE', `/sessions/${bobs[1]}`)).status, 204, 'his own');
});

test('[K9] couplet session list and kill reach all servers; one that hangs is counted as missing, in time', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  // It stands in the registry for longer than the test takes.
  const cluster = { heartbeatMs: 60_000 };
  const a = await site.spawn({ settings: { cluster } });
  const [b, c] = [await site.add({ cluster }), await site.add({ cluster })];
  const token = await site.token();
  await site.pair(a, a, 'at-a');
  const atB = await site.pair(b, c, 'at-b');
  const tokenFile = join(temporaryFolder(t), 'token');
  writeFileSync(tokenFile, `${token}\n`, { mode: 0o600 });
  const login = ['--url', site.http(c), '--token-file', tokenFile];
  await until(async () => (await site.api(c, token, 'GET', '/sessions')).body.sessions.length === 2, 'both are known');
  const listed = await couplet(['session', 'list', ...login]);
  assert.deepEqual([listed.code, listed.stderr], [0, '']);
  assert.match(listed.stdout, /^at-a /m);
  assert.match(listed.stdout, /^at-b /m);
  const killed = await couplet(['session', 'kill', 'at-b', ...login]);
  assert.deepEqual([killed.code, killed.stdout, killed.stderr], [0, 'killed: at-b\n', '']);
  assert.deepEqual([(await atB.user.closed).code, (await atB.device.closed).code], [4410, 4410]);
  await site.pair(b, c, 'at-b-again');

  a.signal('SIGSTOP');
  t.after(() => a.signal('SIGCONT'));
  const answer = await Promise.race([
    site.api(c, token, 'GET', '/sessions'),
    new Promise<'late'>((resolve) => setTimeout(resolve, 5_000, 'late').unref()),
  ]);
  assert.ok(answer !== 'late', 'whoever waits for the list has it');
  assert.deepEqual([answer.status, answer.body.missingServers], [200, 1]);
  assert.deepEqual(
    answer.body.sessions.map(({ id }: { id: string }) => id),
    ['at-b-again'],
  );
  const some = await couplet(['session', 'list', ...login]);
  assert.equal(some.code, 1);
  assert.match(some.stdout, /^at-b-again /m);
  assert.match(some.stderr, /^couplet: 1 of the cluster's servers did not answer[^\n]*\n$/);
  a.signal('SIGCONT');
  await until(async () => {
    const { body } = await site.api(c, token, 'GET', '/sessions');
    return body.missingServers === 0 && body.sessions.length === 2;
  }, 'it answers again');
});

test('[K9] a server that has not joined yet does not call its list whole, nor a session gone', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  // Nobody listens there.
  const alone = await site.add({ cluster: { redis: 'redis://127.0.0.1:1' } });
  const root = await site.token();
  const { status, body }: ApiAnswer = await site.api(alone, root, 'GET', '/sessions');
  assert.deepEqual([status, body.sessions.length], [200, 0]);
  assert.ok(body.missingServers >= 1);
  assert.equal((await site.api(alone, root, 'DELETE', '/sessions/nowhere')).status, 503);
});
