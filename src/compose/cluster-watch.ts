import type { Events } from '../audit/events.ts';
import type { ServerEntry, ServerRegistry } from '../cluster/servers.ts';
import type { Clock } from '../core/clock.ts';

export interface ClusterWatchParts {
  readonly redis: {
    readonly name: string;
    readonly isUp: boolean;
    /** Why it is down. */
    readonly problem: string;
    onChange(listener: () => void): () => void;
  };
  readonly servers: Pick<ServerRegistry, 'onJoined' | 'onGone' | 'conflict'>;
  readonly clock: Pick<Clock, 'monotonicMs'>;
  readonly events: Pick<Events, 'redisLost' | 'redisBack' | 'serverJoined' | 'serverGone' | 'directoryConflict'>;
}

/** [R30] Puts on record how Redis and the other servers come and go, and that this one is kept out. */
export class ClusterWatch {
  readonly #parts: ClusterWatchParts;
  readonly #stops: readonly (() => void)[];
  /** Monotonic ms since when Redis cannot be used, as was told. */
  #downSinceMs: number | undefined;
  #conflict = '';

  constructor(parts: ClusterWatchParts) {
    this.#parts = parts;
    const { redis, servers, events } = parts;
    this.#stops = [
      redis.onChange(() => this.look()),
      servers.onJoined((entry) => events.serverJoined(factsOf(entry))),
      servers.onGone((_boot, entry) => events.serverGone(factsOf(entry))),
    ];
  }

  /** Also after the first attempt to reach Redis, which changes nothing where it fails. */
  look(): void {
    const { redis, servers, clock, events } = this.#parts;
    const { conflict } = servers;
    // Who is kept out does not use Redis, and that is all that is wrong with it.
    if (conflict !== '' && this.#conflict === '') events.directoryConflict(conflict);
    this.#conflict = conflict;
    const nowMs = clock.monotonicMs();
    if (redis.isUp) {
      if (this.#downSinceMs !== undefined) events.redisBack({ redis: redis.name, downMs: nowMs - this.#downSinceMs });
      this.#downSinceMs = undefined;
    } else if (conflict === '' && this.#downSinceMs === undefined) {
      this.#downSinceMs = nowMs;
      events.redisLost({ redis: redis.name, reason: redis.problem });
    }
  }

  stop(): void {
    for (const stop of this.#stops) stop();
  }
}

function factsOf({ boot, linkUrl, version }: ServerEntry): { server: string; link: string; version: string } {
  return { server: boot, link: linkUrl, version };
}
