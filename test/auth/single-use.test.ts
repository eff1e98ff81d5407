import assert from 'node:assert/strict';
import { execFileSync, fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { appendFileSync, chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { SingleUseFile } from '../../src/auth/single-use.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { SetClock } from './fixtures.ts';

const minuteMs = 60_000;

function setUp(context: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-once-'));
  const path = join(folder, 'single-use');
  const clock = new SetClock();
  const problems: CoupletError[] = [];
  const opened: SingleUseFile[] = [];
  context.after(() => {
    for (const memory of opened) memory.close();
    rmSync(folder, { recursive: true });
  });
  const open = (compactLines?: number) => {
    const onProblem = (problem: CoupletError) => problems.push(problem);
    const memory = new SingleUseFile({
      path,
      clock,
      onProblem,
      ...(compactLines === undefined ? {} : { compactLines }),
    });
    opened.push(memory);
    return memory;
  };
  const record = (name: string, inMs = 60 * minuteMs) => ({
    fingerprint: createHash('sha256').update(name).digest('hex'),
    expiredAtMs: clock.ms + inMs,
  });
  return { path, clock, problems, open, record };
}

test('[R7] fault 7: a replayed once cookie is refused, also after a restart', (context) => {
  const { open, record, problems } = setUp(context);
  const memory = open();
  assert.equal(memory.use(record('a')), 'fresh');
  assert.equal(memory.use(record('a')), 'used');
  memory.close();
  const restarted = open();
  assert.equal(restarted.use(record('a')), 'used');
  assert.equal(restarted.use(record('b')), 'fresh');
  assert.deepEqual(problems, []);
});

test('[R7] fault 7: the use is with the operating system before it is answered: kill -9 forgets none', async (context) => {
  const { path, open, record } = setUp(context);
  const script = `
    import { SingleUseFile } from ${JSON.stringify(new URL('../../src/auth/single-use.ts', import.meta.url).href)};
    import { systemClock } from ${JSON.stringify(new URL('../../src/core/clock.ts', import.meta.url).href)};
    const memory = new SingleUseFile({ path: ${JSON.stringify(path)}, clock: systemClock, onProblem: (p) => { throw p; } });
    process.on('message', (record) => {
      process.send(memory.use({ ...record, expiredAtMs: systemClock.nowMs() + 3600000 }));
      process.kill(process.pid, 'SIGKILL');
    });
    process.send('ready');
  `;
  const scriptPath = `${path}.mts`;
  writeFileSync(scriptPath, script);
  for (const name of ['first', 'second', 'third']) {
    const child = fork(scriptPath, { execArgv: ['--import', 'tsx'] });
    const answers: unknown[] = [];
    child.on('message', (answer) => {
      answers.push(answer);
      if (answer === 'ready') child.send(record(name));
    });
    const [, signal] = await once(child, 'exit');
    assert.equal(signal, 'SIGKILL');
    // The kill may overtake the answer on its way; what was said, and what is on file, is what counts.
    assert.equal(answers[0], 'ready');
  }
  const memory = open();
  for (const name of ['first', 'second', 'third']) assert.equal(memory.use(record(name)), 'used', name);
});

test('[R7] a torn last line is tolerated at every length, and what was written before it is kept', (context) => {
  const { path, open, record, problems } = setUp(context);
  const memory = open();
  memory.use(record('a'));
  memory.use(record('b'));
  memory.close();
  const whole = readFileSync(path);
  const lineLength = whole.length / 2;
  for (let cut = 1; cut <= lineLength; cut++) {
    writeFileSync(path, whole.subarray(0, whole.length - cut));
    const restarted = open();
    assert.equal(restarted.use(record('a')), 'used', `cut by ${cut}`);
    // Without its newline a line is whole; with less it is not, and its half was never let in.
    assert.equal(restarted.use(record('b')), cut === 1 ? 'used' : 'fresh', `cut by ${cut}`);
    assert.equal(restarted.use(record('c')), 'fresh');
    restarted.close();
    const again = open();
    for (const name of ['a', 'b', 'c']) assert.equal(again.use(record(name)), 'used', `${name}, cut by ${cut}`);
    again.close();
  }
  assert.deepEqual(problems, []);
});

test('[R7] a damaged line inside the file is reported, and the others are kept', (context) => {
  const { path, open, record, problems } = setUp(context);
  const memory = open();
  memory.use(record('a'));
  memory.close();
  appendFileSync(path, 'rubbish\n');
  const restarted = open();
  assert.equal(restarted.use(record('a')), 'used');
  assert.match(problems[0]?.message ?? '', /1 damaged line/);
});

test('[R7] a cookie is forgotten when it would be refused for its age anyway, not before', (context) => {
  const { path, clock, open, record } = setUp(context);
  const memory = open();
  const short = record('short', minuteMs);
  const long = record('long', 60 * minuteMs);
  memory.use(short);
  memory.use(long);
  memory.close();
  clock.ms = short.expiredAtMs + minuteMs - 1;
  const second = open();
  assert.equal(second.use(short), 'used', 'kept a minute longer, for clocks that are set back');
  second.close();
  clock.ms++;
  const third = open();
  assert.equal(third.size, 1);
  assert.equal(third.use(long), 'used');
  assert.equal(readFileSync(path, 'latin1').split('\n').length, 2, 'one line, compacted at start');
});

test('[R7] the file is compacted while running, losing nothing that counts', (context) => {
  const { path, clock, open, record } = setUp(context);
  const memory = open(100);
  for (let round = 0; round < 50; round++) {
    for (let count = 0; count < 20; count++) {
      assert.equal(memory.use(record(`${round}-${count}`, 2 * minuteMs)), 'fresh');
    }
    clock.ms += minuteMs;
    assert.equal(memory.use(record(`${round}-0`)), 'used');
  }
  assert.ok(readFileSync(path, 'latin1').split('\n').length < 300);
  assert.ok(memory.size < 300);
  memory.close();
  assert.equal(open().use(record('49-19')), 'used');
});

test('[R7] the file is for its owner alone, whatever mode it had', (context) => {
  const { path, open, record } = setUp(context);
  writeFileSync(path, '');
  writeFileSync(`${path}.new`, 'left over from a crash');
  chmodSync(path, 0o644);
  chmodSync(`${path}.new`, 0o666);
  open().use(record('a'));
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test('[R7] what cannot be written is refused, and part of a line spoils nothing', (context) => {
  const { path, open, record, problems } = setUp(context);
  const memory = open();
  memory.use(record('a'));
  const ignore = () => {};
  process.on('SIGXFSZ', ignore);
  const limit = (bytes: number | 'unlimited') =>
    execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${bytes}:unlimited`]);
  try {
    // Room for half a line, as on a disk that fills up.
    limit(statSync(path).size + 40);
    assert.equal(memory.use(record('b')), 'unavailable');
    assert.equal(memory.use(record('b')), 'unavailable');
  } finally {
    limit('unlimited');
    process.off('SIGXFSZ', ignore);
  }
  assert.match(problems[0]?.message ?? '', /cannot be written.*EFBIG/);
  assert.equal(memory.use(record('c')), 'fresh');
  assert.equal(memory.use(record('b')), 'fresh', 'it was not used, so it may be now');
  memory.close();
  const restarted = open();
  for (const name of ['a', 'b', 'c']) assert.equal(restarted.use(record(name)), 'used', name);
});

test('[R7] after close every cookie is refused', (context) => {
  const { open, record, problems } = setUp(context);
  const memory = open();
  memory.close();
  memory.close();
  assert.equal(memory.use(record('a')), 'unavailable');
  assert.equal(problems.length, 1);
});

test('[R7] without its file the memory does not start', (context) => {
  const { path } = setUp(context);
  const options = { path: join(path, 'no', 'folder'), clock: new SetClock(), onProblem: () => {} };
  assert.throws(
    () => new SingleUseFile(options),
    (error: unknown) => error instanceof CoupletError && error.code === 'CPL_SINGLE_USE' && /ENO/.test(error.message),
  );
});
