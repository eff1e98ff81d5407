import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Worker } from 'node:worker_threads';
import { type IndexOutcome, RecordingJobs, type RecordingJobsOptions } from '../../src/recording/jobs.ts';
import type { SalvageResult } from '../../src/recording/salvage.ts';
import { incumbent, temporaryFolder } from './support.ts';

interface Setup {
  readonly jobs: RecordingJobs;
  readonly folder: string;
  readonly problems: Error[];
  /** Every thread that was started. */
  readonly threads: Worker[];
  /** Makes a file in the folder; its path. */
  readonly put: (name: string, bytes?: Uint8Array | string) => string;
  /** Resolves when the indexer has begun with a path. */
  readonly started: (path: string) => Promise<void>;
  readonly log: () => string[];
}

function setUp(t: TestContext, options: Partial<RecordingJobsOptions> = {}): Setup {
  const folder = temporaryFolder(t);
  const problems: Error[] = [];
  const threads: Worker[] = [];
  // Told by their heap's limit: tsx may start threads too.
  const onWorker = (worker: Worker) => {
    if (worker.resourceLimits?.maxOldGenerationSizeMb === 512) threads.push(worker);
  };
  process.on('worker', onWorker);
  const entry = new URL('./jobs-worker.ts', import.meta.url);
  const jobs = new RecordingJobs({ onProblem: (error) => problems.push(error), entry, ...options });
  // The thread does not keep this process alive.
  const alive = setInterval(() => undefined, 1000);
  t.after(async () => {
    await jobs.close();
    clearInterval(alive);
    process.off('worker', onWorker);
  });
  const put = (name: string, bytes: Uint8Array | string = 'x') => {
    writeFileSync(join(folder, name), bytes);
    return join(folder, name);
  };
  const started = async (path: string) => {
    while (!existsSync(`${path}.started`)) {
      if (t.signal.aborted) throw new Error(`${path} was not begun with`);
      await turn();
    }
  };
  const log = () => readFileSync(join(folder, 'log'), 'utf8').trim().split('\n');
  return { jobs, folder, problems, threads, put, started, log };
}

const closed = { code: 'CPL_RECORDING_JOBS_CLOSED', level: 'debug' };

test('[R36] [R37] [R38] salvage, index and sweep run in one thread, which tells of each file', async (t) => {
  const { jobs, folder, threads, put, problems } = setUp(t);
  put('relaysession-torn.mcrec', incumbent.subarray(0, 500));
  put('relaysession-strange.mcrec', 'no recording');
  put('relaysession-locked-live.mcrec', incumbent.subarray(0, 500));
  const salvaged: SalvageResult[] = [];
  const folders = [join(folder, 'none'), folder, folder];
  await jobs.salvage(folders, (result) => salvaged.push(result));
  assert.deepEqual(
    salvaged.map(({ path, state }) => [path.slice(folder.length + 1), state]),
    [
      ['relaysession-strange.mcrec', 'refused'],
      ['relaysession-torn.mcrec', 'repaired'],
    ],
  );
  assert.deepEqual(readFileSync(join(folder, 'relaysession-locked-live.mcrec')), incumbent.subarray(0, 500));
  assert.equal((await jobs.index(join(folder, 'relaysession-torn.mcrec'))).state, 'indexed');
  assert.deepEqual(await jobs.index(join(folder, 'relaysession-locked-live.mcrec')), {
    state: 'in-use',
    why: 'locked',
  });
  const swept: string[] = [];
  const report = await jobs.sweep(folder, { maxCount: 0 }, ({ state }) => swept.push(state));
  assert.deepEqual([report, swept], [{ deleted: 2, failed: 0, count: 1, bytes: 500 }, ['deleted', 'deleted']]);
  assert.deepEqual([threads.length, problems], [1, []]);
});

test('[R36] salvage goes before waiting jobs, those go in their order, and a path waits once', {
  timeout: 20_000,
}, async (t) => {
  const { jobs, folder, put, started, log } = setUp(t);
  const order: string[] = [];
  const note = (word: string) => () => void order.push(word);
  const wait = put('wait');
  const first = jobs.index(wait);
  await started(wait);
  assert.equal(jobs.index(wait), first);
  const second = jobs.index(put('b'));
  const third = jobs.index(put('a'));
  assert.equal(jobs.index(join(folder, 'b')), second);
  const all = [
    first.then(note('wait')),
    second.then(note('b')),
    third.then(note('a')),
    jobs.sweep(folder, {}).then(note('sweep')),
    jobs.salvage([folder], () => undefined).then(note('salvage')),
  ];
  put('wait.go');
  await Promise.all(all);
  assert.deepEqual(order, ['wait', 'salvage', 'b', 'a', 'sweep']);
  assert.deepEqual(log(), ['wait', 'b', 'a']);
  // Once it is done a path can be indexed again.
  await jobs.index(join(folder, 'b'));
  assert.deepEqual(log(), ['wait', 'b', 'a', 'b']);
});

