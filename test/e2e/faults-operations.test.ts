import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { type Client, connect, connectPair, Refused } from '../support/client.ts';
import { makeCertificate, temporaryFolder, until } from '../support/relay.ts';
import { readEvents, type ServeChild, startServe } from '../support/serve.ts';

async function refusal(opening: Promise<Client>): Promise<number> {
  return opening.then(
    () => 101,
    (error: unknown) => {
      if (error instanceof Refused) return error.status;
      throw error;
    },
  );
}

async function echo(from: Client, to: Client, word: string): Promise<void> {
  from.send(word);
  assert.equal(await to.nextText(), word);
}

async function ready(serve: ServeChild): Promise<number> {
  return (await fetch(`${serve.tls ? 'https' : 'http'}://${serve.address}/readyz`)).status;
}

const count = (serve: ServeChild, code: string) => serve.events().filter((event) => event.code === code).length;
const outcomes = (serve: ServeChild) =>
  serve
    .events()
    .filter(({ code }) => code === 'CPL-1002I')
    .map(({ outcome }) => outcome);

/** The log of events is whole and was closed in order. */
async function assertClosedLog(serve: ServeChild): Promise<void> {
  const { code, stdout, stderr } = await serve.verify();
  assert.equal(code, 0, stdout + stderr);
  assert.doesNotMatch(stdout, /no closing line/);
  assert.equal(serve.events().at(-1)?.action, 'stopped');
}

describe('stopping', () => {
  test('[R39] fault 45: SIGTERM once: no new halves, sessions go on, the rest gets 1001, exit 0', async (t) => {
    const serve = await startServe(t, { settings: { server: { drainMs: 1500 } } });
    const ends = await connectPair(t, serve, 'ends');
    const stays = await connectPair(t, serve, 'stays');
    const waiting = await connect(t, serve.url('user', 'waits'));
    serve.signal('SIGTERM');
    assert.equal((await waiting.closed).code, 1001, 'nobody will come for it');
    assert.equal(await ready(serve), 503);
    assert.equal(await refusal(connect(t, serve.url('user', 'new'))), 503);
    assert.equal(await refusal(connect(t, serve.url('device', 'waits'))), 503);
    await echo(ends.user, ends.device, 'still');
    await echo(stays.device, stays.user, 'there');
    ends.user.ws.close(1000);
    assert.equal((await ends.device.closed).code, 1000);
    await echo(stays.user, stays.device, 'and there');
    assert.equal((await stays.user.closed).code, 1001);
    assert.equal((await stays.device.closed).code, 1001);
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    assert.deepEqual(outcomes(serve), ['normal', 'shutdown']);
    await assertClosedLog(serve);
  });

  test('[R39] fault 45: it ends as soon as the last session has', async (t) => {
    const serve = await startServe(t, { settings: { server: { drainMs: 600_000 } } });
    const { user, device } = await connectPair(t, serve, 'last');
    serve.signal('SIGTERM');
    await until(async () => (await ready(serve)) === 503, 'it drains');
    user.ws.close(1000);
    assert.equal((await device.closed).code, 1000);
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    await assertClosedLog(serve);
  });

  test('[R39] fault 45: SIGTERM twice skips the wait, and nothing is lost', async (t) => {
    const serve = await startServe(t, { settings: { server: { drainMs: 600_000 } } });
    const pairs = await Promise.all(Array.from({ length: 20 }, (_, i) => connectPair(t, serve, `p${i}`)));
    serve.signal('SIGTERM');
    await until(async () => (await ready(serve)) === 503, 'it drains');
    await echo(pairs[0]!.user, pairs[0]!.device, 'running');
    serve.signal('SIGTERM');
    for (const { user, device } of pairs) {
      assert.equal((await user.closed).code, 1001);
      assert.equal((await device.closed).code, 1001);
    }
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    assert.deepEqual(outcomes(serve), Array(20).fill('shutdown'));
    await assertClosedLog(serve);
  });

  test('[R39] fault 45: after the drain the closes are spread, not one crowd that comes back at once', async (t) => {
    const serve = await startServe(t, { settings: { server: { drainMs: 0 } } });
    const pairs = await Promise.all(Array.from({ length: 30 }, (_, i) => connectPair(t, serve, `s${i}`)));
    const closedAt = pairs.map(({ user }) => user.closed.then(() => performance.now()));
    serve.signal('SIGTERM');
    const times = (await Promise.all(closedAt)).sort((a, b) => a - b);
    const spreadMs = times.at(-1)! - times[0]!;
    assert.ok(spreadMs > 1000 && spreadMs < 10_000, `${spreadMs} ms`);
    const half = times.filter((time) => time < times[0]! + spreadMs / 2).length;
    assert.ok(half > 5 && half < 25, `${half} of 30 in the first half`);
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
  });

  for (const [what, code] of [
    ['an exception', "throw new Error('boom')"],
    ['a rejection', "void Promise.reject(new Error('boom'))"],
    ['a thrown null', 'throw null'],
  ] as const) {
    test(`fault 38: ${what} that nobody caught: sessions closed, events flushed, exit 1`, async (t) => {
      const preload = `process.on('SIGUSR2', () => setTimeout(() => { ${code}; }));`;
      const serve = await startServe(t, { preload, settings: { server: { drainMs: 600_000 } } });
      const { user, device } = await connectPair(t, serve, 'unlucky');
      serve.signal('SIGUSR2');
      assert.equal((await user.closed).code, 1001);
      assert.equal((await device.closed).code, 1001);
      assert.deepEqual(await serve.exited, { code: 1, signal: '' });
      assert.deepEqual(outcomes(serve), ['shutdown']);
      await assertClosedLog(serve);
      const told = serve.lines.find(({ level, msg }) => level === 'error' && /nobody caught/.test(msg));
      assert.ok(told !== undefined);
      if (code.includes('boom')) assert.match(JSON.stringify(told), /boom/);
    });
  }

  test('fault 38: an exception in the middle of a drain ends it, with 1', async (t) => {
    const preload = `process.on('SIGUSR2', () => setTimeout(() => { throw new Error('boom'); }));`;
    const serve = await startServe(t, { preload, settings: { server: { drainMs: 600_000 } } });
    const { user } = await connectPair(t, serve, 'unlucky');
    serve.signal('SIGTERM');
    await until(async () => (await ready(serve)) === 503, 'it drains');
    serve.signal('SIGUSR2');
    assert.equal((await user.closed).code, 1001);
    assert.deepEqual(await serve.exited, { code: 1, signal: '' });
    await assertClosedLog(serve);
  });
});

