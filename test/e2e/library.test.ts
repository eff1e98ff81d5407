import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { createRelay, type EventRecord, type RelayHooks } from '../../src/index.ts';
import { type Client, connect, connectPair, Refused } from '../support/client.ts';
import { startRelay, type TestRelay, temporaryFolder, until } from '../support/relay.ts';
import { root } from '../support/serve.ts';

type Authenticate = NonNullable<RelayHooks['authenticate']>;
type Request = Parameters<Authenticate>[0];
type Identity = Exclude<Awaited<ReturnType<Authenticate>>, null | undefined>;

const alice: Identity = { kind: 'user', side: 'user', userid: 'user//alice', username: 'alice' };
const agent: Identity = { kind: 'device', side: 'device', userid: 'user//alice', username: '' };

async function status(opening: Promise<Client>): Promise<number> {
  return opening.then(
    () => 101,
    (error: unknown) => {
      if (error instanceof Refused) return error.status;
      throw error;
    },
  );
}

const bare = (relay: TestRelay, query: string, path = '/relay') => `ws://127.0.0.1:${relay.port}${path}?${query}`;
const settingsIn = (folder: string) => ({
  server: { listen: '127.0.0.1:0', metricsListen: '127.0.0.1:0', dataDir: join(folder, 'data'), drainMs: 0 },
  log: { level: 'error' },
});
const reasons = (relay: TestRelay) =>
  relay
    .events()
    .filter(({ code }) => code === 'CPL-1101W')
    .map(({ reason }) => reason);

describe('the hook authenticate', () => {
  /** Who it is, by the parameter `as`; the hook's ways of answering, by `how`. */
  function identify(request: Request): ReturnType<Authenticate> {
    const query = new URLSearchParams(request.query);
    const known = { alice, agent }[query.get('as') ?? ''];
    switch (query.get('how')) {
      case 'async':
        return new Promise((resolve) => setImmediate(() => resolve(known)));
      case 'thenable':
        // A promise of another library or realm is none of ours by `instanceof`.
        // biome-ignore lint/suspicious/noThenProperty: that is what is tested
        return { then: (resolve: (value: unknown) => void) => setImmediate(() => resolve(known)) } as never;
      case 'null':
        return null;
      case 'async null':
        return Promise.resolve(null);
      case 'throw':
        throw new Error('the hook broke');
      case 'reject':
        return Promise.reject(new Error('the hook broke'));
      case 'hang':
        return new Promise(() => {});
      case 'nonsense':
        return { userid: 'user//alice' } as Identity;
      default:
        return known;
    }
  }

  test('identities of both sides, at once or later, pair and are on record', async (t) => {
    const relay = await startRelay(t, { hooks: { authenticate: identify }, logTo: '/dev/null' });
    for (const how of ['sync', 'async', 'thenable']) {
      const user = await connect(t, bare(relay, `id=${how}&as=alice&how=${how}&p=2`));
      const device = await connect(t, bare(relay, `id=${how}&as=agent&how=${how}`));
      assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c'], how);
      device.send('from the device');
      assert.equal(await user.nextText(), 'from the device');
      const start = relay
        .events()
        .find(({ code, msgArgs }) => code === 'CPL-1001I' && (msgArgs as string[])[0] === how);
      assert.deepEqual([start?.userid, start?.username, start?.msgid], ['user//alice', 'alice', 15]);
      user.ws.close();
      await device.closed;
    }
    assert.equal(await relay.metric('couplet_relayed_bytes_total{direction="device_to_user"}'), 3 * 15);
  });

  test('[R17] its device sides never pair, and other users are told apart', async (t) => {
    const bob: Identity = { ...alice, userid: 'user//bob', username: 'bob' };
    const hooks: RelayHooks = {
      authenticate: ({ query }) => (query.includes('as=bob') ? bob : query.includes('as=agent') ? agent : undefined),
    };
    const relay = await startRelay(t, { hooks });
    const first = await connect(t, bare(relay, 'id=x&as=agent'));
    assert.equal((await (await connect(t, bare(relay, 'id=x&as=agent'))).closed).code, 4403);
    assert.equal((await (await connect(t, bare(relay, 'id=x&as=bob'))).closed).code, 4403);
    const user = await connect(t, relay.url('user', 'x'));
    assert.equal(await user.nextText(), 'c', 'undefined leaves it to the cookies; the waiting half kept its place');
    assert.equal(await first.nextText(), 'c');
  });

  test('[R9] null is 401, a hook that throws, rejects or talks nonsense is 503', async (t) => {
    const relay = await startRelay(t, { hooks: { authenticate: identify }, logTo: '/dev/null' });
    for (const [how, wanted] of [
      ['null', 401],
      ['async null', 401],
      ['throw', 503],
      ['reject', 503],
      ['nonsense', 503],
    ] as const) {
      assert.equal(await status(connect(t, bare(relay, `id=x&as=alice&how=${how}`))), wanted, how);
      assert.equal(await status(connect(t, relay.url('user', 'x', { how }))), wanted, `${how}, with a good cookie`);
    }
    assert.deepEqual(reasons(relay), Array(4).fill('hook-refused'));
    assert.equal(await status(connect(t, bare(relay, 'id=x'))), 401, 'undefined, and no cookie');
    await connectPair(t, relay, 'alive');
  });

  test('[R1] [R2] the rules about domains and ids hold for its identities, too', async (t) => {
    const settings = { domains: { corp: {} } };
    const relay = await startRelay(t, { settings, hooks: { authenticate: () => alice } });
    assert.equal(await status(connect(t, bare(relay, 'id=x', '/corp/relay'))), 401);
    assert.equal(await status(connect(t, bare(relay, 'id=x', '/unknown/relay'))), 404);
    assert.equal(await status(connect(t, bare(relay, ''))), 400);
    assert.equal(await status(connect(t, `ws://127.0.0.1:${relay.port}/relay`)), 400);
    assert.equal(await status(connect(t, bare(relay, `id=${'x'.repeat(257)}`))), 400);
  });

  test('it is told what the request said', async (t) => {
    let seen: Request | undefined;
    const authenticate = (request: Request) => {
      seen = request;
      return alice;
    };
    const settings = { server: { allowedOrigins: ['https://example.org'] } };
    const relay = await startRelay(t, { hooks: { authenticate }, settings });
    const headers = { cookie: 'session=1', origin: 'https://example.org' };
    assert.equal(await status(connect(t, bare(relay, 'id=x&k=%20v'), { headers })), 101);
    const host = `127.0.0.1:${relay.port}`;
    const wanted = { domain: '', query: 'id=x&k=%20v', address: '127.0.0.1', host, scheme: 'http', ...headers };
    assert.deepEqual({ ...seen }, wanted);
  });

  test('[R26] fault 6: one that hangs is 503 at auth.pendingMs; fault 5: a client that left meanwhile', async (t) => {
    let release: (identity: Identity) => void = () => {};
    const authenticate: Authenticate = ({ query }) =>
      new Promise((resolve) => {
        if (query.includes('slow')) release = resolve;
      });
    const relay = await startRelay(t, { hooks: { authenticate }, settings: { auth: { pendingMs: 500 } } });
    assert.equal(await status(connect(t, bare(relay, 'id=x'))), 503);
    assert.equal(await relay.metric('couplet_refused_total{reason="auth-timeout"}'), 1);
    const leaving = connect(t, bare(relay, 'id=slow')).catch((error: Error) => error);
    await until(async () => (await relay.metric('couplet_pending_upgrades')) === 1, 'it is pending');
    const late = release;
    await assert.rejects(connect(t, bare(relay, 'id=other'), { handshakeTimeout: 50 }), /timed out/);
    await leaving;
    late(alice);
    await until(async () => (await relay.metric('couplet_pending_upgrades')) === 0, 'nothing is pending');
    assert.equal(await relay.metric('couplet_halves{state="waiting"}'), 0);
  });
});

