import { watch } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { errorCode, eventFileName, listEventFiles, listWorkerFolders, RECORD_START } from '../audit/event-file.ts';
import { safeText } from '../audit/safe-text.ts';
import { type KnownHeads, type VerifyReport, verifyEventLog } from '../audit/verify.ts';
import { CoupletError } from '../core/errors.ts';

/** The options of the audit commands as given on the command line. */
export interface AuditCommandOptions {
  readonly data?: string;
  readonly loginKeyFile?: readonly string[];
  readonly config?: string;
  /** `false`: is not to be asked. */
  readonly directory?: string | false;
}

/** What a directory knows of event logs, until it is closed. */
export type OpenHeads = KnownHeads & { close(): Promise<void> };

/** What the audit commands need of the rest of the program. */
export interface AuditDeps {
  /** Where lines go; standard output. */
  readonly print: (line: string) => void;
  /** The data folder: the option, or the configured one. */
  readonly dataFolder: (options: AuditCommandOptions) => string | Promise<string>;
  /** The event log keys (32 bytes each) of the login keys that options or configuration name. Throws CoupletError. */
  readonly eventLogKeys: (options: AuditCommandOptions) => readonly Uint8Array[] | Promise<readonly Uint8Array[]>;
  /** Opens the directory that options or configuration name; `undefined` where it is `none`. Throws CoupletError. */
  readonly openHeads: (options: AuditCommandOptions) => Promise<OpenHeads | undefined>;
  /** Ends `tail -f`. */
  readonly signal: AbortSignal;
}

function wholeNumber(text: string): number {
  const value = /^[0-9]{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value)) throw new InvalidArgumentError('It must be a whole number from 0 to 999999999.');
  return value;
}

function append(value: string, before: readonly string[] = []): string[] {
  return [...before, value];
}

/** Adds `couplet audit verify` and `couplet audit tail`. The commands throw CoupletError; the caller exits with 1. */
export function registerAudit(program: Command, deps: AuditDeps): void {
  const audit = program.command('audit').description('check and show the event log');
  audit
    .command('verify')
    .description('find edits, removals, reorderings and missing files in the event log')
    .argument('<path>', 'an event file, or the folder of event files (DATA/events)')
    .option('--login-key-file <file>', 'file with a login key; may be given again for earlier keys', append)
    .option('--data <dir>', 'data folder, where the login key is taken from otherwise')
    .option('--config <file>', 'configuration file that names folder, directory and login key [COUPLET_CONFIG]')
    .option('--directory <kind>', 'sqlite or postgres:URL, asked how far the log reached (default: the configured one)')
    .option('--no-directory', 'do not ask the directory: for a copy, which ends where it was taken')
    .action((path: string, options: AuditCommandOptions) => verify(path, options, deps));
  audit
    .command('tail')
    .description('print the newest events, one line of JSON each')
    .option('--data <dir>', 'data folder')
    .option('-n, --lines <count>', 'how many events', wholeNumber, 10)
    .option('-f, --follow', 'go on with new events until interrupted', false)
    .action((options: AuditCommandOptions & { lines: number; follow: boolean }) => tail(options, deps));
}

async function verify(path: string, options: AuditCommandOptions, deps: AuditDeps): Promise<void> {
  const keys = await deps.eventLogKeys(options);
  const { heads, why } = await askable(options, deps);
  let report: VerifyReport;
  try {
    report = await verifyEventLog(path, keys, heads);
  } finally {
    await heads?.close();
  }
  if (why !== '') deps.print(safeText(`note: the directory was not asked: ${why}`));
  if (report.unwitnessed !== '') deps.print(safeText(`note: the directory does not vouch: ${report.unwitnessed}`));
  for (const { file, line, text } of report.notes) deps.print(safeText(`note: ${file}:${line}: ${text}`));
  for (const { file, line, kind, text } of report.problems) {
    deps.print(safeText(`tampering: ${file}:${line}: ${kind}: ${text}`));
  }
  const first = report.problems[0];
  const size = `${report.lines} line(s) in ${report.files} file(s)`;
  if (first === undefined) {
    deps.print(`ok: ${size}, the chain is whole`);
    return;
  }
  throw new CoupletError(
    'CPL_AUDIT_TAMPERED',
    `the event log is not as it was written: ${safeText(`${first.file}:${first.line}: ${first.text}`)} (${report.problems.length} problem(s) in ${size})`,
    { level: 'error' },
  );
}

/** The directory, or why it cannot be asked: a log must be verifiable where there is only its folder. */
async function askable(options: AuditCommandOptions, deps: AuditDeps): Promise<{ heads?: OpenHeads; why: string }> {
  if (options.directory === false) return { why: '--no-directory' };
  try {
    const heads = await deps.openHeads(options);
    return heads === undefined ? { why: 'there is none (directory: none)' } : { heads, why: '' };
  } catch (error) {
    if (!(error instanceof CoupletError)) throw error;
    return { why: error.message };
  }
}

const BLOCK_BYTES = 64 * 1024;

function isEvent(line: Buffer): boolean {
  return line.length > 0 && !line.subarray(0, RECORD_START.length).equals(RECORD_START);
}

