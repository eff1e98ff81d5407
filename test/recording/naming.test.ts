import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isRecordingName, recordingFileName } from '../../src/recording/naming.ts';
import { textLine } from '../../src/recording/text-line.ts';
import { startMs } from './support.ts';

const parts = { domain: '', startMs, sessionId: 'abc', form: 'mcrec' } as const;
const hostile = [
  '../../etc/passwd',
  'a\0b',
  'x'.repeat(300),
  'line\nline',
  '\x1b[31mred',
  '\u202egnp.exe',
  '..',
  '😀é',
];

test('[R34] the name of a recording: UTC, the real month number, parts that are known', () => {
  assert.equal(recordingFileName(parts), 'relaysession-2026-11-22-09-08-07-abc.mcrec');
  const all = { ...parts, domain: 'corp', userName: 'ann', deviceName: 'pc 1' };
  assert.equal(recordingFileName(all), 'relaysession-corp-2026-11-22-09-08-07-ann-pc_1-abc.mcrec');
  assert.equal(recordingFileName(all, 3), 'relaysession-corp-2026-11-22-09-08-07-ann-pc_1-abc-3.mcrec');
  const chat = { ...parts, form: 'jsonl', sessionId: 'meshmessenger/user//a/user//b' } as const;
  assert.equal(recordingFileName(chat), 'relaysession-2026-11-22-09-08-07-meshmessenger_user__a_user__b.jsonl');
});

test('[R34] USER and DEVICE are cut, the longer one first, and ID never below 64 bytes', () => {
  const id = 'i'.repeat(80);
  const long = recordingFileName({ ...parts, userName: 'u'.repeat(300), deviceName: 'd'.repeat(300), sessionId: id });
  assert.equal(long.length, 200);
  assert.match(long, /-u{45,49}-d{45,49}-i{64}\.mcrec$/);
  const one = recordingFileName({ ...parts, userName: 'ann', deviceName: 'd'.repeat(300), sessionId: id });
  assert.equal(one.length, 200);
  assert.match(one, /-ann-d{80,}-i{64}\.mcrec$/);
  const again = recordingFileName({ ...parts, userName: 'u'.repeat(300), sessionId: id }, 12);
  assert.equal(again.length, 200);
  assert.match(again, /-i{64}-12\.mcrec$/);
});

test('[R34] fault 34: whatever the parts hold, a name is at most 200 bytes of [A-Za-z0-9._-]', () => {
  const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 300 }), fc.constantFrom(...hostile));
  fc.assert(
    fc.property(
      text,
      text,
      text,
      text,
      fc.integer({ min: 1, max: 9999 }),
      (domain, userName, deviceName, sessionId, n) => {
        const name = recordingFileName({ ...parts, domain, userName, deviceName, sessionId }, n);
        assert.match(name, /^relaysession-[A-Za-z0-9._-]+\.mcrec$/);
        assert.ok(name.length <= 200);
        assert.ok(isRecordingName(name));
      },
    ),
  );
  for (const name of ['x.mcrec', 'relaysession-a.txt', 'relaysession-a/b.mcrec', 'relaysession-a.mcrec.cpt']) {
    assert.equal(isRecordingName(name), false, name);
  }
});

test('[R33] fault 34: a line of a messenger recording holds no control, direction or invisible characters', () => {
  const text = '\u202e\u0000\u0007\u009b31m\u2028\u200b\ufeffé😀';
  const line = textLine({ time: 1, from: text, text });
  assert.match(line, /^[\x20-\x7eé😀]+\n$/u);
  assert.deepEqual(JSON.parse(line), { time: 1, from: text, text });
});
