import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { temporaryFolder } from './relay.ts';
import { root } from './serve.ts';
import { findProgram, missing } from './services.ts';

/** Places of the numbers in the control file: those of `struct Control` in disk-shim.c. */
const settings = [
  'kinds',
  'hang',
  'writeMs',
  'full',
  'room',
  'writeErrno',
  'writeFailures',
  'syncErrno',
  'maxBytes',
  'interruptEvery',
  'holdReads',
] as const;
const counters = ['writes', 'syncs', 'failed', 'shortened', 'interrupted', 'waiting', 'heldReads'] as const;
const numberBytes = 4;
const kindBits = { mcrec: 1, cpt: 2, jsonl: 4 };
const { errno } = constants;

export interface DiskFault {
  /** Files it is about; all of them unless told otherwise. */
  readonly of?: readonly (keyof typeof kindBits)[];
  /** Writes and syncs do not return. */
  readonly hang?: boolean;
  /** Each write takes so long. */
  readonly writeMs?: number;
  /** Files grow by so many bytes in all and then not any more: ENOSPC. */
  readonly roomBytes?: number;
  /** Writes fail: so many, or all. */
  readonly failWrites?: { readonly code: keyof typeof errno; readonly times?: number };
  readonly failSyncs?: keyof typeof errno;
  /** A write takes no more bytes at once. */
  readonly maxBytes?: number;
  /** One of so many calls fails with EINTR. */
  readonly interruptEvery?: number;
  /** The event loop stops when it is about to read a socket, until so many writes and syncs have failed. */
  readonly holdReads?: number;
}

/** The disk of a child's recordings (disk-shim.c): its faults can begin and end while it runs. */
export class DiskShim {
  /** For the child's environment. */
  readonly env: Readonly<Record<string, string>>;
  readonly #fd: number;

  constructor(t: TestContext, library: string, folder: string) {
    const file = join(folder, 'control');
    writeFileSync(file, Buffer.alloc((settings.length + counters.length) * numberBytes));
    this.env = { LD_PRELOAD: library, DISK_SHIM_CONTROL: file };
    this.#fd = openSync(file, 'r+');
    t.after(() => {
      this.heal();
      closeSync(this.#fd);
    });
  }

  /** From now on the disk has this fault and no other. */
  break(fault: DiskFault): void {
    const { of = ['mcrec', 'cpt', 'jsonl'], failWrites } = fault;
    const values: Record<(typeof settings)[number], number> = {
      kinds: 0,
      hang: fault.hang === true ? 1 : 0,
      writeMs: fault.writeMs ?? 0,
      full: fault.roomBytes === undefined ? 0 : 1,
      room: fault.roomBytes ?? 0,
      writeErrno: failWrites === undefined ? 0 : errno[failWrites.code],
      writeFailures: failWrites?.times ?? -1,
      syncErrno: fault.failSyncs === undefined ? 0 : errno[fault.failSyncs],
      maxBytes: fault.maxBytes ?? 0,
      interruptEvery: fault.interruptEvery ?? 0,
      holdReads: fault.holdReads ?? 0,
    };
    for (const [place, name] of settings.entries()) this.#set(place, values[name]);
    // Last, as without kinds nothing else counts.
    this.#set(
      0,
      of.reduce((bits, kind) => bits | kindBits[kind], 0),
    );
  }

  /** Whoever hangs goes on, into the fault's other parts. */
  goOn(): void {
    this.#set(settings.indexOf('hang'), 0);
  }

  /** No fault any more; whoever hangs goes on. */
  heal(): void {
    for (const place of settings.keys()) this.#set(place, 0);
  }

  /** Since the start, of the files that a fault was about; `waiting`: calls that hang now. */
  count(what: (typeof counters)[number]): number {
    const bytes = Buffer.alloc(numberBytes);
    readSync(this.#fd, bytes, 0, numberBytes, (settings.length + counters.indexOf(what)) * numberBytes);
    return bytes.readInt32LE();
  }

  #set(place: number, value: number): void {
    const bytes = Buffer.alloc(numberBytes);
    bytes.writeInt32LE(value);
    writeSync(this.#fd, bytes, 0, numberBytes, place * numberBytes);
  }
}

/** Builds the shim into a folder that goes with the test; `undefined` where there is no compiler (the test is skipped). */
export function diskShim(t: TestContext): DiskShim | undefined {
  const compiler = findProgram('cc') ?? findProgram('gcc') ?? findProgram('clang');
  if (compiler === undefined) {
    missing(t, 'no C compiler (cc, gcc or clang) is installed; scripts/test-services says how');
    return undefined;
  }
  const folder = temporaryFolder(t);
  const library = join(folder, 'disk-shim.so');
  const source = join(root, 'test', 'support', 'disk-shim.c');
  execFileSync(compiler, ['-O1', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-o', library, source, '-ldl']);
  return new DiskShim(t, library, folder);
}
