import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect as connectTcp, createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ClusterSite } from '../support/cluster-site.ts';
import { Postgres } from '../support/postgres.ts';
import { CoupletChild, ForwardChild, freePort } from '../support/processes.ts';
import { temporaryFolder, until } from '../support/relay.ts';

let postgres: Postgres;
before(async () => {
  postgres = await Postgres.start();
});
after(() => postgres.stop());

const MiB = 1024 * 1024;
/** What must come at once, milliseconds: far less than a hold. */
const atOnceMs = 5_000;

function within<T>(promise: Promise<T>, withinMs: number, what: string): Promise<T> {
  const late = new Promise<never>((_, reject) => {
    setTimeout(() => reject(new Error(`not within ${withinMs} ms: ${what}`)), withinMs).unref();
  });
  return Promise.race([promise, late]);
}

test('[K4] [T7] a command reaches an agent on another server, which connects back there, and the pair forwards', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const [a, b] = [await site.add(), await site.add()];
  const { agent, nodeid } = await site.agent(a);
  const user = await site.routed(b, nodeid);
  const { command, value } = await agent.command();
  assert.equal(command.userid, site.alice.id);
  const device = await site.answer(a, value);
  assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
  user.send(Buffer.from('down'));
  assert.equal((await device.next()).data.toString(), 'down');
  device.send(Buffer.from('up'));
  assert.equal((await user.next()).data.toString(), 'up');
  // The user half waited at B: B owns the session, and A has the one end of a link.
  assert.deepEqual([a.sessions().length, b.sessions().length], [0, 1]);
  assert.equal(await site.metric(a, 'couplet_links{direction="out"}'), 1);
  device.ws.close(1000, 'done');
  assert.equal((await user.closed).code, 1000);
});

test('[K4] [T7] [T8] refusals and failures of an agent elsewhere reach the user half; who is nowhere is told at once', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const settings = { relay: { holdMs: 60_000, upgradesPerAddressPerSecond: 0 } };
  const [a, b] = [await site.add(settings), await site.add(settings)];
  const { agent, nodeid } = await site.agent(a);
  const user = await site.routed(b, nodeid);
  const { id } = (await agent.command()).value;
  agent.say({ type: 'tunnel-refused', id, reason: 'target', detail: 'not listed' });
  assert.deepEqual(await within(user.closed, atOnceMs, 'told'), {
    code: 4403,
    reason: 'refused by the device: not listed',
  });
  const second = await site.routed(b, nodeid);
  const failing = (await agent.command()).value;
  agent.say({ type: 'tunnel-failed', id: failing.id, reason: 'relay', detail: 'no route' });
  assert.deepEqual(await within(second.closed, atOnceMs, 'told'), {
    code: 4502,
    reason: 'the device failed: no route',
  });
  const { device } = await site.device('off');
  const nobody = await site.routed(b, device.id);
  assert.deepEqual(await within(nobody.closed, atOnceMs, 'told'), { code: 4404, reason: 'device offline' });
  assert.equal(await site.metric(b, 'couplet_halves{state="waiting"}'), 0);
});

test('[K4] [T9] an agent that comes to another server replaces its older connection, and gets the commands', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const [a, b] = [await site.add(), await site.add()];
  const { agent: first, nodeid } = await site.agent(a);
  const second = await site.again(b, nodeid, first.keys);
  assert.deepEqual(await first.next(), { type: 'replaced' });
  assert.equal((await first.client.closed).code, 4409);
  for (const at of [a, b]) {
    const user = await site.routed(at, nodeid);
    const { value } = await second.command();
    const device = await site.answer(b, value);
    assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
  }
  // And back again: whichever came last.
  const third = await site.again(a, nodeid, first.keys);
  assert.equal((await second.client.closed).code, 4409);
  await site.routed(b, nodeid);
  assert.equal((await third.command()).value.nodeid, nodeid);
});

test('[K4] [K6] while Redis is down agents of the same server are reached, others are 4404 at once, and it heals', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const settings = { relay: { holdMs: 60_000, upgradesPerAddressPerSecond: 0 } };
  const [a, b] = [await site.add(settings), await site.add(settings)];
  const near = await site.agent(b, 'near');
  const far = await site.agent(a, 'far');
  for (const pause of [true, false]) {
    if (pause) site.redis.pause();
    else await site.redis.kill();
    const user = await site.routed(b, near.nodeid);
    const device = await site.answer(b, (await near.agent.command()).value);
    assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
    const other = await site.routed(b, far.nodeid);
    assert.deepEqual(await within(other.closed, atOnceMs, 'told'), { code: 4404, reason: 'device offline' });
    if (pause) site.redis.resume();
    else await site.redis.start();
    let command: Promise<string> | undefined;
    await until(
      async () => {
        command ??= far.agent.command().then(() => 'sent');
        const again = await site.routed(b, far.nodeid);
        return (await Promise.race([command, again.closed])) === 'sent';
      },
      'the far agent is found again',
      15_000,
    );
  }
});

