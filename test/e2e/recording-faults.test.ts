import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { connect } from '../support/client.ts';
import { type DiskFault, type DiskShim, diskShim } from '../support/disk-shim.ts';
import { Random } from '../support/random.ts';
import { clientFrame, rawHalf } from '../support/raw-half.ts';
import {
  assertBeginning,
  assertGood,
  closeCodes,
  echo,
  eventsOf,
  type Pair,
  pairUp,
  recordedPair,
  recordingOf,
  serveRecording,
  textsIn,
  written,
} from '../support/recorded-pairs.ts';
import { readRecording } from '../support/recordings.ts';
import { until } from '../support/relay.ts';
import type { ServeChild, ServeOptions } from '../support/serve.ts';

const modes = ['best-effort', 'strict'] as const;
const forwarders = ['native', 'portable'] as const;
type Mode = (typeof modes)[number];

const failuresOf = (reason: string) => `couplet_recording_failures_total{reason="${reason}"}`;

/** What ended a recording; a lost sidecar is none. */
const ends = (serve: ServeChild) =>
  eventsOf(serve, 'CPL-1202E').filter(({ consequence }) => consequence !== 'sidecar-lost');

interface Broken {
  readonly what: string;
  readonly reason: string;
  readonly fault: DiskFault;
  /** The recording gets its end block at once. */
  readonly ended: boolean;
  /** ... and that reaches the disk. */
  readonly durable: boolean;
}

/** Sends from both sides; resolves when both have heard all of it. What was sent, in the order of the device's view. */
async function talk({ user, device }: Pair, from: number, count: number): Promise<string[]> {
  const texts = Array.from({ length: count }, (_, i) => `${from + i}:${'x'.repeat(90)}`);
  for (const text of texts) await echo(user, device, text);
  for (let i = 0; i < count; i++) device.send(texts[i]!);
  for (const text of texts) assert.equal(await user.nextText(), text, 'nothing is lost between the halves');
  return [...texts, ...texts];
}

/**
 * [R35] Breaks the disk in the middle of a session. Best effort: the session goes on as if nothing were; strict: both
 * halves are closed with 4500. `ended`: the recording is to have its end block; without, the next start gives it one.
 */
async function assertEndsAt(
  t: TestContext,
  serve: ServeChild,
  { mode, reason, breakDisk, ended, durable }: Omit<Broken, 'what' | 'fault'> & { mode: Mode; breakDisk: () => void },
): Promise<{ path: string; recorded: number }> {
  const pair = await recordedPair(t, serve, 'unlucky');
  const other = await pairUp(t, serve, 'other', 5);
  assert.deepEqual(other.greetings, ['c', 'c']);
  const path = recordingOf(serve, 'unlucky');
  const before = await talk(pair, 0, 20);
  await written(path, before.length);
  breakDisk();
  let sent = [...before];
  if (mode === 'strict') {
    const { user, device } = pair;
    let next = 0;
    await until(() => {
      user.send(`${next}`);
      sent.push(`${next++}`);
      return user.isClosed || device.isClosed;
    }, 'the end of the session');
    assert.deepEqual(await closeCodes({ user, device }), [4500, 4500]);
    await until(() => eventsOf(serve, 'CPL-1002I').length === 1, 'the end of the session');
    assert.equal(eventsOf(serve, 'CPL-1002I')[0]?.outcome, 'recording-failed');
    assert.equal(await serve.metric('couplet_session_outcomes_total{outcome="recording-failed"}'), 1);
  } else {
    sent = [...before, ...(await talk(pair, 20, 100))];
  }
  await until(() => eventsOf(serve, 'CPL-1203I').length === 1, 'the end of the recording');
  const [failed, ...more] = ends(serve);
  assert.deepEqual(more, [], 'told once');
  assert.equal(failed?.reason, reason);
  assert.equal(failed?.consequence, mode === 'strict' ? 'session-closed' : 'ended');
  assert.equal(await serve.metric(failuresOf(reason)), 1);
  assert.equal(eventsOf(serve, 'CPL-1203I')[0]?.complete, durable);
  const recorded = textsIn(path);
  assert.ok(recorded.length >= before.length, `${recorded.length} recorded`);
  assertBeginning(recorded, sent, 'up to the failure');
  if (ended) assertGood(path);
  else assert.equal(readRecording(path).state, 'unfinished');
  assert.equal(await serve.metric('couplet_recording_queue_bytes'), 0);
  if (mode === 'best-effort') {
    await talk(pair, 500, 5);
    assert.deepEqual(textsIn(path).length, recorded.length, 'it has ended');
  }
  await echo(other.user, other.device, 'undisturbed');
  return { path, recorded: recorded.length };
}

