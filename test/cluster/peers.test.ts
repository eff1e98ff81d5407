import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { newChallenge } from '../../src/cluster/link-seal.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { beatText, proofHeader } from '../../src/protocol/link-messages.ts';
import { freePort } from '../support/processes.ts';
import { until } from '../support/relay.ts';
import { ChannelStub } from './channel-stub.ts';
import { newSeal, Site, silentServer, twoSites } from './link-site.ts';

test('[K3] servers ask each other over one channel each way, in any order', async (t) => {
  const { a, b } = twoSites(t);
  const order: string[] = [];
  for (const site of [a, b]) {
    site.peers.serve('echo', async (body, boot) => {
      const { afterMs } = body as { afterMs: number };
      await new Promise((resolve) => setTimeout(resolve, afterMs));
      order.push(`${afterMs}`);
      return { body, boot, text: 'ä\u2028"' };
    });
  }
  const asks = [60, 1, 30].map((afterMs) => a.peers.ask(b.boot, 'echo', { afterMs }));
  assert.deepEqual(
    await Promise.all(asks),
    [60, 1, 30].map((afterMs) => ({ body: { afterMs }, boot: a.boot, text: 'ä\u2028"' })),
  );
  assert.deepEqual(order, ['1', '30', '60']);
  assert.equal(a.peers.channelCount, 1, 'concurrent asks share a dial');
  assert.equal(b.peers.channelCount, 1);
  assert.deepEqual(await b.peers.ask(a.boot, 'echo', { afterMs: 0 }), {
    body: { afterMs: 0 },
    boot: b.boot,
    text: 'ä\u2028"',
  });
  assert.equal(a.peers.channelCount, 2);
  assert.equal(a.peers.requests.get('echo ok'), 3);
});

test('[K3] who asks is told that a request is refused, unknown or failed, and no more of a bug', async (t) => {
  const { a, b } = twoSites(t);
  b.peers.serve('refuse', () => {
    throw new CoupletError('CPL_TEST', 'not today');
  });
  b.peers.serve('bug', () => {
    throw new TypeError('secret detail');
  });
  b.peers.serve('nothing', () => undefined);
  const fails = (method: string, message: RegExp) =>
    assert.rejects(a.peers.ask(b.boot, method, {}), { code: 'CPL_PEER', reason: 'error', message });
  await fails('refuse', /^not today$/);
  await fails('bug', /^bug failed$/);
  await fails('none', /no such request/);
  assert.equal(b.failures.length, 1);
  assert.equal(await a.peers.ask(b.boot, 'nothing', {}), undefined);
  const refreshed = a.servers.refreshed;
  await assert.rejects(a.peers.ask(newChallenge(), 'refuse', {}), { code: 'CPL_PEER', reason: 'unreachable' });
  assert.equal(a.servers.refreshed, refreshed + 1, 'the registry is read anew for a server that is not in it');
  assert.equal(a.lost.length, 0);
});

test('[K6] a request has a deadline, and its late answer is nobody else’s', async (t) => {
  const { a, b } = twoSites(t);
  let release = (_: unknown) => {};
  b.peers.serve('slow', () => new Promise((resolve) => (release = resolve)));
  b.peers.serve('fast', () => 'fast');
  await assert.rejects(a.peers.ask(b.boot, 'slow', {}, 50), { code: 'CPL_PEER', reason: 'timeout' });
  const next = a.peers.ask(b.boot, 'slow', {}, 5000);
  const first = release;
  await until(() => release !== first, 'the second request to come');
  first('late');
  release('second');
  assert.equal(await next, 'second');
  assert.equal(await a.peers.ask(b.boot, 'fast', {}), 'fast');
  assert.equal(a.peers.requests.get('slow timeout'), 1);
});

test('[K6] requests, answers and what is in flight are bounded', async (t) => {
  const { a, b } = twoSites(t);
  b.peers.serve('large', (body) => 'x'.repeat((body as { bytes: number }).bytes));
  let waiting = 0;
  b.peers.serve('never', () => {
    waiting++;
    return new Promise(() => undefined);
  });
  const big = { code: 'CPL_PEER', reason: 'too-big' };
  await assert.rejects(a.peers.ask(b.boot, 'large', 'x'.repeat(1024 * 1024)), big);
  assert.equal(
    String(await a.peers.ask(b.boot, 'large', { bytes: 15_000_000, x: 'x'.repeat(1_000_000) })).length,
    15_000_000,
  );
  await assert.rejects(a.peers.ask(b.boot, 'large', { bytes: 17_000_000 }), {
    reason: 'error',
    message: /longer than/,
  });
  const never = Array.from({ length: 1000 }, () => a.peers.ask(b.boot, 'never', {}, 60_000));
  for (const ask of never) ask.catch(() => undefined);
  await assert.rejects(a.peers.ask(b.boot, 'never', {}), { code: 'CPL_PEER', reason: 'busy' });
  await until(() => waiting === 1000, 'all requests to come');
  b.close();
  for (const ask of never) await assert.rejects(ask, { code: 'CPL_PEER', reason: 'unreachable' });
});

