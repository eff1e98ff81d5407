import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { eventFileName, type Head } from '../../src/audit/event-file.ts';
import { HeadsHandover, type HeadsWitness } from '../../src/audit/heads-witness.ts';
import { verifyEventLog } from '../../src/audit/verify.ts';
import { eventsFolder, fileLines, key, messagesIn, openSink, put } from './support.ts';

/** A witness in memory, which can be made to fail or to hang. */
class Memory implements HeadsWitness {
  readonly name = 'the directory';
  readonly logs = new Map<string, Map<number, Head>>();
  readonly failures: string[] = [];
  attempts = 0;
  mode: 'works' | 'fails' | 'hangs' = 'works';
  #wake = () => {};

  async note(log: string, heads: readonly Head[]): Promise<void> {
    this.attempts++;
    await this.#answer();
    const known = this.logs.get(log) ?? new Map<number, Head>();
    this.logs.set(log, known);
    for (const head of heads) if (head.line > (known.get(head.file)?.line ?? -1)) known.set(head.file, head);
    this.#wake();
  }

  async list(log: string): Promise<Head[]> {
    await this.#answer();
    return [...(this.logs.get(log)?.values() ?? [])];
  }

  failed(error: unknown): void {
    this.failures.push((error as Error).message);
    this.#wake();
  }

  /** Resolves once this is so; it is looked at whenever the witness took something or failed. */
  async until(so: () => boolean): Promise<void> {
    while (!so()) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Heads of the only log, as [file, line, closed]. */
  get heads(): [number, number, boolean][] {
    assert.equal(this.logs.size, 1, 'one log');
    const [known] = [...this.logs.values()] as [Map<number, Head>];
    return [...known.values()].map(({ file, line, closed }) => [file, line, closed]);
  }

  async #answer(): Promise<void> {
    if (this.mode === 'fails') throw new Error('out of order');
    if (this.mode === 'hangs') await new Promise(() => {});
  }
}

async function removeHeads(folder: string): Promise<void> {
  for (const name of await readdir(folder)) if (name.startsWith('heads-')) await rm(join(folder, name));
}

const opening = async (folder: string, file: number) => JSON.parse((await fileLines(folder, file))[0]!);

test('[R31] every head that stands in the heads file is handed to the witness, under the id of the log', async (t) => {
  const folder = await eventsFolder(t);
  const witness = new Memory();
  const sink = await openSink(folder, { witness });
  await witness.until(() => witness.logs.size === 1);
  assert.deepEqual(witness.heads, [[1, 1, false]], 'a file is vouched for from its first line');
  put(sink, 'one');
  put(sink, 'two');
  await sink.maintain();
  await witness.until(() => witness.heads[0]![1] === 3);
  await sink.rotate();
  await sink.flushDurable();
  await sink.close();
  const second = await openSink(folder, { witness });
  await second.close();
  assert.deepEqual(witness.heads, [
    [1, 4, true],
    // Its opening line, the head of file 1, and its closing line.
    [2, 3, true],
    [3, 2, true],
  ]);
  assert.deepEqual(witness.failures, []);
  const [log] = witness.logs.keys();
  for (const file of [1, 2, 3]) assert.equal((await opening(folder, file)).log, log, 'one id in all files');
  const other = await eventsFolder(t);
  await (await openSink(other)).close();
  assert.notEqual((await opening(other, 1)).log, log, 'another folder with the same key is another log');
});

test('[R32] a witness that fails or hangs holds up nothing, is counted, and gets the heads at the next upkeep', async (t) => {
  const folder = await eventsFolder(t);
  const witness = new Memory();
  witness.mode = 'hangs';
  const sink = await openSink(folder, { witness, witnessMs: 20, closeMs: 500 });
  put(sink, 'one');
  await sink.flushDurable();
  await sink.maintain();
  assert.equal((await messagesIn(folder, 1)).length, 1, 'the event is on disk');
  await witness.until(() => witness.failures.length === 1);
  assert.match(witness.failures[0]!, /^the directory did not answer .* within 20 ms$/);
  witness.mode = 'fails';
  await sink.maintain();
  await witness.until(() => witness.failures.length === 2);
  assert.equal(witness.failures[1], 'out of order');
  assert.equal(witness.attempts, 2, 'none but at an upkeep');
  witness.mode = 'works';
  // Nothing new was written: what waits is handed on all the same.
  await sink.maintain();
  await witness.until(() => witness.logs.size === 1);
  assert.deepEqual(witness.heads, [[1, 2, false]]);
  witness.mode = 'hangs';
  await sink.close();
  assert.equal(witness.failures.length, 3, 'the end of the log is not held up either');
  assert.deepEqual((await verifyEventLog(folder, [key])).problems, [], 'and the log is whole');
});

