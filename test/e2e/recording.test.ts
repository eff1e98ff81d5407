import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { verifyRecording } from '../../src/recording/verify.ts';
import { type Client, connect } from '../support/client.ts';
import { Random } from '../support/random.ts';
import { clientFrame, rawHalf } from '../support/raw-half.ts';
import { readRecording, recordingsIn } from '../support/recordings.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';

type Settings = Record<string, Record<string, unknown>>;

const seed = Number(process.env.COUPLET_TEST_SEED ?? Date.now() % 1_000_000);
const rounds = Math.ceil(Number(process.env.COUPLET_TEST_ROUNDS ?? 40) / 4);

/** Both halves of a session, with what they were greeted with. */
async function pairUp(
  t: TestContext,
  relay: TestRelay,
  id: string,
  query: Record<string, string | number> = {},
): Promise<{ user: Client; device: Client; greetings: string[] }> {
  const user = await connect(t, relay.url('user', id, query));
  const device = await connect(t, relay.url('device', id));
  return { user, device, greetings: [await user.nextText(), await device.nextText()] };
}

async function finished(relay: TestRelay, count = 1): Promise<void> {
  const code = 'couplet_recordings_finished_total';
  await until(async () => (await relay.metric(code)) >= count, `${count} finished recordings`);
}

function eventsNamed(relay: TestRelay, code: string) {
  return relay.events().filter((event) => event.code === code);
}

