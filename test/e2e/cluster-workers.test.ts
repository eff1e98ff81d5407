import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { systemClock } from '../../src/core/clock.ts';
import { adminRights, adminSiteRights } from '../../src/core/rights.ts';
import { openDirectory } from '../../src/directory/open.ts';
import { type Client, connect } from '../support/client.ts';
import { freePort } from '../support/processes.ts';
import { enrolRaw } from '../support/raw-agent.ts';
import { startRedis } from '../support/redis.ts';
import { until } from '../support/relay.ts';
import { couplet } from '../support/serve.ts';
import { sample, startWorkers, type WorkersChild } from '../support/workers.ts';

const cluster = { heartbeatMs: 1000 };

interface Pair {
  readonly id: string;
  readonly user: Client;
  readonly device: Client;
}

async function carries({ user, device, id }: Pair): Promise<void> {
  user.send(id);
  assert.equal(await device.nextText(), id);
  device.send(id);
  assert.equal(await user.nextText(), id);
}

/** `count` sessions by URLs, a few at a time. */
async function pairs(t: TestContext, count: number, url: WorkersChild['serve']['url']): Promise<Pair[]> {
  const made: Pair[] = [];
  for (let at = 0; at < count; at += 50) {
    const ids = Array.from({ length: Math.min(50, count - at) }, (_, index) => `s-${at + index}`);
    const batch = ids.map(async (id): Promise<Pair> => {
      const [user, device] = await Promise.all([connect(t, url('user', id)), connect(t, url('device', id))]);
      assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c'], id);
      return { id, user, device };
    });
    made.push(...(await Promise.all(batch)));
  }
  return made;
}

/** A metric with all its labels, or one sample of it. */
function sumOf(text: string, name: string): number {
  const lines = text.split('\n').filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}

/** The directory that the workers of one machine share: alice, who may do everything, and a token of hers. */
async function openShared(t: TestContext, dataDir: string) {
  const directory = await openDirectory({
    directory: 'sqlite',
    file: join(dataDir, 'directory.sqlite'),
    clock: systemClock,
    onError: (error) => t.diagnostic(String(error)),
  });
  t.after(() => directory.close());
  const alice = await directory.users.create({ name: 'alice', siteRights: adminSiteRights });
  const { secret } = await directory.apiTokens.create(alice.id, { name: 'test', scopes: ['all'] });
  return { directory, alice, secret };
}

async function listAll(address: string, secret: string): Promise<{ ids: string[]; missing: number }> {
  const headers = { authorization: `Bearer ${secret}`, connection: 'close' };
  const response = await fetch(`http://${address}/api/v1/sessions?limit=1000`, { headers });
  const { sessions, missingServers } = (await response.json()) as {
    sessions: { id: string }[];
    missingServers: number;
  };
  return { ids: sessions.map(({ id }) => id), missing: missingServers };
}

test('[K8] [K9] [K7] four workers on one port are one cluster: 500 sessions pair, are listed by all; one that dies takes its own along', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const settings = { cluster };
  const workers = await startWorkers(t, redis.url, 4, 'shared', { settings });
  const { serve } = workers;
  const { secret } = await openShared(t, serve.dataDir);
  const all = await pairs(t, 500, (side, id) => serve.url(side, id));
  await Promise.all(all.map(carries));
  const metric = async (name: string) => sumOf(await workers.metrics(), name);
  assert.equal(await metric('couplet_sessions'), 500);
  assert.equal(await metric('couplet_cluster_servers'), 4);
  assert.equal(await metric('couplet_workers'), 4);
  const linked = await metric('couplet_links{direction="out"}');
  assert.ok(linked > 250 && linked < 500, `${linked} of 500 by four workers are linked`);
  for (let ask = 0; ask < 8; ask++) {
    const { ids, missing } = await listAll(serve.address, secret);
    assert.deepEqual([ids.length, missing], [500, 0]);
    assert.deepEqual(ids, all.map(({ id }) => id).toSorted());
  }

  const two = workers.worker(2);
  process.kill(two.pid, 'SIGKILL');
  await workers.started(2, 2);
  await until(async () => (await metric('couplet_cluster_servers')) === 4, 'it has joined again', 20_000);
  // A half is gone at once with its server, and its mate elsewhere within a heartbeat.
  const isOver = ({ user, device }: Pair) => user.isClosed || device.isClosed;
  await until(() => all.every((pair) => !isOver(pair) || (pair.user.isClosed && pair.device.isClosed)), 'none is left');
  const live = all.filter((pair) => !isOver(pair));
  await Promise.all(live.map(carries));
  assert.ok(live.length > 150 && live.length < 450, `${live.length} of 500 go on`);
  await until(async () => (await metric('couplet_sessions')) === live.length, 'the sessions left are counted');
  const { ids } = await listAll(serve.address, secret);
  assert.deepEqual(ids, live.map(({ id }) => id).toSorted());
  const again = await pairs(t, 40, (side, id) => serve.url(side, `again-${id}`));
  await Promise.all(again.map(carries));

  serve.signal('SIGTERM');
  const closes = await Promise.all([...live, ...again].flatMap(({ user, device }) => [user.closed, device.closed]));
  assert.deepEqual([...new Set(closes.map(({ code }) => code))], [1001]);
  assert.deepEqual(await serve.exited, { code: 0, signal: '' });
  assert.equal(serve.stderr, '');
});

