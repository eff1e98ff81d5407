import { stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CoupletError } from '../core/errors.ts';
import { errorCode, eventFileName, eventFileNumber, listEventFiles, listWorkerFolders } from './event-file.ts';
import { createChainKey } from './hash-chain.ts';
import { readHeads } from './heads.ts';
import type { HeadsWitness } from './heads-witness.ts';
import { logIdsIn } from './log-id.ts';
import { type Claim, type Note, type Problem, verifyFile } from './verify-file.ts';

export type { Note, Problem, ProblemKind } from './verify-file.ts';

export interface VerifyReport {
  readonly files: number;
  readonly lines: number;
  /** What no crash explains, by file and line; empty: the log is whole. */
  readonly problems: readonly Problem[];
  /** Torn last lines and files without a closing line. */
  readonly notes: readonly Note[];
  /** Why nothing is vouched for by the witness that was given; empty where it vouched, or none was given. */
  readonly unwitnessed: string;
}

/** Who else knows heads of the log. */
export type KnownHeads = Pick<HeadsWitness, 'name' | 'list'>;

function byPlace(a: Problem | Note, b: Problem | Note): number {
  if (a.file !== b.file) return a.file < b.file ? -1 : 1;
  return a.line - b.line;
}

/**
 * Verifies an event log (R31, fault 50): the folder with all its files and the heads file, and those of workers below
 * it, or one file with what its folder vouches for of it. Memory does not grow with the log.
 * @param keys 32 bytes each; more than one where the login key was changed.
 * @param witness vouches besides the heads file; where it cannot be asked, the report says why.
 * Throws CPL_AUDIT_NOT_FOUND where there is no event log, else what the file system throws.
 */
export async function verifyEventLog(
  path: string,
  keys: readonly Uint8Array[],
  witness?: KnownHeads,
): Promise<VerifyReport> {
  try {
    const chainKeys = keys.map(createChainKey);
    if ((await stat(path)).isDirectory()) return await verifyTree(path, chainKeys, witness);
    return await verifyOne(path, chainKeys, witness);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    throw new CoupletError('CPL_AUDIT_NOT_FOUND', `${path}: no such event file or folder`, { cause: error });
  }
}

type Keys = Parameters<typeof readHeads>[1];

/** What a witness vouches for of the log that files belong to; `why` not, where it vouches for nothing. */
async function witnessed(
  paths: readonly string[],
  keys: Keys,
  witness: KnownHeads | undefined,
): Promise<{ claims: Claim[]; why: string }> {
  if (witness === undefined) return { claims: [], why: '' };
  const claims: Claim[] = [];
  const logs = await logIdsIn(paths, keys);
  if (logs.length === 0) return { claims, why: 'no intact opening line tells which event log it is' };
  try {
    for (const log of logs) {
      for (const head of await witness.list(log)) claims.push({ ...head, by: witness.name });
    }
  } catch (error) {
    return { claims: [], why: error instanceof Error ? error.message : String(error) };
  }
  return { claims, why: claims.length === 0 ? 'it knows no heads of this event log' : '' };
}

/** A folder's own log and those of workers below it [K8], each with its own chain; files are told with their folder. */
async function verifyTree(folder: string, keys: Keys, witness: KnownHeads | undefined): Promise<VerifyReport> {
  const workers = await listWorkerFolders(folder);
  if (workers.length === 0) return verifyFolder(folder, keys, witness);
  const reports: VerifyReport[] = [];
  if (await holdsLog(folder, keys)) reports.push(await verifyFolder(folder, keys, witness));
  for (let number = 1; number <= workers.at(-1)!; number++) {
    const name = `worker-${number}`;
    const below = join(folder, name);
    // Workers are numbered without gaps, and each has written its start.
    if (!workers.includes(number) || !(await holdsLog(below, keys))) {
      const problem: Problem = {
        file: name,
        line: 1,
        kind: 'missing-file',
        text: 'the event log of a worker is missing',
      };
      reports.push({ files: 0, lines: 0, problems: [problem], notes: [], unwitnessed: '' });
      continue;
    }
    const report = await verifyFolder(below, keys, witness);
    const inFolder = <T extends Problem | Note>(found: T): T => ({ ...found, file: join(name, found.file) });
    const unwitnessed = report.unwitnessed && `${name}: ${report.unwitnessed}`;
    reports.push({
      ...report,
      problems: report.problems.map(inFolder),
      notes: report.notes.map(inFolder),
      unwitnessed,
    });
  }
  return {
    files: reports.reduce((sum, { files }) => sum + files, 0),
    lines: reports.reduce((sum, { lines }) => sum + lines, 0),
    problems: reports.flatMap(({ problems }) => problems),
    notes: reports.flatMap(({ notes }) => notes),
    unwitnessed: reports
      .map(({ unwitnessed }) => unwitnessed)
      .filter((why) => why !== '')
      .join('; '),
  };
}

