import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, type TestContext, test } from 'node:test';
import { type Client, connect } from '../support/client.ts';
import { type DiskShim, diskShim } from '../support/disk-shim.ts';
import {
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
} from '../support/recorded-pairs.ts';
import { readRecording } from '../support/recordings.ts';
import { until } from '../support/relay.ts';
import type { ServeChild } from '../support/serve.ts';
import { untilQuiet } from '../support/ws-pair.ts';

const MiB = 1 << 20;
/** The least that is allowed; one file may have a quarter of it. */
const maxQueueBytes = MiB;
const maxFileQueueBytes = maxQueueBytes / 4;
/** A socket read may come on top of a limit. */
const readBytes = MiB / 2;
const queueBytes = 'couplet_recording_queue_bytes';

const messageBytes = 8192;
/** Numbered, so that order and loss show. */
function numbered(count: number): Buffer[] {
  return Array.from({ length: count }, (_, i) => {
    const data = Buffer.alloc(messageBytes, i & 0xff);
    data.writeUInt32BE(i);
    return data;
  });
}

/** Counts what comes and that it comes in order. */
function counted(client: Client): { readonly count: number; readonly inOrder: boolean } {
  const seen = { count: 0, inOrder: true };
  client.ws.on('message', (data: Buffer) => {
    if (data.readUInt32BE() !== seen.count) seen.inOrder = false;
    seen.count++;
  });
  return seen;
}

/** [R36] What has nothing to do with the disk goes on: sessions that are not recorded, requests, metrics. */
async function assertUndisturbed(serve: ServeChild, { user, device }: Pair, rounds: number): Promise<void> {
  for (let i = 0; i < rounds; i++) {
    await echo(user, device, `ping ${i}`);
    await echo(device, user, `pong ${i}`);
    if (i % 10 === 0) assert.equal((await fetch(`http://${serve.address}/healthz`)).status, 200);
  }
}

async function start(
  t: TestContext,
  forwarder: string,
  recording: Record<string, unknown>,
): Promise<{ shim: DiskShim; serve: ServeChild; other: Pair } | undefined> {
  const shim = diskShim(t);
  if (shim === undefined) return undefined;
  const settings = { relay: { forwarder }, server: { drainMs: 0 } };
  const serve = await serveRecording(t, { maxQueueBytes, ...recording }, { settings, env: shim.env });
  return { shim, serve, other: await pairUp(t, serve, 'other', 5) };
}

