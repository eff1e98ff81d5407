import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { createLogSink } from '../../src/audit/sinks/log.ts';
import { eventsFolder, key, openSink, put } from './support.ts';

test('[R31] a line is an HMAC-SHA256 over the MAC before it and itself, as the documentation says', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  put(sink, 'some "text" \u202e é');
  await sink.close();
  const lines = (await readFile(join(folder, 'events-00000001.jsonl'), 'utf8')).trimEnd().split('\n');
  assert.equal(lines.length, 3);
  let before = Buffer.alloc(32);
  lines.forEach((line, i) => {
    const body = line.slice(0, line.lastIndexOf(',"mac":'));
    before = createHmac('sha256', key).update(before).update(body, 'utf8').digest();
    const parsed = JSON.parse(line) as { line: number; mac: string };
    assert.deepEqual([parsed.line, parsed.mac], [i + 1, before.toString('hex')]);
  });
});

test('fault 34: the log sink hands the logger visible text, at the level of the code', () => {
  const said: unknown[][] = [];
  const logger = {
    info: (...args: unknown[]) => said.push(['info', ...args]),
    warn: (...args: unknown[]) => said.push(['warn', ...args]),
    error: (...args: unknown[]) => said.push(['error', ...args]),
  };
  const sink = createLogSink(logger);
  for (const code of ['CPL-1001I', 'CPL-1102W', 'CPL-2004E']) {
    const event = {
      time: 't',
      code,
      etype: 'e',
      action: 'a',
      msg: 'm\u202e\n',
      username: '\u009b',
      msgArgs: ['\u2028', 1],
    };
    void sink.write(event, '');
  }
  assert.deepEqual(
    said,
    [
      ['info', 'CPL-1001I'],
      ['warn', 'CPL-1102W'],
      ['error', 'CPL-2004E'],
    ].map(([level, code]) => [
      level,
      { code, etype: 'e', action: 'a', username: '\\u009b', msgArgs: ['\\u2028', 1] },
      'm\\u202e\\u000a',
    ]),
  );
});
