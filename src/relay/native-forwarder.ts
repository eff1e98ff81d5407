import type { Outcome } from '../core/outcome.ts';
import {
  closers,
  figures,
  halfErrors,
  type NativeAddon,
  newFigures,
  onNativePairEnd,
  outcomes,
} from '../native/binding.ts';
import {
  type ForwardedPair,
  type Forwarder,
  type ForwarderTotals,
  noStatistics,
  type PairEnd,
  type PairOptions,
  type PairStatistics,
  throttling,
} from './forwarder.ts';
import type { HalfSocket, Side } from './half.ts';

/** A half's socket that the addon holds. */
export interface NativeSocket extends HalfSocket {
  /** The addon's id of the half. */
  readonly nativeId: number;
}

const scratch = newFigures();

/** A pair that the addon forwards. Methods, not closures: a pair is held as long as its session. */
class NativePair implements ForwardedPair {
  readonly onEnd: (end: PairEnd) => void;
  readonly #addon: NativeAddon;
  readonly #id: number;

  constructor(addon: NativeAddon, id: number, onEnd: (end: PairEnd) => void) {
    this.#addon = addon;
    this.#id = id;
    this.onEnd = onEnd;
  }

  sendText(to: Side, text: string): void {
    this.#addon.sendText(this.#id, to === 'user', text);
  }

  end(outcome: Outcome, code: number, reason: string, drain = false): void {
    this.#addon.end(this.#id, outcomes.indexOf(outcome), code, reason, drain);
  }

  statistics(): PairStatistics {
    if (!this.#addon.statistics(this.#id, scratch)) return noStatistics;
    return {
      bytesUserToDevice: scratch[figures.bytesFromUser]!,
      bytesDeviceToUser: scratch[figures.bytesFromDevice]!,
      messagesUserToDevice: scratch[figures.messagesFromUser]!,
      messagesDeviceToUser: scratch[figures.messagesFromDevice]!,
      ...throttling(
        { throttledMs: scratch[figures.throttledFromUser]!, flowPausedMs: scratch[figures.flowPausedFromUser]! },
        { throttledMs: scratch[figures.throttledFromDevice]!, flowPausedMs: scratch[figures.flowPausedFromDevice]! },
      ),
      bufferedBytes: scratch[figures.bufferedBytes]!,
    };
  }
}

/**
 * Forwarding in the addon: paired sockets' frames never enter JavaScript. This class only opens and ends pairs and
 * reads their counters; see native/flow.cc for the way of a message.
 */
export class NativeForwarder implements Forwarder {
  readonly kind = 'native';
  readonly #addon: NativeAddon;
  readonly #pairs = new Map<number, NativePair>();
  readonly #unsubscribe: () => void;
  readonly #owner: number;

  constructor(addon: NativeAddon) {
    this.#addon = addon;
    this.#owner = addon.owner();
    this.#unsubscribe = onNativePairEnd((pairId, outcome, closedBy, error) => {
      const pair = this.#pairs.get(pairId);
      if (pair === undefined) return;
      this.#pairs.delete(pairId);
      pair.onEnd({
        outcome: outcomes[outcome]!,
        closedBy: closers[closedBy]!,
        error: halfErrors[error]!,
        statistics: pair.statistics(),
      });
    });
  }

  pair(
    user: HalfSocket,
    device: HalfSocket,
    greeting: string,
    options: PairOptions,
    onEnd: (end: PairEnd) => void,
  ): ForwardedPair {
    const addon = this.#addon;
    const id = addon.pair(
      (user as NativeSocket).nativeId,
      (device as NativeSocket).nativeId,
      greeting,
      options.highWaterBytes,
      options.lowWaterBytes,
      options.maxMessageBytes,
      options.idleMs,
      options.stallMs,
      options.lingerMs,
      options.pingMs,
      options.hardClose,
      options.bytesPerSecond,
      options.userPace?.key ?? '',
      options.userPace?.bytesPerSecond ?? 0,
      this.#owner,
      options.recording?.handle ?? 0,
      options.recording?.strict ?? false,
    );
    const pair = new NativePair(addon, id, onEnd);
    if (id === 0) {
      // A half went between the last look at it and now; the other one is still held.
      for (const socket of [user, device]) socket.close(4502, 'peer connection lost');
      queueMicrotask(() =>
        onEnd({ outcome: 'peer-error', closedBy: 'relay', error: 'broken', statistics: noStatistics }),
      );
    } else {
      this.#pairs.set(id, pair);
    }
    return pair;
  }

  totals(): ForwarderTotals {
    this.#addon.totals(this.#owner, scratch);
    return {
      bytesUserToDevice: scratch[figures.bytesFromUser]!,
      bytesDeviceToUser: scratch[figures.bytesFromDevice]!,
      messagesUserToDevice: scratch[figures.messagesFromUser]!,
      messagesDeviceToUser: scratch[figures.messagesFromDevice]!,
      throttledSeconds: (scratch[figures.throttledFromUser]! + scratch[figures.throttledFromDevice]!) / 1000,
      flowPausedSeconds: (scratch[figures.flowPausedFromUser]! + scratch[figures.flowPausedFromDevice]!) / 1000,
      bufferedBytes: scratch[figures.bufferedBytes]!,
      flowPauses: scratch[figures.flowPauses]!,
    };
  }

  /** Stops listening for ends; only for a relay whose pairs are all over. */
  release(): void {
    this.#unsubscribe();
  }
}
