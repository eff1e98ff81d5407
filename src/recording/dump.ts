import { blockFlag, blockType } from './format.ts';
import type { Block, RecordingReader } from './reader.ts';
import { PreciseTimes, type SidecarReader } from './sidecar.ts';

/** One line of a dump: a block, or at the end what the walk ended with. */
export type DumpLine = Readonly<Record<string, string | number | boolean>>;

const typeNames: Readonly<Record<number, string>> = {
  [blockType.header]: 'header',
  [blockType.data]: 'data',
  [blockType.metadata]: 'metadata',
};

/**
 * A recording's blocks as plain objects, one for each line of JSON: `text` where the message was text, `base64` where
 * it was binary; `timeUs` where the sidecar tells. The last one says how the file ends, at which offset. How much of a
 * block's data there is, is the reader's `maxDataBytes`; where `shown` stands it is less than `size`.
 */
export function* dumpBlocks(reader: RecordingReader, sidecar?: SidecarReader): Generator<DumpLine, void> {
  const times = new PreciseTimes(sidecar);
  for (const block of reader.blocks()) yield dumpBlock(block, times.of(block));
  const { state, ...rest } = reader.end;
  yield { end: state, ...rest };
}

function dumpBlock(block: Block, timeUs: number | undefined): DumpLine {
  const { offset, type, flags, size, time, data } = block;
  const isText = type !== blockType.data || (flags & blockFlag.binary) === 0;
  return {
    offset,
    type: typeNames[type] ?? type,
    ...(type === blockType.data && { from: (flags & blockFlag.user) !== 0 ? 'user' : 'device' }),
    flags,
    size,
    time,
    ...(timeUs !== undefined && { timeUs }),
    ...(data.length < size && { shown: data.length }),
    ...(isText ? { text: data.toString('utf8') } : { base64: data.toString('base64') }),
  };
}
