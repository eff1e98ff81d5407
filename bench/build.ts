import { spawnSync } from 'node:child_process';
import { mkdirSync, renameSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Paths of the bench's C programs, built. */
export interface Tools {
  readonly floor: string;
  readonly load: string;
  readonly stamp: string;
}

/**
 * -O2, and no -march=native: the addon is not built for one machine's processor either. The floor's only hot loop, the
 * unmasking, is written with explicit 16-byte vectors, so -O3 finds nothing more to do.
 */
export const compilerFlags = ['-std=gnu11', '-O2', '-Wall', '-Wextra'] as const;

const here = fileURLToPath(new URL('.', import.meta.url));
export const cacheFolder = `${here}.cache`;

const generator = ['load/half.c', 'load/half.h', 'load/pairs.c', 'load/pairs.h', 'load/histogram.h'];
const sources: Record<keyof Tools, readonly string[]> = {
  floor: ['floor/floor.c', 'floor/accept.h', 'floor/frame.h'],
  load: ['load/load.c', ...generator],
  stamp: ['load/stamp.c', ...generator],
};

function modifiedMs(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

function build(name: keyof Tools): string {
  const target = `${cacheFolder}/${name}`;
  const files = sources[name].map((file) => here + file);
  const newest = Math.max(...files.map(modifiedMs), modifiedMs(fileURLToPath(import.meta.url)));
  if (modifiedMs(target) > newest) return target;
  mkdirSync(cacheFolder, { recursive: true });
  // Built beside its place and renamed: a test and a bench that build at the same time never run half a program.
  const fresh = `${target}.${process.pid}`;
  const compiler = process.env.CC ?? 'cc';
  const run = spawnSync(compiler, [...compilerFlags, '-o', fresh, ...files.filter((file) => file.endsWith('.c'))], {
    encoding: 'utf8',
  });
  if (run.error !== undefined) throw new Error(`bench: cannot run the C compiler "${compiler}": ${run.error.message}`);
  if (run.status !== 0) throw new Error(`bench: ${compiler} failed on ${name}:\n${run.stderr}`);
  renameSync(fresh, target);
  return target;
}

/** Builds what is out of date into `bench/.cache`. Throws with the compiler's words where that fails. */
export function buildTools(): Tools {
  return { floor: build('floor'), load: build('load'), stamp: build('stamp') };
}
