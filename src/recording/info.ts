import { closeSync, fstatSync } from 'node:fs';
import { basename } from 'node:path';
import { openRegularFile, readFully, realFs } from './file-system.ts';
import { blockFlag, blockType, protocolOf } from './format.ts';
import { type RecordingForm, startOfName } from './naming.ts';
import { RecordingReader } from './reader.ts';

/** What a recording's beginning and end tell, without a walk. */
export interface RecordingSummary {
  /** `jsonl`: a messenger session as lines of JSON. */
  readonly form: RecordingForm;
  readonly bytes: number;
  /** It has its end block; of a messenger recording: its last line is whole. */
  readonly finished: boolean;
  readonly indexed: boolean;
  readonly protocol: number;
  readonly sessionId: string;
  readonly user: string;
  readonly device: string;
  /** TIME of the header block, else the start in the file's name, milliseconds since 1970-01-01 UTC; 0: unknown. */
  readonly startMs: number;
  /** What is wrong with the header block or the first line: it may be no recording. */
  readonly fault?: string;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** Reads a recording's first block and its last 32 bytes. @throws CoupletError `CPL_RECORDING_FILE` */
export function summarize(path: string): RecordingSummary {
  const reader = RecordingReader.open(path, { maxDataBytes: 0 });
  try {
    const header = reader.sessionHeader();
    const finish = reader.finish();
    const known = typeof header === 'string' ? undefined : header;
    return {
      form: 'mcrec',
      bytes: reader.size,
      finished: finish !== undefined,
      indexed: finish?.indexed === true,
      protocol: protocolOf(known),
      sessionId: textOf(known?.sessionid),
      user: textOf(known?.username) || textOf(known?.userid),
      device: textOf(known?.devicename) || textOf(known?.nodeid),
      startMs: known === undefined ? 0 : (reader.blockAt(0)?.time ?? 0),
      ...(typeof header === 'string' && { fault: header }),
    };
  } finally {
    reader.close();
  }
}

/** The beginning of a messenger recording's line, as text-line.ts writes it. */
const firstLine = /^\{"time":(\d{1,15}),"from":("(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"),"text":"/;
const firstLineBytes = 4096;

/** The same of a messenger recording: its size, its name, the beginning of its first line and its last byte. */
export function summarizeLines(path: string): RecordingSummary {
  const fd = openRegularFile(path);
  try {
    const { size } = fstatSync(fd);
    const bytes = Buffer.alloc(firstLineBytes);
    const beginning = bytes.toString('utf8', 0, readFully(realFs, fd, bytes, 0));
    const last = Buffer.alloc(1);
    const endsWhole = size === 0 || (readFully(realFs, fd, last, size - 1) === 1 && last.toString() === '\n');
    const first = firstLine.exec(beginning);
    const [, time = '0', from = '""'] = first ?? [];
    return {
      form: 'jsonl',
      bytes: size,
      finished: endsWhole,
      indexed: false,
      protocol: 200,
      sessionId: '',
      user: textOf(JSON.parse(from)),
      device: '',
      startMs: startOfName(basename(path)) ?? Number(time),
      ...(size > 0 && first === null && { fault: 'the first line is no message' }),
    };
  } finally {
    closeSync(fd);
  }
}

export interface DirectionInfo {
  readonly blocks: number;
  readonly bytes: number;
}

export interface RecordingInfo extends RecordingSummary {
  readonly header: Readonly<Record<string, unknown>> | undefined;
  readonly fromUser: DirectionInfo;
  readonly fromDevice: DirectionInfo;
  /** TIME of the first and last data block, milliseconds; 0 where there are none. */
  readonly firstMs: number;
  readonly lastMs: number;
  readonly state: string;
  /** Where reading ended, in bytes. */
  readonly endOffset: number;
}

/** Walks a whole recording and counts. Constant memory. @throws CoupletError `CPL_RECORDING_FILE` */
export function describe(path: string): RecordingInfo {
  const summary = summarize(path);
  const reader = RecordingReader.open(path, { maxDataBytes: 0 });
  try {
    const user = { blocks: 0, bytes: 0 };
    const device = { blocks: 0, bytes: 0 };
    let firstMs: number | undefined;
    let lastMs = 0;
    for (const { type, flags, size, time } of reader.blocks()) {
      if (type !== blockType.data) continue;
      const direction = (flags & blockFlag.user) !== 0 ? user : device;
      direction.blocks++;
      direction.bytes += size;
      firstMs ??= time;
      lastMs = time;
    }
    const header = reader.sessionHeader();
    return {
      ...summary,
      header: typeof header === 'string' ? undefined : header,
      fromUser: user,
      fromDevice: device,
      firstMs: firstMs ?? 0,
      lastMs,
      state: reader.end.state,
      endOffset: reader.end.offset,
    };
  } finally {
    reader.close();
  }
}
