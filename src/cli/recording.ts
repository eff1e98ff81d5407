import { readdirSync, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setImmediate as immediate } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { safeText, toSafeJson } from '../audit/safe-text.ts';
import { CoupletError } from '../core/errors.ts';
import { exportAsciicast } from '../recording/asciicast.ts';
import { dumpBlocks } from '../recording/dump.ts';
import { indexRecording } from '../recording/indexer.ts';
import { describe, type RecordingSummary, summarize, summarizeLines } from '../recording/info.ts';
import { type InUse, systemGuard, whileUnused } from '../recording/locks.ts';
import { isRecordingName } from '../recording/naming.ts';
import { RecordingReader } from '../recording/reader.ts';
import { repairRecording } from '../recording/repair.ts';
import { SidecarReader } from '../recording/sidecar.ts';
import { verifyRecording } from '../recording/verify.ts';

/** What the recording commands need of the rest of the program. */
export interface RecordingDeps {
  /** Where lines go; standard output. A promise: not before it resolves is the next line wanted. */
  readonly print: (line: string) => void | Promise<void>;
  /** The configured recordings folder, for `list` without a path. */
  readonly recordingsFolder: () => string | Promise<string>;
}

type Print = RecordingDeps['print'];

/** Adds `couplet recording …`. The commands throw CoupletError; the caller exits with 1. */
export function registerRecording(program: Command, deps: RecordingDeps): void {
  const { print } = deps;
  const recording = program.command('recording').description('show, check, repair and export recordings');
  const command = (name: string, description: string) =>
    recording.command(name).description(description).argument('<file...>', 'recordings (.mcrec)');
  recording
    .command('list')
    .description('one line for each recording, oldest first')
    .argument('[path...]', 'recordings (.mcrec, .jsonl), or folders of them; default: the configured folder')
    .option('--json', 'one line of JSON for each', false)
    .action(async (paths: string[], options: { json: boolean }) =>
      list(paths.length > 0 ? paths : [await deps.recordingsFolder()], options.json, print),
    );
  command('info', 'what a recording holds, as JSON').action((files: string[]) =>
    each(files, (file) => info(file, print)),
  );
  command('verify', 'check structure and, with a sidecar, the data; exit status 1 where one is damaged').action(
    (files: string[]) => verify(files, print),
  );
  command('repair', 'cut a torn tail and finish the file; refuses recordings in progress')
    .option('--cut-damaged', 'also where the damage is in the middle: everything behind it is lost', false)
    .action((files: string[], options: { cutDamaged: boolean }) => repair(files, options.cutDamaged, print));
  command('index', 'add an index, so that players can seek').action((files: string[]) => index(files, print));
  command('dump', "print a recording's blocks as lines of JSON")
    .option('--data-bytes <count>', "most bytes of a block's data that are shown", byteCount, 1024 * 1024)
    .action((files: string[], options: { dataBytes: number }) =>
      each(files, (file) => dump(file, options.dataBytes, print)),
    );
  command('export', 'write a terminal session in another format')
    .requiredOption('--asciicast', 'asciicast v2, which terminal players read')
    .option('--input', 'what the user typed too, with passwords that were never shown', false)
    .option('--output-dir <dir>', 'write NAME.cast files there; default: one recording, to standard output')
    .action((files: string[], options: ExportOptions) => exportFiles(files, options, print));
}

interface ExportOptions {
  readonly input: boolean;
  readonly outputDir?: string;
}

/** A block's data is one line of text: longer ones would need many times their size in memory. */
const maxDataBytes = 64 * 1024 * 1024;

function byteCount(text: string): number {
  if (/^[0-9]{1,9}$/.test(text) && Number(text) <= maxDataBytes) return Number(text);
  throw new InvalidArgumentError(`It must be a whole number from 0 to ${maxDataBytes}.`);
}

function named(file: string): string {
  return safeText(file);
}

const isLines = (file: string) => file.endsWith('.jsonl');

