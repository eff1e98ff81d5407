import assert from 'node:assert/strict';
import test from 'node:test';
import { eventKinds } from '../../src/audit/codes.ts';
import { Events } from '../../src/audit/events.ts';
import type { EventRecord, EventSink, SinkReport } from '../../src/audit/sink.ts';
import type { Clock } from '../../src/core/clock.ts';
import { outcomes } from '../../src/core/outcome.ts';
import { recorded, session, sessionEnd } from './support.ts';

class Collector implements EventSink {
  readonly name = 'collector';
  readonly events: EventRecord[] = [];
  readonly lines: string[] = [];
  write(event: EventRecord, json: string): void {
    this.events.push(event);
    this.lines.push(json);
  }
}

const clock = {
  now: Date.UTC(2024, 4, 6, 7, 8, 9, 10),
  monotonic: 0,
  nowMs() {
    return this.now;
  },
  monotonicMs() {
    return this.monotonic;
  },
} satisfies Clock & { now: number; monotonic: number };

const quiet = { domain: 'd', id: 'i', userid: 'u', username: 'n', nodeid: 'node//x', address: '192.0.2.9' };

const looks = { domain: 'd', userid: 'u', username: 'n', address: '192.0.2.9' };
const guest = { guestname: 'g', shareid: 's' };
const token = { tokenid: 't', tokenname: 'ci', actorid: 'a' };

/** Every function once, with every optional field. */
function emitAll(events: Events): void {
  events.sessionStarted({ ...session, guestname: 'guest', shareid: 's' });
  events.sessionEnded({ ...sessionEnd, guestname: 'guest', shareid: 's', recording: 'r.mcrec' });
  events.sessionKilled({ ...quiet, protocol: 1, actorid: 'a' });
  events.sessionRevoked({ ...quiet, protocol: 1, reason: 'user-locked' });
  events.halfRefused({ ...quiet, reason: 'cookie-age', status: 401 });
  events.pairingRefused({ ...quiet, waitingUserid: 'w', reason: 'other-user', outcome: 'denied', closeCode: 4403 });
  events.holdExpired({ ...quiet, protocol: 2, heldMs: 30_000.4 });
  events.protocolMismatch({ ...quiet, field: 'protocol', userValue: 1, deviceValue: 2 });
  events.limitHit({ ...quiet, limit: 'message-size' });
  events.recordingStarted({ ...recorded, file: 'r.mcrec' });
  events.recordingFailed({ ...recorded, file: 'r.mcrec', reason: 'ENOSPC', consequence: 'ended' });
  events.recordingFinished({ ...recorded, file: 'r.mcrec', bytes: 1, blocks: 1, complete: true });
  events.recordingSalvaged({ file: 'r.mcrec', state: 'repaired', offset: 1, cutBytes: 2, text: 't' });
  events.recordingSalvageFailed({ file: 'r.mcrec', reason: 'r' });
  events.recordingDeleted({ file: 'r.mcrec', bytes: 1, reason: 'user', ...looks });
  events.recordingIndexFailed({ file: 'r.mcrec', reason: 'r' });
  events.recordingRetentionFailed({ folder: 'f', reason: 'EACCES', undeleted: { count: 2, file: 'r.mcrec' } });
  events.recordingViewed({ ...looks, file: 'r.mcrec' });
  events.recordingDownloaded({ ...looks, file: 'r.mcrec', range: '0-9', bytes: 10, complete: true });
  events.recordingsListed({ ...looks, count: 1 });
  events.tunnelSent({ ...quiet, ...guest, protocol: 1, target: 'none' });
  events.tunnelRefused({ ...quiet, ...guest, protocol: 1, target: 'none', reason: 'no-link' });
  events.tunnelFailed({ ...quiet, state: 'failed', reason: 'dial', detail: 'ECONNREFUSED' });
  events.shareUsed({ ...quiet, ...guest, protocol: 1 });
  events.shareCreated({ ...quiet, ...guest, protocols: 'terminal', expiresMs: 0, viewOnly: false });
  events.shareRevoked({ ...quiet, ...guest, actorid: 'a' });
  events.agentOnline({ ...quiet, hostname: 'h', platform: 'linux', version: '1' });
  events.agentOffline({ ...quiet, reason: 'silent', onlineMs: 1_999 });
  events.agentReplaced({ ...quiet, replacedAddress: '192.0.2.8' });
  events.agentRefused({ ...quiet, reason: 'revoked' });
  events.deviceEnrolled({ ...quiet, hostname: 'h', fingerprint: 'f' });
  events.deviceRevoked(quiet);
  events.login({ ...quiet, loginid: 'l' });
  events.loginFailed({ ...quiet, reason: 'credentials' });
  events.loginEnded({ ...quiet, loginid: 'l', reason: 'logout', actorid: 'a' });
  events.tokenCreated({ ...quiet, ...token, scopes: ['devices'], expiresMs: 0 });
  events.tokenRevoked({ ...quiet, ...token });
  events.directoryChanged({ ...quiet, actor: 'api', change: 'grant-made', target: 'mesh//m', detail: 'admin' });
  events.serverStarted({ version: '1', pid: 1, listen: ['127.0.0.1:1'], forwarder: 'native' });
  events.serverStopped({ pid: 1, reason: 'SIGTERM', uptimeMs: 1_999 });
  events.configurationReloaded(['relay.holdMs']);
  events.configurationReloadRefused('relay.holdMs: -1 is less than 0');
  events.certificateReplaced({ listen: 'l', fingerprint: 'f', notAfterMs: 0 });
  events.listenerResting({ listen: 'l', reason: 'EMFILE' });
  events.listenerRecovered({ listen: 'l', restedMs: 12 });
  events.forwarderSelfTestFailed('r');
  events.portablePathInUse('r');
  events.eventsLost('file', 3);
  events.redisLost({ redis: 'redis://h:6379', reason: 'r' });
  events.redisBack({ redis: 'redis://h:6379', downMs: 12 });
  events.serverJoined({ server: 'b', link: 'ws://h:1', version: '1' });
  events.serverGone({ server: 'b', link: 'ws://h:1', version: '1' });
  events.directoryConflict('r');
}