for (const forwarder of ['native', 'portable'] as const) {
  describe(`a slow disk, ${forwarder}`, () => {
    test('[R36] fault 32: the disk hangs, strict: the sender is paused, nothing is lost, all is recorded', async (t) => {
      const started = await start(t, forwarder, { mode: 'strict' });
      if (started === undefined) return;
      const { shim, serve, other } = started;
      const { user, device } = await recordedPair(t, serve, 'held');
      const quiet = await recordedPair(t, serve, 'quiet');
      const got = counted(device);
      shim.break({ hang: true });
      const messages = numbered(2000);
      for (const message of messages) user.send(message);
      await untilQuiet(() => got.count);
      const delivered = got.count * messageBytes;
      assert.ok(delivered >= maxFileQueueBytes, `${delivered} bytes came through before it was held back`);
      assert.ok(delivered <= maxFileQueueBytes + 2 * readBytes, `${delivered} bytes came through`);
      const queued = await serve.metric(queueBytes);
      assert.ok(queued > 0 && queued <= maxFileQueueBytes + 2 * readBytes, `${queued} bytes queued`);
      assert.ok(shim.count('waiting') > 0, 'the disk hangs');
      await assertUndisturbed(serve, other, 100);
      await echo(quiet.user, quiet.device, 'a recorded session with room in its queue goes on');
      assert.equal(got.count * messageBytes, delivered, 'it is still held back');

      shim.heal();
      await until(() => got.count === messages.length, 'all messages', 30_000);
      assert.ok(got.inOrder);
      for (const half of [user, quiet.user]) half.ws.close(1000);
      await until(() => eventsOf(serve, 'CPL-1203I').length === 2, 'the recordings end');
      assertGood(recordingOf(serve, 'held'));
      const recorded = readRecording(recordingOf(serve, 'held')).messages;
      assert.ok(Buffer.concat(recorded.map(({ data }) => data)).equals(Buffer.concat(messages)), 'all is recorded');
      assert.deepEqual(textsIn(recordingOf(serve, 'quiet')), ['a recorded session with room in its queue goes on']);
      await until(() => eventsOf(serve, 'CPL-1002I').length === 2, 'the sessions end');
      for (const { outcome } of eventsOf(serve, 'CPL-1002I')) assert.equal(outcome, 'normal');
      assert.deepEqual(eventsOf(serve, 'CPL-1202E'), []);
    });

    test('[R36] fault 32: the disk hangs, strict: many sessions share one limit, and all go on', async (t) => {
      const started = await start(t, forwarder, { mode: 'strict' });
      if (started === undefined) return;
      const { shim, serve, other } = started;
      const pairs = await Promise.all(Array.from({ length: 12 }, (_, i) => recordedPair(t, serve, `m${i}`)));
      const got = pairs.map(({ device }) => counted(device));
      const total = () => got.reduce((sum, { count }) => sum + count, 0);
      shim.break({ hang: true });
      const messages = numbered(300);
      for (const { user } of pairs) for (const message of messages) user.send(message);
      await untilQuiet(total);
      const queued = await serve.metric(queueBytes);
      // Each may have had a read under way when the limit was crossed.
      assert.ok(queued >= maxQueueBytes / 2, `${queued} bytes queued`);
      assert.ok(queued <= maxQueueBytes + (pairs.length + 1) * readBytes, `${queued} bytes queued`);
      assert.ok(total() < pairs.length * messages.length);
      await assertUndisturbed(serve, other, 20);
      shim.heal();
      await until(() => total() === pairs.length * messages.length, 'all messages', 30_000);
      for (const { user } of pairs) user.ws.close(1000);
      await until(() => eventsOf(serve, 'CPL-1203I').length === pairs.length, 'the recordings end');
      for (const [index] of pairs.entries()) {
        assertGood(recordingOf(serve, `m${index}`));
        assert.equal(readRecording(recordingOf(serve, `m${index}`)).messages.length, messages.length);
      }
      assert.ok(got.every(({ inOrder }) => inOrder));
    });

    test('[R36] fault 32: the disk hangs, best-effort: the recording ends, the session runs at full speed', async (t) => {
      const started = await start(t, forwarder, { mode: 'best-effort' });
      if (started === undefined) return;
      const { shim, serve, other } = started;
      const { user, device } = await recordedPair(t, serve, 'free');
      const got = counted(device);
      shim.break({ hang: true });
      const messages = numbered(2000);
      for (const message of messages) user.send(message);
      await until(() => got.count === messages.length, 'all messages, while the disk hangs', 30_000);
      assert.ok(got.inOrder && shim.count('waiting') > 0);
      await until(() => eventsOf(serve, 'CPL-1202E').length === 1, 'the failure');
      const [failed] = eventsOf(serve, 'CPL-1202E');
      assert.deepEqual([failed?.reason, failed?.consequence], ['ENOBUFS', 'ended']);
      assert.equal(await serve.metric('couplet_recording_failures_total{reason="ENOBUFS"}'), 1);
      const queued = await serve.metric(queueBytes);
      assert.ok(queued > 0 && queued <= maxFileQueueBytes + 2 * messageBytes, `${queued} bytes queued`);
      await assertUndisturbed(serve, other, 100);
      const late = await pairUp(t, serve, 'late');
      assert.deepEqual(late.greetings, ['cr', 'cr'], 'its file could be made');
      await echo(late.user, late.device, 'a session can begin');

      shim.heal();
      await until(() => eventsOf(serve, 'CPL-1203I').length === 1, 'the recording ends');
      const path = recordingOf(serve, 'free');
      assertGood(path);
      const recorded = readRecording(path).messages;
      assert.ok(recorded.length * messageBytes >= maxFileQueueBytes - messageBytes, `${recorded.length} recorded`);
      assert.ok(recorded.length < messages.length);
      for (const [i, { data }] of recorded.entries()) assert.ok(data.equals(messages[i]!), 'its beginning, in order');
      device.send('still there');
      assert.equal(await user.nextText(), 'still there');
      late.user.ws.close(1000);
      await until(() => eventsOf(serve, 'CPL-1203I').length === 2, 'the late one ends');
      assert.deepEqual(textsIn(recordingOf(serve, 'late')), ['a session can begin']);
    });

    test('[R35] fault 32: the disk hangs as a strict session begins: recording.startMs, and not a byte', async (t) => {
      const started = await start(t, forwarder, { mode: 'strict', startMs: 300 });
      if (started === undefined) return;
      const { shim, serve, other } = started;
      shim.break({ hang: true });
      const user = await connect(t, serve.url('user', 'never', { p: 1 }));
      const device = await connect(t, serve.url('device', 'never'));
      assert.deepEqual(await closeCodes({ user, device }), [4500, 4500]);
      assert.deepEqual([user.received, device.received], [[], []]);
      const [failed] = eventsOf(serve, 'CPL-1202E');
      assert.deepEqual([failed?.reason, failed?.consequence], ['start-timeout', 'session-closed']);
      await assertUndisturbed(serve, other, 20);
      shim.heal();
      await until(async () => (await serve.metric('couplet_recordings_open')) === 0, 'its file is closed');
      assertGood(recordingOf(serve, 'never'));
    });

    for (const mode of ['strict', 'best-effort'] as const) {
      test(`[R36] [R39] fault 32: 500 ms a write, ${mode}: the queue is capped, and SIGTERM loses nothing`, async (t) => {
        const started = await start(t, forwarder, { mode });
        if (started === undefined) return;
        const { shim, serve, other } = started;
        const pair = await recordedPair(t, serve, 'slow');
        const got = counted(pair.device);
        shim.break({ of: ['mcrec'], writeMs: 500 });
        const messages = numbered(300);
        for (const message of messages) pair.user.send(message);
        let most = 0;
        await until(
          async () => {
            most = Math.max(most, await serve.metric(queueBytes));
            return got.count === messages.length;
          },
          'all messages',
          30_000,
        );
        assert.ok(most > 0 && most <= maxFileQueueBytes + 2 * readBytes, `at most ${most} bytes queued`);
        await assertUndisturbed(serve, other, 20);
        serve.signal('SIGTERM');
        assert.deepEqual(await serve.exited, { code: 0, signal: '' });
        const path = recordingOf(serve, 'slow');
        assertGood(path);
        const recorded = readRecording(path).messages.map(({ data }) => data);
        if (mode === 'strict') assert.equal(recorded.length, messages.length);
        for (const [i, data] of recorded.entries()) assert.ok(data.equals(messages[i]!));
        const reasons = eventsOf(serve, 'CPL-1202E').map(({ reason }) => reason);
        assert.deepEqual(reasons, mode === 'strict' ? [] : ['ENOBUFS']);
        const [ended] = eventsOf(serve, 'CPL-1203I');
        assert.equal(ended?.complete, true, 'its event is there, too');
      });
    }
  });
}

/** Names of the recorder's own threads in a process. */
function recorderThreads(serve: ServeChild): string[] {
  const tasks = `/proc/${serve.pid}/task`;
  return readdirSync(tasks)
    .map((task) => readFileSync(`${tasks}/${task}/comm`, 'utf8').trim())
    .filter((name) => name.startsWith('rec-'))
    .sort();
}

test('[R36] the recorder has threads of its own, and none before something is recorded', async (t) => {
  const serve = await serveRecording(t, { threads: 2 });
  const { user, device } = await pairUp(t, serve, 'plain', 5);
  await echo(user, device, 'not recorded');
  assert.deepEqual(recorderThreads(serve), []);
  await recordedPair(t, serve, 'recorded');
  const all = ['rec-open', 'rec-sync-0', 'rec-sync-1', 'rec-write-0', 'rec-write-1'];
  assert.deepEqual(recorderThreads(serve), all);
  await recordedPair(t, serve, 'another');
  assert.deepEqual(recorderThreads(serve), all);
});