for (const forwarder of ['native', 'portable'] as const) {
  for (const tls of [false, true]) {
    describe(`${forwarder}, ${tls ? 'TLS' : 'plain'}, seed ${seed}`, () => {
      const start = (t: TestContext, recording: Settings[string], more: Settings = {}) =>
        startRelay(t, { forwarder, tls, settings: { recording, ...more } });

      test('[R20] [R33] [R29] a recorded session is greeted with cr, and its file holds what it was', async (t) => {
        const relay = await start(t, { mode: 'best-effort', protocols: [1, 2], index: false });
        const before = Date.now();
        const { user, device, greetings } = await pairUp(t, relay, 'rec1', { p: 1, nodeid: 'node//pc' });
        assert.deepEqual(greetings, ['cr', 'cr']);
        assert.equal(await relay.metric('couplet_sessions{protocol="1",recorded="true"}'), 1);
        const other = await pairUp(t, relay, 'files', { p: 5 });
        assert.deepEqual(other.greetings, ['c', 'c']);
        assert.equal(await relay.metric('couplet_sessions{protocol="5",recorded="false"}'), 1);
        user.send('typed');
        assert.equal(await device.nextText(), 'typed');
        device.send(Buffer.from([1, 2, 3]));
        await user.next();
        user.ws.close(1000);
        await device.closed;
        await finished(relay);
        const after = Date.now();
        const [path, ...more] = recordingsIn(relay.folder);
        assert.deepEqual(more, []);
        const { header, messages, endTime, state } = readRecording(path!);
        assert.equal(state, 'complete');
        assert.equal(header.protocol, 1);
        assert.equal(header.sessionid, 'rec1');
        assert.equal(header.nodeid, 'node//pc');
        assert.deepEqual(
          messages.map(({ time: _, ...message }) => message),
          [
            { from: 'user', isBinary: false, data: Buffer.from('typed') },
            { from: 'device', isBinary: true, data: Buffer.from([1, 2, 3]) },
          ],
        );
        const times = [before, ...messages.map(({ time }) => time), endTime, after];
        assert.deepEqual(times, times.toSorted(), '[M8] [M11] in order, and between start and end');
        const ends = eventsNamed(relay, 'CPL-1002I');
        assert.equal(ends[0]?.recording, basename(path!));
        assert.equal(eventsNamed(relay, 'CPL-1201I')[0]?.file, basename(path!));
        assert.equal(eventsNamed(relay, 'CPL-1203I')[0]?.file, basename(path!));
      });

      test('[M9] fault 25: the recording of random two-way sessions equals what both halves saw', async (t) => {
        const relay = await start(t, { mode: 'strict', index: false });
        const random = new Random(seed);
        for (let round = 0; round < rounds; round++) {
          const id = `round-${round}`;
          const device = await rawHalf(t, relay.portOf('device'), relay.path('device', id), tls);
          const early = Array.from({ length: random.below(3) }, () => Buffer.alloc(1 + random.below(5000), 97));
          for (const message of early) device.socket.write(clientFrame(1, message));
          const user = await connect(t, relay.url('user', id, { p: 2 }));
          const sent = { user: [] as Buffer[], device: [...early] };
          const count = 1 + random.below(30);
          for (let i = 0; i < count; i++) {
            const data = Buffer.alloc(
              [0, 1, 126, 65_536, 300_000][random.below(5)]! + random.below(200),
              random.below(256),
            );
            if (random.below(2) === 0) {
              user.send(data);
              if (data.length > 0) sent.user.push(data);
            } else {
              const cut = random.below(data.length + 1);
              device.socket.write(clientFrame(2, data.subarray(0, cut), { fin: false }));
              if (random.below(3) === 0) await new Promise((resolve) => setImmediate(resolve));
              device.socket.write(clientFrame(9, 'between'));
              device.socket.write(clientFrame(0, data.subarray(cut)));
              if (data.length > 0) sent.device.push(data);
            }
          }
          // Each side's last word, so that both have heard all of the other's.
          user.send('over');
          sent.user.push(Buffer.from('over'));
          device.socket.write(clientFrame(1, 'over'));
          sent.device.push(Buffer.from('over'));
          const heard: Buffer[] = [];
          for (;;) {
            const { data } = await user.next();
            heard.push(data);
            if (data.toString() === 'over') break;
          }
          let frame = await device.next(({ opcode }) => opcode === 1 || opcode === 2);
          while (frame.payload.toString() !== 'over')
            frame = await device.next(({ opcode }) => opcode === 1 || opcode === 2);
          device.send(8, Buffer.from([0x03, 0xe8]));
          await user.closed;
          await finished(relay, round + 1);
          const path = recordingsIn(relay.folder).find((name) => name.includes(`-${id}.`))!;
          const { messages } = readRecording(path);
          const of = (side: 'user' | 'device') => messages.filter(({ from }) => from === side).map(({ data }) => data);
          assert.ok(Buffer.concat(heard.slice(1)).equals(Buffer.concat(sent.device)), `round ${round}`);
          for (const side of ['user', 'device'] as const) {
            assert.deepEqual(
              of(side).map(({ length }) => length),
              sent[side].map(({ length }) => length),
              `${side}, round ${round}`,
            );
            assert.ok(Buffer.concat(of(side)).equals(Buffer.concat(sent[side])), `${side}, round ${round}`);
          }
          const report = verifyRecording(path);
          assert.deepEqual([report.problems, report.notes], [[], []]);
          assert.equal(report.checkedBlocks, report.blocks);
        }
      });

      test('[R15] [R35] what a half sends before the recording stands is delivered and recorded, its goodbye too', async (t) => {
        const relay = await start(t, { mode: 'strict', index: false });
        const user = await connect(t, relay.url('user', 'quick', { p: 1 }));
        const device = await rawHalf(t, relay.portOf('device'), relay.path('device', 'quick'), tls);
        device.socket.write(Buffer.concat([clientFrame(2, 'all there is'), clientFrame(8, Buffer.from([0x03, 0xe8]))]));
        assert.equal(await user.nextText(), 'cr');
        assert.equal((await user.next()).data.toString(), 'all there is');
        assert.equal((await user.closed).code, 1000);
        await finished(relay);
        const { messages } = readRecording(recordingsIn(relay.folder)[0]!);
        assert.deepEqual(
          messages.map(({ data }) => data.toString()),
          ['all there is'],
        );
        assert.equal(eventsNamed(relay, 'CPL-1002I')[0]?.outcome, 'normal');
      });

      test('[R13] [R33] a recorded messenger session: lines in a .jsonl file, on whatever path', async (t) => {
        const relay = await start(t, { mode: 'best-effort' });
        const id = 'meshmessenger/user//alice/user//bob';
        const alice = await connect(t, relay.url('user', id));
        const bob = await connect(t, relay.url('user', id, {}, 'bob'));
        assert.deepEqual([await alice.nextText(), await bob.nextText()], ['cr', 'cr']);
        alice.send('{"action":"chat","msg":"hi"}');
        assert.match(await bob.nextText(), /hi/);
        bob.send('bye');
        assert.equal(await alice.nextText(), 'bye');
        alice.ws.close(1000);
        assert.equal((await bob.closed).code, 1000);
        await finished(relay);
        const [path, ...more] = recordingsIn(relay.folder);
        assert.deepEqual(more, []);
        assert.match(path!, /\.jsonl$/);
        const lines = readFileSync(path!, 'utf8').trimEnd().split('\n');
        assert.deepEqual(
          lines.map((line) => {
            const { from, text } = JSON.parse(line) as Record<string, unknown>;
            return [from, text];
          }),
          [
            ['user//alice', '{"action":"chat","msg":"hi"}'],
            ['user//bob', 'bye'],
          ],
        );
      });

      for (const mode of ['best-effort', 'strict'] as const) {
        test(`[R35] fault 33: ${mode}, the recordings folder is gone`, async (t) => {
          const relay = await start(t, { mode });
          const folder = join(relay.folder, 'data', 'recordings');
          // The native recorder counts for the whole process.
          const failures = 'couplet_recording_failures_total{reason="ENOENT"}';
          const failedBefore = await relay.metric(failures);
          rmSync(folder, { recursive: true });
          const user = await connect(t, relay.url('user', 'x', { p: 1 }));
          const device = await connect(t, relay.url('device', 'x'));
          if (mode === 'strict') {
            assert.deepEqual([(await user.closed).code, (await device.closed).code], [4500, 4500]);
            assert.deepEqual([user.received, device.received], [[], []], 'not a byte');
            assert.equal(await relay.metric('couplet_session_outcomes_total{outcome="recording-failed"}'), 1);
          } else {
            assert.equal(await user.nextText(), 'c');
            assert.equal(await device.nextText(), 'c');
            user.send('goes on');
            assert.equal(await device.nextText(), 'goes on');
          }
          const [failed] = eventsNamed(relay, 'CPL-1202E');
          assert.equal(failed?.reason, 'ENOENT');
          assert.equal(failed?.consequence, mode === 'strict' ? 'session-closed' : 'unrecorded');
          assert.equal((await relay.metric(failures)) - failedBefore, 1);
          await until(
            async () =>
              (await fetch(`${relay.tls ? 'https' : 'http'}://127.0.0.1:${relay.port}/readyz`).catch(() => undefined))
                ?.status === 503 || relay.tls,
            'not ready',
            15_000,
          );
          mkdirSync(folder);
          const again = await pairUp(t, relay, 'y', { p: 1 });
          assert.deepEqual(again.greetings, ['cr', 'cr']);
        });
      }

      test('[R39] a stopping server finishes what it records', async (t) => {
        const relay = await start(t, { mode: 'best-effort', index: false });
        const pairs = await Promise.all(Array.from({ length: 8 }, (_, i) => pairUp(t, relay, `s${i}`, { p: 1 })));
        for (const { user } of pairs) user.send('last words');
        for (const { device } of pairs) await device.nextText();
        await relay.server.close();
        const paths = recordingsIn(relay.folder);
        assert.equal(paths.length, 8);
        for (const path of paths) {
          assert.deepEqual(verifyRecording(path).problems, []);
          assert.deepEqual(
            readRecording(path).messages.map(({ data }) => data.toString()),
            ['last words'],
          );
        }
        assert.equal(eventsNamed(relay, 'CPL-1203I').length, 8);
      });
    });
  }
}