test('[K7] all are asked at once, and those who are silent are named', async (t) => {
  const seal = newSeal();
  const [a, b, c, d] = [0, 1, 2, 3].map(() => new Site(t, { seal })) as [Site, Site, Site, Site];
  a.knows(b, c, d);
  for (const site of [b, c]) site.peers.serve('who', () => site.boot);
  d.peers.serve('who', () => new Promise(() => undefined));
  c.close();
  const { answers, silent } = await a.peers.askAll('who', {}, 300);
  assert.deepEqual(answers, [{ boot: b.boot, answer: b.boot }]);
  assert.deepEqual(silent.sort(), [c.boot, d.boot].sort());
});

test('[K3] a channel takes nothing before the proof of its dialler (fault 43)', async (t) => {
  const { a, b } = twoSites(t);
  let asked = 0;
  b.peers.serve('present2', () => asked++);
  const stub = new ChannelStub(newSeal());
  const foreign = new ChannelStub(newSeal());
  await stub.listen(t);
  const request = JSON.stringify({ id: 1, method: 'present2', body: {} });
  const dialRaw = async (query: string) => {
    const ws = new WebSocket(`${b.entry.linkUrl}/channel?${query}`);
    t.after(() => ws.terminate());
    ws.on('error', () => undefined);
    const proof = new Promise<string>((resolve) =>
      ws.on('upgrade', ({ headers }) => resolve(String(headers[proofHeader]))),
    );
    await once(ws, 'open');
    return { ws, proof: await proof };
  };
  const query = `hello=${a.tickets.hello(b.boot, newChallenge())}`;
  const firsts: ((proof: string) => string | Buffer)[] = [
    () => request,
    () => beatText,
    () => '',
    (proof) => proof,
    () => foreign.tickets.answerChannel(b.boot, newChallenge()).proof,
    () => Buffer.from('binary'),
  ];
  for (const first of firsts) {
    const { ws, proof } = await dialRaw(query);
    ws.send(first(proof));
    ws.send(request);
    await once(ws, 'close');
  }
  assert.equal(asked, 0);
  assert.equal(b.peers.channelCount, 0);

  // A proof that was good on its own connection, replayed on another.
  const challenge = newChallenge();
  const good = await dialRaw(`hello=${a.tickets.hello(b.boot, challenge)}`);
  const first = a.tickets.proveChannel(good.proof, b.boot, challenge)!;
  const replayed = await dialRaw(`hello=${a.tickets.hello(b.boot, challenge)}`);
  replayed.ws.send(first);
  await once(replayed.ws, 'close');
  good.ws.send(first);
  await once(good.ws, 'message');
  assert.equal(b.peers.channelCount, 1);

  const strangers = [foreign.tickets.hello(b.boot, challenge), a.tickets.hello(a.boot, challenge), good.proof];
  for (const wrong of ['', ...strangers.map((hello) => `hello=${hello}`)]) {
    const ws = new WebSocket(`${b.entry.linkUrl}/channel?${wrong}`);
    const [error] = await once(ws, 'error');
    assert.match(String(error), /401/, wrong);
  }
  for (const path of ['/', '/meshrelay.ashx', '/link/x', '/healthz']) {
    assert.equal((await fetch(`${b.entry.linkUrl.replace('ws', 'http')}${path}`)).status, 404, path);
  }
  assert.deepEqual(b.refusals, ['channel', 'channel', 'channel', 'channel']);
});

test('[K3] a channel whose dialler proves nothing is closed by the deadline', async (t) => {
  const { a, b } = twoSites(t);
  const ws = new WebSocket(`${b.entry.linkUrl}/channel?hello=${a.tickets.hello(b.boot, newChallenge())}`);
  t.after(() => ws.terminate());
  const [code] = await once(ws, 'close');
  assert.equal(code, 4403);
});

