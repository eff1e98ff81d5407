import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Clock, systemClock } from '../../src/core/clock.ts';
import { blockType } from '../../src/recording/format.ts';
import { recordingFileName } from '../../src/recording/naming.ts';
import type { KnownParties, RecordingMode } from '../../src/recording/policy.ts';
import { RecordingReader } from '../../src/recording/reader.ts';
import { type RecordedSession, type RecordingObserver, SessionRecorder } from '../../src/recording/recorder.ts';
import type { SessionFile } from '../../src/recording/session-file.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { startMs, temporaryFolder } from './support.ts';

let steppedBackMs = 0;
const clock: Clock = { ...systemClock, nowMs: () => startMs - steppedBackMs, monotonicMs: () => 5000 };

const session: RecordedSession = {
  domain: '',
  id: 'abc',
  userid: 'user//ann',
  username: 'ann',
  protocol: 1,
  nodeid: 'node//pc',
  waitingAddress: '10.0.0.1',
  newcomerAddress: '10.0.0.2',
  user: { protocol: 1, identity: { kind: 'user', userid: 'user//ann' } },
  device: { protocol: 0, identity: { kind: 'device', userid: 'user//ann' } },
};

type Told = readonly [what: string, ...more: unknown[]];

function recorderIn(
  folder: string,
  mode: RecordingMode,
  more: { eventsDurable?: () => Promise<void>; openMs?: number; parties?: () => Promise<KnownParties> } = {},
): { recorder: SessionRecorder<RecordedSession>; told: Told[] } {
  const told: Told[] = [];
  const observer: RecordingObserver<RecordedSession> = {
    started: (_session, file, how) => told.push(['started', file, how]),
    failed: (_session, failure) => told.push(['failed', failure]),
    finished: (_session, { file, complete, index }) => told.push(['finished', file, complete, index]),
  };
  const recorder = new SessionRecorder<RecordedSession>({
    settings: () => ({ mode, folder, index: true, sidecar: true, startMs: more.openMs ?? 10_000 }),
    ...(more.parties && { parties: more.parties }),
    observer,
    eventsDurable: more.eventsDurable ?? (() => Promise.resolve()),
    clock,
    software: 'couplet test',
  });
  return { recorder, told };
}

function bytesOf(text: string): ArrayBuffer {
  return new Uint8Array(Buffer.from(text)).buffer;
}

function asFile(started: SessionFile | 'unrecorded' | 'refused' | undefined): SessionFile {
  assert.ok(typeof started === 'object', `no recording: ${started}`);
  return started;
}

test('[R34] fault 35: a taken name gets -2, -3, and what stands there is not touched, a planted link neither', async (t) => {
  const folder = temporaryFolder(t);
  const { recorder } = recorderIn(folder, 'best-effort');
  t.after(() => recorder.release());
  const parts = { domain: '', startMs, userName: 'ann', sessionId: 'abc', form: 'mcrec' } as const;
  const name = (attempt: number) => join(folder, recordingFileName(parts, attempt));
  writeFileSync(join(folder, 'target'), 'precious');
  symlinkSync(join(folder, 'target'), name(1));
  symlinkSync(join(folder, 'nowhere'), name(2));
  mkdirSync(name(3));
  // A sidecar's name can be taken as well.
  symlinkSync(join(folder, 'target'), `${name(4)}.cpt`);
  const files = [asFile(await recorder.begin(session)), asFile(await recorder.begin(session))];
  for (const file of files) file.close();
  assert.equal(await recorder.allClosed(10_000), true);
  assert.deepEqual(
    files.map(({ file }) => join(folder, file)),
    [name(5), name(6)],
  );
  assert.equal(lstatSync(name(5)).mode & 0o777, 0o600);
  assert.equal(readFileSync(join(folder, 'target'), 'utf8'), 'precious');
  assert.throws(() => lstatSync(join(folder, 'nowhere')));
  assert.throws(() => lstatSync(name(4)), 'a file whose sidecar cannot be made is taken back');
  assert.deepEqual(recorder.failures.size, 0);
});