describe('reloading', () => {
  const started = (serve: ServeChild, id: string) =>
    serve.lines.some(({ msg }) => msg.startsWith('Started') && msg.includes(`"${id}"`));

  test('[R40] fault 46: a bad reload keeps the old configuration, a good one counts at once', async (t) => {
    const serve = await startServe(t, { settings: { relay: { maxWaiting: 1, upgradesPerAddressPerSecond: 0 } } });
    const { user, device } = await connectPair(t, serve, 'through');
    const first = await connect(t, serve.url('user', 'w1'));
    const assertOldHolds = async (what: string) => {
      assert.equal(await refusal(connect(t, serve.url('user', 'w2'))), 503, what);
      await echo(user, device, what);
    };
    await assertOldHolds('at the start');
    const bad: [string, Parameters<ServeChild['configure']>[0] | undefined, RegExp][] = [
      ['torn', '{"relay": {"maxWaiting": 3', /not YAML or JSON/],
      ['unknown key', { relay: { maxWaiting: 3, maxWaitings: 3 } }, /relay\.maxWaitings/],
      ['value', { relay: { maxWaiting: 3, holdMs: 'long' } }, /relay\.holdMs.*"long"/],
      ['values that contradict', { relay: { maxWaiting: 3, lowWaterBytes: 9_999_999 } }, /lowWaterBytes/],
      ['no file', undefined, /ENOENT/],
    ];
    for (const [index, [what, settings, says]] of bad.entries()) {
      if (settings === undefined) rmSync(serve.configFile);
      else serve.configure(settings);
      serve.signal('SIGHUP');
      await until(() => count(serve, 'CPL-2004E') === index + 1, `the event: ${what}`);
      assert.match(String(serve.events().findLast(({ code }) => code === 'CPL-2004E')?.error), says);
      await assertOldHolds(what);
    }
    assert.equal(count(serve, 'CPL-2003I'), 0);

    serve.configure({ relay: { maxWaiting: 2 }, log: { level: 'error' } });
    serve.signal('SIGHUP');
    await until(() => count(serve, 'CPL-2003I') === 1, 'the event of the good reload');
    const { changed } = serve.events().findLast(({ code }) => code === 'CPL-2003I')!;
    assert.deepEqual([...(changed as string[])].sort(), ['log.level', 'relay.maxWaiting']);
    assert.equal(await refusal(connect(t, serve.url('user', 'w2'))), 101);
    assert.equal(await refusal(connect(t, serve.url('user', 'w3'))), 503);
    assert.equal(first.isClosed, false);
    await echo(device, user, 'the session lived through it all');

    first.ws.close();
    await until(async () => (await serve.metric('couplet_halves{state="waiting"}')) === 1, 'its place is free');
    await connectPair(t, serve, 'unseen');
    serve.configure({ relay: { maxWaiting: 2 }, log: { level: 'info' } });
    serve.signal('SIGHUP');
    await until(() => count(serve, 'CPL-2003I') === 2, 'the next reload');
    await connectPair(t, serve, 'seen');
    await until(() => started(serve, 'seen'), 'the line of the level that was turned on again');
    assert.equal(started(serve, 'unseen'), false, 'log.level error leaves no info line');
    assert.equal(started(serve, 'through'), true);
  });

  test('[R40] what needs a restart is told and does not change; flags go on winning', async (t) => {
    const serve = await startServe(t, { args: ['--relay-max-waiting', '1'] });
    const { address } = serve;
    serve.configure({ server: { listen: '127.0.0.1:1', drainMs: 400 }, relay: { maxWaiting: 5 } });
    serve.signal('SIGHUP');
    await serve.line(({ level, msg }) => level === 'warn' && /restart.*server\.listen/.test(msg));
    assert.equal((await fetch(`http://${address}/readyz`)).status, 200);
    await connect(t, serve.url('user', 'w1'));
    assert.equal(await refusal(connect(t, serve.url('user', 'w2'))), 503);
  });

  function fingerprint(t: TestContext, port: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false }, () => {
        resolve(socket.getPeerCertificate().fingerprint256);
        socket.destroy();
      });
      t.after(() => socket.destroy());
      socket.on('error', reject);
    });
  }

  test('[R40] fault 47: certificates are replaced, several times, and no session is dropped', async (t) => {
    const folder = temporaryFolder(t);
    const { certFile, keyFile } = makeCertificate(folder);
    const serve = await startServe(t, { settings: { tls: { certFile, keyFile } } });
    const printOf = (file: string) => new X509Certificate(readFileSync(file)).fingerprint256;
    const seen = new Set([await fingerprint(t, serve.port)]);
    const pairs = [await connectPair(t, serve, 'r0')];
    const waiting = await connect(t, serve.url('device', 'crosses'));
    for (let round = 1; round <= 4; round++) {
      const next = makeCertificate(folder, `next${round}`);
      renameSync(next.certFile, certFile);
      renameSync(next.keyFile, keyFile);
      serve.signal('SIGHUP');
      await until(() => count(serve, 'CPL-2005I') === round, 'the event');
      const shown = await fingerprint(t, serve.port);
      assert.equal(shown, printOf(certFile), 'new connections get the new certificate');
      assert.equal(serve.events().findLast(({ code }) => code === 'CPL-2005I')?.fingerprint, shown);
      seen.add(shown);
      pairs.push(await connectPair(t, serve, `r${round}`));
      for (const [index, { user, device }] of pairs.entries()) {
        const bytes = Buffer.alloc(300_000, index);
        user.send(bytes);
        assert.ok((await device.next()).data.equals(bytes));
        await echo(device, user, `after ${round}`);
      }
    }
    assert.equal(seen.size, 5);
    const late = await connect(t, serve.url('user', 'crosses'));
    assert.equal(await late.nextText(), 'c');
    await echo(waiting, late, 'a half that waited under the first certificate');

    const good = printOf(certFile);
    const bytes = readFileSync(certFile);
    writeFileSync(certFile, bytes.subarray(0, bytes.length >> 1));
    serve.signal('SIGHUP');
    await until(() => count(serve, 'CPL-2004E') === 1, 'a torn certificate is refused');
    const foreign = makeCertificate(folder, 'foreign');
    renameSync(foreign.certFile, certFile);
    serve.signal('SIGHUP');
    await until(() => count(serve, 'CPL-2004E') === 2, 'a certificate of another key is refused');
    assert.equal(await fingerprint(t, serve.port), good);
    assert.ok(pairs.every(({ user, device }) => !user.isClosed && !device.isClosed));

    serve.signal('SIGTERM');
    for (const { user } of pairs) assert.equal((await user.closed).code, 1001, 'older listeners drain, too');
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    await assertClosedLog(serve);
  });
});