describe('the hook authorize', () => {
  test('only true lets a half in: false is 403, a failure 503', async (t) => {
    const answers: Record<string, () => unknown> = {
      yes: () => true,
      'later yes': async () => true,
      no: () => false,
      'later no': async () => false,
      nothing: () => undefined,
      'later nothing': async () => undefined,
      truthy: () => 'no',
      // biome-ignore lint/suspicious/noThenProperty: a promise of another library or realm
      'thenable no': () => ({ then: (resolve: (value: boolean) => void) => resolve(false) }),
      throw: () => {
        throw new Error('the hook broke');
      },
      reject: () => Promise.reject(new Error('the hook broke')),
    };
    const authorize = (half: { id: string }) => answers[half.id]!() as boolean;
    const relay = await startRelay(t, { hooks: { authorize }, logTo: '/dev/null' });
    const got: Record<string, number> = {};
    for (const id of Object.keys(answers)) got[id] = await status(connect(t, relay.url('user', id)));
    assert.deepEqual(got, {
      yes: 101,
      'later yes': 101,
      no: 403,
      'later no': 403,
      nothing: 403,
      'later nothing': 403,
      truthy: 403,
      'thenable no': 403,
      throw: 503,
      reject: 503,
    });
    assert.deepEqual(reasons(relay), Array(6).fill('hook-denied'));
  });

  test('[R8] it is asked of authenticated halves only, and knows who they are', async (t) => {
    const asked: unknown[] = [];
    const authorize: NonNullable<RelayHooks['authorize']> = ({ id, identity, protocol }) => {
      asked.push([id, identity.side, identity.userid, protocol]);
      return true;
    };
    const relay = await startRelay(t, { hooks: { authorize } });
    assert.equal(await status(connect(t, bare(relay, 'id=x&auth=forged'))), 401);
    await connectPair(t, relay, 'x', { user: { p: 5 } });
    assert.deepEqual(asked, [
      ['x', 'user', 'user//alice', 5],
      ['x', 'device', 'user//alice', 0],
    ]);
  });
});