test('[M2] [M3] [M5] [R33] what a session says stands in its recording, between its facts and its end', async (t) => {
  const folder = temporaryFolder(t);
  const { recorder, told } = recorderIn(folder, 'best-effort');
  t.after(() => recorder.release());
  const file = asFile(await recorder.begin(session));
  assert.equal(file.append('user', bytesOf('ls\n'), true), true);
  assert.equal(file.append('device', bytesOf(''), true), true);
  assert.equal(file.append('device', bytesOf('files'), false), true);
  file.close();
  assert.equal(file.append('device', bytesOf('late'), true), false);
  await recorder.allClosed(10_000);
  const path = join(folder, file.file);
  assert.deepEqual(verifyRecording(path).problems, []);
  const reader = RecordingReader.open(path);
  t.after(() => reader.close());
  const blocks = Array.from(reader.blocks(), ({ type, flags, data }) => ({ type, flags, text: data.toString() }));
  const header = JSON.parse(blocks.shift()!.text) as Record<string, unknown>;
  const { startNs, clock: clockText, time, ...facts } = header;
  assert.deepEqual(facts, {
    magic: 'MeshCentralRelaySession',
    ver: 1,
    userid: 'user//ann',
    username: 'ann',
    sessionid: 'abc',
    ipaddr1: '10.0.0.2',
    ipaddr2: '10.0.0.1',
    protocol: 1,
    nodeid: 'node//pc',
    software: 'couplet test',
  });
  assert.match(String(startNs), /^\d{19}$/);
  assert.equal(typeof clockText, 'string');
  assert.ok(Math.abs(Date.parse(String(time)) - Number(startNs) / 1e6) < 1000);
  assert.deepEqual(blocks, [
    { type: blockType.data, flags: 3, text: 'ls\n' },
    { type: blockType.data, flags: 0, text: 'files' },
  ]);
  assert.deepEqual(told, [
    ['started', file.file, 'best-effort'],
    ['finished', file.file, true, true],
  ]);
  assert.equal(recorder.finished, 1);
});

test('[R33] [R13] a messenger session is recorded as lines {time, from, text} of JSON', async (t) => {
  const folder = temporaryFolder(t);
  const { recorder, told } = recorderIn(folder, 'strict');
  t.after(() => recorder.release());
  const chat = { ...session, id: 'meshmessenger/user//ann/node//pc', protocol: 200 };
  const file = asFile(await recorder.begin(chat));
  assert.equal(file.takesText, true);
  assert.match(file.file, /\.jsonl$/);
  for (const text of ['hello', '\u202e\0 "é😀"\n']) file.append('user', bytesOf(text), false);
  // [M8]: the wall clock is stepped back an hour in mid-session.
  steppedBackMs = 3_600_000;
  t.after(() => (steppedBackMs = 0));
  file.append('device', bytesOf('\xff'), true);
  file.close();
  await recorder.allClosed(10_000);
  const text = readFileSync(join(folder, file.file), 'utf8');
  assert.match(text, /^(\{[\x20-\x7eé😀]+\}\n){3}$/u);
  assert.deepEqual(
    text.split('\n', 3).map((line) => JSON.parse(line) as unknown),
    [
      { time: startMs, from: 'user//ann', text: 'hello' },
      { time: startMs, from: 'user//ann', text: '\u202e\0 "é😀"\n' },
      { time: startMs, from: 'node//pc', text: Buffer.from('\xff').toString('base64'), binary: true },
    ],
  );
  assert.deepEqual(told.at(-1), ['finished', file.file, true, false]);
});

for (const [mode, answer, consequence] of [
  ['best-effort', 'unrecorded', 'unrecorded'],
  ['strict', 'refused', 'session-closed'],
] as const) {
  test(`[R35] fault 33: ${mode}: a recording that cannot start makes the session ${answer}`, async (t) => {
    const folder = temporaryFolder(t);
    rmSync(folder, { recursive: true });
    const { recorder, told } = recorderIn(folder, mode);
    t.after(() => recorder.release());
    assert.equal(await recorder.begin(session), answer);
    assert.deepEqual(told, [['failed', { file: undefined, reason: 'ENOENT', mode, consequence }]]);
    await recorder.allClosed(10_000);
    assert.equal(told.length, 1);
    mkdirSync(folder);
    asFile(await recorder.begin(session)).close();
    assert.equal(await recorder.allClosed(10_000), true);
  });
}