async function holdsLog(folder: string, keys: Keys): Promise<boolean> {
  return (await listEventFiles(folder)).length > 0 || (await readHeads(folder, keys)).state !== 'missing';
}

async function verifyFolder(folder: string, keys: Keys, witness: KnownHeads | undefined): Promise<VerifyReport> {
  const pathsIn = (files: readonly number[]) => files.map((file) => join(folder, eventFileName(file)));
  // Heads first: the files can only have grown since, also under a running server.
  const others = await witnessed(pathsIn(await listEventFiles(folder)), keys, witness);
  const heads = await readHeads(folder, keys);
  const files = await listEventFiles(folder);
  if (files.length === 0 && heads.state === 'missing') {
    throw new CoupletError('CPL_AUDIT_NOT_FOUND', `${folder}: holds no event files (events-*.jsonl)`);
  }
  const problems: Problem[] = [];
  const notes: Note[] = [];
  const headsProblem = {
    valid: undefined,
    missing: 'the heads file is missing',
    invalid: 'the heads file was changed',
    'other-key': `the heads file is signed with another key (id ${JSON.stringify(heads.keyid)}); give that key too`,
  }[heads.state];
  if (headsProblem !== undefined) problems.push({ file: heads.name, line: 1, kind: 'heads', text: headsProblem });

  const claims = new Map<number, Claim[]>();
  const claim = (made: Claim) => {
    const others = claims.get(made.file);
    if (others === undefined) claims.set(made.file, [made]);
    else others.push(made);
  };
  for (const head of heads.heads) claim({ ...head, by: heads.name });
  others.claims.forEach(claim);
  let lines = 0;
  const keyids = new Set<string>();
  const otherKeys: { file: string; line: number; keyid: string }[] = [];
  // Newest first, because a file is vouched for by later ones only.
  for (const file of files.toReversed()) {
    const name = eventFileName(file);
    const report = await verifyFile(join(folder, name), name, file, keys, claims.get(file) ?? []);
    lines += report.lines;
    problems.push(...report.problems);
    notes.push(...report.notes);
    report.claims.forEach(claim);
    keyids.add(report.keyid);
    for (const other of report.otherKeys) otherKeys.push({ file: name, ...other });
  }
  for (const { file, line, keyid } of otherKeys) {
    if (keyids.has(keyid)) continue;
    const text = `the server found the heads file signed with key id ${JSON.stringify(keyid)}, which no event file has`;
    problems.push({ file, line, kind: 'heads', text });
  }
  const newest = Math.max(0, ...files, ...claims.keys());
  const there = new Set(files);
  const known = [...new Set([...files, ...claims.keys(), newest + 1])].sort((a, b) => a - b);
  for (let file = 1; file <= newest; file++) {
    if (there.has(file)) continue;
    // A run that nobody vouches for is one problem, however long a planted file name makes it.
    const last = claims.has(file) ? file : (known.find((other) => other > file) ?? file + 1) - 1;
    problems.push(missing(file, last, claims.get(file)?.[0]));
    file = last;
  }
  return {
    files: files.length,
    lines,
    problems: problems.sort(byPlace),
    notes: notes.sort(byPlace),
    unwitnessed: others.why,
  };
}

function missing(first: number, last: number, by: Claim | undefined): Problem {
  const vouched = by === undefined ? '' : `; ${by.by} vouches for its line ${by.line}`;
  const text = first === last ? `the file is missing${vouched}` : `the files up to ${eventFileName(last)} are missing`;
  return { file: eventFileName(first), line: 1, kind: 'missing-file', text };
}

async function verifyOne(path: string, keys: Keys, witness: KnownHeads | undefined): Promise<VerifyReport> {
  const [folder, name] = [dirname(path), basename(path)];
  const number = eventFileNumber(name);
  const claims: Claim[] = [];
  let unwitnessed = 'the name of the file does not tell its number';
  if (number !== undefined) {
    // Its own opening line may be what was changed: its neighbours tell the log too.
    const neighbours = (await listEventFiles(folder)).map((file) => join(folder, eventFileName(file)));
    const others = await witnessed(neighbours, keys, witness);
    unwitnessed = others.why;
    const heads = await readHeads(folder, keys);
    claims.push(...heads.heads.filter(({ file }) => file === number).map((head) => ({ ...head, by: heads.name })));
    claims.push(...others.claims.filter(({ file }) => file === number));
    const files = await listEventFiles(folder);
    for (const later of files.filter((file) => file > number)) {
      const laterName = eventFileName(later);
      const { claims: made } = await verifyFile(join(folder, laterName), laterName, later, keys, []);
      claims.push(...made.filter(({ file }) => file === number));
    }
  }
  const report = await verifyFile(path, name, number, keys, claims);
  return {
    files: 1,
    lines: report.lines,
    problems: report.problems.sort(byPlace),
    notes: report.notes,
    unwitnessed: witness === undefined ? '' : unwitnessed,
  };
}