/** [R35] While the disk is broken a new session is recorded in no mode, and a strict one does not begin. */
async function assertNoneBegins(t: TestContext, serve: ServeChild, mode: Mode): Promise<void> {
  const user = await connect(t, serve.url('user', 'late', { p: 1 }));
  const device = await connect(t, serve.url('device', 'late'));
  if (mode === 'strict') {
    assert.deepEqual(await closeCodes({ user, device }), [4500, 4500]);
    assert.deepEqual([user.received, device.received], [[], []], 'not a byte');
  } else {
    await user.nextText();
    await device.nextText();
    await echo(user, device, 'it goes on without');
  }
  await until(() => ends(serve).length === 2, 'the second failure');
}

const whole = { ended: true, durable: true };
const broken: Broken[] = [
  // Room for some messages more, and a piece of another.
  { what: 'fault 30: a full disk', reason: 'ENOSPC', fault: { of: ['mcrec'], roomBytes: 1000 }, ...whole },
  {
    what: 'fault 31: EIO of one write',
    reason: 'EIO',
    fault: { of: ['mcrec'], failWrites: { code: 'EIO', times: 1 } },
    ...whole,
  },
  {
    what: 'fault 31: EIO of all writes',
    reason: 'EIO',
    fault: { of: ['mcrec'], failWrites: { code: 'EIO' } },
    ended: false,
    durable: false,
  },
  {
    what: 'fault 31: EIO of all syncs',
    reason: 'EIO',
    fault: { of: ['mcrec'], failSyncs: 'EIO' },
    ended: true,
    durable: false,
  },
];

