import { getSystemErrorName } from 'node:util';
import { isMainThread } from 'node:worker_threads';
import { CoupletError } from '../core/errors.ts';
import { loadRecorder, type RecorderAddon } from './binding.ts';

/*
 * The native recorder: blocks are framed, timed and queued here in a call that waits for no disk, and written by
 * threads of the recorder's own (native/recorder.h). One recorder for the process.
 */

/** Flags of a block [M1]; the rest are from the device half, or text. */
export const BLOCK_BINARY = 1;
export const BLOCK_FROM_USER = 2;

export interface RecorderLimits {
  /** Writing threads (each with one that syncs); counts up to the first recording. 1. */
  readonly threads: number;
  /** A file's queue is written when it holds this much … 256 KiB, or half of what it may hold where that is less. */
  readonly flushBytes: number;
  /** … or is this old, at most [R37]. 250 ms. */
  readonly flushMs: number;
  /** What is written is synced after this at most [R37]. 1000 ms. */
  readonly fsyncMs: number;
  /** Unwritten bytes of all files at which strict recordings hold back and others end [R36]. 256 MiB. */
  readonly maxQueueBytes: number;
  /** … and at which strict ones go on. Half of that. */
  readonly lowQueueBytes: number;
  /** The same for one file, so that it cannot use up what all share; goes on at half of it. A quarter of that. */
  readonly maxFileQueueBytes: number;
}

export interface RecordingFileOptions {
  /** A full queue holds the session back (`holdBack`) instead of ending the recording. */
  readonly strict?: boolean;
  /** Also writes `NAME.cpt` with arrival times in µs and checksums [M8]; on unless told otherwise. */
  readonly sidecar?: boolean;
  /** Lines of text instead of blocks [R33]: what is appended is written as it is; no header, end block or sidecar. */
  readonly lines?: boolean;
}

/** `handle` 0 means all strict recordings. Every recording ends with one `closed`, also after `failed`. */
export type RecorderEvent =
  /** The file, and its sidecar, are there and locked. */
  | { readonly type: 'opened'; readonly handle: number; readonly file: string }
  /** All that was appended when `recorderSync` was called is on the disk, and the file's name too. */
  | { readonly type: 'durable'; readonly handle: number; readonly bytes: number }
  /** `complete`: the file ends as it should, with its end block. */
  | {
      readonly type: 'closed';
      readonly handle: number;
      readonly bytes: number;
      readonly complete: boolean;
      readonly file: string;
    }
  /**
   * The recording has ended, once; `sidecar`: only that has, and the recording goes on. `errno` is a name such as
   * `ENOSPC`; `ENOBUFS` where a queue's limit ended it. Where no `opened` came before, the file could not be made and
   * nothing is left of it: `EEXIST` says that the name, or the sidecar's, is taken.
   */
  | {
      readonly type: 'failed';
      readonly handle: number;
      readonly errno: string;
      readonly file: string;
      readonly sidecar: boolean;
    }
  | { readonly type: 'holdBack'; readonly handle: number }
  | { readonly type: 'goOn'; readonly handle: number };

export type RecorderListener = (event: RecorderEvent) => void;

/** Counts of calls by how long they took: `counts[i]` took `boundsUs[i]` µs at most, the last one longer. */
export interface LatencyFigures {
  readonly boundsUs: readonly number[];
  readonly counts: readonly number[];
  readonly sumUs: number;
}

export interface RecorderStatistics {
  readonly bytesWritten: number;
  readonly blocks: number;
  /** Bytes that wait to be written. */
  readonly queueBytes: number;
  /** Bytes of messages forwarded in pieces that are not complete. */
  readonly assemblyBytes: number;
  readonly openFiles: number;
  readonly writeLatency: LatencyFigures;
  readonly syncLatency: LatencyFigures;
  /** By errno's name. */
  readonly failures: Readonly<Record<string, number>>;
}

/** How long the process's end waits for the disk. */
const exitFlushMs = 5000;
const kinds = ['opened', 'durable', 'closed', 'failed', 'holdBack', 'goOn'] as const;
const listeners = new Set<RecorderListener>();
let started: RecorderAddon | undefined;

function errnoName(errno: number): string {
  return getSystemErrorName(-errno);
}

function eventOf(
  kind: number,
  handle: number,
  errno: number,
  bytes: number,
  complete: boolean,
  file: string,
): RecorderEvent {
  const type = kinds[kind]!;
  switch (type) {
    case 'opened':
      return { type, handle, file };
    case 'durable':
      return { type, handle, bytes };
    case 'closed':
      return { type, handle, bytes, complete, file };
    case 'failed':
      return { type, handle, errno: errnoName(errno), file, sidecar: complete };
    default:
      return { type, handle };
  }
}

/** Starts the recorder at the first use. From then on the process does not exit before all recordings are ended. */
function recorder(): RecorderAddon {
  if (started !== undefined) return started;
  if (!isMainThread) {
    throw new CoupletError('CPL_RECORDER_MISSING', 'the recorder serves the main thread only, not a worker thread');
  }
  const loaded = loadRecorder();
  if (loaded.addon === undefined) throw new CoupletError('CPL_RECORDER_MISSING', loaded.error, { level: 'error' });
  const { addon } = loaded;
  addon.recorderStart((...values) => {
    const event = eventOf(...values);
    for (const listener of listeners) {
      try {
        listener(event);
      } catch (error) {
        // Uncaught, as it should be, but on its own: the other listeners and events are not to be lost by it.
        setImmediate(() => {
          throw error;
        });
      }
    }
  });
  // Also run after an exception nobody caught (fault 38).
  process.on('exit', () => addon.recorderStop(exitFlushMs));
  started = addon;
  return addon;
}