/** Every file gets its turn; then the first error is the command's. `takesLines`: also messenger recordings. */
async function each(files: readonly string[], run: (file: string) => Promise<void>, takesLines = false): Promise<void> {
  const errors: CoupletError[] = [];
  for (const file of files) {
    try {
      if (isLines(file) && !takesLines) {
        const text = 'a messenger recording, lines of JSON to be read as text; this command takes .mcrec files';
        throw new CoupletError('CPL_RECORDING_FILE', `${file}: ${text}`);
      }
      await run(file);
    } catch (error) {
      if (!(error instanceof CoupletError)) throw error;
      errors.push(error);
    }
  }
  if (errors[0] === undefined) return;
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more of ${files.length} files)` : '';
  throw new CoupletError(errors[0].code as `CPL_${string}`, safeText(errors[0].message) + more, { level: 'error' });
}

function recordingsIn(path: string): string[] {
  let isFolder: boolean;
  try {
    isFolder = statSync(path).isDirectory();
  } catch (cause) {
    throw new CoupletError('CPL_RECORDING_FILE', `${path}: no such file or folder`, { cause });
  }
  if (!isFolder) return [path];
  const names = readdirSync(path).filter((name) => name.endsWith('.mcrec') || (isLines(name) && isRecordingName(name)));
  return names.sort().map((name) => join(path, name));
}

async function list(paths: readonly string[], json: boolean, print: Print): Promise<void> {
  const summaries: ({ file: string } & RecordingSummary)[] = [];
  try {
    const run = async (file: string) => {
      summaries.push({ file, ...(isLines(file) ? summarizeLines(file) : summarize(file)) });
    };
    await each(paths.flatMap(recordingsIn), run, true);
  } finally {
    for (const one of summaries.sort((a, b) => a.startMs - b.startMs)) {
      await print(json ? toSafeJson(one) : listLine(one));
    }
  }
}

async function info(file: string, print: Print): Promise<void> {
  const told = describe(file);
  if (told.fault !== undefined) throw new CoupletError('CPL_RECORDING_FILE', `${file}: no recording: ${told.fault}`);
  await print(toSafeJson({ file, ...told }));
}

function listLine(one: { file: string } & RecordingSummary): string {
  const start = new Date(one.startMs).toISOString();
  const state = one.fault ?? (one.form === 'jsonl' ? linesState(one) : blocksState(one));
  return safeText(
    `${one.file}: ${start}, ${one.bytes} bytes, protocol ${one.protocol}, user ${one.user || '-'}, device ${one.device || '-'}, ${state}`,
  );
}

function blocksState({ indexed, finished }: RecordingSummary): string {
  if (indexed) return 'indexed';
  return finished ? 'finished' : 'unfinished';
}

// Nothing marks their end.
function linesState({ finished }: RecordingSummary): string {
  return finished ? 'messages' : 'messages, the last line is torn';
}

function verify(files: readonly string[], print: Print): Promise<void> {
  return each(files, async (file) => {
    const report = verifyRecording(file);
    for (const note of report.notes) await print(`note: ${place(file, note)}`);
    for (const problem of report.problems) await print(`damaged: ${place(file, problem)}`);
    const first = report.problems[0];
    if (first !== undefined) {
      const text = `${place(file, first)} (${report.problemCount} problem(s) in ${report.blocks} whole block(s))`;
      throw new CoupletError('CPL_RECORDING_DAMAGED', `damaged: ${text}`, { level: 'error' });
    }
    const checked = report.checkedBlocks > 0 ? `, ${report.checkedBlocks} compared with the sidecar` : '';
    await print(`ok: ${named(file)}: ${report.blocks} block(s) in ${report.bytes} bytes${checked}`);
  });
}

function place(file: string, { where, offset, text }: { where: string; offset: number; text: string }): string {
  return safeText(`${file}${where === 'sidecar' ? '.cpt' : ''}: offset ${offset}: ${text}`);
}

function inUseError(file: string, { why }: InUse): CoupletError {
  const text =
    why === 'locked'
      ? 'is being recorded into, or another process works on it; it can be worked on when that has ended'
      : 'is empty and was made a moment ago: it may be about to be recorded into';
  return new CoupletError('CPL_RECORDING_IN_USE', `${file}: ${text}`);
}

async function repair(files: readonly string[], cutDamaged: boolean, print: Print): Promise<void> {
  const guard = await systemGuard();
  await each(files, async (file) => {
    const result = repairRecording(file, { cutDamaged, guard });
    if (result.state === 'in-use') throw inUseError(file, result);
    if (result.state === 'refused') {
      const hint = result.text.includes('cutting') ? ' (--cut-damaged does it)' : '';
      throw new CoupletError('CPL_RECORDING_REPAIR', `${file}: offset ${result.offset}: ${result.text}${hint}`);
    }
    if (result.state === 'whole') await print(`whole: ${named(file)}`);
    else if (result.state === 'repaired') {
      const what = `offset ${result.offset}: ${result.text}; ${result.cutBytes} byte(s) cut, now ${result.bytes}`;
      await print(safeText(`repaired: ${file}: ${what}`));
    }
  });
}

async function index(files: readonly string[], print: Print): Promise<void> {
  const guard = await systemGuard();
  await each(files, async (file) => {
    const result = whileUnused(file, guard, () => indexRecording(file));
    if (result.state === 'in-use') throw inUseError(file, result);
    if (result.state === 'indexed') {
      await print(`indexed: ${named(file)}: ${result.entries} entries, ${result.bytes} bytes`);
    } else if (result.state === 'already-indexed') await print(`already indexed: ${named(file)}`);
    else {
      const where = result.state === 'not-whole' ? `offset ${result.offset}: ` : '';
      const hint = result.state === 'not-whole' ? '; repair comes first' : '';
      throw new CoupletError('CPL_RECORDING_INDEX', `${file}: ${where}${result.text}${hint}`);
    }
  });
}

/** Lines printed before signals and a closed pipe get their turn. */
const linesPerTurn = 1000;

async function printAll(lines: Iterable<unknown>, print: Print): Promise<void> {
  let count = 0;
  for (const line of lines) {
    await print(toSafeJson(line));
    if (++count % linesPerTurn === 0) await immediate();
  }
}

async function withReader(
  file: string,
  maxDataBytes: number,
  lines: (reader: RecordingReader, sidecar: SidecarReader | undefined) => Iterable<unknown>,
  print: Print,
): Promise<void> {
  const reader = RecordingReader.open(file, { maxDataBytes });
  try {
    const sidecar = openSidecar(file);
    try {
      await printAll(lines(reader, sidecar), print);
    } finally {
      sidecar?.close();
    }
    const { end } = reader;
    // What could be read has been printed; that it is not all must show in the exit status.
    if (end.state === 'complete') return;
    throw new CoupletError('CPL_RECORDING_DAMAGED', `${file}: offset ${end.offset}: ${end.text}`, { level: 'error' });
  } finally {
    reader.close();
  }
}

/** Without one, times are to the millisecond: what stands in its place does not keep a recording from being read. */
function openSidecar(file: string): SidecarReader | undefined {
  try {
    return SidecarReader.open(file);
  } catch (error) {
    if (error instanceof CoupletError) return undefined;
    throw error;
  }
}

function dump(file: string, dataBytes: number, print: Print): Promise<void> {
  return withReader(file, dataBytes, dumpBlocks, print);
}

const maxExportDataBytes = 16 * 1024 * 1024;

async function exportFiles(files: readonly string[], options: ExportOptions, print: Print): Promise<void> {
  const { outputDir, input } = options;
  if (outputDir === undefined && files.length > 1) {
    throw new CoupletError('CPL_RECORDING_EXPORT', `${files.length} recordings need --output-dir`);
  }
  await each(files, async (file) => {
    const run = (to: Print) =>
      withReader(file, maxExportDataBytes, (reader, sidecar) => exportAsciicast(reader, { input }, sidecar), to);
    try {
      if (outputDir === undefined) await run(print);
      else await intoFile(join(outputDir, `${basename(file, '.mcrec')}.cast`), run);
    } catch (error) {
      if (!(error instanceof CoupletError) || error.code !== 'CPL_RECORDING_PROTOCOL') throw error;
      throw new CoupletError('CPL_RECORDING_PROTOCOL', `${file}: ${error.message}`, { cause: error });
    }
  });
}

async function intoFile(path: string, run: (print: Print) => Promise<void>): Promise<void> {
  let handle: FileHandle;
  try {
    handle = await open(path, 'wx', 0o600);
  } catch (cause) {
    throw new CoupletError('CPL_RECORDING_EXPORT', `${path}: exists already, or cannot be made`, { cause });
  }
  const stream = handle.createWriteStream();
  const failed = new Promise<never>((_, reject) => stream.once('error', reject));
  failed.catch(() => undefined);
  try {
    await run(async (line) => {
      if (!stream.write(`${line}\n`)) {
        await Promise.race([failed, new Promise<void>((resolve) => stream.once('drain', resolve))]);
      }
    });
  } finally {
    await Promise.race([failed, new Promise<void>((resolve) => stream.end(resolve))]);
  }
}
