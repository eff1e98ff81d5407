import { closeCodes } from '../protocol/close-codes.ts';
import type { Channel, ChannelWire } from './channel.ts';

/** For the dialler's proof, from the 101 on. */
const proofMs = 5000;

export interface IncomingParts {
  readonly wire: ChannelWire;
  isProof(text: string): boolean;
  /** The dialler is who it said. */
  proven(): Channel;
  /** It is proven, or will never be. */
  settled(): void;
  closed(channel: Channel, isOrderly: boolean): void;
}

/** A channel as its link endpoint sees it: it takes nothing before the dialler's proof [K3]. */
export class IncomingChannel {
  readonly #parts: IncomingParts;
  readonly #timer: NodeJS.Timeout;
  #channel: Channel | undefined;
  #refused = false;
  #isSettled = false;

  constructor(parts: IncomingParts) {
    this.#parts = parts;
    // What has come while this event loop stood still is read before the dialler is judged.
    this.#timer = setTimeout(() => setImmediate(() => this.#late()), proofMs).unref();
  }

  heard(text: string): void {
    if (this.#refused) return;
    if (this.#channel !== undefined) {
      if (!this.#channel.heard(text)) this.#parts.wire.terminate();
    } else if (this.#parts.isProof(text)) {
      this.#settle();
      this.#channel = this.#parts.proven();
    } else {
      this.#refuse('no proof of a server');
    }
  }

  /** The socket is closed. @param code of its close frame; 1006 where none came */
  closed(code: number): void {
    this.#settle();
    if (this.#channel !== undefined) this.#parts.closed(this.#channel, code === 1000 || code === 1001);
  }

  terminate(): void {
    this.#parts.wire.terminate();
  }

  #late(): void {
    if (!this.#isSettled) this.#refuse('no proof came');
  }

  #refuse(why: string): void {
    this.#refused = true;
    this.#settle();
    this.#parts.wire.close(closeCodes.denied, why);
  }

  #settle(): void {
    this.#isSettled = true;
    clearTimeout(this.#timer);
    this.#parts.settled();
  }
}