describe('the hook onEvent', () => {
  test('[R30] gets every event, in order', async (t) => {
    const events: EventRecord[] = [];
    const relay = await startRelay(t, { hooks: { onEvent: (event) => void events.push(event) } });
    const { user, device } = await connectPair(t, relay, 'seen');
    user.ws.close();
    await device.closed;
    await until(() => relay.events().length === 3, 'the end event');
    assert.deepEqual(
      events.map(({ code }) => code),
      relay.events().map(({ code }) => code),
    );
  });

  for (const [what, onEvent] of [
    ['throws', () => assert.fail('the sink broke')],
    ['rejects', async () => assert.fail('the sink broke')],
  ] as const) {
    test(`[R32] fault 51: a sink that ${what} is counted, and sessions go on`, async (t) => {
      const relay = await startRelay(t, { hooks: { onEvent }, logTo: '/dev/null' });
      const { user, device } = await connectPair(t, relay, 'x');
      user.send('goes on');
      assert.equal(await device.nextText(), 'goes on');
      assert.equal(await relay.metric('couplet_event_sink_failures_total{sink="hook"}'), 2);
      assert.equal(relay.events().length, 2, 'the others have it');
    });
  }

  test('[R32] fault 51: a sink that hangs gets no more than a bounded number, and sessions go on', async (t) => {
    let asked = 0;
    const onEvent = () => {
      asked++;
      return new Promise<void>(() => {});
    };
    const relay = await startRelay(t, { hooks: { onEvent }, logTo: '/dev/null' });
    const { user, device } = await connectPair(t, relay, 'stays');
    for (let batch = 0; batch < 30; batch++) {
      await Promise.all(Array.from({ length: 40 }, () => status(connect(t, bare(relay, 'id=x')))));
    }
    user.send('goes on');
    assert.equal(await device.nextText(), 'goes on');
    assert.equal(asked, 1000);
    assert.equal(await relay.metric('couplet_event_sink_failures_total{sink="hook"}'), relay.events().length - 1000);
    const closing = performance.now();
    await Promise.all([relay.server.close(), relay.server.close()]);
    assert.ok(performance.now() - closing < 8000, 'nobody waits for it at the end');
  });
});

