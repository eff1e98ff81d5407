import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Affinity } from './affinity.ts';
import { compilerFlags } from './build.ts';
import type { Machine } from './results.ts';

const project = fileURLToPath(new URL('..', import.meta.url));

/** What the figures depend on, as far as the machine tells. */
export function describeMachine(affinity: Affinity): Machine {
  const all = cpus();
  return {
    processor: all[0]?.model.trim() ?? 'unknown',
    cores: all.length,
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    congestionControl: readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim(),
    compilerFlags: compilerFlags.join(' '),
    relayCpu: affinity.relayCpu ?? 'not pinned',
    generatorCpu: affinity.generatorCpu ?? 'not pinned',
  };
}

/** The commit that is measured, with a plus where files differ from it; `unknown` outside a repository. */
export function describeCommit(): string {
  const git = (...words: string[]) => spawnSync('git', ['-C', project, ...words], { encoding: 'utf8' });
  const commit = git('rev-parse', '--short', 'HEAD');
  if (commit.status !== 0) return 'unknown';
  const changed = git('status', '--porcelain', '--untracked-files=no').stdout !== '';
  return commit.stdout.trim() + (changed ? '+' : '');
}
