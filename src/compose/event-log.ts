import { Events } from '../audit/events.ts';
import type { HeadsWitness } from '../audit/heads-witness.ts';
import type { EventSink } from '../audit/sink.ts';
import { openJsonLinesSink } from '../audit/sinks/json-lines.ts';
import { createLogSink } from '../audit/sinks/log.ts';
import type { LoginKey } from '../auth/keys.ts';
import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import type { Logger } from '../core/logger.ts';

/** Between two lines about one sink, milliseconds; the metric counts every failure. */
const sinkSilenceMs = 10_000;

/**
 * Opens the event log [R31] and puts the events over it, over the program's log, and over `more` sinks.
 * @param witness where the log's heads are noted besides its folder
 * @throws CoupletError where the log's folder cannot be written
 */
export async function openEvents(
  { audit }: Config,
  loginKey: LoginKey,
  clock: Clock,
  logger: Logger,
  more: readonly (EventSink | undefined)[],
  witness: HeadsWitness | undefined,
): Promise<Events> {
  const { dir: folder, maxFileBytes } = audit;
  const key = loginKey.derive('audit-chain').export();
  const log = await openJsonLinesSink({ folder, key, clock, maxFileBytes, witness });
  const toldMs = new Map<string, number>();
  return new Events({
    clock,
    sinks: [log, createLogSink(logger), ...more.filter((sink) => sink !== undefined)],
    onSinkFailure: (sink, error) => {
      const now = clock.monotonicMs();
      if (now < (toldMs.get(sink) ?? 0)) return;
      toldMs.set(sink, now + sinkSilenceMs);
      logger.error({ sink, err: error }, 'an event sink failed');
    },
  });
}
