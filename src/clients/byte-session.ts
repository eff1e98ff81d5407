import { finished, type Readable, type Writable } from 'node:stream';
import { CoupletError } from '../core/errors.ts';
import { controlTexts, isGreeting, parseControlText } from '../protocol/control-messages.ts';
import { closeError, type HalfClose, isCleanClose, printableLine } from './client-errors.ts';
import type { ClientHalf } from './connect.ts';
import { deferred, within } from './waiting.ts';

/** A last text waits this long for a mate to be there: a little longer than the relay holds a half (R15). */
const farewellWaitMs = 35_000;
/** Payload of one message: large enough that the cost per message does not matter, small against 1 MiB of R23. */
const maxChunkBytes = 64 * 1024;

/** Two byte streams to connect to a half. A TCP socket may be both. */
export interface ByteSessionOptions {
  readonly input: Readable;
  readonly output: Writable;
  /** How long an ended input waits for a mate that has said nothing at all yet. Default 5000. */
  readonly capsWaitMs?: number;
  /** After a failure: how long the relay may take to answer the close frame. Default 2000. */
  readonly closeWaitMs?: number;
  readonly signal?: AbortSignal;
  /** An agent's connection to its target: from when on it stands. A Couplet mate is told (`connected`). */
  readonly connected?: Promise<void>;
  /** Called once, before the first data is written: the mate says that its target stands, or shows it. */
  readonly onConnected?: () => void;
  /**
   * Ends the streams of a failed session, instead of `input.destroy()`: a socket is reset, for its peer must not take a
   * break for an end. May return a last text for the mate (`error: …`, T11).
   */
  readonly onFailure?: (error: unknown, mateIsCouplet: boolean) => string | undefined;
}

/**
 * Connects a byte stream to a half (T11): input as binary messages, binary messages to the output, each direction with
 * its own back-pressure and its own end.
 *
 * How a direction ends. A Couplet client says `caps` as its first message after `c`, and the relay keeps order, so a
 * mate's first message tells what the mate is:
 * - `caps`: an ended input is told by `eof`, and the mate's `eof` ends the output. Whoever has sent `eof`, received
 *   `eof` and written everything out closes with 1000. All data of a direction comes before its `eof`, and the closing
 *   half has read the mate's: no close can overtake data.
 * - anything else: not a Couplet client. An ended input is a close after everything is sent, and the mate's close is
 *   the end of its data. That is all such a mate can understand.
 * - nothing yet when the input ends: closing now would cut off a Couplet mate that has yet to answer, waiting for ever
 *   would hang on a mate that never speaks first. So wait for the first message, but `capsWaitMs` at most, then close.
 *   A Couplet mate slower than that gets a close without `eof` and says so: late is an error, never a silent loss.
 * No deadlock: `caps` and `eof` wait only behind data of their own direction, and `caps` is ahead of all data, so an
 * output that stalls (its half is not read) never holds back what the other direction needs to end.
 *
 * Resolves when both directions ended well: all input was sent, the mate's data is complete and written, and the output
 * is ended. On failure the half is closed, the input destroyed, and the output left to the caller, who decides whether
 * what arrived is flushed or thrown away.
 * @throws CoupletError (as rejection): by close code as {@link closeError}; `CPL_CLIENT_OUTPUT_CLOSED` where the
 * output's reader left (EPIPE); `CPL_CLIENT_OUTPUT`, `CPL_CLIENT_INPUT`; `CPL_CLIENT_MATE_LEFT`,
 * `CPL_CLIENT_INPUT_CUT`; `CPL_CLIENT_MATE_ERROR`; `CPL_CLIENT_PROTOCOL`. The signal's reason where it ended the session.
 */
export function runByteSession(half: ClientHalf, options: ByteSessionOptions): Promise<void> {
  return new ByteSession(half, options).run();
}

class ByteSession {
  readonly #half: ClientHalf;
  readonly #options: ByteSessionOptions;
  readonly #failed = deferred<never>();
  readonly #greeted = deferred<void>();
  #connectedHeard = false;
  readonly #mateKnown = deferred<void>();
  /** The output is ended and has taken everything. */
  readonly #received = deferred<void>();
  #isGreeted = false;
  #mate: 'unknown' | 'couplet' | 'other' = 'unknown';
  /** All data of the input is sent, its end not yet told. */
  #inputSent = false;
  #eofSent = false;
  /** The mate has no more data. */
  #mateEnded = false;
  #paused = false;
  /** Settled either way: what still arrives is thrown away. */
  #over = false;