test('[R32] [R35] strict: the start waits until the header and the start event are on the disk', async (t) => {
  const folder = temporaryFolder(t);
  let durable = () => {};
  const eventsDurable = () =>
    new Promise<void>((resolve) => {
      durable = resolve;
    });
  const { recorder } = recorderIn(folder, 'strict', { eventsDurable });
  t.after(() => recorder.release());
  let started: unknown;
  const begun = recorder.begin(session)!.then((file) => {
    started = file;
    return file;
  });
  // An unhurried other recording, whose start waits for the disk as well, shows that this one does not wait for it.
  const other = recorderIn(folder, 'strict');
  t.after(() => other.recorder.release());
  asFile(await other.recorder.begin({ ...session, id: 'other' })).close();
  assert.equal(started, undefined);
  durable();
  const file = asFile(await begun);
  const bytes = readFileSync(join(folder, file.file));
  assert.equal(bytes.readUInt16BE(0), blockType.header);
  assert.ok(bytes.length >= 16 + bytes.readUInt32BE(4));
  file.close();
  await Promise.all([recorder.allClosed(10_000), other.recorder.allClosed(10_000)]);
});

test('[R32] [R35] strict: an event log that cannot be written, or a start that takes too long, refuses the session', async (t) => {
  const folder = temporaryFolder(t);
  const broken = recorderIn(folder, 'strict', { eventsDurable: () => Promise.reject(new Error('no disk')) });
  const stuck = recorderIn(folder, 'strict', { eventsDurable: () => new Promise(() => {}), openMs: 50 });
  for (const [{ recorder, told }, reason] of [
    [broken, 'events'],
    [stuck, 'start-timeout'],
  ] as const) {
    t.after(() => recorder.release());
    assert.equal(await recorder.begin(session), 'refused');
    assert.equal(await recorder.allClosed(10_000), true);
    const [what, failure] = told[0]!;
    assert.equal(what, 'failed');
    assert.equal((failure as { reason: string }).reason, reason);
    assert.deepEqual([...recorder.failures], [[reason, 1]]);
  }
});

test('[R33] [R34] [M2] what the directory knows names the file and says who is selected', async (t) => {
  const folder = temporaryFolder(t);
  const known: KnownParties = { userGroupIds: ['ugrp//audit'], deviceGroupId: 'mesh//lab', deviceName: '../Bühne\n1' };
  const { recorder } = recorderIn(folder, 'strict', { parties: async () => known });
  t.after(() => recorder.release());
  const file = asFile(await recorder.begin(session));
  assert.match(file.file, /-ann-\.\._B_hne_1-abc\.mcrec$/);
  file.close();
  const selects = (selection: object) =>
    recorderIn(folder, 'strict', { parties: async () => ({ ...known, selection }) });
  const others = selects({ userGroups: ['ugrp//others'] });
  t.after(() => others.recorder.release());
  assert.equal(await others.recorder.begin(session), 'unrecorded');
  const ours = selects({ deviceGroups: ['mesh//lab'] });
  t.after(() => ours.recorder.release());
  asFile(await ours.recorder.begin(session)).close();
  for (const { recorder: each } of [{ recorder }, others, ours]) assert.equal(await each.allClosed(10_000), true);
  assert.deepEqual([others.told, others.recorder.begun], [[], 0], 'not selected is no failure');
  const reader = RecordingReader.open(join(folder, file.file));
  t.after(() => reader.close());
  const [first] = reader.blocks();
  assert.equal(JSON.parse(first!.data.toString()).devicename, known.deviceName);
});

test('[R33] [R35] a directory that does not answer is a failed recording: strict refuses, best-effort goes on', async (t) => {
  for (const [mode, expected] of [
    ['strict', 'refused'],
    ['best-effort', 'unrecorded'],
  ] as const) {
    const { recorder, told } = recorderIn(temporaryFolder(t), mode, {
      parties: () => Promise.reject(new Error('gone')),
    });
    t.after(() => recorder.release());
    assert.equal(await recorder.begin(session), expected);
    assert.deepEqual(
      told.map(([what, facts]) => [what, (facts as { reason: string }).reason]),
      [['failed', 'directory']],
    );
    assert.equal(recorder.failures.get('directory'), 1);
  }
});