for (const [name, text] of [
  ['crash', /^recording job index of \S+crash: its thread ended: a bug$/],
  ['exit', /^recording job index of \S+exit: its thread ended: exit code 3$/],
  ['memory', /^recording job index of \S+memory: its thread ended: .*out of memory/],
] as const) {
  test(`[R36] a thread that ends by ${name} fails the job it had, and the next jobs get a new one`, async (t) => {
    const { jobs, put, threads, problems } = setUp(t);
    const failed = jobs.index(put(name));
    const next = [jobs.index(put('b')), jobs.index(put('c'))];
    await assert.rejects(failed, { code: 'CPL_RECORDING_JOB', message: text });
    const outcomes = (await Promise.all(next)) as (IndexOutcome & { entries: number })[];
    assert.deepEqual(
      outcomes.map(({ state }) => state),
      ['indexed', 'indexed'],
    );
    assert.deepEqual([threads.length, problems], [2, []]);
  });
}

test('[R36] an entry that cannot be run fails each job with what is wrong', async (t) => {
  const { jobs, put } = setUp(t, { entry: new URL('./no-such-entry.ts', import.meta.url) });
  const both = [jobs.index(put('a')), jobs.index(put('b'))];
  for (const job of both) {
    await assert.rejects(job, { code: 'CPL_RECORDING_JOB', message: /thread ended: .*no-such-entry/ });
  }
});

test('[R36] what the disk says fails the job alone, and names it', async (t) => {
  const { jobs, folder, put, threads } = setUp(t);
  const message = `recording job index of ${join(folder, 'disk')}: EIO: i/o error, read`;
  await assert.rejects(jobs.index(put('disk')), { code: 'CPL_RECORDING_JOB', message });
  await assert.rejects(jobs.index(join(folder, 'none')), { code: 'CPL_RECORDING_FILE', message: /none: cannot be/ });
  await assert.rejects(jobs.sweep(join(folder, 'disk'), {}), { code: 'CPL_RECORDING_JOB', message: /sweep.*ENOTDIR/ });
  assert.deepEqual(await jobs.sweep(join(folder, 'none'), {}), { deleted: 0, failed: 0, count: 0, bytes: 0 });
  assert.equal((await jobs.index(put('b'))).state, 'indexed');
  assert.equal(threads.length, 1);
});

test('[R36] an idle thread ends, and the next job has a new one', async (t) => {
  const { jobs, put, threads, problems } = setUp(t, { idleMs: 1 });
  await jobs.index(put('a'));
  await once(threads[0]!, 'exit');
  await jobs.index(put('b'));
  await once(threads[1]!, 'exit');
  assert.deepEqual([threads.length, problems], [2, []]);
});