for (const forwarder of forwarders) {
  describe(`a broken disk, ${forwarder}`, () => {
    const start = (t: TestContext, shim: DiskShim, recording: Record<string, unknown>, options: ServeOptions = {}) =>
      serveRecording(t, recording, { settings: { relay: { forwarder } }, env: shim.env, ...options });

    for (const mode of modes) {
      for (const { what, fault, ...rest } of broken) {
        test(`[R35] ${what}, ${mode}`, async (t) => {
          const shim = diskShim(t);
          if (shim === undefined) return;
          const serve = await start(t, shim, { mode });
          const { path, recorded } = await assertEndsAt(t, serve, {
            mode,
            ...rest,
            breakDisk: () => shim.break(fault),
          });
          shim.break(fault.roomBytes === undefined ? fault : { ...fault, roomBytes: 0 });
          await assertNoneBegins(t, serve, mode);
          shim.heal();
          const after = await recordedPair(t, serve, 'healed');
          await talk(after, 0, 3);
          after.user.ws.close(1000);
          await until(async () => (await serve.metric('couplet_recordings_open')) === 0, 'all files are closed');
          assertGood(recordingOf(serve, 'healed'));
          if (rest.ended) return;
          serve.signal('SIGTERM');
          await serve.exited;
          const again = await serveRecording(t, { mode }, { folder: serve.folder });
          await until(() => eventsOf(again, 'CPL-1204W').length >= 1, 'the salvage');
          assertGood(path);
          assert.equal(textsIn(path).length, recorded, 'salvage keeps what was recorded');
        });
      }
    }

    test('[R35] fault 31: a sidecar that cannot be written is lost, the recording is whole', async (t) => {
      const shim = diskShim(t);
      if (shim === undefined) return;
      const serve = await start(t, shim, { mode: 'strict' });
      const pair = await recordedPair(t, serve, 'plain');
      const first = await talk(pair, 0, 5);
      await written(recordingOf(serve, 'plain'), first.length);
      shim.break({ of: ['cpt'], failWrites: { code: 'ENOSPC' } });
      const second = await talk(pair, 5, 30);
      await until(() => eventsOf(serve, 'CPL-1202E').length === 1, 'the event');
      assert.equal(eventsOf(serve, 'CPL-1202E')[0]?.consequence, 'sidecar-lost');
      const third = await talk(pair, 35, 5);
      pair.user.ws.close(1000);
      await until(() => eventsOf(serve, 'CPL-1203I').length === 1, 'the end of the recording');
      const { state, messages } = readRecording(recordingOf(serve, 'plain'));
      assert.equal(state, 'complete');
      assert.deepEqual(
        messages.map(({ data }) => data.toString()),
        [...first, ...second, ...third],
      );
      assert.equal(eventsOf(serve, 'CPL-1002I')[0]?.outcome, 'normal');
    });

    test('[R35] fault 30: a full disk under a messenger session: whole lines stay', async (t) => {
      const shim = diskShim(t);
      if (shim === undefined) return;
      const serve = await start(t, shim, {});
      const id = 'meshmessenger/user//alice/user//bob';
      const user = await connect(t, serve.url('user', id));
      const device = await connect(t, serve.url('user', id, {}, 'bob'));
      assert.deepEqual([await user.nextText(), await device.nextText()], ['cr', 'cr']);
      const pair = { user, device, greetings: [] };
      await talk(pair, 0, 5);
      await until(async () => (await serve.metric('couplet_recording_queue_bytes')) === 0, 'they are written');
      shim.break({ of: ['jsonl'], roomBytes: 500 });
      await talk(pair, 5, 20);
      await until(() => eventsOf(serve, 'CPL-1203I').length === 1, 'the end of the recording');
      assert.equal(ends(serve)[0]?.reason, 'ENOSPC');
      const text = readFileSync(join(serve.dataDir, 'recordings', String(ends(serve)[0]?.file)), 'utf8');
      assert.ok(text.endsWith('\n'));
      const lines = text.trimEnd().split('\n');
      assert.ok(lines.length >= 10 && lines.length < 50, `${lines.length} lines`);
      for (const line of lines) assert.equal(typeof JSON.parse(line).text, 'string');
    });

    test('fault 31: [M9] short writes and EINTR: the recording is whole', async (t) => {
      const shim = diskShim(t);
      if (shim === undefined) return;
      const random = new Random();
      t.diagnostic(`COUPLET_TEST_SEED=${random.seed}`);
      const serve = await start(t, shim, { mode: 'strict' });
      shim.break({ maxBytes: 777, interruptEvery: 2 });
      const { user, device } = await recordedPair(t, serve, 'clumsy');
      const sent: Buffer[] = [];
      for (let i = 0; i < 150; i++) {
        const data = random.bytes(1 + random.below(random.pick([3, 200, 3000, 70_000])));
        sent.push(data);
        user.send(data);
        assert.ok((await device.next()).data.equals(data));
      }
      user.ws.close(1000);
      await until(() => eventsOf(serve, 'CPL-1203I').length === 1, 'the end of the recording', 30_000);
      shim.heal();
      assertGood(recordingOf(serve, 'clumsy'));
      const { messages } = readRecording(recordingOf(serve, 'clumsy'));
      assert.ok(Buffer.concat(messages.map(({ data }) => data)).equals(Buffer.concat(sent)));
      assert.equal(messages.length, sent.length);
      assert.deepEqual(eventsOf(serve, 'CPL-1202E'), []);
      assert.ok(shim.count('shortened') > 100 && shim.count('interrupted') > 100, 'the disk was clumsy');
    });

    test('[R24] [M9] fault 19: RST in the middle of a message: the recording ends without it', async (t) => {
      const serve = await serveRecording(t, {}, { settings: { relay: { forwarder } } });
      const cut = clientFrame(2, Buffer.alloc(50_000, 7)).subarray(0, 20_000);
      const unfinished: Record<string, Buffer> = {
        frame: cut,
        fragments: clientFrame(1, 'to be continued', { fin: false }),
        both: Buffer.concat([clientFrame(1, 'to be continued', { fin: false }), clientFrame(0, 'x').subarray(0, 3)]),
      };
      for (const [id, bytes] of Object.entries(unfinished)) {
        const user = await connect(t, serve.url('user', id, { p: 1 }));
        const device = await rawHalf(t, serve.port, serve.path('device', id));
        assert.equal(await user.nextText(), 'cr');
        device.send(1, 'whole');
        assert.equal(await user.nextText(), 'whole');
        device.socket.write(bytes);
        // The native path forwards what it has of a message; the portable one waits for all of it.
        if (forwarder === 'native') {
          const held = async () => (await serve.metric('couplet_recording_assembly_bytes')) > 0;
          await until(held, 'the unfinished message is there');
        }
        device.socket.resetAndDestroy();
        // Where the mate has got half a frame there is no place for a close frame any more.
        const code = forwarder === 'native' && id === 'frame' ? 1006 : 4502;
        assert.equal((await user.closed).code, code);
      }
      const count = Object.keys(unfinished).length;
      await until(() => eventsOf(serve, 'CPL-1203I').length === count, 'their recordings end');
      for (const id of Object.keys(unfinished)) {
        assertGood(recordingOf(serve, id));
        assert.deepEqual(textsIn(recordingOf(serve, id)), ['whole']);
      }
      assert.equal(await serve.metric('couplet_recording_assembly_bytes'), 0);
      assert.deepEqual(eventsOf(serve, 'CPL-1202E'), []);
    });
  });
}

