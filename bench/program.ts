import { spawn } from 'node:child_process';
import { pinned } from './affinity.ts';

/** What a program of `load/` is told: its options without their dashes; `true` for a flag, `undefined` for none. */
export type ProgramOptions = Readonly<Record<string, string | number | true | undefined>>;

/**
 * Runs a program of `load/` and resolves with the JSON object it prints, also where that tells of faults. Rejects with
 * its words where it printed none, and where it took longer than `limitMs`.
 */
export function runProgram(program: string, options: ProgramOptions, limitMs: number, cpu?: number): Promise<unknown> {
  const words = Object.entries(options).flatMap(([name, value]) => {
    if (value === undefined) return [];
    return value === true ? [`--${name}`] : [`--${name}`, String(value)];
  });
  const [command, ...parameters] = pinned(cpu, [program, ...words]);
  const child = spawn(command!, parameters, { stdio: ['ignore', 'pipe', 'pipe'], timeout: limitMs });
  const output = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      output[stream] += text;
    });
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      try {
        resolve(JSON.parse(output.stdout));
      } catch {
        // Nothing, or cut off: its words on stderr say why.
        reject(new Error(`load generator ended with ${code ?? signal}: ${output.stderr.trim()}`));
      }
    });
  });
}