/** The last events of one file, and the offset behind its last whole line. Reads backwards. */
async function lastEvents(path: string, count: number): Promise<{ events: Buffer[]; end: number }> {
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    let start = size;
    let bytes = Buffer.alloc(0);
    for (;;) {
      const lines = wholeLines(bytes, start === 0);
      const events = lines.filter(isEvent);
      if (start === 0 || events.length >= count) {
        const end = start + bytes.lastIndexOf(0x0a) + 1;
        return { events: count === 0 ? [] : events.slice(-count), end };
      }
      const length = Math.min(Math.max(BLOCK_BYTES, bytes.length), start);
      const block = Buffer.alloc(length);
      const { bytesRead } = await handle.read(block, 0, length, start - length);
      start -= length;
      bytes = Buffer.concat([block.subarray(0, bytesRead), bytes]);
    }
  } finally {
    await handle.close();
  }
}

/** Lines that end within `bytes`; the first one counts only where `bytes` begin with a line. */
function wholeLines(bytes: Buffer, beginsWithLine: boolean): Buffer[] {
  const lines: Buffer[] = [];
  let start = beginsWithLine ? 0 : bytes.indexOf(0x0a) + 1;
  for (let end = bytes.indexOf(0x0a, start); end >= 0; end = bytes.indexOf(0x0a, start)) {
    lines.push(bytes.subarray(start, end));
    start = end + 1;
  }
  return lines;
}

interface TimedEvent {
  readonly event: Buffer;
  readonly timeMs: number;
}

/** Events of one file with their times; one that tells none stands right behind the one before it. */
function timed(events: readonly Buffer[]): TimedEvent[] {
  let timeMs = 0;
  return events.map((event) => {
    const time = /^\{"time":"([^"]{1,40})"/.exec(event.subarray(0, 60).toString('latin1'))?.[1];
    const told = Date.parse(time ?? '');
    if (!Number.isNaN(told)) timeMs = told;
    return { event, timeMs };
  });
}

/** Event files of a folder, and of workers' folders below it; paths from the folder. */
async function allEventFiles(folder: string): Promise<string[]> {
  const files = (await listEventFiles(folder)).map(eventFileName);
  for (const number of await listWorkerFolders(folder)) {
    const name = `worker-${number}`;
    files.push(...(await listEventFiles(join(folder, name))).map((file) => join(name, eventFileName(file))));
  }
  return files;
}

async function tail(options: AuditCommandOptions & { lines: number; follow: boolean }, deps: AuditDeps): Promise<void> {
  const folder = join(await deps.dataFolder(options), 'events');
  let files: string[];
  try {
    files = await allEventFiles(folder);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    throw new CoupletError('CPL_AUDIT_NOT_FOUND', `${folder}: no event log; --data names the data folder of a server`);
  }
  // Before the first read, so that nothing that is written from now on goes unnoticed.
  const changes = options.follow ? new FolderChanges(folder, deps.signal) : undefined;
  const offsets = new Map<string, number>();
  let newest: TimedEvent[] = [];
  for (const file of files) {
    const { events, end } = await lastEvents(join(folder, file), options.lines);
    offsets.set(file, end);
    // Several processes write files of their own at the same time: the newest event may stand in any of them.
    newest = [...newest, ...timed(events)].sort((a, b) => a.timeMs - b.timeMs);
    newest = options.lines === 0 ? [] : newest.slice(-options.lines);
  }
  // A tampered line could hold anything; on a terminal it must stay text.
  const show = (event: Buffer) => deps.print(safeText(event.toString('utf8')));
  for (const { event } of newest) show(event);
  if (changes === undefined) return;
  while (!deps.signal.aborted) {
    for (const file of await allEventFiles(folder)) {
      const end = await printFrom(join(folder, file), offsets.get(file) ?? 0, show);
      offsets.set(file, end);
    }
    await changes.next();
  }
}

async function printFrom(path: string, offset: number, show: (event: Buffer) => void): Promise<number> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return offset; // Moved away since the listing.
    throw error;
  }
  try {
    const { size } = await handle.stat();
    if (size <= offset) return offset;
    const bytes = Buffer.alloc(size - offset);
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, offset);
    const read = bytes.subarray(0, bytesRead);
    wholeLines(read, true).filter(isEvent).forEach(show);
    return offset + read.lastIndexOf(0x0a) + 1;
  } finally {
    await handle.close();
  }
}

/** How often a folder is looked at where the file system tells of no changes (network file systems). */
const POLL_MS = 1_000;

/** Wakes its reader when something in a folder changed since the last time. */
class FolderChanges {
  readonly #signal: AbortSignal;
  #changed = false;
  #wake: () => void = () => {};

  constructor(folder: string, signal: AbortSignal) {
    this.#signal = signal;
    const watcher = watch(folder, { signal }, () => {
      this.#changed = true;
      this.#wake();
    });
    // Without notices the polling below is all there is.
    watcher.on('error', () => watcher.close());
  }

  async next(): Promise<void> {
    if (!this.#changed) {
      const poll = new AbortController();
      const noticed = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const signal = AbortSignal.any([this.#signal, poll.signal]);
      const polled = delay(POLL_MS, undefined, { signal }).catch(() => {});
      await Promise.race([noticed, polled]);
      poll.abort();
    }
    this.#changed = false;
  }
}
