import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { outcomes } from '../core/outcome.ts';

/** What the addon exports (native/addon.cc). Ids are numbers that are never used twice. */
export interface NativeAddon {
  /** Stops reading an open uWebSockets.js WebSocket; 0 where it is closed already. Throws where it cannot be hooked. */
  hold(ws: object, ssl: boolean): number;
  /**
   * Takes over a connected plain TCP socket whose WebSocket handshake is done and whose client this process is [K3]. The
   * addon duplicates `fd`: the caller destroys its own socket in the same turn, before anything of it is read. `head` is
   * what was read behind the handshake; it comes first when forwarding starts. The half is held, and is to be paired at
   * once: a close frame that comes while it waits is answered, and its code not told. It cannot be given to `adopt`.
   * Returns the half's id; 0 where the connection is gone, this uWebSockets.js has not the functions, or no half was
   * ever held in this process.
   */
  adoptLink(fd: number, head: Uint8Array): number;
  /** A held half is the accepting end of a link: its close codes are another server's, and end its pair accordingly. */
  markLink(halfId: number): void;
  /** How many halves of this process have an open socket, held, paired or closing. */
  halves(): number;
  isGone(halfId: number): boolean;
  /** A held half is about to be paired, or is not after all: what it has sent, and its end, are for its mate. */
  promise(halfId: number, isPromised: boolean): void;
  close(halfId: number, code: number, reason: string): void;
  /**
   * Bytes, milliseconds, bytes per second; 0 for off. An empty greeting is not sent. Returns the pair's id, 0 where a
   * half is gone or both are of `adoptLink`.
   */
  pair(
    userId: number,
    deviceId: number,
    greeting: string,
    highWaterBytes: number,
    lowWaterBytes: number,
    maxMessageBytes: number,
    idleMs: number,
    stallMs: number,
    lingerMs: number,
    pingMs: number,
    hardClose: boolean,
    bytesPerSecond: number,
    userKey: string,
    userBytesPerSecond: number,
    owner: number,
    recordingHandle: number,
    recordsStrictly: boolean,
  ): number;
  sendText(pairId: number, toUser: boolean, text: string): void;
  end(pairId: number, outcome: number, code: number, reason: string, keepTail: boolean): void;
  /** Fills in all of `figures` but the flow pauses; false where the pair is gone. `into` is of `newFigures()`. */
  statistics(pairId: number, into: Float64Array): boolean;
  /** An id under which the pairs of one relay are summed up. */
  owner(): number;
  /** Fills in all of `figures`, summed up. `into` is of `newFigures()`. */
  totals(owner: number, into: Float64Array): void;
  /** Gives a held half back to uWebSockets.js; from then on `pause` and `resume` work on it. */
  adopt(halfId: number): void;
  pause(halfId: number): void;
  resume(halfId: number): void;
  /** To be called after uWebSockets.js wrote to a paused socket: a failed write makes it readable again. */
  keepPaused(halfId: number): void;
  forbidCoreDumps(): void;
}

/** The recorder's part of the addon (native/recorder_addon.cc); to be used through `recorder-binding.ts`. */
export interface RecorderAddon {
  /** Once for the process, on its main thread; throws elsewhere. */
  recorderStart(
    onEvent: (kind: number, handle: number, errno: number, bytes: number, complete: boolean, file: string) => void,
  ): void;
  recorderConfigure(
    threads: number,
    flushBytes: number,
    flushMs: number,
    fsyncMs: number,
    maxQueueBytes: number,
    lowQueueBytes: number,
    maxFileQueueBytes: number,
  ): void;
  /** A handle; a negative errno where the name is none. */
  recorderOpen(folder: string, name: string, strict: boolean, sidecar: boolean, lines: boolean): number;
  recorderStartNs(handle: number): bigint;
  recorderWriteHeader(handle: number, json: string): boolean;
  recorderAppend(handle: number, flags: number, data: ArrayBuffer | Uint8Array | string): boolean;
  recorderHoldsBack(handle: number): boolean;
  recorderSync(handle: number): void;
  recorderClose(handle: number): void;
  /** For the process's end: ends all recordings and hands out the last events. */
  recorderStop(timeoutMs: number): boolean;
  recorderFlushAll(finish: boolean, timeoutMs: number): boolean;
  recorderStatistics(): [
    bytesWritten: number,
    blocks: number,
    queueBytes: number,
    assemblyBytes: number,
    openFiles: number,
    boundsUs: number[],
    writeLatency: number[],
    syncLatency: number[],
    failures: number[],
  ];
}

