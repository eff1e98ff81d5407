import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { eventFileName } from '../../src/audit/event-file.ts';
import type { SessionEndFacts, SessionFacts } from '../../src/audit/fields.ts';
import type { RecordedSession } from '../../src/audit/recording-fields.ts';
import { toSafeJson } from '../../src/audit/safe-text.ts';
import type { EventRecord } from '../../src/audit/sink.ts';
import { type JsonLinesOptions, type JsonLinesSink, openJsonLinesSink } from '../../src/audit/sinks/json-lines.ts';
import { systemClock } from '../../src/core/clock.ts';

export const key = randomBytes(32);

/** A data folder's events folder, removed after the test. */
export async function eventsFolder(t: TestContext): Promise<string> {
  const data = await mkdtemp(join(tmpdir(), 'couplet-audit-'));
  t.after(() => rm(data, { recursive: true, force: true }));
  return join(data, 'events');
}

export function openSink(folder: string, options: Partial<JsonLinesOptions> = {}): Promise<JsonLinesSink> {
  return openJsonLinesSink({ folder, key, clock: systemClock, headsMs: 3_600_000, ...options });
}

/** Writes an event straight to a sink. */
export function put(sink: JsonLinesSink, msg: string): void {
  const event: EventRecord = { time: '2024-05-06T07:08:09.000Z', code: 'CPL-1001I', etype: 't', action: 't', msg };
  sink.write(event, toSafeJson(event));
}

/** The whole lines of an event file, without line feeds. */
export async function fileLines(folder: string, file: number): Promise<string[]> {
  return (await readFile(join(folder, eventFileName(file)), 'utf8')).split('\n').slice(0, -1);
}

export async function messagesIn(folder: string, file: number): Promise<string[]> {
  const parsed = (await fileLines(folder, file)).map((line) => JSON.parse(line) as { msg?: string });
  return parsed.map(({ msg }) => msg).filter((msg) => msg !== undefined);
}

export const session: SessionFacts = {
  domain: '',
  id: 'abc',
  protocol: 1,
  userid: 'user//ann',
  username: 'ann',
  nodeid: 'node//pc',
  waitingAddress: '192.0.2.1',
  newcomerAddress: '2001:db8::2',
};

export const sessionEnd: SessionEndFacts = {
  ...session,
  durationMs: 61_999,
  bytesUserToDevice: 1,
  bytesDeviceToUser: 2,
  messagesUserToDevice: 3,
  messagesDeviceToUser: 4,
  outcome: 'normal',
  closedBy: 'device',
  throttledUserToDeviceMs: 2,
  throttledDeviceToUserMs: 3,
};

export const recorded: RecordedSession = {
  domain: '',
  id: 'abc',
  protocol: 1,
  userid: 'user//ann',
  username: 'ann',
  nodeid: 'node//pc',
  mode: 'strict',
};
