import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Which core each side of a measurement runs on; `undefined`: not pinned. */
export interface Affinity {
  readonly relayCpu: number | undefined;
  readonly generatorCpu: number | undefined;
}

/** Expands a list of the kernel's form, `0-3,7`. */
export function parseCpuList(list: string): number[] {
  return list.split(',').flatMap((part) => {
    const [first, last] = part.split('-').map(Number);
    if (first === undefined || Number.isNaN(first)) throw new Error(`not a list of processors: "${list}"`);
    return Array.from({ length: (last ?? first) - first + 1 }, (_, i) => first + i);
  });
}

/**
 * The relay gets a core of its own and the generator another, so that neither's work is measured as the other's cache
 * misses. Not pinned where `taskset` is missing or only one core may be used.
 */
export function chooseAffinity(): Affinity {
  const status = readFileSync('/proc/self/status', 'utf8');
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(status)?.[1];
  const cpus = list === undefined ? [] : parseCpuList(list);
  const usable = cpus.length >= 2 && spawnSync('taskset', ['--version']).status === 0;
  // Core 0 tends to take the interrupts: the generator's.
  return { relayCpu: usable ? cpus[1] : undefined, generatorCpu: usable ? cpus[0] : undefined };
}

/** The command line that runs `command` on one core; `taskset` replaces itself, so the pid stays the program's. */
export function pinned(cpu: number | undefined, command: readonly string[]): string[] {
  return cpu === undefined ? [...command] : ['taskset', '-c', String(cpu), ...command];
}
