import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { requireProgram } from '../support/services.ts';

const isWhole = process.env.COUPLET_TEST_ROUNDS !== undefined;
/** The suites of pairs, as they are, with the two halves of every pair on two servers over a real Redis. */
const suites = ['forwarding', 'flow-control', 'faults-pairing', 'faults-protocol', 'drain', 'differential'];
if (isWhole) suites.push('faults-flow', 'recording', 'forward-ends');
/** Links with TLS are always the portable path's: what may differ there is tested again. */
const overTls = isWhole ? ['forwarding', 'flow-control'] : ['forwarding'];

/** Of one suite; a machine with two cores takes a quarter of it. */
const limitMs = isWhole ? 3_000_000 : 240_000;
const root = fileURLToPath(new URL('../..', import.meta.url));

async function run(t: TestContext, suite: string, more: Record<string, string>, only: readonly string[] = []) {
  if (requireProgram(t, 'redis-server') === undefined) return;
  const env: NodeJS.ProcessEnv = { COUPLET_TEST_ROUNDS: '4', ...process.env, COUPLET_TEST_ACROSS: '1', ...more };
  // It says to node:test that it is a child of its own.
  delete env.NODE_TEST_CONTEXT;
  const args = ['--import', 'tsx', '--test', '--test-reporter=tap', ...only, `test/e2e/${suite}.test.ts`];
  const child = spawn(process.execPath, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = once(child, 'close');
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
  t.after(() => child.kill('SIGKILL'));
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
  }
  const [code, signal] = await ended;
  clearTimeout(timer);
  const count = (word: string) => Number(new RegExp(`^# ${word} (\\d+)$`, 'm').exec(said)?.[1] ?? 0);
  t.diagnostic(`${count('pass')} passed, ${count('skipped')} skipped`);
  assert.equal(signal, null, `not within ${limitMs} ms:\n${said}`);
  assert.equal(code, 0, said.slice(0, 20_000));
  assert.ok(count('pass') > 0, said);
}

// Each is a process of its own that does one thing at a time: two of them are what the tests' machine has cores for.
describe('halves on two servers', { concurrency: 2 }, () => {
  for (const suite of suites) {
    test(`[K3] [R22] [R23] [R24] across two servers: ${suite}`, (t) => run(t, suite, {}));
  }
  for (const suite of overTls) {
    const only = isWhole ? [] : ['--test-name-pattern=\\[R2[0234]\\]'];
    test(`[K3] [R22] [R23] [R24] across two servers, links with TLS: ${suite}`, (t) =>
      run(t, suite, { COUPLET_TEST_LINK_TLS: '1' }, only));
  }
});