test('[R36] neither a waiting nor an idle thread keeps the process alive', { timeout: 30_000 }, async (t) => {
  const folder = temporaryFolder(t);
  const source = `
    import { RecordingJobs } from ${JSON.stringify(new URL('../../src/recording/jobs.ts', import.meta.url).href)};
    const entry = new URL(${JSON.stringify(new URL('./jobs-worker.ts', import.meta.url).href)});
    const jobs = new RecordingJobs({ onProblem: console.error, entry });
    const alive = setInterval(() => undefined, 1000);
    jobs.sweep(${JSON.stringify(folder)}, {}).then(() => { console.log('swept'); clearInterval(alive); });`;
  // In the repository's folder, where tsx is found.
  const cwd = fileURLToPath(new URL('../..', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', source], { cwd });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => (output += bytes));
  const startMs = process.uptime() * 1000;
  const [code] = await once(child, 'close');
  assert.deepEqual([code, output], [0, 'swept\n']);
  assert.ok(process.uptime() * 1000 - startMs < 25_000, 'less than the time that an idle thread stays');
});

test('[R39] close stops a job that reads, drops the others, and resolves when the thread is gone', {
  timeout: 20_000,
}, async (t) => {
  const { jobs, folder, put, started, threads } = setUp(t);
  const path = put('read');
  const dropped = [jobs.index(path), jobs.index(put('b')), jobs.salvage([folder], () => undefined)];
  const rejected = Promise.all(dropped.map((job) => assert.rejects(job, closed)));
  await started(path);
  let gone = false;
  threads[0]!.on('exit', () => {
    gone = true;
  });
  await jobs.close();
  assert.ok(gone);
  await rejected;
  await assert.rejects(jobs.sweep(folder, {}), closed);
  assert.equal(threads.length, 1);
  await jobs.close();
});

test('[R39] close lets a job that is changing a file come to its end', { timeout: 20_000 }, async (t) => {
  const { jobs, put, started, log } = setUp(t);
  const path = put('wait');
  const running = jobs.index(path);
  const dropped = assert.rejects(jobs.index(put('b')), closed);
  await started(path);
  const closing = jobs.close();
  put('wait.go');
  assert.equal((await running).state, 'indexed');
  await Promise.all([closing, dropped]);
  assert.deepEqual(log(), ['wait']);
});

test('[R39] close during a salvage: what was salvaged is told of, and no file is half done', {
  timeout: 20_000,
}, async (t) => {
  const { jobs, folder, put } = setUp(t);
  const names = Array.from({ length: 300 }, (_, n) => `relaysession-${1000 + n}.mcrec`);
  for (const name of names) put(name, incumbent.subarray(0, 500));
  const told: string[] = [];
  let closing: Promise<void> | undefined;
  const salvage = jobs.salvage([folder], (result) => {
    assert.equal(result.state, 'repaired');
    told.push(result.path.slice(folder.length + 1));
    closing ??= jobs.close();
  });
  await assert.rejects(salvage, closed);
  await closing;
  assert.ok(told.length < names.length);
  const repaired = names.filter((name) => readFileSync(join(folder, name)).toString('latin1').endsWith('MCREC'));
  assert.deepEqual(told, repaired);
  for (const name of names.slice(told.length)) assert.equal(readFileSync(join(folder, name)).length, 500);
});

test('[R36] results of thousands of files come a few in each turn of the event loop', async (t) => {
  const { jobs, folder, put } = setUp(t);
  for (let n = 0; n < 3000; n++) put(`relaysession-${n}.mcrec`);
  let results = 0;
  let inTurn = 0;
  let most = 0;
  const report = await jobs.sweep(folder, { maxCount: 0 }, () => {
    results++;
    if (inTurn === 0) setImmediate(() => (inTurn = 0));
    most = Math.max(most, ++inTurn);
  });
  assert.deepEqual([results, report.deleted, readdirSync(folder).length], [3000, 3000, 0]);
  assert.ok(most <= 64, `${most} in one turn`);
});

test('[R36] a callback that throws is a problem told of, and the job goes on', async (t) => {
  const { jobs, folder, put, problems } = setUp(t);
  for (const name of ['relaysession-a.mcrec', 'relaysession-b.mcrec']) put(name, incumbent.subarray(0, 500));
  await jobs.salvage([folder], ({ path }) => {
    throw new Error(path);
  });
  assert.deepEqual(
    problems.map(({ message }) => message),
    [join(folder, 'relaysession-a.mcrec'), join(folder, 'relaysession-b.mcrec')],
  );
});

test('[R36] the queue of recordings that wait for an index is bounded', { timeout: 20_000 }, async (t) => {
  const { jobs, put, started } = setUp(t, { maxWaitingIndexes: 2 });
  const wait = put('wait');
  const two = [jobs.index(wait), jobs.index(put('a'))];
  await started(wait);
  await assert.rejects(jobs.index(put('b')), { code: 'CPL_RECORDING_JOB', message: /2 recordings wait/ });
  put('wait.go');
  await Promise.all(two);
  assert.equal((await jobs.index(put('c'))).state, 'indexed');
});

test('[R37] a salvage that met fresh files is repeated later', async (t) => {
  const { jobs, folder, put } = setUp(t, { freshRetryMs: 1 });
  const path = put('relaysession-a.mcrec', '');
  const futureSeconds = Math.ceil(Date.now() / 1000) + 3600;
  utimesSync(path, futureSeconds, futureSeconds);
  mkdirSync(join(folder, 'other'));
  let later: ((result: SalvageResult) => void) | undefined;
  const result = new Promise<SalvageResult>((resolve) => {
    later = resolve;
  });
  await jobs.salvage([folder], (one) => later!(one));
  utimesSync(path, 0, 0);
  assert.deepEqual((await result).state, 'removed');
});