function collect(run: (events: Events) => void): EventRecord[] {
  const sink = new Collector();
  run(new Events({ clock, sinks: [sink] }));
  return sink.events;
}

test('[R29] the start event has the wire shape', () => {
  assert.deepEqual(
    collect((events) => events.sessionStarted(session)),
    [
      {
        time: '2024-05-06T07:08:09.010Z',
        code: 'CPL-1001I',
        etype: 'relay',
        action: 'relaylog',
        domain: '',
        userid: 'user//ann',
        username: 'ann',
        msgid: 14,
        msgArgs: ['abc', '192.0.2.1', '2001:db8::2'],
        msg: 'Started terminal session "abc" from 192.0.2.1 to 2001:db8::2',
        protocol: 1,
        nodeid: 'node//pc',
      },
    ],
  );
});

test('[R29] the end event has the wire shape, whole seconds and the counters', () => {
  assert.deepEqual(
    collect((events) => events.sessionEnded({ ...sessionEnd, guestname: 'Bob', recording: 'x.mcrec' })),
    [
      {
        time: '2024-05-06T07:08:09.010Z',
        code: 'CPL-1002I',
        etype: 'relay',
        action: 'relaylog',
        domain: '',
        userid: 'user//ann',
        username: 'ann',
        guestname: 'Bob',
        msgid: 10,
        msgArgs: ['abc', '192.0.2.1', '2001:db8::2', 61],
        msg: 'Ended terminal session "abc" from 192.0.2.1 to 2001:db8::2, 61 second(s)',
        protocol: 1,
        nodeid: 'node//pc',
        seconds: 61,
        bytesin: 1,
        bytesout: 2,
        messagesin: 3,
        messagesout: 4,
        outcome: 'normal',
        closedby: 'device',
        throttledms: 5,
        recording: 'x.mcrec',
      },
    ],
  );
});

