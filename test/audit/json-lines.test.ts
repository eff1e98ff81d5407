import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeSync } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { Events } from '../../src/audit/events.ts';
import { type Disk, realDisk } from '../../src/audit/sinks/line-writer.ts';
import { verifyEventLog } from '../../src/audit/verify.ts';
import { systemClock } from '../../src/core/clock.ts';
import { eventsFolder, fileLines, key, messagesIn, openSink, put, session } from './support.ts';

const enospc = () => Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });

test('[R31] one file per opening, mode 0600 in a folder 0700, from the head of the one before', async (t) => {
  const folder = await eventsFolder(t);
  for (const name of ['one', 'two']) {
    const sink = await openSink(folder);
    put(sink, name);
    await sink.close();
  }
  assert.equal((await stat(folder)).mode & 0o777, 0o700);
  assert.equal((await stat(join(folder, 'events-00000001.jsonl'))).mode & 0o777, 0o600);
  assert.deepEqual((await readdir(folder)).sort().slice(0, 2), ['events-00000001.jsonl', 'events-00000002.jsonl']);
  assert.equal((await readdir(folder)).length, 3, 'and one heads file, no left-overs');
  const last = JSON.parse((await fileLines(folder, 1)).at(-1) as string);
  const opening = JSON.parse((await fileLines(folder, 2))[0] as string);
  assert.equal(last.record, 'close');
  assert.deepEqual(opening.previous, { file: 1, line: 3, mac: last.mac, closed: true });
  assert.deepEqual(await verifyEventLog(folder, [key]), {
    files: 2,
    lines: 6,
    problems: [],
    notes: [],
    unwitnessed: '',
  });
});

test('[R31] two processes on one folder write files of their own, and the log verifies at any time', async (t) => {
  const folder = await eventsFolder(t);
  const sinks = await Promise.all(Array.from({ length: 8 }, () => openSink(folder)));
  assert.equal(new Set(sinks.map(({ fileNumber }) => fileNumber)).size, 8);
  for (let round = 0; round < 3; round++) {
    for (const sink of sinks) put(sink, `${sink.fileNumber}.${round}`);
    await Promise.all(sinks.map((sink) => sink.maintain()));
    assert.deepEqual((await verifyEventLog(folder, [key])).problems, []);
  }
  await Promise.all(sinks.map((sink) => sink.close()));
  assert.deepEqual(await verifyEventLog(folder, [key]), {
    files: 8,
    lines: 40,
    problems: [],
    notes: [],
    unwitnessed: '',
  });
  assert.equal((await readdir(folder)).length, 9);
});

test('[R31] a wrong folder or key is one clear error', async (t) => {
  const folder = await eventsFolder(t);
  await assert.rejects(openSink(folder, { key: Buffer.alloc(31) }), { code: 'CPL_EVENT_KEY' });
  await mkdir(dirname(folder), { recursive: true });
  await writeFile(folder, '');
  await assert.rejects(openSink(folder), { code: 'CPL_EVENT_LOG' });
});

test('fault 48: rotation by size loses no line and continues the chain', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder, { maxFileBytes: 2_000 });
  const sent: string[] = [];
  for (let i = 0; sink.fileNumber < 6; i++) {
    sent.push(`event ${i}`);
    put(sink, `event ${i}`);
    // Lets rotations come in between: they take several turns, in which further lines are written.
    if (i % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await sink.close();
  const files = (await readdir(folder)).filter((name) => name.startsWith('events-')).length;
  assert.ok(files >= 6, `${files} files`);
  const found: string[] = [];
  for (let file = 1; file <= files; file++) found.push(...(await messagesIn(folder, file)));
  assert.deepEqual(found, sent);
  assert.deepEqual((await verifyEventLog(folder, [key])).problems, []);
  assert.deepEqual((await verifyEventLog(folder, [key])).notes, []);
});

test('fault 48: a file that was moved away is finished there, and a new one goes on', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  put(sink, 'before');
  await rename(join(folder, 'events-00000001.jsonl'), join(folder, 'events-00000001.jsonl.1'));
  put(sink, 'in the moved file');
  await sink.maintain();
  put(sink, 'in the new file');
  await sink.close();
  assert.deepEqual(await messagesIn(folder, 2), ['in the new file']);
  await rename(join(folder, 'events-00000001.jsonl.1'), join(folder, 'events-00000001.jsonl'));
  assert.deepEqual(await messagesIn(folder, 1), ['before', 'in the moved file']);
  const { problems, notes } = await verifyEventLog(folder, [key]);
  assert.deepEqual([problems, notes], [[], []]);
});

test('[R31] a file deleted while it is written is told, and found missing', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  const told: unknown[] = [];
  sink.attach({ failed: (error) => told.push(error), lost: () => {} });
  put(sink, 'gone');
  await rm(join(folder, 'events-00000001.jsonl'));
  await sink.maintain();
  put(sink, 'kept');
  await sink.close();
  assert.match(String(told[0]), /was deleted while it was written/);
  assert.deepEqual(await messagesIn(folder, 2), ['kept']);
  const { problems } = await verifyEventLog(folder, [key]);
  assert.deepEqual(
    problems.map(({ file, line, kind }) => [file, line, kind]),
    [['events-00000001.jsonl', 1, 'missing-file']],
  );
});

