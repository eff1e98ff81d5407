import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createRelay, type Identity, LoginKey } from '../../src/index.ts';
import { connect } from '../support/client.ts';
import { deviceCookie, rawAnswer, relayPath, status, upgradeAnswer, userCookie } from '../support/raw-answer.ts';
import { openRaw, upgradeHead } from '../support/raw-half.ts';
import { startRelay, TestRelay, temporaryFolder, until } from '../support/relay.ts';

const alice: Identity = { kind: 'user', side: 'user', userid: 'user//alice', username: 'alice' };

/** An authenticate hook that answers when the test lets it. */
function gate() {
  const waiting: ((identity: Identity | null) => void)[] = [];
  const failing: ((error: Error) => void)[] = [];
  return {
    waiting,
    failing,
    hook: () =>
      new Promise<Identity | null>((resolve, reject) => {
        waiting.push(resolve);
        failing.push(reject);
      }),
  };
}

const hooked = (relay: TestRelay, id: string) =>
  upgradeHead(`/relay?id=${id}`).replace('127.0.0.1', `127.0.0.1:${relay.port}`);

test('[R19] fault 5: authentication that completes after the socket is gone upgrades nothing and breaks nothing', async (t) => {
  for (const end of ['reset', 'fin'] as const) {
    const { waiting, failing, hook } = gate();
    const relay = await startRelay(t, { hooks: { authenticate: hook } });
    for (let i = 0; i < 20; i++) {
      const half = await openRaw(t, relay.port);
      half.socket.write(hooked(relay, `late${i % 5}`));
      await until(() => waiting.length === i + 1, 'the hook is asked');
      if (end === 'reset') half.socket.resetAndDestroy();
      else half.socket.end();
      await half.closed;
    }
    await until(async () => (await relay.metric('couplet_pending_upgrades')) === 0, 'all are forgotten');
    waiting.forEach((answer, i) => {
      if (i % 3 === 0) answer(alice);
      else if (i % 3 === 1) answer(null);
      else failing[i]!(new Error('the backend broke'));
    });
    const live = await openRaw(t, relay.port);
    live.socket.write(hooked(relay, 'late0'));
    await until(() => waiting.length === 21, 'the hook is asked again');
    waiting[20]!(alice);
    await live.answered();
    assert.match(live.status, / 101 /);
    assert.equal(await relay.metric('couplet_halves{state="waiting"}'), 1, 'only the live half waits');
    assert.deepEqual(
      relay.events().filter(({ etype }) => etype === 'relay'),
      [],
    );
  }
});

test('[R26] fault 6: an authentication that hangs is answered with 503 at auth.pendingMs', async (t) => {
  const { waiting, hook } = gate();
  const relay = await startRelay(t, { hooks: { authenticate: hook }, settings: { auth: { pendingMs: 400 } } });
  const before = Date.now();
  const answers = Array.from({ length: 10 }, () => upgradeAnswer(t, relay, '/relay?id=x'));
  for (const answer of answers) assert.equal(await status(answer), 503);
  const took = Date.now() - before;
  assert.ok(took >= 390 && took < 2000, `${took} ms`);
  assert.equal(await relay.metric('couplet_refused_total{reason="auth-timeout"}'), 10);
  for (const answer of waiting) answer(alice); // too late: nothing comes of it
  assert.equal(await relay.metric('couplet_halves{state="waiting"}'), 0);
  assert.equal(await relay.metric('couplet_pending_upgrades'), 0);
  const hits = relay.events().filter(({ action, limit }) => action === 'limithit' && limit === 'auth-timeout');
  assert.equal(hits.length, 1, 'repeated hits of one address are told together');
});

test('hooks: null is 401, false is 403, an error is 503, and nothing that is not true lets a half in', async (t) => {
  const answers = new Map<string, unknown>([
    ['false', false],
    ['undefined', undefined],
    ['null', null],
    ['later-false', Promise.resolve(false)],
    ['later-undefined', Promise.resolve(undefined)],
    // biome-ignore lint/suspicious/noThenProperty: a promise of another library is what is tested
    ['thenable', { then: (resolve: (allowed: boolean) => void) => resolve(false) }],
  ]);
  const relay = await startRelay(t, {
    hooks: {
      authenticate: ({ query }) => (query.includes('nobody') ? null : query.includes('cookie') ? undefined : alice),
      authorize: ({ id }) => {
        if (id === 'throws') throw new Error('broken');
        if (id === 'rejects') return Promise.reject(new Error('broken'));
        return (answers.has(id) ? answers.get(id) : true) as boolean;
      },
    },
  });
  const at = (query: string) => status(upgradeAnswer(t, relay, `/relay?${query}`));
  assert.equal(await at('id=nobody'), 401);
  assert.equal(await at('id=cookie'), 401);
  assert.equal(await at('id=fine'), 101);
  for (const id of answers.keys()) assert.equal(await at(`id=${id}`), 403, id);
  assert.equal(await at('id=throws'), 503);
  assert.equal(await at('id=rejects'), 503);
  assert.equal(await relay.metric('couplet_halves{state="waiting"}'), 1);
});