test('[R33] a domain has its own mode, folder, protocols and index', async (t) => {
  const relay = await startRelay(t, {
    settings: {
      recording: { mode: 'off' },
      domains: { corp: { recording: { mode: 'strict', protocols: [2], index: true } } },
    },
  });
  const join2 = async (id: string, domain: string, p: number) => {
    const at = (side: 'user' | 'device') => {
      const cookie =
        side === 'user'
          ? `auth=${encodeURIComponent(relay.sealer.seal({ userid: `user/${domain}/alice`, domainid: domain }))}`
          : `rauth=${encodeURIComponent(relay.sealer.seal({ ruserid: `user/${domain}/alice` }))}`;
      return `ws://127.0.0.1:${relay.portOf(side)}${domain === '' ? '' : `/${domain}`}/meshrelay.ashx?id=${id}&p=${p}&${cookie}`;
    };
    const user = await connect(t, at('user'));
    const device = await connect(t, at('device'));
    return { greeting: await user.nextText(), user, device };
  };
  assert.equal((await join2('a', '', 2)).greeting, 'c');
  assert.equal((await join2('b', 'corp', 1)).greeting, 'c');
  const recorded = await join2('d', 'corp', 2);
  assert.equal(recorded.greeting, 'cr');
  recorded.device.send(Buffer.from('x'));
  await recorded.user.next();
  recorded.user.ws.close(1000);
  await finished(relay);
  const [path] = recordingsIn(relay.folder);
  assert.match(basename(path!), /^relaysession-corp-\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d-alice-d\.mcrec$/);
  await until(
    () =>
      verifyRecording(path!).notes.length === 0 && readFileSync(path!).subarray(-16).toString() === 'MeshCentralMCNDX',
    'the index',
  );
  assert.equal(readdirSync(join(relay.folder, 'data', 'recordings')).length, 2);
});