  constructor(half: ClientHalf, options: ByteSessionOptions) {
    this.#half = half;
    this.#options = options;
  }

  async run(): Promise<void> {
    const { input, output, signal, closeWaitMs = 2000 } = this.#options;
    const half = this.#half;
    const onAbort = () => this.#fail(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    // These listeners stay for good: a stream's late error must not go uncaught.
    input.on('error', (cause) => this.#failInput(cause));
    finished(output, { readable: false }, (error) => this.#onOutputFinished(error));
    void half.closed.then((close) => this.#onClosed(close));
    void this.#options.connected?.then(
      () => this.#tellConnected(),
      () => undefined, // the stream's error tells
    );
    half.start({ onText: (text) => this.#onText(text), onBinary: (data) => this.#onBinary(data) });
    try {
      await Promise.race([this.#failed.promise, this.#converse()]);
    } catch (error) {
      this.#over = true;
      const farewell = this.#endStreams(error);
      // Read on, throwing away, or the relay's answer to the close frame would not be seen behind the mate's data.
      half.resume();
      if (farewell !== undefined) await this.#sayFarewell(farewell);
      half.close();
      // A waiting half is not read (R15), so its close frame is not answered: its hang-up is what the relay sees.
      await within(half.closed, this.#isGreeted ? closeWaitMs : 0);
      half.terminate();
      throw error;
    } finally {
      this.#over = true;
      this.#mateKnown.resolve();
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #endStreams(error: unknown): string | undefined {
    const { input, onFailure } = this.#options;
    if (onFailure !== undefined) return onFailure(error, this.#mate === 'couplet');
    input.destroy();
    return undefined;
  }

  async #sayFarewell(text: string): Promise<void> {
    const { closeWaitMs = 2000 } = this.#options;
    await within(Promise.race([this.#greeted.promise, this.#half.closed]), farewellWaitMs);
    await within(this.#half.sendText(text), closeWaitMs);
  }

  async #converse(): Promise<void> {
    await this.#greeted.promise;
    const announced = this.#half.sendText(controlTexts.caps);
    await Promise.all([announced, this.#sendInput(), this.#received.promise]);
    this.#half.close();
    const close = await this.#half.closed;
    if (!isCleanClose(close.code)) throw closeError(close);
  }

  /** Sends all input, one message at a time: the input is not read while the half has something buffered. */
  async #sendInput(): Promise<void> {
    const { input, capsWaitMs = 5000 } = this.#options;
    try {
      // Its end must not destroy a socket that is also the output.
      for await (const chunk of input.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        for (let at = 0; at < chunk.length; at += maxChunkBytes) {
          // `false`: the connection is over; what that means for the session is judged in #onClosed.
          if (!(await this.#half.sendBinary(chunk.subarray(at, at + maxChunkBytes)))) return;
        }
      }
    } catch (cause) {
      this.#failInput(cause);
      return;
    }
    this.#inputSent = true;
    if (this.#mate === 'unknown') await within(this.#mateKnown.promise, capsWaitMs);
    if (this.#over) return;
    this.#learnMate('other');
    if (this.#mate === 'couplet') this.#eofSent = await this.#half.sendText(controlTexts.eof);
    else this.#half.close();
  }

  #onText(text: string): void {
    const control = parseControlText(text);
    if (!this.#isGreeted) this.#onGreeting(text, control !== undefined);
    else if (this.#over) return;
    else if (control?.type === 'connected') this.#hearConnected();
    else if (control?.type === 'caps') this.#learnMate(control.fields.eof === true ? 'couplet' : 'other');
    else if (control?.type === 'eof') this.#onMateEof();
    else if (!control) this.#onForeignText(text);
  }

  #onGreeting(text: string, isControl: boolean): void {
    if (isControl) return;
    if (isGreeting(text)) {
      this.#isGreeted = true;
      this.#greeted.resolve();
    } else {
      this.#failProtocol(`expected "c" or "cr" first, got "${text}"`);
    }
  }

  async #tellConnected(): Promise<void> {
    await this.#mateKnown.promise;
    if (this.#over || this.#eofSent || this.#mate !== 'couplet') return;
    // A broken connection shows in its close.
    await this.#half.sendText(controlTexts.connected);
  }

  #hearConnected(): void {
    if (this.#connectedHeard) return;
    this.#connectedHeard = true;
    this.#options.onConnected?.();
  }

  #onMateEof(): void {
    this.#learnMate('other');
    this.#hearConnected();
    if (this.#mateEnded) this.#failProtocol('the mate ended its data twice');
    else this.#endOutput();
  }

  /** Texts carry no bytes of a stream. An agent that cannot reach its target says `error:` (T11). */
  #onForeignText(text: string): void {
    this.#learnMate('other');
    if (text.startsWith('error:')) {
      this.#fail(new CoupletError('CPL_CLIENT_MATE_ERROR', `the mate reports ${printableLine(text)}`));
    } else {
      this.#failProtocol(`the mate sent a text message: "${text}"`);
    }
  }

  #onBinary(data: Buffer): void {
    if (this.#over) return;
    if (!this.#isGreeted) {
      this.#failProtocol('data came before "c"');
    } else if (this.#mateEnded) {
      this.#failProtocol('the mate sent data after its end');
    } else {
      this.#learnMate('other');
      this.#hearConnected();
      this.#write(data);
    }
  }

  #write(data: Buffer): void {
    const { output } = this.#options;
    if (output.write(data) || this.#paused) return;
    this.#paused = true;
    this.#half.pause();
    output.once('drain', () => {
      this.#paused = false;
      this.#half.resume();
    });
  }

  /** The mate's first message decides; what comes later changes nothing. */
  #learnMate(mate: 'couplet' | 'other'): void {
    if (this.#mate !== 'unknown') return;
    this.#mate = mate;
    this.#mateKnown.resolve();
  }

  #endOutput(): void {
    this.#mateEnded = true;
    this.#options.output.end();
    // An ended stream emits no `drain` any more. What is left to read is control texts and the close frame.
    this.#half.resume();
  }

  #onOutputFinished(cause: NodeJS.ErrnoException | null | undefined): void {
    if (!cause && this.#mateEnded) {
      this.#received.resolve();
    } else if (!cause || readerLeftCodes.has(cause.code ?? '')) {
      const message = 'the output was closed by its reader before the end of the data';
      this.#fail(new CoupletError('CPL_CLIENT_OUTPUT_CLOSED', message, { cause }));
    } else {
      this.#fail(new CoupletError('CPL_CLIENT_OUTPUT', `cannot write the output: ${errorWord(cause)}`, { cause }));
    }
  }

  #onClosed(close: HalfClose): void {
    this.#mateKnown.resolve();
    const inputEnded = this.#mate === 'couplet' ? this.#eofSent : this.#inputSent;
    if (!isCleanClose(close.code)) {
      this.#fail(closeError(close));
    } else if (!this.#isGreeted) {
      this.#fail(new CoupletError('CPL_CLIENT_CLOSED', 'the relay ended the session before a mate came'));
    } else if (!this.#mateEnded && this.#mate === 'couplet') {
      this.#fail(new CoupletError('CPL_CLIENT_MATE_LEFT', 'the mate left before the end of its data'));
    } else if (!inputEnded) {
      this.#fail(new CoupletError('CPL_CLIENT_INPUT_CUT', 'the mate left before the end of the input was sent'));
    } else if (!this.#mateEnded) {
      this.#endOutput();
    }
  }

  #failInput(cause: unknown): void {
    this.#fail(new CoupletError('CPL_CLIENT_INPUT', `cannot read the input: ${errorWord(cause)}`, { cause }));
  }

  #failProtocol(what: string): void {
    this.#fail(new CoupletError('CPL_CLIENT_PROTOCOL', `protocol error: ${printableLine(what)}`));
  }

  #fail(error: unknown): void {
    this.#over = true;
    this.#failed.reject(error);
  }
}

/** EPIPE and its likes: not our failure, but not the end of the data either. */
const readerLeftCodes = new Set(['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE']);

function errorWord(cause: unknown): string {
  return (cause as NodeJS.ErrnoException).code ?? printableLine(String(cause));
}
