import { type Outcome, outcomes } from '../core/outcome.ts';
import type { RelayCounters } from '../metrics/sources.ts';
import type { Relay } from '../relay/relay.ts';

/** The relay's plain counters, read at scrape time (the interface is metrics'; compose.ts passes this). */
export class Counters {
  readonly sessionsTotal = new Map<number, number>();
  readonly outcomes = Object.fromEntries(outcomes.map((outcome) => [outcome, 0])) as Record<Outcome, number>;
  readonly refused = new Map<string, number>();
  readonly agentsRefused = new Map<string, number>();
  readonly halfErrors = new Map<string, number>();

  count<K>(counts: Map<K, number>, key: K): void {
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }

  read(relay: Relay): RelayCounters {
    const running = new Map<number, number>();
    const recorded = new Map<number, number>();
    for (const session of relay.sessions()) {
      this.count(session.recording === undefined ? running : recorded, session.protocol);
    }
    const labelled = (counts: Map<number, number>, isRecorded: boolean) =>
      Array.from(counts, ([protocol, count]) => ({ protocol, recorded: isRecorded, count }));
    return {
      halvesWaiting: relay.waitingCount,
      halvesPaired: relay.sessionCount * 2,
      sessions: [...labelled(running, false), ...labelled(recorded, true)],
      sessionsTotal: this.sessionsTotal,
      outcomes: this.outcomes,
      refused: this.refused,
      halfErrors: this.halfErrors,
    };
  }
}