test('[R36] a session whose half goes while the recording is opened ends once, and leaves nothing behind', async (t) => {
  const relay = await startRelay(t, { settings: { recording: { mode: 'strict', index: false } } });
  for (let round = 0; round < 20; round++) {
    const user = await connect(t, relay.url('user', `r${round}`, { p: 1 }));
    const device = await rawHalf(t, relay.portOf('device'), relay.path('device', `r${round}`));
    device.socket.resetAndDestroy();
    const { code } = await user.closed;
    assert.equal(code, 4502);
  }
  await until(async () => (await relay.metric('couplet_recordings_open')) === 0, 'all files closed');
  assert.equal(await relay.metric('couplet_halves{state="paired"}'), 0);
  assert.equal(await relay.metric('couplet_session_outcomes_total{outcome="peer-error"}'), 20);
  for (const path of recordingsIn(relay.folder)) assert.deepEqual(verifyRecording(path).problems, []);
});

test('[R37] a server that records nothing, and to which nothing was left to salvage, starts no thread', async (t) => {
  let threads = 0;
  const count = () => {
    threads++;
  };
  process.on('worker', count);
  t.after(() => process.off('worker', count));
  const relay = await startRelay(t, { across: false });
  const { user, device } = await pairUp(t, relay, 'not recorded', { p: 1 });
  user.ws.close(1000);
  await device.closed;
  await relay.server.close();
  assert.equal(threads, 0);
});

test('[R38] retention sweeps on a timer, spares the recording in progress and tells of each deletion', async (t) => {
  const relay = await startRelay(t, {
    // Each server sweeps folders of its own.
    across: false,
    settings: { recording: { mode: 'best-effort', index: false, maxCount: 1, sweepSeconds: 1 } },
  });
  const running = await pairUp(t, relay, 'running', { p: 1 });
  const [live] = recordingsIn(relay.folder);
  for (const id of ['one', 'two']) {
    const { user, device } = await pairUp(t, relay, id, { p: 1 });
    user.ws.close(1000);
    await device.closed;
  }
  await until(() => eventsNamed(relay, 'CPL-1206I').length === 2, 'the sweep');
  assert.deepEqual(recordingsIn(relay.folder), [live]);
  const deleted = eventsNamed(relay, 'CPL-1206I');
  assert.deepEqual(
    deleted.map(({ reason }) => reason),
    ['count', 'count'],
  );
  assert.equal(await relay.metric('couplet_recordings_deleted_total{reason="count"}'), 2);
  running.user.send('still recorded');
  await running.device.next();
  running.user.ws.close(1000);
  await finished(relay, 3);
  assert.equal(readRecording(live!).messages.length, 1);
});

test('[R3] [R13] [R33] what a half says of its protocol makes no messenger session, and no way around recording', async (t) => {
  const relay = await startRelay(t, { settings: { recording: { mode: 'strict', protocols: [2], index: false } } });
  const user = await connect(t, relay.url('user', 'around', { p: 200 }));
  const device = await connect(t, relay.url('device', 'around', { p: 2 }));
  assert.deepEqual([await user.nextText(), await device.nextText()], ['cr', 'cr']);
  user.send('seen');
  await device.next();
  user.ws.close(1000);
  await finished(relay);
  const [path, ...more] = recordingsIn(relay.folder);
  assert.deepEqual(more, []);
  assert.deepEqual(
    readRecording(path!).messages.map(({ data }) => data.toString()),
    ['seen'],
  );
});

test('[R36] messages in pieces: what one sender leaves unfinished ends no recording of another', async (t) => {
  const relay = await startRelay(t, {
    settings: { recording: { mode: 'strict', index: false, maxQueueBytes: 1_048_576 } },
  });
  const stuck = await rawHalf(t, relay.portOf('device'), relay.path('device', 'stuck'));
  await connect(t, relay.url('user', 'stuck', { p: 1 }));
  await stuck.next(({ opcode }) => opcode === 1);
  const whole = clientFrame(2, Buffer.alloc(3_000_000, 1));
  const count = () => relay.metric('couplet_recording_assembly_bytes');
  stuck.socket.write(whole.subarray(0, 2_000_000));
  await until(async () => (await count()) >= 1_990_000, 'two megabytes of a message in pieces');
  const device = await rawHalf(t, relay.portOf('device'), relay.path('device', 'other'));
  const user = await connect(t, relay.url('user', 'other', { p: 1 }));
  assert.equal(await user.nextText(), 'cr');
  const message = clientFrame(2, Buffer.alloc(3000, 2));
  device.socket.write(message.subarray(0, 1000));
  await until(async () => (await count()) >= 2_000_900, 'a second one');
  device.socket.write(message.subarray(1000));
  assert.equal((await user.next()).data.length, 3000);
  stuck.socket.write(whole.subarray(2_000_000));
  await until(async () => (await count()) === 0, 'both whole');
  user.ws.close(1000);
  await finished(relay);
  const path = recordingsIn(relay.folder).find((name) => name.includes('-other.'))!;
  assert.equal(readRecording(path).messages[0]?.data.length, 3000);
});
