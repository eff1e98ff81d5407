/*
 * Recordings as files, for programs: `import { RecordingReader } from 'couplet/recording'`. Synchronous, in constant
 * memory, without the addon: for a process or worker thread that may wait for a disk.
 */
export { exportAsciicast } from './asciicast.ts';
export { type DumpLine, dumpBlocks } from './dump.ts';
export type { SessionHeader } from './format.ts';
export { type IndexResult, indexRecording } from './indexer.ts';
export { describe, type RecordingInfo, type RecordingSummary, summarize } from './info.ts';
export { type Block, type ReaderOptions, RecordingReader, type WalkEnd } from './reader.ts';
export { type RepairOptions, type RepairResult, repairRecording } from './repair.ts';
export { PreciseTimes, SidecarReader, type SidecarRecord } from './sidecar.ts';
export { type Finding, type VerifyReport, verifyRecording } from './verify.ts';