test('[R29] protocol gives word and msgid', () => {
  const table: [number, string, number, number][] = [
    [0, 'relay', 13, 9],
    [1, 'terminal', 14, 10],
    [2, 'desktop', 15, 11],
    [5, 'file management', 16, 12],
    [6, 'terminal', 14, 10],
    [8, 'terminal', 14, 10],
    [9, 'terminal', 14, 10],
    [10, 'relay', 13, 9],
    [100, 'relay', 13, 9],
    [200, 'messenger', 162, 112],
  ];
  for (const [protocol, word, start, end] of table) {
    const events = collect((all) => {
      all.sessionStarted({ ...session, protocol });
      all.sessionEnded({ ...sessionEnd, protocol, durationMs: 999 });
    });
    assert.deepEqual(
      events.map(({ msgid, protocol: p }) => [msgid, p]),
      [
        [start, protocol],
        [end, protocol],
      ],
    );
    assert.equal(events[0]?.msg, `Started ${word} session "abc" from 192.0.2.1 to 2001:db8::2`);
    assert.equal(events[1]?.msg, `Ended ${word} session "abc" from 192.0.2.1 to 2001:db8::2, 0 second(s)`);
  }
});

test('[R28] the end event carries the outcome word, each of them', () => {
  const events = collect((all) => {
    for (const outcome of outcomes) all.sessionEnded({ ...sessionEnd, outcome });
  });
  assert.deepEqual(
    events.map(({ outcome }) => outcome),
    [...outcomes],
  );
});

test('[R30] every kind has a function, which emits its code and the fields of the table', () => {
  const sink = new Collector();
  const events = new Events({ clock, sinks: [sink] });
  emitAll(events);
  const names = Object.keys(eventKinds) as (keyof typeof eventKinds)[];
  assert.deepEqual(
    sink.events.map(({ code }) => code),
    names.map((name) => eventKinds[name].code),
  );
  names.forEach((name, i) => {
    const expected = ['time', 'code', 'etype', 'action', 'msg', ...eventKinds[name].fields].map((f) =>
      f.replace('?', ''),
    );
    assert.deepEqual(Object.keys(sink.events[i] as EventRecord).sort(), expected.sort(), name);
    assert.equal(typeof events[name], 'function');
  });
  for (const name of names) assert.equal(events.counts.get(eventKinds[name].code), 1);
});

test('fault 34: an event is one line whatever a device calls itself, and reads back unchanged', () => {
  const evil =
    'a\n\r\u2028\u2029\u0085\u009b31m\u001b[2J\u0000\u007f\u202e\u2066\u200f\u200b\ufeff\u{e0041}"\\\ud800é漢';
  const sink = new Collector();
  new Events({ clock, sinks: [sink] }).sessionStarted({ ...session, username: evil, nodeid: evil });
  const line = sink.lines[0] as string;
  for (const char of line) {
    const code = char.codePointAt(0) as number;
    assert.ok(code >= 0x20 && code !== 0x7f && !(code >= 0x80 && code < 0xa0), `U+${code.toString(16)} is escaped`);
  }
  assert.doesNotMatch(line, /[\u2028-\u202e\u2066-\u2069\u200b-\u200f\ufeff]|[\u{e0000}-\u{e007f}]/u);
  assert.match(line, /\\u202e/);
  assert.match(line, /é漢/);
  assert.deepEqual(JSON.parse(line), sink.events[0]);
  assert.equal(sink.events[0]?.username, evil);
});

test('fault 34: a very long name is cut', () => {
  const [event] = collect((events) => events.sessionStarted({ ...session, username: 'x'.repeat(100_000) }));
  assert.equal(event?.username, `${'x'.repeat(1_023)}…`);
});

