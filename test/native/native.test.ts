import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { requireProgram } from '../support/services.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const script = 'scripts/native-tests.sh';
/** Inputs that the fuzzer must have tried for the run to count; it is given half as many again. */
const minimumRuns = 100_000;

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

test('[R22] [R26] frames, masks, limits and the queue in C++: unit tests and a fuzzer against a reference, under ASan and UBSan', {
  timeout: 240_000,
}, async (t) => {
  if (requireProgram(t, 'clang++') === undefined) return;
  const { code, output } = await runScript(t, {
    COUPLET_FUZZ_SECONDS: process.env.COUPLET_FUZZ_SECONDS ?? '60',
    COUPLET_FUZZ_RUNS: process.env.COUPLET_FUZZ_RUNS ?? String(minimumRuns * 1.5),
  });
  assert.equal(code, 0, tail(output));
  for (const line of output.matchAll(/^COUPLET_TEST_SEED=.*|^INFO: Seed: .*/gm)) t.diagnostic(line[0]);
  const unitTests = Number(/^(\d+) native unit tests passed$/m.exec(output)?.[1] ?? 0);
  assert.ok(unitTests >= 25, `only ${unitTests} unit tests ran:\n${tail(output)}`);
  const runs = Number(/^stat::number_of_executed_units:\s*(\d+)$/m.exec(output)?.[1] ?? 0);
  t.diagnostic(`${unitTests} unit tests, ${runs} fuzzer runs`);
  assert.ok(runs >= minimumRuns, `the fuzzer did ${runs} runs, not ${minimumRuns}:\n${tail(output)}`);
});
