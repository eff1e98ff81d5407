import { crc32c } from './crc32c.ts';
import { blockType, END_INDEXED, END_PLAIN, type SessionHeader } from './format.ts';
import { maxIndexBytes, PointerCheck, parseIndex } from './index-block.ts';
import { type Block, RecordingReader, type WalkEnd } from './reader.ts';
import { isCovered, SidecarReader, type SidecarRecord } from './sidecar.ts';

/** Something found at a place of the recording or of its sidecar. */
export interface Finding {
  readonly where: 'recording' | 'sidecar';
  /** In bytes from the start of that file. */
  readonly offset: number;
  readonly text: string;
}

export interface VerifyReport {
  readonly bytes: number;
  /** Blocks of every type save the end block. */
  readonly blocks: number;
  readonly state: WalkEnd['state'];
  readonly header: SessionHeader | undefined;
  /** Data blocks whose CRC was compared; 0 where there is no sidecar. */
  readonly checkedBlocks: number;
  /** What makes the recording damaged; empty: it is good. The first hundred, in the order of the file. */
  readonly problems: readonly Finding[];
  /** All of them. */
  readonly problemCount: number;
  /** What is unusual and harms nobody. */
  readonly notes: readonly Finding[];
}

const maxFindings = 100;

class Findings {
  readonly list: Finding[] = [];
  count = 0;

  add(offset: number, text: string, where: Finding['where'] = 'recording'): void {
    this.count++;
    if (this.list.length < maxFindings) this.list.push({ where, offset, text });
  }
}

/**
 * Checks a recording's structure [M1]–[M7], and where it has a sidecar each block's length, CRC-32C and time against
 * it [M8], and an index's pointers [M7]. Reads the file once, in constant memory beside an index of at most 64 MiB.
 * @throws CoupletError `CPL_RECORDING_FILE` where the file cannot be opened or is no regular file
 */
export function verifyRecording(path: string): VerifyReport {
  // The data of longer blocks is read in pieces.
  const reader = RecordingReader.open(path, { maxDataBytes: 64 * 1024 });
  try {
    const sidecar = SidecarReader.open(path);
    try {
      return new Verifier(reader, sidecar).run();
    } finally {
      sidecar?.close();
    }
  } finally {
    reader.close();
  }
}

class Verifier {
  readonly #reader: RecordingReader;
  readonly #sidecar: SidecarReader | undefined;
  readonly #problems = new Findings();
  readonly #notes = new Findings();
  #blocks = 0;
  #covered = 0;
  #checked = 0;
  #sidecarEnded = false;
  #lastTimeMs = 0;
  #metadata: Block | undefined;
  #firstDataOffset: number | undefined;
  #pointers: PointerCheck | undefined;

  constructor(reader: RecordingReader, sidecar: SidecarReader | undefined) {
    this.#reader = reader;
    this.#sidecar = sidecar;
  }

  run(): VerifyReport {
    this.#openIndex();
    for (const block of this.#reader.blocks()) this.#check(block);
    const { end } = this.#reader;
    const header = this.#reader.sessionHeader();
    if (typeof header === 'string') this.#problems.add(0, header);
    this.#checkEnd(end);
    this.#checkSidecarEnd();
    return {
      bytes: this.#reader.size,
      blocks: this.#blocks,
      state: end.state,
      header: typeof header === 'string' ? undefined : header,
      checkedBlocks: this.#checked,
      problems: this.#problems.list,
      problemCount: this.#problems.count,
      notes: this.#notes.list,
    };
  }

  /** Before the walk, so that the pointers are compared on the way. What is wrong is told at the end. */
  #openIndex(): void {
    const finish = this.#reader.finish();
    if (finish?.indexed !== true) return;
    const parsed = this.#indexAt(finish.time);
    if (typeof parsed !== 'string') this.#pointers = new PointerCheck(parsed);
  }