test('[K3] a server that does not prove itself is not asked (fault 43)', async (t) => {
  const seal = newSeal();
  const a = new Site(t, { seal });
  const stub = new ChannelStub(seal);
  await stub.listen(t);
  a.servers.entries.set(stub.boot, stub.entry);
  const other = new ChannelStub(newSeal());
  const spoils: ((proof: string) => string)[] = [
    () => '',
    (proof) => `${proof.slice(0, -2)}AA`,
    () => other.tickets.answerChannel(a.boot, newChallenge()).proof,
    () => stub.tickets.answerChannel(a.boot, newChallenge()).proof,
    () => stub.tickets.answerChannel(newChallenge(), newChallenge()).proof,
  ];
  for (const spoil of spoils) {
    stub.spoil = spoil;
    await assert.rejects(a.peers.ask(stub.boot, 'x', {}), /did not prove/);
  }
  assert.equal(stub.channels.length, 0);
  // Another server's entry with this one's address: who answers is not who was dialled.
  stub.spoil = (proof) => proof;
  const boot = newChallenge();
  a.servers.entries.set(boot, { ...stub.entry, boot });
  await assert.rejects(a.peers.ask(boot, 'x', {}), /did not prove/);
  const outside = new Site(t, { seal, networks: ['10.0.0.0/8'] });
  outside.servers.entries.set(stub.boot, stub.entry);
  await assert.rejects(outside.peers.ask(stub.boot, 'x', {}), /cluster.peerNetworks/);
});

test('[K7] a channel that breaks is dialled again at once; where that fails the server is lost, once', async (t) => {
  const seal = newSeal();
  const a = new Site(t, { seal });
  const stub = new ChannelStub(seal);
  await stub.listen(t);
  a.servers.entries.set(stub.boot, stub.entry);
  const release = a.peers.hold(stub.boot);
  await until(() => stub.beats > 0 || stub.channels.length === 1, 'the channel to be dialled');
  const cut = assert.rejects(a.peers.ask(stub.boot, 'x', {}, 5000), { reason: 'unreachable' });
  await until(() => stub.heard.length === 1, 'the request');
  stub.channels[0]!.terminate();
  await cut;
  await until(() => stub.channels.length === 2, 'the second dial');
  assert.deepEqual(a.lost, []);
  stub.refuses = 'at-once';
  stub.channels[1]!.terminate();
  await until(() => a.lost.length > 0, 'the loss');
  stub.refuses = 'no';
  const after = a.peers.hold(stub.boot);
  release();
  after();
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.deepEqual(a.lost, [stub.boot]);
  assert.equal(a.peers.lostTotal, 1);
});

test('[K7] a server that takes channels and drops them is lost, and not dialled for ever', async (t) => {
  const seal = newSeal();
  const a = new Site(t, { seal });
  const stub = new ChannelStub(seal);
  await stub.listen(t);
  stub.refuses = 'after-proof';
  a.servers.entries.set(stub.boot, stub.entry);
  a.peers.hold(stub.boot);
  await until(() => a.lost.length > 0, 'the loss');
  assert.equal(a.peers.channelCount, 0);
});

test('[K7] a server that falls silent is lost within the heartbeat, by who dialled and who was dialled', async (t) => {
  const seal = newSeal();
  const a = new Site(t, { seal, heartbeatMs: 400 });
  const stub = new ChannelStub(seal);
  await stub.listen(t);
  a.servers.entries.set(stub.boot, stub.entry);
  a.peers.hold(stub.boot);
  await until(() => stub.channels.length === 1, 'the channel');
  // As long as it beats it lives; four beats of this server are a heartbeat.
  stub.onBeat = () => stub.channels[0]!.send(beatText);
  await until(() => stub.beats > 10, 'beats');
  assert.deepEqual(a.lost, []);
  const asked = assert.rejects(a.peers.ask(stub.boot, 'x', {}, 60_000), { reason: 'unreachable' });
  const before = stub.beats;
  stub.onBeat = () => undefined;
  await until(() => a.lost.length > 0, 'the loss');
  assert.ok(stub.beats - before <= 4, `${stub.beats - before} beats`);
  await asked;

  const dialled = new ChannelStub(seal);
  const channel = await dialled.dial(t, a.entry);
  channel.on('message', () => channel.send(beatText));
  await once(channel, 'message');
  assert.equal(a.peers.channelCount, 1);
  channel.removeAllListeners('message');
  await until(() => a.lost.length > 1, 'the second loss');
  assert.deepEqual(a.lost, [stub.boot, dialled.boot]);
});

