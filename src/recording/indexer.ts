import { DesktopScreen } from './desktop-screen.ts';
import { type RecordingFs, realFs } from './file-system.ts';
import { blockFlag, blockType, desktopProtocol, protocolOf, terminalProtocols } from './format.ts';
import {
  IndexEntries,
  type IndexEntry,
  type IndexLimits,
  maxIndexBytes,
  parseIndex,
  type RecordingIndex,
} from './index-block.ts';
import { nameIndex, type PlainEnd, writeIndex } from './index-writer.ts';
import { type Block, RecordingReader } from './reader.ts';
import { repairRecording } from './repair.ts';
import { TerminalKeyframes } from './terminal-keyframes.ts';

export type IndexResult =
  | {
      readonly state: 'indexed';
      readonly entries: number;
      /** Of the file, with its index. */
      readonly bytes: number;
      readonly intervalSeconds: number;
    }
  /** Nothing was written. */
  | { readonly state: 'already-indexed' }
  /** Unfinished, torn or damaged at `offset`: repair comes first. Nothing was written. */
  | { readonly state: 'not-whole'; readonly offset: number; readonly text: string }
  /** Whole, but there is nothing to index. Nothing was written. */
  | { readonly state: 'unsuitable'; readonly text: string };

export interface IndexOptions {
  readonly noFollow?: boolean;
  readonly limits?: IndexLimits;
  readonly fs?: RecordingFs;
}

/** Of a block that is longer than this no more is looked at. */
const maxDataBytes = 16 * 1024 * 1024;

/**
 * Adds an index to a finished recording, so that players can seek [M7]: desktop (protocol 2), terminal (1, 6, 8, 9),
 * and of other sessions by time alone. Reads the file once, in constant memory; the index stays below 16 MiB. Killed at
 * any byte the file is still a good recording; run again it ends at the same bytes. An index that is there already, the
 * incumbent's too, is left as it is. Not for files in use; for commands and worker threads, not for an event loop.
 * @throws CoupletError `CPL_RECORDING_FILE` where the file cannot be opened or is no regular file, `CPL_RECORDING_INDEX`
 *   where it changes meanwhile, and what the disk throws
 */
export function indexRecording(path: string, options: IndexOptions = {}): IndexResult {
  const io = options.fs ?? realFs;
  const noFollow = options.noFollow ?? false;
  let walked = walk(path, io, noFollow, options.limits);
  if (walked.state === 'interrupted') {
    repairRecording(path, { noFollow, fs: io });
    walked = walk(path, io, noFollow, options.limits);
  }
  if (walked.state === 'interrupted') {
    return { state: 'not-whole', offset: walked.offset, text: 'an interrupted indexing cannot be undone' };
  }
  if (walked.state !== 'plain') return walked;
  const { index, end, indexOffset } = walked;
  const bytes =
    indexOffset === undefined ? writeIndex(io, end, JSON.stringify(index)) : nameIndex(io, end, indexOffset);
  return { state: 'indexed', entries: index.indexes.length, bytes, intervalSeconds: index.indexInterval };
}

type Walked =
  | Exclude<IndexResult, { state: 'indexed' }>
  | { readonly state: 'interrupted'; readonly offset: number }
  /** `indexOffset`: the index stands already, only the end block does not name it yet. */
  | {
      readonly state: 'plain';
      readonly index: RecordingIndex;
      readonly end: PlainEnd;
      readonly indexOffset?: number;
    };

function walk(path: string, io: RecordingFs, noFollow: boolean, limits?: IndexLimits): Walked {
  const reader = RecordingReader.open(path, { maxDataBytes, noFollow, fs: io });
  try {
    if (reader.finish()?.indexed === true) return { state: 'already-indexed' };
    const header = reader.sessionHeader();
    const builder = new IndexBuilder(reader, protocolOf(typeof header === 'string' ? undefined : header), limits);
    let last: Block | undefined;
    for (const block of reader.blocks()) {
      if (block.type === blockType.data) builder.add(block);
      last = block;
    }
    const { end } = reader;
    if (end.state !== 'complete') return { state: 'not-whole', offset: end.offset, text: end.text };
    if (typeof header === 'string') return { state: 'unsuitable', text: header };
    if (end.leftoverBytes > 0) return { state: 'interrupted', offset: end.offset };
    const index = builder.index();
    if (index === undefined) return { state: 'unsuitable', text: 'nothing was recorded' };
    const plain = { path, offset: end.offset, endMs: end.time, noFollow };
    const standing = last?.type === blockType.metadata ? standingIndex(reader, last, builder.firstOffset) : undefined;
    if (last === undefined || standing === undefined) return { state: 'plain', index, end: plain };
    return { state: 'plain', index: standing, end: plain, indexOffset: last.offset };
  } finally {
    reader.close();
  }
}

/** The index of an indexing that was interrupted before its last step. */
function standingIndex(reader: RecordingReader, block: Block, firstOffset: number): RecordingIndex | undefined {
  const whole = block.size <= maxIndexBytes ? reader.blockAt(block.offset, maxIndexBytes) : undefined;
  const parsed = whole === undefined ? '' : parseIndex(whole.data, block.offset - firstOffset);
  return typeof parsed === 'string' ? undefined : parsed;
}

/** Makes the index while the blocks pass. */
class IndexBuilder {
  /** Of the first data block, in the file. */
  firstOffset = 0;
  readonly #reader: RecordingReader;
  readonly #limits: IndexLimits | undefined;
  readonly #screen: DesktopScreen | undefined;
  readonly #keyframes: TerminalKeyframes | undefined;
  #entries: IndexEntries | undefined;
  /** Where the screen is not known: from there on it can be played to what it is. */
  #lastKnown: IndexEntry = [0, 0, 0];

  constructor(reader: RecordingReader, protocol: number, limits: IndexLimits | undefined) {
    this.#reader = reader;
    this.#limits = limits;
    if (protocol === desktopProtocol) this.#screen = new DesktopScreen();
    if (terminalProtocols.has(protocol)) this.#keyframes = new TerminalKeyframes();
  }

  add(block: Block): void {
    if (this.#entries === undefined) {
      this.#entries = new IndexEntries(block.time, this.#limits);
      this.firstOffset = block.offset;
    }
    const pointer = block.offset - this.firstOffset;
    this.#entries.advance(block.time, () => this.#entry(pointer));
    this.#keyframes?.feed(block, pointer, this.#entries.elapsedMs, this.#reader.dataOf(block));
    const drawing = blockFlag.binary | blockFlag.user;
    if (this.#screen !== undefined && (block.flags & drawing) === blockFlag.binary) {
      this.#screen.feed(pointer, block.data, block.data.length === block.size);
    }
  }

  index(): RecordingIndex | undefined {
    const entries = this.#entries;
    if (entries === undefined) return undefined;
    return {
      indexInterval: entries.intervalSeconds,
      indexStartTime: entries.startMs,
      indexes: entries.list,
      ...(this.#keyframes !== undefined && { keyframes: this.#keyframes.list }),
    };
  }

  #entry(pointer: number): IndexEntry {
    if (this.#keyframes !== undefined) return this.#keyframes.entry();
    if (this.#screen === undefined) return [pointer, 0, 0];
    const blocks = this.#screen.blocks();
    if (blocks !== undefined) this.#lastKnown = [pointer, this.#screen.width, this.#screen.height, ...blocks];
    return this.#lastKnown;
  }
}