/** Mounts a small file system; `undefined`, and the test is told, where that is not allowed. */
function smallDisk(t: TestContext, bytes: number): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-disk-'));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'couplet-test', folder], { stdio: 'pipe' });
  } catch (error) {
    t.diagnostic(`no tmpfs can be mounted here, full disks were tested by the shim alone: ${(error as Error).message}`);
    t.skip('mounting needs root');
    remove();
    return undefined;
  }
  t.after(() => {
    execFileSync('umount', ['--lazy', folder], { stdio: 'pipe' });
    remove();
  });
  t.diagnostic(`on a tmpfs of ${bytes} bytes`);
  return folder;
}

for (const mode of modes) {
  test(`[R35] fault 30: a small tmpfs gets full under eight sessions, ${mode}`, async (t) => {
    const folder = smallDisk(t, 1 << 20);
    if (folder === undefined) return;
    const serve = await serveRecording(t, { mode, dir: folder });
    const paths = () =>
      eventsOf(serve, 'CPL-1201I').map(({ file, id }) => ({ path: join(folder, String(file)), id: String(id) }));
    const pairs = await Promise.all(Array.from({ length: 8 }, (_, i) => recordedPair(t, serve, `s${i}`)));
    const sent = pairs.map((): string[] => []);
    const work = pairs.map(async ({ user, device }, index) => {
      for (let i = 0; i < 2000; i++) {
        const text = `${i}:${'y'.repeat(200)}`;
        sent[index]!.push(text);
        user.send(text);
        try {
          assert.equal(await device.nextText(), text);
        } catch (error) {
          if (mode === 'strict' && device.isClosed) return;
          throw error;
        }
      }
    });
    await Promise.all(work);
    await until(() => eventsOf(serve, 'CPL-1203I').length === 8, 'the ends of the recordings');
    assert.equal(ends(serve).length, 8);
    for (const { reason, consequence } of ends(serve)) {
      assert.deepEqual([reason, consequence], ['ENOSPC', mode === 'strict' ? 'session-closed' : 'ended']);
    }
    for (const { path, id } of paths()) {
      const texts = textsIn(path);
      assert.ok(texts.length > 20, `${texts.length} messages of ${id}`);
      assertBeginning(texts, sent[Number(id.slice(1))]!, id);
      const { state } = readRecording(path);
      assert.equal(state, 'complete', `${id} has its end block, on a disk that is full`);
    }
    for (const { user } of pairs) {
      if (mode === 'strict') assert.equal((await user.closed).code, 4500);
      else assert.equal(user.isClosed, false);
    }
  });
}