test('[K4] [K7] a server that is killed takes its agents along; the real agent comes to the other and is found', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  // The agent knows one address, as behind a load balancer: what stands behind it changes.
  const port = await freePort();
  const a = await site.spawn({ settings: { server: { listen: `127.0.0.1:${port}` } } });
  const b = await site.add();
  const echo = createServer((socket) => socket.on('error', () => {}).pipe(socket)).listen(0, '127.0.0.1');
  await once(echo, 'listening');
  t.after(() => echo.close());
  const target = (echo.address() as { port: number }).port;
  const { device, code } = await site.device();
  const state = join(temporaryFolder(t), 'state');
  const agent = new CoupletChild(t, [
    ...['agent', '--url', `http://127.0.0.1:${port}`, '--state', state, '--join', code],
  ]);
  await agent.line(({ msg }) => msg === 'online');
  const token = await site.token();
  const online = async () =>
    (await site.api(b, token, 'GET', `/devices/${encodeURIComponent(device.id)}`)).body.online as boolean;
  await until(online, 'B knows that it is online');
  const session = await site.routed(b, device.id, { tcpport: target });
  assert.equal(await session.nextText(), 'c');
  a.signal('SIGKILL');
  await a.exited;
  const { code: closeCode } = await within(session.closed, 10_000, 'the session over the link ends');
  assert.equal(closeCode, 4502);
  await until(async () => !(await online()), 'B knows that it is gone', 15_000);
  const nobody = await site.routed(b, device.id, { tcpport: target });
  assert.equal((await within(nobody.closed, atOnceMs, 'told')).code, 4404);
  const c = await site.spawn({ settings: { server: { listen: `127.0.0.1:${port}` } } });
  await agent.line(({ msg }) => msg === 'online', 1 + agent.said.findIndex(({ msg }) => msg === 'online'));
  await until(online, 'B knows that it is online again');
  const again = await site.routed(b, device.id, { tcpport: target });
  assert.equal(await again.nextText(), 'c');
  again.send(Buffer.from('ping'));
  for (let got = ''; got !== 'ping'; ) {
    const { data, isBinary } = await again.next();
    if (isBinary) got += data.toString();
  }
  assert.equal(c.ended, false);
});

test('[K4] forward by one server to an agent at another carries 10 MiB both ways', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const [a, b] = [await site.spawn(), await site.spawn()];
  const echo = createServer((socket) => socket.on('error', () => {}).pipe(socket)).listen(0, '127.0.0.1');
  await once(echo, 'listening');
  t.after(() => echo.close());
  const target = (echo.address() as { port: number }).port;
  const { code } = await site.device();
  const state = join(temporaryFolder(t), 'state');
  const agent = new CoupletChild(t, ['agent', '--url', site.http(a), '--state', state, '--join', code]);
  await agent.line(({ msg }) => msg === 'online');
  const tokenFile = join(temporaryFolder(t), 'token');
  const secret = await site.token(site.alice, ['devices:read', 'tunnels:write', 'sessions:read']);
  writeFileSync(tokenFile, `${secret}\n`, { mode: 0o600 });
  const args = ['forward', '--url', site.http(b), '--token-file', tokenFile, 'box', `0:127.0.0.1:${target}`];
  const forward = await new ForwardChild(t, args).listens(1);
  const sent = randomBytes(10 * MiB);
  const socket = connectTcp(forward.ports[0]!, '127.0.0.1');
  t.after(() => socket.destroy());
  const hash = createHash('sha256');
  let got = 0;
  socket.on('data', (data) => {
    hash.update(data);
    got += data.length;
  });
  socket.end(sent);
  await within(once(socket, 'close'), 60_000, 'all came back');
  assert.equal(got, sent.length);
  assert.equal(hash.digest('hex'), createHash('sha256').update(sent).digest('hex'));
  assert.ok((await site.metric(a, 'couplet_link_bytes_total{direction="to_peer"}')) >= sent.length, 'over a link');
});

test('[T4] [K4] what is withdrawn at one server ends sessions that another one owns, and agents, within 1 s', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const { directory, bob, group } = site;
  const [a, b] = [await site.add(), await site.add()];
  const token = await site.token();
  const { agent, nodeid } = await site.agent(b);
  const call = async (method: string, path: string, body?: object) => {
    const { status } = await site.api(b, token, method, path, body);
    assert.ok(status === 200 || status === 204, `${method} ${path}: ${status}`);
  };
  /** A session of bob's, owned by A, whose device half came to B. */
  const begin = async (auth?: string) => {
    const user = await site.routed(a, nodeid, auth === undefined ? {} : { auth }, bob);
    const device = await site.answer(b, (await agent.command()).value);
    assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
    assert.deepEqual([a.sessions().length, b.sessions().length], [1, 0]);
    return { user, device };
  };
  const ends = async ({ user, device }: Awaited<ReturnType<typeof begin>>) => {
    const closes = await within(Promise.all([user.closed, device.closed]), 1_000, 'both are closed');
    assert.deepEqual(
      closes.map(({ code }) => code),
      [4410, 4410],
    );
    await until(() => a.sessions().length === 0, 'A has let go of it');
  };
  await directory.links.grant(bob.id, group.id, 8);
  const first = await begin();
  const grant = `subject=${encodeURIComponent(bob.id)}&target=${encodeURIComponent(group.id)}`;
  await call('DELETE', `/grants?${grant}`);
  await ends(first);

  const terms = { device: nodeid, protocols: 'tcp:22', expiresInMs: 60_000, guestName: 'Guest' };
  const { body: share } = await site.api(b, token, 'POST', '/shares', terms);
  const shared = await begin(share.cookie);
  await call('POST', `/shares/${share.id}/revoke`);
  await ends(shared);

  await directory.links.grant(bob.id, group.id, 8);
  const locked = await begin();
  await call('PATCH', `/users/${encodeURIComponent(bob.id)}`, { locked: true });
  await ends(locked);

  const second = await site.agent(a, 'other');
  const third = await site.agent(a, 'third');
  for (const [method, path, { agent: gone, nodeid: id }] of [
    ['POST', '/revoke', second],
    ['DELETE', '', third],
  ] as const) {
    await call(method, `/devices/${encodeURIComponent(id)}${path}`);
    assert.deepEqual(await within(gone.next(), 1_000, 'told'), { type: 'revoked' });
    assert.equal((await gone.client.closed).code, 4410);
  }
});
