import { open } from 'node:fs/promises';
import { eventFileName, type FileRecord, type Head, MAX_LINE_BYTES, parseRecord } from './event-file.ts';
import { CHAIN_START, type ChainedLine, type ChainKey, lineMac, parseChainedLine } from './hash-chain.ts';

export type ProblemKind = 'edited' | 'removed' | 'reordered' | 'added' | 'missing-file' | 'heads' | 'unknown-key';

/** Something that no crash explains. */
export interface Problem {
  /** Name of the file within its folder. */
  readonly file: string;
  /** Line of the file as an editor counts it. */
  readonly line: number;
  readonly kind: ProblemKind;
  readonly text: string;
}

/** Something that a crash explains, or a server that is still running. */
export interface Note {
  readonly file: string;
  readonly line: number;
  readonly kind: 'torn' | 'unclosed';
  readonly text: string;
}

/** A head and who vouches for it. */
export interface Claim extends Head {
  readonly by: string;
}

export interface FileReport {
  readonly problems: Problem[];
  readonly notes: Note[];
  /** Whole lines. */
  readonly lines: number;
  readonly number: number | undefined;
  readonly keyid: string;
  /** What intact lines of this file say of others. */
  readonly claims: Claim[];
  /** Ids of other keys that the heads file was found signed with. */
  readonly otherKeys: { readonly line: number; readonly keyid: string }[];
}

interface RawLine {
  readonly bytes: Buffer;
  /** Ends in a line feed. */
  readonly whole: boolean;
}

/** The lines of a file in constant memory; of a line past MAX_LINE_BYTES only that much is given. */
async function* readLines(path: string): AsyncGenerator<RawLine> {
  const handle = await open(path, 'r');
  try {
    const chunk = Buffer.alloc(256 * 1024);
    let parts: Buffer[] = [];
    let held = 0;
    let size = 0;
    const keep = (bytes: Buffer) => {
      size += bytes.length;
      const kept = Buffer.from(bytes.subarray(0, MAX_LINE_BYTES - held));
      held += kept.length;
      if (kept.length > 0) parts.push(kept);
    };
    for (;;) {
      const { bytesRead } = await handle.read(chunk, 0, chunk.length, null);
      if (bytesRead === 0) break;
      let start = 0;
      for (let end = chunk.indexOf(0x0a); end >= 0 && end < bytesRead; end = chunk.indexOf(0x0a, start)) {
        keep(chunk.subarray(start, end));
        yield { bytes: Buffer.concat(parts), whole: true };
        parts = [];
        held = 0;
        size = 0;
        start = end + 1;
      }
      keep(chunk.subarray(start, bytesRead));
    }
    if (size > 0) yield { bytes: Buffer.concat(parts), whole: false };
  } finally {
    await handle.close();
  }
}

/** Follows the chain of one file line by line. */
class ChainReader {
  readonly report: {
    problems: Problem[];
    notes: Note[];
    lines: number;
    number: number | undefined;
    keyid: string;
    claims: Claim[];
    otherKeys: { line: number; keyid: string }[];
  } = { problems: [], notes: [], lines: 0, number: undefined, keyid: '', claims: [], otherKeys: [] };
  readonly #name: string;
  readonly #keys: readonly ChainKey[];
  readonly #claims: readonly Claim[];
  #key: ChainKey | undefined;
  /** MACs that the line before may have; `undefined` where it cannot be told. */
  #before: Buffer[] | undefined = [CHAIN_START];
  #expected = 1;
  #gap: { from: number; to: number; problem: number } | undefined;
  #closed = false;

  constructor(name: string, number: number | undefined, keys: readonly ChainKey[], claims: readonly Claim[]) {
    this.#name = name;
    this.#keys = keys;
    this.#claims = claims;
    this.report.number = number;
  }

