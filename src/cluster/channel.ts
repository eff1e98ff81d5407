import { CoupletError } from '../core/errors.ts';
import {
  answerSchema,
  beatText,
  envelopeBytes,
  maxAnswerBytes,
  maxAskBytes,
  requestSchema,
} from '../protocol/link-messages.ts';

/** The socket below a peer channel. None of these throws on a socket that is closed. */
export interface ChannelWire {
  send(text: string): void;
  bufferedBytes(): number;
  close(code: number, reason: string): void;
  terminate(): void;
  /** Bytes that have come, where that is known: a long message is a sign of life before it is whole. */
  bytesHeard(): number | undefined;
}

/** Why a request got no answer; a word for `couplet_cluster_requests_total`. */
export type AskFault = 'unreachable' | 'timeout' | 'busy' | 'too-big' | 'error';

export function peerError(reason: AskFault, text: string, cause?: unknown): CoupletError {
  return new CoupletError('CPL_PEER', text, { reason, ...(cause !== undefined && { cause }) });
}

const maxAsksInFlight = 1000;
/** A peer that does not read what is sent to it is cut off, bytes. */
const maxBufferedBytes = 64 * 1024 * 1024;

interface Ask {
  readonly resolve: (body: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export interface ChannelParts {
  readonly boot: string;
  readonly wire: ChannelWire;
  /** Answers a request; a CoupletError's text is told to who asked. */
  answer(method: string, body: unknown, boot: string): unknown;
  /** A handler threw something else: a bug. */
  failed(error: unknown): void;
}

/** An authenticated peer channel, from either end: requests, answers, beats. Which end asks is `Peers`' affair. */
export class Channel {
  readonly boot: string;
  readonly wire: ChannelWire;
  /** Ticks since the last request. */
  unusedTicks = 0;
  /** Something has come: the other end has taken our proof. */
  isConfirmed = false;
  isOver = false;
  readonly #parts: ChannelParts;
  readonly #asks = new Map<number, Ask>();
  #lastId = 0;
  /** Ticks, not milliseconds: an event loop that stood still does not count as silence. */
  #silentTicks = 0;
  #answering = 0;
  #bytesHeard = 0;

  constructor(parts: ChannelParts) {
    this.#parts = parts;
    this.boot = parts.boot;
    this.wire = parts.wire;
    this.#bytesHeard = parts.wire.bytesHeard() ?? 0;
  }

  get asksInFlight(): number {
    return this.#asks.size;
  }

  ask(method: string, body: unknown, withinMs: number): Promise<unknown> {
    if (this.isOver) return Promise.reject(peerError('unreachable', 'the peer channel is closed'));
    if (this.#asks.size >= maxAsksInFlight) {
      return Promise.reject(peerError('busy', `${maxAsksInFlight} requests to a server are in flight: no more are`));
    }
    const id = ++this.#lastId;
    const text = JSON.stringify({ id, method, body });
    const bytes = Buffer.byteLength(text);
    if (bytes > maxAskBytes) {
      const limit = `a request to a server has ${bytes} bytes: it may have ${maxAskBytes}`;
      return Promise.reject(peerError('too-big', limit));
    }
    this.unusedTicks = 0;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#asks.delete(id);
        reject(peerError('timeout', `a server did not answer ${method} within ${withinMs} ms`));
      }, withinMs);
      this.#asks.set(id, { resolve, reject, timer });
      this.#send(text);
    });
  }

  beat(): void {
    this.#send(beatText);
  }

  tick(): void {
    this.#silentTicks++;
    this.unusedTicks++;
  }

  /** Whether nothing has come in so many ticks. */
  isSilent(ticks: number): boolean {
    const bytes = this.wire.bytesHeard() ?? 0;
    if (bytes > this.#bytesHeard) this.#silentTicks = 0;
    this.#bytesHeard = bytes;
    return this.#silentTicks >= ticks;
  }

  /** A message has come. False: it is none of the channel's, and the channel is to be closed. */
  heard(text: string): boolean {
    this.#silentTicks = 0;
    this.#bytesHeard = this.wire.bytesHeard() ?? 0;
    this.isConfirmed = true;
    if (text === beatText) return true;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      return false;
    }
    const answer = answerSchema.safeParse(value);
    if (answer.success) {
      this.#answered(answer.data);
      return true;
    }
    const request = requestSchema.safeParse(value);
    if (!request.success) return false;
    void this.#answer(request.data);
    return true;
  }

  /** The socket is closed, or taken for lost. */
  over(why: string): void {
    this.isOver = true;
    for (const { reject, timer } of this.#asks.values()) {
      clearTimeout(timer);
      reject(peerError('unreachable', why));
    }
    this.#asks.clear();
  }

  #answered(answer: { id: number; ok: true; body?: unknown } | { id: number; ok: false; error: string }): void {
    const ask = this.#asks.get(answer.id);
    if (ask === undefined) return; // its deadline has passed
    this.#asks.delete(answer.id);
    clearTimeout(ask.timer);
    if (answer.ok) ask.resolve(answer.body);
    else ask.reject(peerError('error', answer.error));
  }

  async #answer({ id, method, body }: { id: number; method: string; body?: unknown }): Promise<void> {
    const refuse = (error: string) => this.#send(JSON.stringify({ id, ok: false, error: error.slice(0, 1000) }));
    if (this.#answering >= maxAsksInFlight) return refuse('too many requests are being answered');
    this.#answering++;
    try {
      const answer = await this.#parts.answer(method, body, this.boot);
      const text = JSON.stringify({ id, ok: true, body: answer });
      if (text.length > maxAnswerBytes || Buffer.byteLength(text) > maxAnswerBytes + envelopeBytes) {
        return refuse(`the answer to ${method} is longer than ${maxAnswerBytes} bytes`);
      }
      this.#send(text);
    } catch (error) {
      if (error instanceof CoupletError) return refuse(error.message);
      this.#parts.failed(error);
      refuse(`${method} failed`);
    } finally {
      this.#answering--;
    }
  }

  #send(text: string): void {
    if (this.isOver) return;
    if (this.wire.bufferedBytes() > maxBufferedBytes) this.wire.terminate();
    else this.wire.send(text);
  }
}
