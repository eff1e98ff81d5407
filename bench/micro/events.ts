import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Events } from '../../src/audit/events.ts';
import type { SessionEndFacts, SessionFacts } from '../../src/audit/fields.ts';
import { createChainKey, HashChain } from '../../src/audit/hash-chain.ts';
import type { EventSink } from '../../src/audit/sink.ts';
import { openJsonLinesSink } from '../../src/audit/sinks/json-lines.ts';
import { realDisk } from '../../src/audit/sinks/line-writer.ts';
import { systemClock } from '../../src/core/clock.ts';
import { runSuite } from './suite.ts';

// A session's two events, from the facts to the line in the event log. The whole way writes each line with a write(2),
// to the same place of a file again and again, as the file would grow to gigabytes otherwise.

const session: SessionFacts = {
  domain: '',
  id: 'f3b8c2a914e7d6',
  protocol: 2,
  userid: 'user//bench',
  username: 'bench',
  nodeid: 'node//bench',
  waitingAddress: '192.0.2.1',
  newcomerAddress: '2001:db8::2',
};
const ended: SessionEndFacts = {
  ...session,
  durationMs: 61_999,
  bytesUserToDevice: 12_345,
  bytesDeviceToUser: 9_876_543,
  messagesUserToDevice: 120,
  messagesDeviceToUser: 4_567,
  outcome: 'normal',
  closedBy: 'user',
  throttledUserToDeviceMs: 0,
  throttledDeviceToUserMs: 12,
};

const folder = mkdtempSync(join(process.env.COUPLET_BENCH_FOLDER ?? tmpdir(), 'couplet-bench-'));
const fd = openSync(join(folder, 'lines'), 'w');
const key = randomBytes(32);

let json = '';
const keep: EventSink = {
  name: 'keep',
  write: (_event, text) => {
    json = text;
  },
};
const failed = (sink: string, error: unknown): void => {
  throw new Error(`the sink ${sink} failed`, { cause: error });
};
const made = new Events({ clock: systemClock, sinks: [keep], onSinkFailure: failed });
const file = await openJsonLinesSink({
  folder: join(folder, 'events'),
  key,
  clock: systemClock,
  headsMs: 3_600_000,
  maxFileBytes: 0,
  disk: { ...realDisk, writeNow: (_handle, bytes) => writeSync(fd, bytes, 0, bytes.length, 0) },
});
const written = new Events({ clock: systemClock, sinks: [file] });

made.sessionEnded(ended);
assert.equal((JSON.parse(json) as { userid?: string }).userid, 'user//bench');
const line = json;
const chain = new HashChain(createChainKey(key));
assert.match(chain.append(line).toString(), /,"line":1,"mac":"[0-9a-f]{64}"\}\n$/);

try {
  await runSuite('events', {
    'make a session start': () => made.sessionStarted(session),
    'make a session end': () => made.sessionEnded(ended),
    'chain a line': () => chain.append(line),
    'make, chain and write a session end': () => written.sessionEnded(ended),
  });
  assert.deepEqual([...written.sinkFailures().values()], [0, 0], 'every line was written');
} finally {
  await made.close();
  await written.close();
  closeSync(fd);
  rmSync(folder, { recursive: true });
}