  /** @returns false where the rest of the file cannot be judged. */
  line(bytes: Buffer): boolean {
    const at = ++this.report.lines;
    const parsed = parseChainedLine(bytes);
    const record = parseRecord(bytes);
    if (at === 1 && !this.#chooseKey(parsed, record)) return false;
    if (this.#closed) this.#problem('added', `a line stands after the closing line`);
    if (parsed === undefined) {
      this.#problem('edited', `line ${this.#expected} does not end in a line number and a MAC`);
      this.#before = undefined;
      this.#expected++;
      return true;
    }
    const computed = this.#before?.map((mac) => lineMac(this.#key as ChainKey, mac, parsed.body));
    const intact = computed === undefined || computed.some((mac) => mac.equals(parsed.mac));
    if (parsed.line === this.#expected) {
      if (!intact) this.#problem('edited', `line ${parsed.line} or its MAC was changed`);
      else this.#accept(parsed, record);
    } else {
      this.#misplaced(parsed.line);
    }
    // A line that was moved says nothing about the order of the lines around it.
    if (parsed.line < this.#expected) this.#before = [...(this.#before ?? []), parsed.mac].slice(-4);
    else this.#before = intact || computed === undefined ? [parsed.mac] : [parsed.mac, ...computed.slice(0, 1)];
    this.#expected = Math.max(this.#expected, parsed.line + 1);
    return true;
  }

  /** The end of the file; `torn`: bytes after the last line feed. */
  end(torn: number): void {
    const at = this.report.lines + 1;
    const known = this.#claims.reduce<Claim | undefined>(
      (a, b) => (a === undefined || b.line > a.line ? b : a),
      undefined,
    );
    const last = this.#expected - 1;
    if (this.report.lines === 0) {
      this.#problem('removed', 'the opening line is missing', 1);
    } else if (known !== undefined && known.line > last) {
      const missing = known.line === last + 1 ? `line ${known.line} is` : `lines ${last + 1} to ${known.line} are`;
      this.#problem('removed', `${missing} missing at the end; ${known.by} vouches for line ${known.line}`, at);
    } else if (torn > 0) {
      const text = `the last line is torn after ${torn} bytes, as a crash leaves it`;
      this.report.notes.push({ file: this.#name, line: at, kind: 'torn', text });
    }
    if (!this.#closed && torn === 0 && this.report.lines > 0) {
      const text = 'no closing line: the server was killed or is still running';
      this.report.notes.push({ file: this.#name, line: at, kind: 'unclosed', text });
    }
  }

  #problem(kind: ProblemKind, text: string, line = this.report.lines): void {
    this.report.problems.push({ file: this.#name, line, kind, text });
  }

  #chooseKey(parsed: ChainedLine | undefined, record: FileRecord | undefined): boolean {
    const signed = this.#keys.find((key) => parsed && lineMac(key, CHAIN_START, parsed.body).equals(parsed.mac));
    const named = record?.record === 'open' ? record.keyid : undefined;
    this.#key =
      signed ?? this.#keys.find(({ id }) => id === named) ?? (named === undefined ? this.#keys[0] : undefined);
    if (this.#key !== undefined) return true;
    this.#problem('unknown-key', `signed with another key (id ${JSON.stringify(named)}); give that key too`);
    return false;
  }

  #misplaced(line: number): void {
    const gap = this.#gap;
    if (line > this.#expected) {
      const [from, to] = [this.#expected, line - 1];
      const text = from === to ? `line ${from} is missing here` : `lines ${from} to ${to} are missing here`;
      this.#gap = { from, to, problem: this.report.problems.length };
      this.#problem('removed', text);
    } else if (gap !== undefined && line >= gap.from && line <= gap.to) {
      const old = this.report.problems[gap.problem] as Problem;
      const text = `${old.text}; line ${line} stands at ${this.#name}:${this.report.lines} instead`;
      if (old.kind === 'removed') this.report.problems[gap.problem] = { ...old, kind: 'reordered', text };
    } else {
      this.#problem('reordered', `line ${line} stands where line ${this.#expected} should`);
    }
  }

  #accept(parsed: ChainedLine, record: FileRecord | undefined): void {
    const mac = parsed.mac.toString('hex');
    const closes = record?.record === 'close';
    for (const claim of this.#claims) {
      if (claim.line === parsed.line && (claim.mac !== mac || claim.closed !== closes)) {
        this.#problem('edited', `line ${parsed.line} is not the one that ${claim.by} vouches for`);
      }
    }
    if (parsed.line === 1) this.#opened(record);
    if (record?.record === 'close') this.#closed = true;
    const by = `${this.#name}:${this.report.lines}`;
    if (record?.record === 'head') this.report.claims.push({ ...record.head, by });
    if (record?.record === 'heads') {
      if (record.state === 'other-key') this.report.otherKeys.push({ line: this.report.lines, keyid: record.keyid });
      else this.#problem('heads', `the server found the heads file ${record.state} when it wrote this line`);
    }
  }

  #opened(record: FileRecord | undefined): void {
    if (record?.record !== 'open') {
      this.#problem('edited', 'the first line is not an opening line');
      return;
    }
    this.report.keyid = record.keyid;
    if (this.report.number !== undefined && this.report.number !== record.file) {
      this.#problem('reordered', `this is the content of ${eventFileName(record.file)}`);
    }
    this.report.number = record.file;
    if (record.previous !== null) this.report.claims.push({ ...record.previous, by: `${this.#name}:1` });
  }
}

/**
 * Verifies one event file in constant memory.
 * @param number what its name says, where it says one.
 * @param claims what others vouch for of this file.
 */
export async function verifyFile(
  path: string,
  name: string,
  number: number | undefined,
  keys: readonly ChainKey[],
  claims: readonly Claim[],
): Promise<FileReport> {
  const reader = new ChainReader(name, number, keys, claims);
  let torn = 0;
  for await (const { bytes, whole } of readLines(path)) {
    if (!whole) torn = bytes.length;
    else if (!reader.line(bytes)) return reader.report;
  }
  reader.end(torn);
  return reader.report;
}
