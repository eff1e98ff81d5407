import { spawnSync } from 'node:child_process';
import { mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Paths of the bench's C programs, built. */
export interface Tools {
  readonly floor: string;
  readonly load: string;
  readonly setup: string;
  readonly idle: string;
  readonly paced: string;
  readonly slow: string;
  readonly stamp: string;
  /** Why the load generators speak no TLS, in words for the report; `undefined` where they do. */
  readonly tls: string | undefined;
}

type Program = Exclude<keyof Tools, 'tls'>;

/**
 * -O2, and no -march=native: the addon is not built for one machine's processor either. The floor's only hot loop, the
 * unmasking, is written with explicit 16-byte vectors, so -O3 finds nothing more to do.
 */
export const compilerFlags = ['-std=gnu11', '-O2', '-Wall', '-Wextra'] as const;

const here = fileURLToPath(new URL('.', import.meta.url));
export const cacheFolder = `${here}.cache`;

const generator = [
  ...['half', 'pairs', 'transport', 'upgrade'].flatMap((part) => [`load/${part}.c`, `load/${part}.h`]),
  'load/histogram.h',
];
const sources: Record<Program, readonly string[]> = {
  floor: ['floor/floor.c', 'floor/accept.h', 'floor/frame.h'],
  load: ['load/load.c', ...generator],
  setup: ['load/setup.c', ...generator],
  idle: ['load/idle.c', ...generator],
  paced: ['load/paced.c', ...generator],
  slow: ['load/slow.c', ...generator],
  stamp: ['load/stamp.c', ...generator],
};

function modifiedMs(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

const openssl = { before: ['-DWITH_TLS'], after: ['-lssl', '-lcrypto'] } as const;

/** Runs the compiler; its complaints where it fails. */
function compile(parameters: readonly string[]): string | undefined {
  const compiler = process.env.CC ?? 'cc';
  const run = spawnSync(compiler, [...compilerFlags, ...parameters], { encoding: 'utf8' });
  if (run.error !== undefined) throw new Error(`cannot run the C compiler "${compiler}": ${run.error.message}`);
  return run.status === 0 ? undefined : run.stderr;
}

/** Why no program can be built with OpenSSL here, in words; `undefined` where one can. */
function opensslMissing(): string | undefined {
  mkdirSync(cacheFolder, { recursive: true });
  const probe = `${cacheFolder}/openssl.${process.pid}`;
  const library = ['-shared', '-fPIC', '-o', probe, `${here}load/transport.c`];
  const complaint = compile([...openssl.before, ...library, ...openssl.after]);
  rmSync(probe, { force: true });
  if (complaint === undefined) return undefined;
  const line = complaint.split('\n').find((text) => /error:|cannot find/.test(text)) ?? complaint;
  return `the load generator was built without OpenSSL: ${line.trim()}`;
}

/** Those with TLS have a name of their own: a program from before OpenSSL was there is not taken for one of them. */
function build(name: Program, tls: boolean): string {
  const target = `${cacheFolder}/${name}${tls ? '-tls' : ''}`;
  const files = sources[name].map((file) => here + file);
  const newest = Math.max(...files.map(modifiedMs), modifiedMs(fileURLToPath(import.meta.url)));
  if (modifiedMs(target) > newest) return target;
  mkdirSync(cacheFolder, { recursive: true });
  // Built beside its place and renamed: a test and a bench that build at the same time never run half a program.
  const fresh = `${target}.${process.pid}`;
  const parts = files.filter((file) => file.endsWith('.c'));
  const complaint = compile([...(tls ? openssl.before : []), '-o', fresh, ...parts, ...(tls ? openssl.after : [])]);
  if (complaint !== undefined) throw new Error(`the C compiler failed on ${name}:\n${complaint}`);
  renameSync(fresh, target);
  return target;
}

/**
 * Builds what is out of date into `bench/.cache`. Throws with the compiler's words where that fails. Without OpenSSL the
 * load generators refuse `--tls`, and `tls` says why.
 */
export function buildTools(): Tools {
  const tls = opensslMissing();
  const generatorProgram = (name: Program): string => build(name, tls === undefined);
  return {
    floor: build('floor', false),
    load: generatorProgram('load'),
    setup: generatorProgram('setup'),
    idle: generatorProgram('idle'),
    paced: generatorProgram('paced'),
    slow: generatorProgram('slow'),
    stamp: generatorProgram('stamp'),
    tls,
  };
}
