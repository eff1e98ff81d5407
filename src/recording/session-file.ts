import type { Clock } from '../core/clock.ts';
import {
  BLOCK_BINARY,
  BLOCK_FROM_USER,
  recorderAppend,
  recorderClose,
  recorderHoldsBack,
} from '../native/recorder-binding.ts';
import { textLine } from './text-line.ts';

export type Side = 'user' | 'device';

/** Who a messenger session's lines are from, by side. */
export type Parties = Readonly<Record<Side, string>>;

/** What a forwarder is told of the recording of its session. */
export interface SessionFileListener {
  /** Reading is to be paused, also of halves that say nothing. */
  holdBack(): void;
  /** Reading that was paused because of `holdsBack` may go on. */
  goOn(): void;
  /** The recording has ended early. */
  failed(): void;
}

/**
 * The recording of one running session, as the relay and its forwarders see it. The native forwarder uses the handle
 * and none of the methods but `close`.
 */
export class SessionFile {
  /** The native recorder's. */
  readonly handle: number;
  readonly folder: string;
  /** Name without the folder. */
  readonly file: string;
  readonly strict: boolean;
  /** Whole messages are to be given to `append`: lines of JSON are made of them. */
  readonly takesText: boolean;
  /** Why the recording has ended early; empty: it has not. */
  failure = '';
  readonly #parties: Parties | undefined;
  readonly #clock: Clock;
  readonly #startMs: number;
  #listener: SessionFileListener | undefined;
  #closed = false;

  /** @param parties of a messenger session, which is recorded as lines; else `undefined` */
  constructor(
    handle: number,
    folder: string,
    file: string,
    strict: boolean,
    parties: Parties | undefined,
    clock: Clock,
  ) {
    this.handle = handle;
    this.folder = folder;
    this.file = file;
    this.strict = strict;
    this.takesText = parties !== undefined;
    this.#parties = parties;
    this.#clock = clock;
    this.#startMs = clock.nowMs() - clock.monotonicMs();
  }

  /** Records one message that has just arrived, and copies it; false where the recording has ended. */
  append(from: Side, data: ArrayBuffer, isBinary: boolean): boolean {
    if (this.failure !== '' || this.#closed) return false;
    if (this.#parties !== undefined) {
      return recorderAppend(this.handle, 0, this.#line(this.#parties[from], data, isBinary));
    }
    const flags = (isBinary ? BLOCK_BINARY : 0) | (from === 'user' ? BLOCK_FROM_USER : 0);
    return recorderAppend(this.handle, flags, data);
  }

  #line(from: string, data: ArrayBuffer, isBinary: boolean): string {
    // As in the other form: the wall clock at the start, and from then on one that does not step back [M8].
    const time = Math.round(this.#startMs + this.#clock.monotonicMs());
    const bytes = Buffer.from(data);
    if (isBinary) return textLine({ time, from, text: bytes.toString('base64'), binary: true });
    return textLine({ time, from, text: bytes.toString('utf8') });
  }

  /** Whether reading is to be paused until the listener's `goOn`; never for a best-effort recording. */
  holdsBack(): boolean {
    return recorderHoldsBack(this.handle);
  }

  listen(listener: SessionFileListener): void {
    this.#listener = listener;
    if (this.failure !== '') listener.failed();
  }

  /** Nothing more is forwarded: the recording ends at this moment [M11]. Waits for nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    recorderClose(this.handle);
  }

  /** From the recorder's events. */
  tellHoldBack(): void {
    this.#listener?.holdBack();
  }

  tellGoOn(): void {
    this.#listener?.goOn();
  }

  tellFailed(reason: string): void {
    this.failure = reason;
    this.#listener?.failed();
  }
}
