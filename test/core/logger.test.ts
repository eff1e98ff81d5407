import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { CoupletError } from '../../src/core/errors.ts';
import { createLogger, type LogHandle, withoutQuery } from '../../src/core/logger.ts';

const folder = mkdtempSync(join(tmpdir(), 'couplet-logger-'));
after(() => rmSync(folder, { recursive: true }));
let count = 0;

/** What the logger writes: the raw text and its lines taken apart. */
async function logged(use: (log: LogHandle) => void, options = {}) {
  const to = join(folder, `${count++}.log`);
  const log = createLogger({ to, ...options });
  use(log);
  await log.drained();
  assert.equal(log.droppedLines(), 0);
  const raw = readFileSync(to, 'utf8');
  const lines = raw.split('\n').filter((line) => line !== '');
  return { raw, to, lines: lines.map((line) => JSON.parse(line) as Record<string, unknown>) };
}

test('a line is JSON with level, ISO time and msg; the file is the owner’s alone', async () => {
  const clock = { nowMs: () => 1_700_000_000_123, monotonicMs: () => 0 };
  const { lines, to } = await logged(({ logger }) => logger.info({ address: '127.0.0.1:8080' }, 'listening'), {
    clock,
  });
  const expected = { level: 'info', time: '2023-11-14T22:13:20.123Z', address: '127.0.0.1:8080', msg: 'listening' };
  assert.deepEqual(lines, [expected]);
  assert.equal(statSync(to).mode & 0o077, 0);
});

test('[R8] no secret reaches a log, whatever carries it', async () => {
  const { raw, lines } = await logged(({ logger }) => {
    logger.info({ auth: 'S1', headers: { Cookie: 'S2', 'set-cookie': ['S3'], Authorization: 'S4' } }, 'fields');
    logger.info({ deep: [{ rauth: 'S5', config: { auth: { loginKey: 'S6' }, loginKey: 'S7', login_key: 'S8' } }] });
    logger.child({ cookie: 'S9' }).child({ token: 'S10' }).info('children');
    logger.warn('GET /relay?id=kept&auth=S11%3D&rauth=S12 refused');
    logger.warn({ url: '/relay?x=S13', query: 'x=S14' }, 'url');
    logger.error(new CoupletError('CPL_X', 'at /relay?auth=S15', { cause: new Error('inner rauth=S16') }));
    logger.error({ err: Object.assign(new Error('x'), { password: 'S17', url: 'wss://h/p?auth=S18' }) });
    logger.info({ bytes: Buffer.from('S19') });
    logger.info('%s', 'wss://h/relay?auth=S20');
  });
  assert.equal(lines.length, 9);
  assert.doesNotMatch(raw, /S\d/);
  assert.match(raw, /id=kept&auth=\[redacted\]&rauth=\[redacted\] refused/);
  assert.equal((lines[5]!.err as { code: string }).code, 'CPL_X');
  assert.equal(lines[4]!.url, '/relay');
});

test('the level changes at run time, for children made before too', async () => {
  const { lines } = await logged(
    (log) => {
      const child = log.logger.child({ component: 'x' });
      child.info('1');
      log.setLevel('debug');
      child.debug('2');
      log.setLevel('error');
      child.warn('3');
      child.error('4');
    },
    { level: 'warn' },
  );
  assert.deepEqual(
    lines.map(({ msg }) => msg),
    ['2', '4'],
  );
});

test('whoever asks is told which levels make a line, after a change too and of children', async () => {
  await logged(
    (log) => {
      const child = log.logger.child({ component: 'x' });
      const wanted = () => (['info', 'warn', 'error'] as const).filter((level) => child.isLevelEnabled(level));
      assert.deepEqual(wanted(), ['warn', 'error']);
      log.setLevel('info');
      assert.deepEqual(wanted(), ['info', 'warn', 'error']);
      log.setLevel('error');
      assert.deepEqual(wanted(), ['error']);
      assert.equal(log.logger.isLevelEnabled('warn'), false);
    },
    { level: 'warn' },
  );
});

test('a record with a cycle or great depth is a line all the same', async () => {
  const { lines } = await logged(({ logger }) => {
    const cycle: Record<string, unknown> = { name: 'x' };
    cycle.self = cycle;
    logger.info(cycle, 'cycle');
  });
  assert.equal(lines[0]!.msg, 'cycle');
});

test('lines keep their order, whole, through a burst and a flush', async () => {
  const { lines } = await logged((log) => {
    for (let n = 0; n < 5000; n++) log.logger.info({ n }, 'x'.repeat(100));
  });
  assert.deepEqual(
    lines.map(({ n }) => n),
    Array.from({ length: 5000 }, (_, n) => n),
  );
});

test('what has been written no longer counts towards the bound', async () => {
  const log = createLogger({ to: join(folder, 'bounded.log'), maxQueuedBytes: 1000 });
  for (let n = 0; n < 50; n++) {
    log.logger.info('x'.repeat(100));
    await log.drained();
  }
  assert.equal(log.droppedLines(), 0);
});

test('a full disk loses lines, counted, not the process', async () => {
  const log = createLogger({ to: openSync('/dev/full', 'w') });
  log.logger.info('lost');
  await log.drained();
  assert.equal(log.droppedLines(), 1);
  log.logger.info('in the air');
  log.logger.info('waiting');
  log.flush();
  await log.drained();
  assert.equal(log.droppedLines(), 3);
});

test('a reader that does not read costs bounded memory and no wait', { timeout: 30_000 }, async () => {
  const script = `
    import { createLogger } from './src/core/logger.ts';
    const log = createLogger({ to: 1, maxQueuedBytes: 100_000 });
    for (let n = 0; n < 5000; n++) log.logger.info({ n }, 'x'.repeat(100));
    process.stderr.write(String(log.droppedLines()) + '\\n');
  `;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    cwd: new URL('../..', import.meta.url),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout!.pause();
  // The count arrives although nothing of stdout was read: logging did not wait for the reader.
  const [dropped] = await once(child.stderr!, 'data');
  const text = [];
  for await (const chunk of child.stdout!.resume()) text.push(chunk);
  const read = Buffer.concat(text).toString().split('\n').length - 1;
  assert.ok(Number(dropped) > 1000, `dropped ${dropped}`);
  assert.equal(read + Number(dropped), 5000, 'every line is written or counted');
});

test('withoutQuery cuts at the first ? or #', () => {
  assert.equal(withoutQuery('/a?auth=x?y'), '/a');
  assert.equal(withoutQuery('wss://h/a#auth=x'), 'wss://h/a');
  assert.equal(withoutQuery('/a'), '/a');
});

test('an announcement is a line whatever the level is', async () => {
  const { lines } = await logged((log) => log.announce('listening', { address: '127.0.0.1:1' }), { level: 'error' });
  assert.deepEqual([lines[0]!.msg, lines[0]!.address], ['listening', '127.0.0.1:1']);
});