  /** The index that stands there, or what is wrong with it. */
  #indexAt(offset: number): ReturnType<typeof parseIndex> {
    const block = this.#reader.blockAt(offset, maxIndexBytes);
    if (block?.type !== blockType.metadata) return 'no index stands there';
    if (block.data.length < block.size) return `the index of ${block.size} bytes is longer than an index is`;
    return parseIndex(block.data, offset - (this.#firstDataOffset ?? 0));
  }

  #check(block: Block): void {
    const number = this.#blocks++;
    if (number === 1 && block.type !== blockType.data) {
      this.#problems.add(block.offset, `a block of type ${block.type} stands before the first data block [M6]`);
    }
    if (block.type === blockType.data) {
      if (block.size === 0) this.#problems.add(block.offset, 'a data block without data [M5]');
      if (block.flags > 3) this.#notes.add(block.offset, `unknown flags ${block.flags}`);
      if (block.time < this.#lastTimeMs) {
        this.#notes.add(block.offset, `time steps back by ${this.#lastTimeMs - block.time} ms`);
      }
      this.#lastTimeMs = block.time;
      this.#checkPointers(block);
    } else if (block.type === blockType.metadata) this.#metadata = block;
    else if (number > 0) this.#notes.add(block.offset, `a block of unknown type ${block.type}`);
    if (isCovered(block)) this.#checkAgainstSidecar(block, this.#covered++);
  }

  #checkPointers({ offset }: Block): void {
    this.#firstDataOffset ??= offset;
    this.#wrongPointer(offset, this.#pointers?.pass(offset - this.#firstDataOffset));
  }

  #wrongPointer(offset: number, pointer: number | undefined): void {
    if (pointer === undefined) return;
    this.#pointers = undefined; // One is enough to tell that the index is none of this recording's.
    this.#problems.add(offset, `the index names ${pointer}, where no data block begins`);
  }

  #checkAgainstSidecar(block: Block, number: number): void {
    if (this.#sidecar === undefined || this.#sidecarEnded) return;
    const record = this.#sidecar.next();
    if (record === undefined) {
      this.#sidecarEnded = true;
      this.#notes.add(block.offset, 'the sidecar tells nothing of this block and those after it');
      return;
    }
    const text = this.#compare(block, record, number);
    if (text !== undefined) this.#problems.add(block.offset, text);
    // Blocks and records are no longer the same ones: every further one would differ too.
    if (record.number !== number % 2 ** 32) this.#sidecarEnded = true;
    else this.#checked++;
  }

  #compare(block: Block, record: SidecarRecord, number: number): string | undefined {
    if (record.number !== number % 2 ** 32) return `block ${number} stands where the sidecar has ${record.number}`;
    if (record.size !== block.size) return `${block.size} bytes of data where the sidecar has ${record.size}`;
    let crc = 0;
    for (const piece of this.#reader.dataOf(block)) crc = crc32c(piece, crc);
    if (crc !== record.crc) return 'the data does not match its CRC-32C in the sidecar';
    if (Math.floor(record.timeUs / 1000) !== block.time) {
      return `TIME is ${block.time} ms where the sidecar has ${record.timeUs} us`;
    }
    return undefined;
  }

  #checkEnd(end: WalkEnd): void {
    if (end.state !== 'complete') {
      this.#problems.add(end.offset, end.text);
      return;
    }
    if (end.leftoverBytes > 0) {
      this.#notes.add(end.offset, `indexing was interrupted and left ${end.leftoverBytes} bytes; repair removes them`);
      return;
    }
    if (!end.indexed) {
      if (this.#metadata !== undefined) {
        this.#notes.add(this.#metadata.offset, `an index that the end block (${END_PLAIN}) does not name`);
      }
      return;
    }
    const index = this.#metadata;
    if (index === undefined || index.offset !== end.time) {
      this.#problems.add(end.offset, `the end block (${END_INDEXED}) names offset ${end.time}, where no index stands`);
      return;
    }
    const parsed = this.#indexAt(index.offset);
    if (typeof parsed === 'string') this.#problems.add(index.offset, parsed);
    else this.#wrongPointer(index.offset, this.#pointers?.rest());
  }

  #checkSidecarEnd(): void {
    const sidecar = this.#sidecar;
    if (sidecar === undefined) return;
    if (!this.#sidecarEnded && sidecar.next() !== undefined) {
      const { offset } = this.#reader.end;
      this.#problems.add(offset, 'the sidecar has records of more blocks than the recording has');
    }
    const { fault } = sidecar;
    if (fault === undefined) return;
    // A crash may cut or empty the tail, or all of it; a header that is wrong comes from nothing of the kind.
    const list = fault.offset === 0 && !sidecar.isEmpty ? this.#problems : this.#notes;
    list.add(fault.offset, fault.text, 'sidecar');
  }
}
