import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { registerRecording } from '../../src/cli/recording.ts';
import { RecordingJobs } from '../../src/recording/jobs.ts';
import type { SalvageResult } from '../../src/recording/salvage.ts';
import { incumbent, temporaryFolder } from './support.ts';

async function command(...args: string[]): Promise<void> {
  const program = new Command().exitOverride();
  registerRecording(program, { print: () => undefined, recordingsFolder: () => '' });
  await program.parseAsync(['node', 'couplet', 'recording', ...args]);
}

// With the real thread, the kernel's locks, and another process that records.
test('[R37] [R38] two servers with one folder: what one records into, the other leaves alone', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'relaysession-live.mcrec');
  const torn = incumbent.subarray(0, 500);
  writeFileSync(path, torn);
  const script = fileURLToPath(new URL('./lock-child.ts', import.meta.url));
  const child = fork(script, [path], { execArgv: ['--import', 'tsx'] });
  t.after(() => child.kill('SIGKILL'));
  const exited = once(child, 'exit');
  assert.deepEqual(await once(child, 'message'), ['locked', undefined]);
  const problems: Error[] = [];
  const jobs = new RecordingJobs({ onProblem: (error) => problems.push(error) });
  const alive = setInterval(() => undefined, 1000);
  t.after(() => clearInterval(alive));
  const salvage = async () => {
    const results: SalvageResult[] = [];
    await jobs.salvage([folder], (result) => results.push(result));
    return results.map(({ state }) => state);
  };
  assert.deepEqual(await salvage(), []);
  assert.deepEqual(await jobs.index(path), { state: 'in-use', why: 'locked' });
  assert.deepEqual(await jobs.sweep(folder, { maxCount: 0 }), { deleted: 0, failed: 0, count: 1, bytes: 500 });
  for (const name of ['repair', 'index']) {
    const message = `${path}: is being recorded into, or another process works on it; it can be worked on when that has ended`;
    await assert.rejects(command(name, path), { code: 'CPL_RECORDING_IN_USE', message });
  }
  assert.deepEqual(readFileSync(path), torn);
  child.kill('SIGKILL');
  await exited;
  assert.deepEqual(await salvage(), ['repaired']);
  assert.equal((await jobs.index(path)).state, 'indexed');
  assert.equal((await jobs.sweep(folder, { maxCount: 0 })).deleted, 1);
  assert.equal(existsSync(path), false);
  await jobs.close();
  assert.deepEqual(problems, []);
});