test('[R31] a rotation that fails keeps the old file', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  await rename(folder, `${folder}.away`);
  await assert.rejects(sink.rotate());
  put(sink, 'still there');
  await rename(`${folder}.away`, folder);
  await sink.rotate();
  put(sink, 'and on');
  await sink.close();
  assert.deepEqual(await messagesIn(folder, 1), ['still there']);
  assert.deepEqual(await messagesIn(folder, 2), ['and on']);
  assert.deepEqual((await verifyEventLog(folder, [key])).problems, []);
});

test('fault 49: kill -9 right after "session started": the start event is there', async (t) => {
  const folder = await eventsFolder(t);
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', fileURLToPath(new URL('./killed-child.ts', import.meta.url)), folder, key.toString('hex')],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  t.after(() => child.kill('SIGKILL'));
  const exited = once(child, 'exit');
  for await (const line of createInterface({ input: child.stdout })) assert.fail(`the child said ${line}`);
  assert.deepEqual((await exited).slice(0, 2), [null, 'SIGKILL']);
  const events = (await fileLines(folder, 1)).map((line) => JSON.parse(line));
  assert.deepEqual(
    events.map(({ code, msg }) => [code, msg]),
    [
      [undefined, undefined],
      ['CPL-1001I', 'Started terminal session "abc" from 192.0.2.1 to 2001:db8::2'],
    ],
  );
  const sink = await openSink(folder);
  await sink.close();
  const { problems, notes } = await verifyEventLog(folder, [key]);
  assert.deepEqual(problems, []);
  assert.deepEqual(
    notes.map(({ file, kind }) => [file, kind]),
    [['events-00000001.jsonl', 'unclosed']],
  );
});

/** A disk that can be full, or slow. */
class BadDisk implements Disk {
  /** Bytes that still fit. */
  room = Number.POSITIVE_INFINITY;
  nowCalls = 0;
  onLater: () => Promise<void> | void = () => {};
  writeNow(handle: { fd: number }, bytes: Buffer): number {
    this.nowCalls++;
    return this.#write(handle.fd, bytes);
  }
  sync = realDisk.sync;
  async writeLater(handle: { fd: number }, bytes: Buffer): Promise<number> {
    await this.onLater();
    return this.#write(handle.fd, bytes);
  }
  #write(fd: number, bytes: Buffer): number {
    const length = Math.min(bytes.length, this.room);
    if (length === 0) throw enospc();
    this.room -= length;
    return writeSync(fd, bytes, 0, length);
  }
}

test('[R32] a full disk: events wait in memory, what is lost is told, and the chain stays whole', async (t) => {
  const folder = await eventsFolder(t);
  const disk = new BadDisk();
  const sink = await openSink(folder, { disk, retryMs: 1, maxPendingEvents: 20 });
  const events = new Events({ clock: systemClock, sinks: [sink] });
  const send = (from: number, to: number) => {
    for (let i = from; i < to; i++) events.sessionStarted({ ...session, id: `s${i}` });
  };
  send(0, 3);
  disk.room = 100;
  send(3, 40);
  const refused = new Promise<void>((resolve) => {
    disk.onLater = resolve;
  });
  await refused;
  await assert.rejects(events.flushDurable());
  const failures = events.sinkFailures().get('file') as number;
  assert.ok(failures >= 18, `${failures} failures: 17 lost and the first write`);
  disk.room = Number.POSITIVE_INFINITY;
  for (;;) {
    if (events.counts.get('CPL-2010E') === 1) break;
    await new Promise((resolve) => setImmediate(resolve));
  }
  await events.flushDurable();
  send(40, 42);
  await events.close();
  const ids = (await fileLines(folder, 1)).map((line) => JSON.parse(line));
  const kept = [...Array(23).keys(), 40, 41].map((i) => `s${i}`);
  assert.deepEqual(
    ids.filter(({ code }) => code === 'CPL-1001I').map(({ msgArgs }) => msgArgs[0]),
    kept,
  );
  assert.deepEqual(
    ids.filter(({ code }) => code === 'CPL-2010E').map(({ count, sink: name }) => [name, count]),
    [['file', 17]],
  );
  const { problems, notes } = await verifyEventLog(folder, [key]);
  assert.deepEqual([problems, notes], [[], []]);
});

