import type { Outcome } from '../core/outcome.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import { type ForwardedPair, noStatistics, type PairEnd, type PairStatistics } from './forwarder.ts';
import type { HalfSocket, Side } from './half.ts';

/**
 * Two halves that have met and are still held, because their session's recording is being opened: nothing is read of
 * them and nothing sent. `starting → started | over`.
 */
export class StartingPair implements ForwardedPair {
  readonly #sockets: readonly [user: HalfSocket, device: HalfSocket];
  readonly #onEnd: (end: PairEnd) => void;
  #pair: ForwardedPair | undefined;
  #over = false;

  constructor(sockets: readonly [user: HalfSocket, device: HalfSocket], onEnd: (end: PairEnd) => void) {
    this.#sockets = sockets;
    this.#onEnd = onEnd;
    for (const socket of sockets) socket.promise();
  }

  /** Whether it ended before it started. */
  get over(): boolean {
    return this.#over;
  }

  /** Everything is this pair's from now on. */
  start(pair: ForwardedPair): void {
    this.#pair = pair;
  }

  /** The connection of one of the halves broke. */
  lost(socket: HalfSocket): void {
    const closedBy = socket === this.#sockets[0] ? 'user' : 'device';
    this.#end(
      { outcome: 'peer-error', closedBy, error: 'broken', statistics: noStatistics },
      closeCodes.peerError,
      'peer connection lost',
    );
  }

  /** The relay's own texts follow the greeting, which is still to come. */
  sendText(to: Side, text: string): void {
    this.#pair?.sendText(to, text);
  }

  end(outcome: Outcome, code: number, reason: string, drain = false): void {
    if (this.#pair !== undefined) return this.#pair.end(outcome, code, reason, drain);
    this.#end({ outcome, closedBy: 'relay', error: '', statistics: noStatistics }, code, reason);
  }

  statistics(): PairStatistics {
    return this.#pair?.statistics() ?? noStatistics;
  }

  #end(end: PairEnd, code: number, reason: string): void {
    if (this.#over || this.#pair !== undefined) return;
    this.#over = true;
    for (const socket of this.#sockets) socket.close(code, reason);
    this.#onEnd(end);
  }
}
