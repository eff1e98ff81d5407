import { type Outcome, outcomes } from '../core/outcome.ts';
import type { RelayCounters } from '../metrics/sources.ts';
import type { Relay } from '../relay/relay.ts';

/** The relay's plain counters, read at scrape time (the interface is metrics'; compose.ts passes this). */
export class Counters {
  readonly sessionsTotal = new Map<number, number>();
  readonly outcomes = Object.fromEntries(outcomes.map((outcome) => [outcome, 0])) as Record<Outcome, number>;
  readonly refused = new Map<string, number>();
  readonly halfErrors = new Map<string, number>();

  count<K>(counts: Map<K, number>, key: K): void {
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }

  read(relay: Relay): RelayCounters {
    const running = new Map<number, number>();
    for (const session of relay.sessions()) this.count(running, session.protocol);
    return {
      halvesWaiting: relay.pairing.waitingCount,
      halvesPaired: relay.sessionCount * 2,
      sessions: Array.from(running, ([protocol, count]) => ({ protocol, recorded: false, count })),
      sessionsTotal: this.sessionsTotal,
      outcomes: this.outcomes,
      refused: this.refused,
      halfErrors: this.halfErrors,
    };
  }
}