test('[R26] fault 12: guessing ids is limited per address; the flood of events is counted together', async (t) => {
  const relay = await startRelay(t, { settings: { relay: { upgradesPerAddressPerSecond: 20 } } });
  const before = Date.now();
  const answers: number[] = [];
  while (answers.length < 200) {
    const burst = Array.from({ length: 50 }, (_, i) => status(upgradeAnswer(t, relay, `/relay?id=guess${i}`)));
    answers.push(...(await Promise.all(burst)));
  }
  const windows = Math.floor((Date.now() - before) / 1000) + 2;
  const refused = answers.filter((code) => code === 429).length;
  assert.ok(answers.every((code) => code === 401 || code === 429));
  assert.ok(200 - refused <= 20 * windows, `${200 - refused} were looked at in ${windows} s`);
  assert.ok(refused > 0);
  assert.equal(await relay.metric('couplet_refused_total{reason="rate"}'), refused);
  const hits = () => relay.events().filter(({ action, limit }) => action === 'limithit' && limit === 'rate');
  assert.ok(hits().length < windows, `${hits().length} events for ${refused} refusals`);
  assert.equal(hits()[0]?.address, '127.0.0.1');
  await relay.server.close();
  const counted = hits().reduce((sum, { count }) => sum + Number(count), 0);
  assert.equal(counted, refused, 'none goes uncounted');
});

/** A PROXY protocol v2 header in front of a request. */
const proxyMagic = Buffer.from('0d0a0d0a000d0a515549540a', 'hex');
const proxyLocal = Buffer.concat([proxyMagic, Buffer.from([0x20, 0, 0, 0])]);

function proxyV2(source: string): Buffer {
  const v6 = source.includes(':');
  const address = v6 ? Buffer.alloc(36) : Buffer.alloc(12);
  if (v6) Buffer.from('20010db8000000000000000000000042', 'hex').copy(address);
  else Buffer.from(source.split('.').map(Number)).copy(address);
  return Buffer.concat([proxyMagic, Buffer.from([0x21, v6 ? 0x21 : 0x11, 0, address.length]), address]);
}

async function addressSeen(
  t: TestContext,
  relay: TestRelay,
  headers: Record<string, string>,
  before: Buffer = Buffer.alloc(0),
): Promise<unknown> {
  const known = relay.events().length;
  await rawAnswer(t, relay.port, Buffer.concat([before, Buffer.from(upgradeHead('/relay?id=x', headers))]));
  await until(() => relay.events().length > known, 'the refusal');
  return relay.events().at(-1)?.address;
}

test('[R12] X-Forwarded-For and PROXY v2 are believed only from trusted proxies, rightmost untrusted first', async (t) => {
  const trusting = await startRelay(t, { settings: { server: { trustedProxies: ['127.0.0.0/8', '10.0.0.0/8'] } } });
  const seen = (forwarded: string, before?: Buffer) =>
    addressSeen(t, trusting, { 'X-Forwarded-For': forwarded }, before);
  assert.equal(await seen('203.0.113.7'), '203.0.113.7');
  assert.equal(await seen('1.1.1.1, 203.0.113.7'), '203.0.113.7', 'what the client made up lies to the left');
  assert.equal(await seen('203.0.113.7, 10.1.2.3'), '203.0.113.7');
  assert.equal(await seen('::ffff:203.0.113.7'), '203.0.113.7');
  assert.equal(await seen('203.0.113.7, nonsense'), '127.0.0.1');
  const twice = { 'X-Forwarded-For': '1.1.1.1', 'x-forwarded-for': '203.0.113.9' };
  assert.equal(await addressSeen(t, trusting, twice), '203.0.113.9', 'a second header of that name');
  assert.equal(await addressSeen(t, trusting, {}, proxyV2('198.51.100.4')), '198.51.100.4');
  assert.equal(await addressSeen(t, trusting, {}, proxyV2('2001:db8::42')), '2001:db8::42');
  assert.equal(await seen('203.0.113.7', proxyV2('198.51.100.4')), '198.51.100.4', 'its header is the client itself');
  assert.equal(await seen('203.0.113.7', proxyV2('10.0.0.9')), '203.0.113.7', 'two proxies');
  assert.equal(await addressSeen(t, trusting, {}), '127.0.0.1');
  assert.equal(await addressSeen(t, trusting, {}, proxyLocal), '127.0.0.1', 'a health check of the proxy itself');

  const wary = await startRelay(t);
  assert.equal(await addressSeen(t, wary, { 'X-Forwarded-For': '203.0.113.7' }), '127.0.0.1');
  assert.equal(await addressSeen(t, wary, {}, proxyV2('198.51.100.4')), '127.0.0.1');
});