test('[R31] heads that wait for the witness are bounded, and the newest files go first', async () => {
  const witness = new Memory();
  const handover = new HeadsHandover('log', witness, 1_000);
  for (let file = 1; file <= 300; file++) handover.add({ file, line: 1, mac: '', closed: false });
  await handover.close(1_000);
  assert.deepEqual([witness.heads.length, witness.heads[0]![0], witness.heads.at(-1)![0]], [256, 45, 300]);
});

test('[R31] a newest file deleted together with the heads files, or old ones put back, is found by the witness', async (t) => {
  const folder = await eventsFolder(t);
  const witness = new Memory();
  await (await openSink(folder, { witness })).close();
  const old = `${folder}-old`;
  t.after(() => rm(old, { recursive: true, force: true }));
  await cp(folder, old, { recursive: true });
  const second = await openSink(folder, { witness });
  put(second, 'what nobody is to know');
  await second.close();
  const whole = await verifyEventLog(folder, [key], witness);
  assert.deepEqual([whole.problems, whole.unwitnessed], [[], '']);

  await rm(join(folder, eventFileName(2)));
  await removeHeads(folder);
  const told = { file: eventFileName(2), line: 1, kind: 'missing-file' };
  const missing = { ...told, text: 'the file is missing; the directory vouches for its line 3' };
  const without = (await verifyEventLog(folder, [key])).problems;
  assert.deepEqual(
    without.map(({ kind }) => kind),
    ['heads'],
    'the folder alone does not tell',
  );
  const found = (await verifyEventLog(folder, [key], witness)).problems;
  assert.deepEqual(found.at(-1) && found.find(({ kind }) => kind === 'missing-file'), missing);

  // The whole folder as it was before: within itself it is in perfect order.
  await rm(folder, { recursive: true });
  await cp(old, folder, { recursive: true });
  assert.deepEqual((await verifyEventLog(folder, [key])).problems, []);
  assert.deepEqual((await verifyEventLog(folder, [key], witness)).problems, [missing]);

  // A server that starts over it does not fill the gap, and says for ever what it knew.
  await (await openSink(folder, { witness })).close();
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.startsWith('events-')),
    [eventFileName(1), eventFileName(3)],
  );
  assert.equal((await opening(folder, 3)).previous.line, 3);
  assert.deepEqual((await verifyEventLog(folder, [key])).problems.length, 1);
});

test('[R31] lines cut off the end, with the heads files taken away, are found by the witness in folder and file', async (t) => {
  const folder = await eventsFolder(t);
  const witness = new Memory();
  const sink = await openSink(folder, { witness });
  put(sink, 'one');
  put(sink, 'two');
  await sink.close();
  const path = join(folder, eventFileName(1));
  const lines = await fileLines(folder, 1);
  await rm(path);
  await removeHeads(folder);
  await writeFile(path, `${lines.slice(0, 2).join('\n')}\n`);
  assert.deepEqual((await verifyEventLog(path, [key])).problems, []);
  for (const target of [folder, path]) {
    const { problems } = await verifyEventLog(target, [key], witness);
    const removed = problems.find(({ kind }) => kind === 'removed');
    assert.match(removed?.text ?? '', /lines 3 to 4 are missing at the end; the directory vouches for line 4/);
  }
});

test('[R31] a folder emptied under a running server stays the same log', async (t) => {
  const folder = await eventsFolder(t);
  const witness = new Memory();
  const sink = await openSink(folder, { witness });
  put(sink, 'one');
  await sink.maintain();
  for (const name of await readdir(folder)) await rm(join(folder, name));
  await sink.maintain();
  await sink.close();
  const { problems } = await verifyEventLog(folder, [key], witness);
  assert.equal(problems[0]?.text.startsWith('the file is missing; '), true, JSON.stringify(problems));
  assert.deepEqual([...witness.logs.keys()], [(await opening(folder, 2)).log]);
});

test('[R31] a witness that cannot be asked, or knows nothing, changes no verdict and is told of', async (t) => {
  const folder = await eventsFolder(t);
  await (await openSink(folder)).close();
  const witness = new Memory();
  const knowsNothing = await verifyEventLog(folder, [key], witness);
  assert.deepEqual(knowsNothing.problems, []);
  assert.equal(knowsNothing.unwitnessed, 'it knows no heads of this event log');
  witness.mode = 'fails';
  assert.equal((await verifyEventLog(folder, [key], witness)).unwitnessed, 'out of order');
  const otherKey = await verifyEventLog(folder, [randomBytes(32)], witness);
  assert.equal(otherKey.unwitnessed, 'no intact opening line tells which event log it is');
  assert.ok((await readFile(join(folder, eventFileName(1)), 'utf8')).includes('"log":"'));
});