/** Registers a listener, called from the event loop on its own; returns what takes it off again. */
export function onRecorderEvent(listener: RecorderListener): () => void {
  recorder();
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Sets the limits; those not given have their defaults. */
export function recorderConfigure(limits: Partial<RecorderLimits>): void {
  const maxQueueBytes = limits.maxQueueBytes ?? 256 * 1024 * 1024;
  const maxFileQueueBytes = limits.maxFileQueueBytes ?? Math.ceil(maxQueueBytes / 4);
  const all = {
    threads: limits.threads ?? 1,
    flushBytes: limits.flushBytes ?? Math.min(256 * 1024, Math.ceil(maxFileQueueBytes / 2)),
    flushMs: limits.flushMs ?? 250,
    fsyncMs: limits.fsyncMs ?? 1000,
    maxQueueBytes,
    lowQueueBytes: limits.lowQueueBytes ?? Math.floor(maxQueueBytes / 2),
    maxFileQueueBytes,
  };
  for (const [key, value] of Object.entries(all)) {
    if (!Number.isSafeInteger(value) || value < 1 || (!key.endsWith('Bytes') && value > 2 ** 31)) {
      throw new CoupletError('CPL_RECORDER_LIMITS', `recorder: ${key} is ${value}; a whole number from 1 is allowed`);
    }
  }
  if (all.lowQueueBytes > maxQueueBytes) {
    throw new CoupletError(
      'CPL_RECORDER_LIMITS',
      `recorder: lowQueueBytes is ${all.lowQueueBytes}; at most maxQueueBytes (${maxQueueBytes}) is allowed`,
    );
  }
  recorder().recorderConfigure(
    all.threads,
    all.flushBytes,
    all.flushMs,
    all.fsyncMs,
    all.maxQueueBytes,
    all.lowQueueBytes,
    all.maxFileQueueBytes,
  );
}

/**
 * Orders a file, and its sidecar, to be made in an existing folder: new ones, following no link [R34], and locked while
 * they are recorded into. Waits for no disk: messages can be appended at once, `opened` tells that the files are there,
 * `failed` and then `closed` that they are not (an `EEXIST` is to be answered with another name). To be closed once,
 * whatever happens to it.
 * @returns a handle, never used twice in 2^32 recordings
 * @throws CoupletError `CPL_RECORDING_OPEN` where the name is no file name of at most 251 bytes; its `cause` has the
 *   errno's name, `EINVAL`, as `code`
 */
export function recorderOpen(folder: string, name: string, options: RecordingFileOptions = {}): number {
  const { strict = false, sidecar = true, lines = false } = options;
  const handle = recorder().recorderOpen(folder, name, strict, sidecar, lines);
  if (handle > 0) return handle;
  const code = errnoName(-handle);
  throw new CoupletError('CPL_RECORDING_OPEN', `recording ${JSON.stringify(name)} cannot be made: ${code}`, {
    level: 'error',
    cause: Object.assign(new Error(code), { code, errno: handle }),
  });
}

/** The recording's wall clock when it was opened, nanoseconds since 1970-01-01 UTC; 0 where it is closed. */
export function recorderStartNs(handle: number): bigint {
  return recorder().recorderStartNs(handle);
}

/** Writes the first block [M2]; nothing can be appended before it. False where that is not possible any more. */
export function recorderWriteHeader(handle: number, json: string): boolean {
  return recorder().recorderWriteHeader(handle, json);
}

/**
 * Records one message that has just arrived, and copies it: no promise, no system call. A zero-length one is not
 * recorded [M5]. False where the recording has ended, which an event tells.
 */
export function recorderAppend(handle: number, flags: number, data: ArrayBuffer | Uint8Array | string): boolean {
  return (started ?? recorder()).recorderAppend(handle, flags, data);
}

/** Whether a strict recording's session should be paused until `goOn`. */
export function recorderHoldsBack(handle: number): boolean {
  return recorder().recorderHoldsBack(handle);
}

/** Asks for a `durable` event. */
export function recorderSync(handle: number): void {
  recorder().recorderSync(handle);
}

/** Ends the recording at this moment [M11]: its end block follows all that is queued. `closed` tells when it is done. */
export function recorderClose(handle: number): void {
  recorder().recorderClose(handle);
}

/**
 * Writes all that is queued, and waits for it; `finish` also ends all recordings. For the process's end, which does it
 * by itself. False where it is not done after `timeoutMs`.
 */
export function recorderFlushAll(finish = false, timeoutMs = exitFlushMs): boolean {
  return recorder().recorderFlushAll(finish, timeoutMs);
}

export function recorderStatistics(): RecorderStatistics {
  const [bytesWritten, blocks, queueBytes, assemblyBytes, openFiles, boundsUs, writes, syncs, failed] =
    recorder().recorderStatistics();
  const latency = (figures: readonly number[]): LatencyFigures => ({
    boundsUs,
    counts: figures.slice(0, -1),
    sumUs: figures.at(-1)!,
  });
  const failures: Record<string, number> = {};
  for (let i = 0; i < failed.length; i += 2) failures[errnoName(failed[i]!)] = failed[i + 1]!;
  return {
    bytesWritten,
    blocks,
    queueBytes,
    assemblyBytes,
    openFiles,
    writeLatency: latency(writes),
    syncLatency: latency(syncs),
    failures,
  };
}