describe('the log of events', () => {
  /** Runs `rounds` sessions one after the other; each leaves a start and an end event. */
  async function sessions(t: TestContext, serve: ServeChild, rounds: number, prefix = 's'): Promise<void> {
    for (let i = 0; i < rounds; i++) {
      const { user, device } = await connectPair(t, serve, `${prefix}${i}`);
      user.ws.close(1000);
      await device.closed;
    }
  }
  const ids = (events: ReturnType<typeof readEvents>, code: string) =>
    events.filter((event) => event.code === code).map(({ msgArgs }) => (msgArgs as string[])[0]);
  const names = (prefix: string, rounds: number) => Array.from({ length: rounds }, (_, i) => `${prefix}${i}`);

  test('[R31] fault 48: files rotate by size while sessions run, and no line is lost', async (t) => {
    const serve = await startServe(t, { settings: { audit: { maxFileBytes: 3000 } } });
    await sessions(t, serve, 60);
    serve.signal('SIGTERM');
    await serve.exited;
    const files = readdirSync(serve.eventsDir).filter((name) => name.startsWith('events-'));
    // How many depends on how long each rotation takes beside the sessions.
    assert.ok(files.length >= 2, `${files.length} files`);
    assert.deepEqual(ids(serve.events(), 'CPL-1001I'), names('s', 60));
    assert.deepEqual(ids(serve.events(), 'CPL-1002I').sort(), names('s', 60).sort());
    await assertClosedLog(serve);
  });

  test('[R31] fault 48: a file moved away by logrotate: it goes on in a new one, no line is lost', async (t) => {
    const serve = await startServe(t);
    await sessions(t, serve, 3, 'before');
    const name = 'events-00000001.jsonl';
    const away = join(temporaryFolder(t), name);
    renameSync(join(serve.eventsDir, name), away);
    await sessions(t, serve, 3, 'between');
    await until(() => readdirSync(serve.eventsDir).includes('events-00000002.jsonl'), 'the next file', 15_000);
    await sessions(t, serve, 3, 'after');
    serve.signal('SIGTERM');
    await serve.exited;
    assert.equal((await serve.verify()).code, 1, 'as long as the file is away, that shows');
    renameSync(away, join(serve.eventsDir, name));
    assert.deepEqual(
      ids(serve.events(), 'CPL-1001I'),
      ['before', 'between', 'after'].flatMap((prefix) => names(prefix, 3)),
    );
    await assertClosedLog(serve);
  });

  test('[R29] fault 49: kill -9 the moment a half sees c: its start event is there', async (t) => {
    const rounds = 12;
    let greeted = 0;
    for (let round = 0; round < rounds; round++) {
      const serve = await startServe(t);
      const seen = new Set<string>();
      const halves = names('k', 6).flatMap((id) =>
        (['user', 'device'] as const).map(async (side) => {
          const half = await connect(t, serve.url(side, id));
          half.ws.prependListener('message', () => {
            // In the very callback that brings the greeting; on some rounds other pairs are just being made.
            seen.add(id);
            if (seen.size > round % 3) process.kill(serve.pid, 'SIGKILL');
          });
          for (const { data } of half.received) if (data.toString() === 'c') seen.add(id);
        }),
      );
      await Promise.allSettled(halves);
      process.kill(serve.pid, 'SIGKILL');
      assert.equal((await serve.exited).signal, 'SIGKILL');
      const recorded = new Set(ids(readEvents(serve.eventsDir), 'CPL-1001I'));
      for (const id of seen) assert.ok(recorded.has(id), `round ${round}: ${id} was told c and is not on record`);
      greeted += seen.size;
      const { code, stdout } = await serve.verify();
      assert.equal(code, 0, `a crash is no tampering: ${stdout}`);
    }
    assert.ok(greeted >= rounds, `${greeted} sessions were greeted`);
  });

  test('[R31] fault 50: couplet audit verify finds what was done to a real log, at its place', async (t) => {
    const serve = await startServe(t, { settings: { audit: { maxFileBytes: 4000 } } });
    await sessions(t, serve, 30);
    serve.signal('SIGTERM');
    await serve.exited;
    await assertClosedLog(serve);
    // How many lines a file has depends on how long each rotation took: the longest one is tampered with.
    const files = readdirSync(serve.eventsDir)
      .filter((name) => name.startsWith('events-'))
      .sort();
    const linesOf = (name: string) => readFileSync(join(serve.eventsDir, name), 'utf8').split('\n').slice(0, -1);
    const file = files.toSorted((a, b) => linesOf(b).length - linesOf(a).length)[0]!;
    const lines = linesOf(file);
    const tampered = async (change: (folder: string) => void) => {
      const folder = join(temporaryFolder(t), 'events');
      cpSync(serve.eventsDir, folder, { recursive: true });
      change(folder);
      return serve.verify(folder);
    };
    const rewrite = (changed: readonly string[]) =>
      tampered((folder) => writeFileSync(join(folder, file), changed.map((line) => `${line}\n`).join('')));
    const assertFound = (
      { code, stdout, stderr }: Awaited<ReturnType<typeof tampered>>,
      place: RegExp,
      what: string,
    ) => {
      assert.equal(code, 1, `${what}: ${stdout}`);
      assert.match(stderr, place, what);
      assert.match(stderr, /^[^\n]+\n$/, what);
    };
    assert.equal((await rewrite(lines)).code, 0, 'the copy as such is good');
    // Some lines are the log's own; this one is an event about the user, with another line behind it.
    const at = lines.findIndex((line, index) => index >= 2 && line.includes('alice') && index + 2 < lines.length);
    assert.ok(at > 0, `${files.length} files, the longest of ${lines.length} lines`);
    const place = (...indexes: number[]) =>
      new RegExp(`${file.replace('.', '\\.')}:(?:${indexes.map((index) => index + 1).join('|')})\\b`);
    assertFound(await rewrite(lines.with(at, lines[at]!.replace('alice', 'mallory'))), place(at), 'edit');
    assertFound(await rewrite(lines.toSpliced(at, 1)), place(at), 'delete a line');
    const swapped = lines.with(at, lines[at + 1]!).with(at + 1, lines[at]!);
    assertFound(await rewrite(swapped), place(at), 'reorder');
    assertFound(await rewrite(lines.toSpliced(at, 0, lines[at]!)), place(at, at + 1), 'duplicate');
    assertFound(await rewrite(lines.slice(0, -1)), new RegExp(`${file.replace('.', '\\.')}:\\d+`), 'cut the end off');
    for (const gone of new Set([files[0]!, files[Math.floor(files.length / 2)]!, files.at(-1)!])) {
      const found = await tampered((folder) => rmSync(join(folder, gone)));
      assertFound(found, new RegExp(gone.replace('.', '\\.')), `delete ${gone}`);
    }
    mkdirSync(join(serve.folder, 'empty'));
    assert.notEqual((await serve.verify(join(serve.folder, 'empty'))).code, 0, 'nothing at all is not a whole log');
  });
});