describe('createRelay', () => {
  test('[R40] refuses settings that are not allowed, before anything is made', async (t) => {
    const folder = temporaryFolder(t);
    const cases: [object, RegExp][] = [
      [{ relay: { holdMs: 'long' } }, /relay\.holdMs.*"long".*whole number/],
      [{ relay: { holdms: 1 } }, /unknown key "relay\.holdms".*relay\.holdMs/],
      [{ tls: { certFile: '/absent' } }, /tls\.keyFile/],
      [{ relay: 7 }, /relay.*map of settings/],
    ];
    for (const [settings, message] of cases) {
      const opening = createRelay({ settings: { ...settingsIn(folder), ...settings } });
      await assert.rejects(opening, (error: Error & { code?: string }) => {
        assert.equal(error.code, 'CPL_CONFIG');
        assert.match(error.message, message);
        return true;
      });
    }
    assert.deepEqual(readdirSync(folder), []);
  });

  test('the environment of the program is not read', async (t) => {
    process.env.COUPLET_RELAY_HOLD_MS = 'nonsense';
    t.after(() => delete process.env.COUPLET_RELAY_HOLD_MS);
    await startRelay(t);
  });

  test('rejects where the port is taken, and lets go of everything else', async (t) => {
    const first = await startRelay(t);
    const descriptors = () => readdirSync('/proc/self/fd').length;
    const attempt = async () => {
      const settings = settingsIn(temporaryFolder(t));
      const taken = { ...settings, server: { ...settings.server, listen: first.server.address } };
      await assert.rejects(createRelay({ settings: taken, logTo: join(settings.server.dataDir, '..', 'log') }), {
        code: 'CPL_LISTEN',
      });
    };
    await attempt();
    const before = descriptors();
    for (let i = 0; i < 5; i++) await attempt();
    await until(() => descriptors() <= before, `${before} descriptors again, not ${descriptors()}`);
    await connectPair(t, first, 'unharmed');
  });

  test('starting and closing over and over leaves no descriptor', async (t) => {
    const folder = temporaryFolder(t);
    const settings = settingsIn(folder);
    const cycle = async () => (await createRelay({ settings, logTo: join(folder, 'log') })).close();
    const descriptors = () => readdirSync('/proc/self/fd').length;
    await cycle();
    const before = descriptors();
    for (let i = 0; i < 8; i++) await cycle();
    await until(() => descriptors() <= before, `${before} descriptors again, not ${descriptors()}`);
  });

  test('[R39] close() ends sessions with 1001, frees the port, and a program can then end by itself', async (t) => {
    const program = `
      import { createRelay } from ${JSON.stringify(join(root, 'dist', 'index.js'))};
      import { WebSocket } from 'ws';
      const identity = (side) => ({ kind: side, side, userid: 'user//a', username: 'a' });
      const relay = await createRelay({
        settings: ${JSON.stringify(settingsIn(temporaryFolder(t)))},
        authenticate: ({ query }) => identity(query.includes('user') ? 'user' : 'device'),
      });
      const halves = ['user', 'device'].map((side) => new WebSocket('ws://' + relay.address + '/relay?id=x&side=' + side));
      const codes = halves.map((half) => new Promise((resolve) => half.on('close', resolve)));
      await Promise.all(halves.map((half) => new Promise((resolve) => half.on('message', resolve))));
      const closed = relay.close();
      console.log(await Promise.all(codes), relay.sessions().length);
      await closed;
      const again = await createRelay({ settings: ${JSON.stringify(settingsIn(temporaryFolder(t)))} });
      await again.close();`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], { cwd: root });
    const late = setTimeout(() => child.kill('SIGKILL'), 15_000);
    const [out, errors, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
    clearTimeout(late);
    assert.deepEqual([code, out, errors], [0, '[ 1001, 1001 ] 0\n', '']);
  });

  test('[R39] close() waits for sessions up to server.drainMs, a second one does not', async (t) => {
    const relay = await startRelay(t, { settings: { server: { drainMs: 600_000 } } });
    const { user, device } = await connectPair(t, relay, 'x');
    let over = false;
    const closing = relay.server.close().then(() => {
      over = true;
    });
    assert.equal(await status(connect(t, relay.url('user', 'new'))), 503);
    user.send('still there');
    assert.equal(await device.nextText(), 'still there');
    assert.equal(over, false);
    await Promise.all([relay.server.close(), closing]);
    assert.deepEqual([(await user.closed).code, (await device.closed).code], [1001, 1001]);
    await assert.rejects(connect(t, relay.url('user', 'x')), /ECONNREFUSED/);
  });

  test('two relays in one process share nothing', async (t) => {
    const [one, two] = [await startRelay(t), await startRelay(t)];
    const a = await connectPair(t, one, 'same-id');
    const b = await connectPair(t, two, 'same-id');
    a.user.send('one');
    b.user.send('twice');
    assert.equal(await a.device.nextText(), 'one');
    assert.equal(await b.device.nextText(), 'twice');
    assert.equal(await status(connect(t, one.url('user', 'x').replace(`:${one.port}`, `:${two.port}`))), 401);
    const started = 'couplet_sessions_total{protocol="0"}';
    assert.deepEqual([await one.metric(started), await two.metric(started)], [1, 1]);
    assert.deepEqual([one.server.sessions().length, two.server.sessions().length], [1, 1]);
    assert.equal(one.server.revoke('', 'same-id'), true);
    assert.equal((await a.user.closed).code, 4410);
    await Promise.all([one.server.close(), one.server.close()]);
    b.device.send('unharmed');
    assert.equal(await b.user.nextText(), 'unharmed');
    assert.equal(one.server.sessions().length, 0);
  });

  test('[R27] fault 11: sessions() lists what runs, revoke() ends it with 4410', async (t) => {
    const relay = await startRelay(t);
    assert.deepEqual(relay.sessions(), []);
    const kept = await connectPair(t, relay, 'kept');
    const { user, device } = await connectPair(t, relay, 'ended', { user: { p: 2, nodeid: 'node//n' } });
    const listed = relay.server
      .sessions()
      .map(({ id, domain, userid, protocol, nodeid }) => [id, domain, userid, protocol, nodeid]);
    assert.deepEqual(listed, [
      ['kept', '', 'user//alice', 0, ''],
      ['ended', '', 'user//alice', 2, 'node//n'],
    ]);
    assert.equal(relay.revoke('corp', 'ended'), false);
    assert.equal(relay.revoke('', 'absent'), false);
    const from = performance.now();
    assert.equal(relay.revoke('', 'ended'), true);
    assert.deepEqual([(await user.closed).code, (await device.closed).code], [4410, 4410]);
    assert.ok(performance.now() - from < 1000);
    await until(() => relay.sessions().length === 1, 'it is off the list');
    assert.equal(relay.revoke('', 'ended'), false);
    assert.equal(relay.events().find(({ code }) => code === 'CPL-1002I')?.outcome, 'revoked');
    kept.user.send('kept');
    assert.equal(await kept.device.nextText(), 'kept');
  });
});