test('[R32] every short write, wherever it cuts, leaves a whole chain', async (t) => {
  const folder = await eventsFolder(t);
  const disk = new BadDisk();
  const sink = await openSink(folder, { disk, retryMs: 1 });
  const sent: string[] = [];
  for (let cut = 0; cut < 260; cut += 7) {
    disk.room = cut;
    for (const part of ['a', 'b', 'c']) {
      sent.push(`${cut}${part}`);
      put(sink, `${cut}${part}`);
    }
    let tries = 0;
    disk.onLater = () => {
      // One failure, then short writes of a batch, then all that is left.
      if (++tries > 1) disk.room = tries < 5 ? cut : Number.POSITIVE_INFINITY;
    };
    for (;;) {
      try {
        await sink.flushDurable();
        assert.deepEqual(await messagesIn(folder, 1), sent, 'all written when flushDurable resolves');
        break;
      } catch (error) {
        assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
      }
    }
  }
  await sink.close();
  assert.deepEqual(await messagesIn(folder, 1), sent);
  assert.deepEqual((await verifyEventLog(folder, [key])).problems, []);
});

test('fault 51: after a slow write nothing more is written on the event loop until the disk is fast again', async (t) => {
  const folder = await eventsFolder(t);
  const disk = new BadDisk();
  let nowMs = 0;
  const clock = { nowMs: () => 0, monotonicMs: () => nowMs };
  const slow: Disk = {
    writeNow(handle, bytes) {
      nowMs += 500;
      return disk.writeNow(handle, bytes);
    },
    writeLater: (handle, bytes) => disk.writeLater(handle, bytes),
    sync: realDisk.sync,
  };
  const sink = await openSink(folder, { disk: slow, clock });
  const told: unknown[] = [];
  sink.attach({ failed: (error) => told.push(error), lost: () => {} });
  put(sink, 'slow');
  assert.match(String(told[0]), /took 500 ms/);
  let release = () => {};
  const hung = new Promise<void>((resolve) => {
    release = resolve;
  });
  disk.onLater = () => hung;
  for (let i = 0; i < 100; i++) put(sink, `waiting ${i}`);
  assert.equal(disk.nowCalls, 1, 'no write on the event loop while the disk hangs');
  release();
  await sink.flushDurable();
  put(sink, 'at once again');
  assert.equal(disk.nowCalls, 2);
  await sink.close();
  assert.equal((await messagesIn(folder, 1)).length, 102);
  assert.deepEqual((await verifyEventLog(folder, [key])).problems, []);
});

test('[R32] a stop with a full disk gives up after closeMs, counts what is lost and writes no closing line', async (t) => {
  const folder = await eventsFolder(t);
  const disk = new BadDisk();
  const sink = await openSink(folder, { disk, retryMs: 1, closeMs: 5 });
  const events = new Events({ clock: systemClock, sinks: [sink] });
  events.sessionStarted(session);
  disk.room = 50;
  events.sessionStarted(session);
  await events.close();
  assert.ok((events.sinkFailures().get('file') as number) >= 2);
  const { problems, notes } = await verifyEventLog(folder, [key]);
  assert.deepEqual(problems, []);
  assert.deepEqual(
    notes.map(({ line, kind }) => [line, kind]),
    [[3, 'torn']],
  );
});

test('[R32] flushDurable resolves after an fdatasync that began after the event, and waiters share it', async (t) => {
  const folder = await eventsFolder(t);
  const running: { resolve(): void; reject(error: Error): void }[] = [];
  let began = () => {};
  const disk: Disk = {
    ...realDisk,
    sync: () =>
      new Promise((resolve, reject) => {
        running.push({ resolve, reject });
        began();
      }),
  };
  const nextSync = () =>
    new Promise<void>((resolve) => {
      began = resolve;
    });
  const sink = await openSink(folder, { disk });
  const done: string[] = [];
  const flush = async (name: string) => {
    put(sink, name);
    const begins = running.length === 0 ? nextSync() : Promise.resolve();
    const flushed = sink.flushDurable().then(
      () => done.push(name),
      (error) => done.push(`${name}: ${error.message}`),
    );
    await begins;
    return { flushed };
  };
  const first = await flush('first');
  const others = [await flush('second'), await flush('third')];
  assert.equal(running.length, 1);
  assert.deepEqual(done, []);
  const second = nextSync();
  running[0]?.resolve();
  await first.flushed;
  await second;
  assert.deepEqual(done, ['first'], 'a sync that began before an event does not vouch for it');
  running[1]?.reject(new Error('EIO'));
  await Promise.all(others.map(({ flushed }) => flushed));
  assert.deepEqual([running.length, done], [2, ['first', 'second: EIO', 'third: EIO']]);
  const closingSync = nextSync();
  const closed = sink.close();
  await closingSync;
  running[2]?.resolve();
  await closed;
});

test('[R32] flushDurable covers lines written around a rotation', async (t) => {
  const folder = await eventsFolder(t);
  const sink = await openSink(folder);
  const waits: Promise<void>[] = [];
  for (let i = 0; i < 50; i++) {
    put(sink, `e${i}`);
    waits.push(sink.flushDurable());
    if (i === 25) waits.push(sink.rotate());
  }
  await Promise.all(waits);
  await sink.close();
  assert.throws(() => put(sink, 'late'), { code: 'CPL_EVENT_LOG' });
  assert.deepEqual((await verifyEventLog(folder, [key])).problems, []);
});
