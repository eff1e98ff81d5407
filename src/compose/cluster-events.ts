import type { LiveEventSource } from '../api/parts.ts';
import { toSafeJson } from '../audit/safe-text.ts';
import type { EventRecord } from '../audit/sink.ts';
import type { LiveEvents, LiveFilter, LiveListener } from '../audit/sinks/live.ts';

/** [K5] Events of the other servers, as they come; `cluster/` implements it. */
export interface OtherEvents {
  /** Hands over each one from now on. @returns ends the subscription */
  subscribe(listener: (event: EventRecord) => void): () => void;
}

/**
 * [K5] Live events of the whole cluster: those of this server come straight from `live`, those of the others are handed
 * to the same listeners. The others are read only while somebody listens.
 */
export class ClusterLive implements LiveEventSource {
  readonly #live: LiveEvents;
  readonly #others: OtherEvents;
  readonly #gaps = new Set<() => void>();
  #stop = () => {};

  constructor(live: LiveEvents, others: OtherEvents) {
    this.#live = live;
    this.#others = others;
  }

  subscribe(filter: LiveFilter, listener: LiveListener, gap = () => {}): () => void {
    const end = this.#live.subscribe(filter, listener);
    // Each subscription has a function of its own, also where two bring the same.
    const tellGap = () => gap();
    this.#gaps.add(tellGap);
    if (this.#gaps.size === 1) {
      this.#stop = this.#others.subscribe((event) => this.#live.write(event, toSafeJson(event)));
    }
    return () => {
      end();
      if (this.#gaps.delete(tellGap) && this.#gaps.size === 0) this.#stop();
    };
  }

  /** Events of other servers were missed. */
  missed(): void {
    for (const tell of this.#gaps) tell();
  }
}
