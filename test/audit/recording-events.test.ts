import assert from 'node:assert/strict';
import test from 'node:test';
import { Events } from '../../src/audit/events.ts';
import type { RecordedSession, RecordingFailure } from '../../src/audit/recording-fields.ts';
import type { EventRecord } from '../../src/audit/sink.ts';
import { createLogSink } from '../../src/audit/sinks/log.ts';
import { systemClock } from '../../src/core/clock.ts';
import { recorded } from './support.ts';

interface Collected {
  readonly events: Partial<EventRecord>[];
  /** As the event log writes them. */
  readonly lines: string[];
  /** Texts of the server's log. */
  readonly logged: string[];
}

/** The events, without their time. */
function collect(run: (events: Events) => void): Collected {
  const collected: Collected = { events: [], lines: [], logged: [] };
  const log = (fields: object, message: string) => collected.logged.push(message + JSON.stringify(fields));
  run(
    new Events({
      clock: systemClock,
      sinks: [
        {
          name: 'collector',
          write({ time: _, ...event }, json) {
            collected.events.push(event);
            collected.lines.push(json);
          },
        },
        createLogSink({ info: log, warn: log, error: log }),
      ],
    }),
  );
  return collected;
}

const name = 'relaysession-2024-05-06-07-08-09-ann-pc-abc.mcrec';
const path = `/var/lib/couplet/recordings/${name}`;
const { id, mode, protocol, ...who } = recorded;
const sessionFields = { ...who, id, mode, protocol };

test('[R30] a recording that starts and finishes is told with the session and the name of its file', () => {
  const { events } = collect((all) => {
    all.recordingStarted({ ...recorded, file: path });
    all.recordingFinished({ ...recorded, file: path, bytes: 700, blocks: 9, complete: true });
    all.recordingFinished({ ...recorded, file: name, bytes: 700, complete: false });
  });
  const common = { etype: 'recording', ...sessionFields, file: name };
  assert.deepEqual(events, [
    {
      ...common,
      code: 'CPL-1201I',
      action: 'recordingstarted',
      msg: `Session "abc" is recorded in ${name}`,
    },
    {
      ...common,
      code: 'CPL-1203I',
      action: 'recordingfinished',
      bytes: 700,
      blocks: 9,
      complete: true,
      msg: `Finished the recording ${name} of session "abc", 700 byte(s)`,
    },
    {
      ...common,
      code: 'CPL-1203I',
      action: 'recordingfinished',
      bytes: 700,
      complete: false,
      msg: `Finished the recording ${name} of session "abc", 700 byte(s), incomplete`,
    },
  ]);
});

test('[R30] a recording that fails is told with what became of the session', () => {
  const cases: readonly [RecordingFailure, string | undefined, string][] = [
    ['unrecorded', undefined, 'Session "abc" goes on and is not recorded: ENOSPC'],
    ['ended', path, `The recording ${name} of session "abc" ended early, the session goes on: ENOSPC`],
    ['session-closed', undefined, 'Session "abc" was closed because it could not be recorded: ENOSPC'],
    ['session-closed', path, 'Session "abc" was closed because it could not be recorded: ENOSPC'],
    ['sidecar-lost', path, `The recording ${name} of session "abc" goes on without its sidecar: ENOSPC`],
  ];
  for (const [consequence, file, msg] of cases) {
    const { events } = collect((all) => all.recordingFailed({ ...recorded, file, reason: 'ENOSPC', consequence }));
    assert.deepEqual(events, [
      {
        code: 'CPL-1202E',
        etype: 'recording',
        action: 'recordingfailed',
        ...sessionFields,
        ...(file === undefined ? {} : { file: name }),
        reason: 'ENOSPC',
        consequence,
        msg,
      },
    ]);
  }
});

