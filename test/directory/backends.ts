import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Clock, systemClock } from '../../src/core/clock.ts';
import type { DirectoryChange } from '../../src/directory/directory.ts';
import { type OpenDirectoryOptions, openDirectory } from '../../src/directory/open.ts';
import type { SqlDirectory } from '../../src/directory/sql.ts';
import { hasPostgres, Postgres } from '../support/postgres.ts';
import { missing } from '../support/services.ts';

/** The wall clock, with hands that a test can move on. */
export class MovableClock implements Clock {
  aheadMs = 0;
  nowMs(): number {
    return systemClock.nowMs() + this.aheadMs;
  }
  monotonicMs(): number {
    return systemClock.monotonicMs();
  }
}

/** A place for a directory: opened more than once it is the same one, as by two processes. */
export interface Place {
  readonly kind: 'sqlite' | 'postgres';
  /** Options that open it. */
  readonly options: { directory: string; file: string };
  readonly server: Postgres | undefined;
  open(options?: Partial<OpenDirectoryOptions>): Promise<SqlDirectory>;
}

let server: Postgres | undefined;
const folders: string[] = [];

/** To be called once in a test file: starts the PostgreSQL server of its tests and ends it. */
export function useBackends(): void {
  before(async () => {
    if (hasPostgres()) server = await Postgres.start();
  });
  after(async () => {
    await server?.stop();
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
  });
}

/** An empty place; `undefined` where the service is missing and the test is skipped. */
export async function place(t: TestContext, kind: Place['kind']): Promise<Place | undefined> {
  let directory: string = kind;
  if (kind === 'postgres') {
    if (server === undefined) {
      missing(t, 'PostgreSQL is not installed; scripts/test-services says how');
      return undefined;
    }
    directory = await server.database();
  }
  const folder = mkdtempSync(join(tmpdir(), 'couplet-directory-'));
  folders.push(folder);
  const options = { directory, file: join(folder, 'directory.db') };
  const open = async (more: Partial<OpenDirectoryOptions> = {}) => {
    const onError = (error: unknown) => assert.fail(`in the background: ${String(error)}`);
    const opened = await openDirectory({ ...options, clock: systemClock, onError, ...more });
    t.after(() => opened.close());
    return opened as SqlDirectory;
  };
  return { kind, options, server: kind === 'postgres' ? server : undefined, open };
}

/** The same test over every kind of database [T3]. */
export function overBoth(name: string, body: (place: Place, t: TestContext) => Promise<void>): void {
  for (const kind of ['sqlite', 'postgres'] as const) {
    test(`${name} (${kind})`, { timeout: 60_000 }, async (t) => {
      const where = await place(t, kind);
      if (where !== undefined) await body(where, t);
    });
  }
}

/** A domain with a group, a device and a user in it. */
export async function furnish(directory: SqlDirectory, name = 'alice') {
  const user = await directory.users.create({ name });
  const group = await directory.deviceGroups.create({ name: `${name}'s group` });
  const { device, join: code } = await directory.devices.create({
    deviceGroupId: group.id,
    name: `${name}'s device`,
  });
  return { user, group, device, code };
}

/** Rejects unless the work is refused with this code, in one line. */
export async function refused(code: string, work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    (value) => assert.fail(`not refused with ${code}, but ${JSON.stringify(value)}`),
    (reason: unknown) => reason as { code?: string; message: string },
  );
  assert.equal(error.code, code, error.message);
  assert.match(error.message, /^[\x20-\x7e…]+$/, 'one line that moves nothing about');
  assert.ok(error.message.length < 1000, error.message);
  return error.message;
}

/** Gathers what a directory tells, and waits for something to be told. */
export class Heard {
  readonly changes: DirectoryChange[] = [];
  #wake: () => void = () => {};

  constructor(directory: SqlDirectory) {
    directory.onChange((change) => {
      this.changes.push(change);
      this.#wake();
    });
  }

  /** The first change that fits; rejects after `withinMs`. */
  async first(fits: (change: DirectoryChange) => boolean, withinMs = 1_000): Promise<DirectoryChange> {
    const deadline = systemClock.monotonicMs() + withinMs;
    for (;;) {
      const found = this.changes.find(fits);
      if (found !== undefined) return found;
      const leftMs = deadline - systemClock.monotonicMs();
      assert.ok(leftMs > 0, `not told within ${withinMs} ms, but ${JSON.stringify(this.changes)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

const script = fileURLToPath(new URL('other-process.ts', import.meta.url));

/** Another process on the same database. */
export class Other {
  readonly #child: ChildProcess;

  constructor(t: TestContext, { options }: Place) {
    this.#child = fork(script, [JSON.stringify(options)], { execArgv: ['--import', 'tsx'] });
    t.after(async () => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
      const ended = once(this.#child, 'exit');
      this.#child.kill('SIGKILL');
      await ended;
    });
  }

  async ready(): Promise<this> {
    assert.deepEqual((await once(this.#child, 'message'))[0], 'ready');
    return this;
  }

  async do<T>(part: string, method: string, ...args: unknown[]): Promise<T> {
    this.#child.send([part, method, ...args]);
    const [answer] = (await once(this.#child, 'message')) as [{ value: T; error?: string }];
    assert.equal(answer.error, undefined);
    return answer.value;
  }

  async end(): Promise<number | null> {
    const ended = once(this.#child, 'exit');
    this.#child.disconnect();
    return (await ended)[0] as number | null;
  }
}