test('[K8] [K4] workers share a sqlite directory: users and agents may be at different ones, on consecutive ports', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const port = await freeRange(3);
  const linkPort = await freeRange(3);
  const settings = {
    server: { listen: `127.0.0.1:${port}` },
    cluster: { ...cluster, linkListen: `127.0.0.1:${linkPort}` },
  };
  const workers = await startWorkers(t, redis.url, 3, 'consecutive', { settings });
  const { serve } = workers;
  assert.deepEqual(
    serve.listening.addresses,
    [0, 1, 2].map((index) => `127.0.0.1:${port + index}`),
  );
  const { directory, alice } = await openShared(t, serve.dataDir);
  const group = await directory.deviceGroups.create({ name: 'lab' });
  await directory.links.grant(alice.id, group.id, adminRights);
  const { device, join: code } = await directory.devices.create({ deviceGroupId: group.id, name: 'box' });
  const agent = await enrolRaw(t, `ws://127.0.0.1:${port + 2}`, code.code);
  const auth = encodeURIComponent(serve.sealer.seal({ userid: alice.id, domainid: '' }));
  const nodeid = encodeURIComponent(device.id);
  for (const index of [0, 1, 2]) {
    const user = await connect(
      t,
      `ws://127.0.0.1:${port + index}/meshrelay.ashx?auth=${auth}&nodeid=${nodeid}&tcpport=22`,
    );
    const { value } = await agent.command();
    const query = `id=${value.id}&rauth=${encodeURIComponent(value.rauth)}`;
    const mate = await connect(t, `ws://127.0.0.1:${port + 2}${value.path}?${query}`);
    assert.deepEqual([await user.nextText(), await mate.nextText()], ['c', 'c']);
    await carries({ id: `at-${index}`, user, device: mate });
  }
  assert.equal(sample(await workers.metrics(), 'couplet_links{direction="out"}'), 2);
  await directory.devices.revoke(device.id);
  assert.equal((await agent.client.closed).code, 4410);
});

test('[K8] a server with another sqlite file, or of another directory, is a configuration error of one line', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const workers = await startWorkers(t, redis.url, 2, 'shared', { settings: { cluster } });
  const folder = mkdtempSync(join(tmpdir(), 'couplet-other-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const key = join(workers.serve.folder, 'key');
  const listens = ['--listen', '127.0.0.1:0', '--metrics-listen', '127.0.0.1:0'];
  const others = ['--redis', redis.url, '--login-key-file', key, '--data', folder, ...listens];
  for (const more of [[], ['--directory', 'none'], ['--workers', '2']]) {
    const { code, stdout, stderr } = await couplet(['serve', ...others, ...more]);
    assert.equal(code, 2, `${more} ${stderr}`);
    assert.match(
      stderr,
      /^couplet: the directory of this server is [^\n]* all servers of a cluster must use the same one[^\n]*\n$/,
    );
    assert.doesNotMatch(stdout, /listening/);
  }
  // Those that were there first go on.
  const [pair] = await pairs(t, 1, (side, id) => workers.serve.url(side, id));
  await carries(pair!);
  assert.equal(sample(await workers.metrics(), 'couplet_cluster_servers'), 2);
});

/** The first of `count` ports that nobody listens on, one after the other. */
async function freeRange(count: number): Promise<number> {
  for (;;) {
    const first = await freePort();
    const isFree = await Promise.all(Array.from({ length: count - 1 }, (_, index) => canListen(first + 1 + index)));
    if (isFree.every(Boolean)) return first;
  }
}

async function canListen(port: number): Promise<boolean> {
  const server = createServer();
  const listening = once(server, 'listening').then(
    () => true,
    () => false,
  );
  server.listen(port, '127.0.0.1');
  const can = await listening;
  server.close();
  return can;
}