test('[R37] what salvage did to a file, or could not do, is told', () => {
  const { events } = collect((all) => {
    all.recordingSalvaged({ file: path, state: 'repaired', offset: 96, cutBytes: 7, text: 'block at 96 is torn' });
    all.recordingSalvaged({ file: path, state: 'removed', text: 'nothing was recorded: the file is empty' });
    all.recordingSalvageFailed({ file: path, reason: `${path}: cannot be opened (EACCES)` });
  });
  const common = { etype: 'recording', file: name };
  assert.deepEqual(events, [
    {
      ...common,
      code: 'CPL-1204W',
      action: 'recordingsalvaged',
      state: 'repaired',
      offset: 96,
      cutbytes: 7,
      text: 'block at 96 is torn',
      msg: `Repaired the recording ${name} at offset 96, 7 byte(s) cut off: block at 96 is torn`,
    },
    {
      ...common,
      code: 'CPL-1204W',
      action: 'recordingsalvaged',
      state: 'removed',
      text: 'nothing was recorded: the file is empty',
      msg: `Removed the recording ${name}: nothing was recorded: the file is empty`,
    },
    {
      ...common,
      code: 'CPL-1205E',
      action: 'recordingsalvagefailed',
      reason: `${name}: cannot be opened (EACCES)`,
      msg: `The recording ${name} could not be salvaged: ${name}: cannot be opened (EACCES)`,
    },
  ]);
});

test('[R38] what retention deleted, or could not delete, is told, and who asked for a deletion', () => {
  const { events } = collect((all) => {
    all.recordingDeleted({ file: path, bytes: 5, reason: 'age' });
    all.recordingDeleted({ file: path, bytes: 5, reason: 'user', domain: '', userid: 'user//bob' });
    all.recordingRetentionFailed({ folder: 'recordings', reason: 'ENOENT' });
    all.recordingRetentionFailed({ folder: 'recordings', reason: 'EACCES', undeleted: { count: 3, file: path } });
  });
  const deleted = { code: 'CPL-1206I', etype: 'recording', action: 'recordingdeleted', file: name, bytes: 5 };
  const failed = { code: 'CPL-1208E', etype: 'recording', action: 'recordingretentionfailed', folder: 'recordings' };
  assert.deepEqual(events, [
    { ...deleted, reason: 'age', msg: `The recording ${name}, 5 byte(s), was deleted by retention: age` },
    {
      ...deleted,
      reason: 'user',
      domain: '',
      userid: 'user//bob',
      msg: `The recording ${name}, 5 byte(s), was deleted by user//bob`,
    },
    { ...failed, reason: 'ENOENT', msg: 'Retention could not look through recordings: ENOENT' },
    {
      ...failed,
      file: name,
      count: 3,
      reason: 'EACCES',
      msg: `Retention could not delete 3 recording(s) in recordings, ${name} among them: EACCES`,
    },
  ]);
});

test('an index that could not be made is told', () => {
  const { events } = collect((all) => all.recordingIndexFailed({ file: path, reason: `${path}: ENOSPC` }));
  assert.deepEqual(events, [
    {
      code: 'CPL-1207W',
      etype: 'recording',
      action: 'recordingindexfailed',
      file: name,
      reason: `${name}: ENOSPC`,
      msg: `The recording ${name} got no index: ${name}: ENOSPC`,
    },
  ]);
});

test('fault 34: an event of a recording is one harmless line whatever session, user and device call themselves', () => {
  const evil = '../../etc/x\n\r\u2028\u0085\u001b[2J\u0000\u202e\u200b$&"\\\ud800';
  const hostile: RecordedSession = { ...recorded, domain: evil, id: evil, userid: evil, username: evil, nodeid: evil };
  const { events, lines, logged } = collect((all) => {
    all.recordingStarted({ ...hostile, file: name });
    for (const consequence of ['unrecorded', 'ended', 'session-closed', 'sidecar-lost'] as const) {
      all.recordingFailed({ ...hostile, file: name, reason: 'EIO', consequence });
    }
    all.recordingFinished({ ...hostile, file: name, bytes: 1, complete: true });
    // A file that somebody put into the folder has any name.
    all.recordingSalvaged({ file: `/a/b\n$&\u202e.mcrec`, state: 'removed', text: evil });
    all.recordingSalvageFailed({ file: `/a/b\n$&\u202e.mcrec`, reason: `/a/b\n$&\u202e.mcrec: ${evil}` });
  });
  assert.equal(lines.length, 8);
  for (const line of [...lines, ...logged]) {
    for (const char of line) {
      const code = char.codePointAt(0)!;
      assert.ok(code >= 0x20 && code !== 0x7f && !(code >= 0x80 && code < 0xa0), `U+${code.toString(16)} is escaped`);
    }
    assert.doesNotMatch(line, /[\u2028-\u202e\u200b-\u200f]/);
  }
  assert.equal(events[0]?.id, evil, 'and reads back unchanged');
  assert.equal(events[7]?.reason, `b\n$&\u202e.mcrec: ${evil}`, 'nothing in a name is a pattern');
});