/** Locks of open files (native/file_lock.h), on any thread; to be used through `file-lock.ts`. */
export interface FileLockAddon {
  /** 0, or an errno, `EAGAIN` where another holds a lock that this one does not go with. */
  lockFile(fd: number, exclusive: boolean): number;
}

/** Places in what the addon's `statistics` and `totals` fill (native/addon.cc); times are milliseconds. */
export const figures = {
  bytesFromUser: 0,
  bytesFromDevice: 1,
  messagesFromUser: 2,
  messagesFromDevice: 3,
  throttledFromUser: 4,
  throttledFromDevice: 5,
  flowPausedFromUser: 6,
  flowPausedFromDevice: 7,
  bufferedBytes: 8,
  flowPauses: 9,
} as const;

export function newFigures(): Float64Array {
  return new Float64Array(Object.keys(figures).length);
}

/** Called outside every socket callback, exactly once for each pair; its statistics can still be read in the call. */
export type PairEndListener = (pairId: number, outcome: number, closedBy: number, error: number) => void;

/** Words for the addon's `HalfError`, in its order; labels of `couplet_half_errors_total`. */
export const halfErrors = ['', 'protocol', 'too-big', 'broken', 'vanished', 'ping-timeout', 'stalled'] as const;

/** Sides in the order of the addon's `ClosedBy`. */
export const closers = ['user', 'device', 'relay'] as const;

export { outcomes };

type Loaded =
  | { readonly addon: NativeAddon; readonly error: '' }
  | { readonly addon: undefined; readonly error: string };

const listeners = new Set<PairEndListener>();
let loaded: Loaded | undefined;
let exported: object | undefined;

/** @throws what Node.js says where the addon is not there or does not fit. */
function requireAddon(): object {
  const path = fileURLToPath(new URL('../../build/Release/couplet.node', import.meta.url));
  exported ??= createRequire(import.meta.url)(path) as object;
  return exported;
}

/** Where the addon, or its recorder on this platform, is not there: why, in one line. Needs no uWebSockets.js. */
export function loadRecorder():
  | { readonly addon: RecorderAddon & FileLockAddon }
  | { readonly addon: undefined; readonly error: string } {
  try {
    const addon = requireAddon() as Partial<RecorderAddon & FileLockAddon>;
    if (addon.recorderStart !== undefined) return { addon: addon as RecorderAddon & FileLockAddon };
    return { addon: undefined, error: 'the native recorder is built for Linux only' };
  } catch (cause) {
    return { addon: undefined, error: `the addon cannot be loaded: ${(cause as Error).message.split('\n')[0]}` };
  }
}

/**
 * Loads the addon and lets it find the uWebSockets.js library, which must be loaded before. `error` tells in one line
 * why native forwarding cannot work in this process.
 */
export function loadNative(): Loaded {
  if (loaded !== undefined) return loaded;
  try {
    const addon = requireAddon() as NativeAddon & { load(onEnd: PairEndListener): string };
    const error = addon.load((pairId, outcome, closedBy, halfError) => {
      for (const listener of listeners) {
        try {
          listener(pairId, outcome, closedBy, halfError);
        } catch (error) {
          // Thrown into the addon it would surface in some later call; this way it is an exception nobody caught.
          setImmediate(() => {
            throw error;
          });
        }
      }
    });
    loaded = error === '' ? { addon, error: '' } : { addon: undefined, error };
  } catch (cause) {
    loaded = { addon: undefined, error: `the addon cannot be loaded: ${(cause as Error).message.split('\n')[0]}` };
  }
  return loaded;
}

/** R8: no core file of this process, in which cookies and keys would stand. False where the addon is not there. */
export function forbidCoreDumps(): boolean {
  const { addon } = loadNative();
  addon?.forbidCoreDumps();
  return addon !== undefined;
}

/** Registers a listener for ends of native pairs; returns what takes it off again. */
export function onNativePairEnd(listener: PairEndListener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
