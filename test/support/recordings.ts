import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { blockFlag, blockType, type SessionHeader } from '../../src/recording/format.ts';
import { RecordingReader } from '../../src/recording/reader.ts';

export interface RecordedMessage {
  readonly from: 'user' | 'device';
  readonly isBinary: boolean;
  readonly data: Buffer;
  /** Milliseconds since 1970-01-01 UTC. */
  readonly time: number;
}

export interface ReadRecording {
  readonly header: SessionHeader;
  readonly messages: readonly RecordedMessage[];
  readonly endTime: number;
  readonly state: string;
}

/** A whole recording in memory. */
export function readRecording(path: string): ReadRecording {
  const reader = RecordingReader.open(path);
  try {
    const messages: RecordedMessage[] = [];
    for (const { type, flags, data, time } of reader.blocks()) {
      if (type !== blockType.data) continue;
      const from = (flags & blockFlag.user) === 0 ? 'device' : 'user';
      messages.push({ from, isBinary: (flags & blockFlag.binary) !== 0, data: Buffer.from(data), time });
    }
    const header = reader.sessionHeader();
    if (typeof header === 'string') throw new Error(header);
    const { end } = reader;
    return { header, messages, endTime: end.state === 'complete' ? end.time : 0, state: end.state };
  } finally {
    reader.close();
  }
}

/** Paths of the recordings in a server's data folder, oldest name first; those of a second server of the test's after. */
export function recordingsIn(folder: string): string[] {
  const others = join(folder, 'other', 'recordings');
  return [join(folder, 'data', 'recordings'), ...(existsSync(others) ? [others] : [])].flatMap((recordings) =>
    readdirSync(recordings)
      .filter((name) => /\.(mcrec|jsonl)$/.test(name))
      .sort()
      .map((name) => join(recordings, name)),
  );
}
