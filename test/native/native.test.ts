import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { requireProgram } from '../support/services.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const script = 'scripts/native-tests.sh';
/**
 * Inputs that the fuzzer of frames must have tried for the run to count; it is given half as many again. That of the
 * recorder is given a tenth, each of which makes files; what a busy machine leaves of them must be this many.
 */
const minimumRuns = 100_000;
const minimumRecorderRuns = 2_000;

interface ScriptRun {
  readonly code: number | null;
  readonly output: string;
}

/** Runs the script to its end; the test's end ends it too, with the compiler or fuzzer that it started. */
async function runScript(t: TestContext, env: Readonly<Record<string, string>>): Promise<ScriptRun> {
  const child = spawn('bash', [script], {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  t.after(() => {
    if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) process.kill(-child.pid);
  });
  const chunks: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, output: Buffer.concat(chunks).toString() };
}

/** The last lines of an output: enough for a failed check and a sanitizer's report. */
function tail(output: string): string {
  return output.split('\n').slice(-80).join('\n');
}

test('[R22] [R26] frames, masks, limits, queues and the recorder in C++: unit tests and fuzzers against references, under sanitizers', {
  timeout: 480_000,
}, async (t) => {
  if (requireProgram(t, 'clang++') === undefined) return;
  const { code, output } = await runScript(t, {
    COUPLET_FUZZ_SECONDS: process.env.COUPLET_FUZZ_SECONDS ?? '60',
    COUPLET_FUZZ_RUNS: process.env.COUPLET_FUZZ_RUNS ?? String(minimumRuns * 1.5),
  });
  assert.equal(code, 0, tail(output));
  for (const line of output.matchAll(/^COUPLET_TEST_SEED=.*|^INFO: Seed: .*/gm)) t.diagnostic(line[0]);
  const numbers = (pattern: RegExp) => [...output.matchAll(pattern)].map((match) => Number(match[1]));
  const [unitTests = 0, threadTests = 0] = numbers(/^(\d+) native unit tests passed$/gm);
  assert.ok(unitTests >= 60 && threadTests >= 30, `only ${unitTests} and ${threadTests} unit tests:\n${tail(output)}`);
  const [runs = 0, recorderRuns = 0] = numbers(/^stat::number_of_executed_units:\s*(\d+)$/gm);
  t.diagnostic(`${unitTests} and ${threadTests} unit tests, ${runs} and ${recorderRuns} fuzzer runs`);
  assert.ok(runs >= minimumRuns, `the fuzzer of frames did ${runs} runs, not ${minimumRuns}:\n${tail(output)}`);
  assert.ok(recorderRuns >= minimumRecorderRuns, `the recorder's fuzzer did ${recorderRuns} runs:\n${tail(output)}`);
});