test('fault 51: a sink that throws, rejects or hangs stops neither the caller nor the other sinks', async () => {
  const good = new Collector();
  const sinks: EventSink[] = [
    {
      name: 'throws',
      write() {
        throw new Error('no');
      },
    },
    { name: 'rejects', write: () => Promise.reject(new Error('no')) },
    { name: 'hangs', write: () => new Promise(() => {}), close: () => new Promise(() => {}) },
    good,
  ];
  const told: string[] = [];
  const events = new Events({
    clock,
    sinks,
    onSinkFailure: (sink) => {
      told.push(sink);
      throw new Error('the listener fails too');
    },
  });
  for (let i = 0; i < 1_500; i++) events.sessionStarted(session);
  assert.equal(good.events.length, 1_500);
  await events.close(10);
  assert.equal(good.events[1_500]?.code, 'CPL-2010E');
  const failures = events.sinkFailures();
  assert.equal(failures.get('throws'), 1_501, 'the last is the event on what the rejecting sink missed');
  assert.equal(failures.get('hangs'), 502, '501 past the bound, and one close');
  assert.equal(failures.get('collector'), 0);
  assert.equal(failures.get('rejects'), 1_501);
  assert.equal(new Set(told).size, 3);
});

test('fault 51: events that a hanging sink missed are told when it works again', async () => {
  const held: (() => void)[] = [];
  const got: EventRecord[] = [];
  const sink: EventSink = {
    name: 'slow',
    write: (event) => {
      got.push(event);
      return new Promise<void>((resolve) => held.push(resolve));
    },
  };
  const events = new Events({ clock, sinks: [sink] });
  for (let i = 0; i < 1_010; i++) events.sessionStarted(session);
  assert.equal(got.length, 1_000);
  for (const release of held.splice(0)) release();
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(
    got.slice(1_000).map(({ code, sink: name, count }) => [code, name, count]),
    [['CPL-2010E', 'slow', 10]],
  );
});

test('[R30] an event that cannot be made is counted and does not throw', () => {
  const events = new Events({ clock, sinks: [] });
  events.certificateReplaced({ listen: 'l', fingerprint: 'f', notAfterMs: Number.NaN });
  assert.equal(events.sinkFailures().get('events'), 1);
  assert.equal(events.counts.get('CPL-2005I'), 0);
});

test('[R30] a sink reports later failures and losses', () => {
  let report: SinkReport | undefined;
  const good = new Collector();
  const events = new Events({
    clock,
    sinks: [
      {
        name: 'late',
        attach(r) {
          report = r;
        },
        write() {},
      },
      good,
    ],
  });
  report?.failed(new Error('x'));
  report?.lost(7);
  assert.equal(events.sinkFailures().get('late'), 1);
  assert.deepEqual([good.events[0]?.code, good.events[0]?.sink, good.events[0]?.count], ['CPL-2010E', 'late', 7]);
});

test('[R26] a flood of limit hits from one address becomes two events that count all', async () => {
  clock.monotonic = 0;
  const sink = new Collector();
  const events = new Events({ clock, sinks: [sink] });
  for (let i = 0; i < 5_000; i++) events.limitHit({ limit: 'rate', address: '192.0.2.1' });
  events.limitHit({ limit: 'rate', address: '192.0.2.2' });
  events.limitHit({ limit: 'idle', address: '192.0.2.1', id: 'a' });
  events.limitHit({ limit: 'idle', address: '192.0.2.1', id: 'b' });
  const seen = () => sink.events.map(({ limit, address, count }) => [limit, address, count]);
  const first = [
    ['rate', '192.0.2.1', 1],
    ['rate', '192.0.2.2', 1],
    ['idle', '192.0.2.1', 1],
    ['idle', '192.0.2.1', 1],
  ];
  assert.deepEqual(seen(), first);
  clock.monotonic = 10_000;
  events.limitHit({ limit: 'rate', address: '192.0.2.1' });
  assert.deepEqual(seen(), [...first, ['rate', '192.0.2.1', 5_000]]);
  events.limitHit({ limit: 'rate', address: '192.0.2.1' });
  await events.close();
  assert.deepEqual(seen().slice(5), [['rate', '192.0.2.1', 1]]);
});

test('[R26] limit hits from many addresses stay bounded in memory and complete in number', async () => {
  clock.monotonic = 0;
  const sink = new Collector();
  const events = new Events({ clock, sinks: [sink] });
  for (let i = 0; i < 20_000; i++) events.limitHit({ limit: 'rate', address: `2001:db8::${i}` });
  assert.equal(sink.events.length, 1_001);
  await events.close();
  assert.equal(
    sink.events.reduce((sum, { count }) => sum + (count as number), 0),
    20_000,
  );
});