test('[R12] limits and the cookie network check go by the address behind the proxy', async (t) => {
  const relay = await startRelay(t, {
    settings: { server: { trustedProxies: ['127.0.0.1'] }, relay: { upgradesPerAddressPerSecond: 2 } },
  });
  const from = (address: string, ip: string, id: string) =>
    status(upgradeAnswer(t, relay, relayPath({ auth: userCookie(relay, { ip }), id }), { 'X-Forwarded-For': address }));
  assert.equal(await from('203.0.113.7', '203.0.113.200', 'a'), 101, 'the same /24');
  assert.equal(await from('198.51.100.7', '203.0.113.7', 'b'), 401);
  const many = await Promise.all(Array.from({ length: 12 }, (_, i) => from('192.0.2.1', '192.0.2.1', `m${i}`)));
  assert.ok(many.includes(429));
  assert.equal(await from('192.0.2.2', '192.0.2.1', 'other'), 101, 'another address is not concerned');
});

test('[R8] fault 14: cookies and keys stand in no log, event, metric, answer or file', async (t) => {
  const folder = temporaryFolder(t);
  const logFile = join(folder, 'log.jsonl');
  const dataDir = join(folder, 'data');
  const loginKey = LoginKey.generate();
  const server = await createRelay({
    settings: {
      server: { listen: '127.0.0.1:0', metricsListen: '127.0.0.1:0', dataDir, drainMs: 0 },
      auth: { loginKey: loginKey.toHex() },
      relay: { upgradesPerAddressPerSecond: 0, holdMs: 300 },
      log: { level: 'debug' },
    },
    logTo: logFile,
    authenticate: ({ query }) => {
      if (query.includes('id=boom')) throw new Error(`cannot ask the backend for ?${query}`);
      if (query.includes('id=bang'))
        return Promise.reject(Object.assign(new Error('no answer'), { query, url: `/relay?${query}` }));
      return undefined;
    },
  });
  t.after(() => server.close());
  const relay = new TestRelay(server, loginKey, folder, false);
  const secrets = new Set([loginKey.toHex()]);
  const note = (cookie: string) => {
    secrets.add(cookie);
    return cookie;
  };
  const answers: string[] = [];
  const ask = async (parameters: Record<string, string | number>, headers: Record<string, string> = {}) => {
    answers.push(await upgradeAnswer(t, relay, relayPath(parameters), headers));
  };
  for (const id of ['boom', 'bang', 'waits', 'hold']) await ask({ auth: note(userCookie(relay)), id });
  await ask({ auth: note(userCookie(relay, { once: 1 })), id: 'once' });
  await ask({ auth: [...secrets].at(-1)!, id: 'once' });
  await ask({ auth: note(userCookie(relay, {}, 'mallory')), id: 'waits' });
  await ask({ rauth: note(deviceCookie(relay, { id: 'other' })), id: 'x' });
  await ask({ auth: `${note(userCookie(relay)).slice(0, -8)}AAAAAAA=`, id: 'x' });
  await ask(
    { id: 'x' },
    { Cookie: `sid=${note('session-secret-0123456789')}`, Authorization: note('Bearer 0123456789abcdef') },
  );
  const user = await connect(
    t,
    `ws://127.0.0.1:${relay.port}${relayPath({ auth: note(userCookie(relay)), id: 'pair' })}`,
  );
  const device = await connect(
    t,
    `ws://127.0.0.1:${relay.port}${relayPath({ rauth: note(deviceCookie(relay)), id: 'pair' })}`,
  );
  await user.nextText();
  user.send('payload');
  await device.nextText();
  user.ws.close();
  await device.closed;
  await until(() => relay.events().some(({ action }) => action === 'holdexpired'), 'a hold is over');
  const metrics = await (await fetch(`http://${server.metricsAddress}/metrics`)).text();
  await server.close();

  const texts = new Map<string, string>([
    ['metrics', metrics],
    ['answers', answers.join('\n')],
    ['log', readFileSync(logFile, 'latin1')],
  ]);
  for (const name of readdirSync(dataDir, { recursive: true, encoding: 'utf8' })) {
    const file = join(dataDir, name);
    try {
      texts.set(name, readFileSync(file, 'latin1'));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'EISDIR');
    }
  }
  assert.ok(texts.get('log')!.includes('could not be decided'), 'the log was captured');
  assert.ok(texts.size >= 5 && secrets.size >= 12, `${texts.size} places, ${secrets.size} secrets`);
  for (const [place, text] of texts) {
    for (const secret of secrets) {
      // A third of a cookie is as bad as all of it, and so is its escaped form.
      const spellings = [secret, encodeURIComponent(secret)].map((spelling) =>
        spelling.slice(10, 10 + Math.min(40, spelling.length - 10)),
      );
      assert.ok(!spellings.some((spelling) => text.includes(spelling)), `a secret stands in ${place}`);
    }
  }
});
