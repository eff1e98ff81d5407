import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { basename } from 'node:path';
import type { TestContext } from 'node:test';
import { verifyRecording } from '../../src/recording/verify.ts';
import { type Client, connect } from './client.ts';
import { readRecording, recordingsIn } from './recordings.ts';
import { until } from './relay.ts';
import { type ServeChild, type ServeOptions, startServe } from './serve.ts';

/** A session with what it was greeted with. */
export interface Pair {
  readonly user: Client;
  readonly device: Client;
  readonly greetings: readonly string[];
}

/** Opens both halves; protocol 1 unless told otherwise. */
export async function pairUp(t: TestContext, serve: ServeChild, id: string, p = 1): Promise<Pair> {
  const user = await connect(t, serve.url('user', id, { p }));
  const device = await connect(t, serve.url('device', id));
  return { user, device, greetings: [await user.nextText(), await device.nextText()] };
}

/** The codes with which both halves are closed. */
export async function closeCodes({ user, device }: Pick<Pair, 'user' | 'device'>): Promise<number[]> {
  await until(() => user.isClosed && device.isClosed, 'both halves are closed');
  return [(await user.closed).code, (await device.closed).code];
}

/** The same, for a session that must be recorded. */
export async function recordedPair(t: TestContext, serve: ServeChild, id: string): Promise<Pair> {
  const pair = await pairUp(t, serve, id);
  assert.deepEqual(pair.greetings, ['cr', 'cr']);
  return pair;
}

/** Protocol 5 is not recorded, 1 and 2 are; short intervals, so that tests need not wait. */
export function serveRecording(
  t: TestContext,
  recording: Readonly<Record<string, unknown>>,
  options: ServeOptions = {},
): Promise<ServeChild> {
  const { settings = {} } = options;
  const defaults = { mode: 'best-effort', protocols: [1, 2, 200], index: false, flushMs: 20, fsyncMs: 100 };
  return startServe(t, { ...options, settings: { ...settings, recording: { ...defaults, ...recording } } });
}

export async function echo(from: Client, to: Client, word: string): Promise<void> {
  from.send(word);
  assert.equal(await to.nextText(), word);
}

export const eventsOf = (serve: ServeChild, code: string) => serve.events().filter((event) => event.code === code);

/** The one recording of a session. */
export function recordingOf(serve: ServeChild, id: string): string {
  const paths = recordingsIn(serve.folder).filter((path) => basename(path).includes(`-${id}.`));
  assert.equal(paths.length, 1, `recordings of ${id}`);
  return paths[0]!;
}

/** The texts of a recording, whole or not, in their order. */
export function textsIn(path: string): string[] {
  return readRecording(path).messages.map(({ data }) => data.toString());
}

/** Waits until so many messages of a recording, finished or not, have reached its file. */
export function written(path: string, count: number): Promise<void> {
  return until(
    () => statSync(path).size > 0 && textsIn(path).length >= count,
    `${count} messages in ${basename(path)}`,
  );
}

/** Players open it, and all that it holds is right. */
export function assertGood(path: string): void {
  const { state, problems, notes } = verifyRecording(path);
  assert.deepEqual({ state, problems, notes }, { state: 'complete', problems: [], notes: [] }, basename(path));
}

/** What was recorded is the beginning of what was sent: nothing missing in between, twice or in another order. */
export function assertBeginning(recorded: readonly string[], sent: readonly string[], what: string): void {
  assert.ok(recorded.length <= sent.length, `${what}: ${recorded.length} messages of ${sent.length}`);
  assert.deepEqual(recorded, sent.slice(0, recorded.length), what);
}