test('[K7] an event loop of our own that stood still makes nobody lost (fault 28)', async (t) => {
  const seal = newSeal();
  const heartbeatMs = 400;
  const a = new Site(t, { seal, heartbeatMs });
  const stub = new ChannelStub(seal);
  await stub.listen(t);
  a.servers.entries.set(stub.boot, stub.entry);
  a.peers.hold(stub.boot);
  await until(() => stub.channels.length === 1, 'the channel');
  let silent = 0;
  let stalls = 0;
  // Silent for three of four ticks; then its beat is on the way while this process stands still for three heartbeats.
  stub.onBeat = () => {
    if (++silent < 3 || stalls === 3) return void (stalls === 3 && stub.channels[0]!.send(beatText));
    stub.channels[0]!.send(beatText, () => {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3 * heartbeatMs);
      silent = 0;
      stalls++;
    });
  };
  await until(() => stalls === 3 && silent > 4, 'three stalls');
  assert.deepEqual(a.lost, []);
});

test('[K7] an incoming channel that breaks is a loss where its server cannot be reached either', async (t) => {
  const seal = newSeal();
  const a = new Site(t, { seal });
  const alive = new ChannelStub(seal);
  await alive.listen(t);
  a.servers.entries.set(alive.boot, alive.entry);
  (await alive.dial(t, a.entry)).terminate();
  await until(() => alive.channels.length === 1, 'the dial back');
  assert.deepEqual(a.lost, []);
  const dead = new ChannelStub(seal);
  const orderly = await dead.dial(t, a.entry);
  orderly.close(1000);
  await once(orderly, 'close');
  (await dead.dial(t, a.entry)).terminate();
  await until(() => a.lost.length > 0, 'the loss');
  assert.deepEqual(a.lost, [dead.boot]);
});

test('[K3] a channel that is not used is closed in good order, one that is held is kept', async (t) => {
  const { a, b } = twoSites(t, { heartbeatMs: 200, idleMs: 150 });
  b.peers.serve('x', () => 1);
  const release = a.peers.hold(b.boot);
  await a.peers.ask(b.boot, 'x', {});
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.equal(a.peers.channelCount, 1);
  release();
  release();
  await until(() => a.peers.channelCount === 0 && b.peers.channelCount === 0, 'the channel to be closed');
  assert.deepEqual([...a.lost, ...b.lost], []);
  assert.equal(await a.peers.ask(b.boot, 'x', {}), 1);
});

test('[K3] [R30] that a server cannot be dialled is told once, until it is reached; nothing secret is in it', async (t) => {
  const { a, b } = twoSites(t);
  b.peers.serve('echo', (body) => body);
  const real = b.entry;
  const linkUrl = `ws://127.0.0.1:${await freePort()}`;
  const unreachable = { code: 'CPL_PEER' };
  for (const isThere of [false, false, true, false]) {
    a.servers.entries.set(b.boot, isThere ? real : { ...real, linkUrl });
    const asked = a.peers.ask(b.boot, 'echo', {});
    if (!isThere) {
      await assert.rejects(asked, unreachable);
      continue;
    }
    await asked;
    b.peers.close();
    await until(() => a.peers.channelCount === 0, 'the end of the channel');
  }
  const told = `${linkUrl} the server at ${linkUrl.slice(5)} cannot be reached: ECONNREFUSED`;
  await until(() => a.unreachable.length === 2, 'both are told');
  assert.deepEqual(a.unreachable, [told, told]);
  a.servers.entries.clear();
  await assert.rejects(a.peers.ask(b.boot, 'echo', {}), unreachable);
  await assert.rejects(a.peers.ask(newChallenge(), 'echo', {}), unreachable);
  const leaving = newChallenge();
  a.servers.entries.set(leaving, { ...real, boot: leaving, linkUrl });
  a.servers.refresh = async () => void a.servers.entries.delete(leaving);
  await assert.rejects(a.peers.ask(leaving, 'echo', {}), unreachable);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(a.unreachable, [told, told], 'who is not in the registry, or has just left it, is no news');
});

test('[K6] [K7] a server that takes the connection and says nothing is given up, and dialled anew', async (t) => {
  const { a, b } = twoSites(t);
  const { linkUrl, connections } = await silentServer(t);
  const real = b.entry;
  a.servers.entries.set(b.boot, { ...real, linkUrl });
  await assert.rejects(a.peers.ask(b.boot, 'echo', {}, 60_000), { code: 'CPL_PEER', reason: 'unreachable' });
  assert.equal(a.peers.channelCount, 0);
  await until(() => connections.length === 1 && connections[0]!.destroyed, 'the one connection to end');
  b.peers.serve('echo', (body) => body);
  a.servers.entries.set(b.boot, real);
  assert.deepEqual(await a.peers.ask(b.boot, 'echo', {}), {});
});
