import type { Outcome } from '../core/outcome.ts';

/*
 * Where the numbers come from. The relay keeps plain counters; these shapes are read when Prometheus scrapes, so a
 * message costs no more than the counters themselves. `compose.ts` passes the implementations.
 */

/** Counters of rendezvous and sessions. Every `Map` counts since start unless it says otherwise. */
export interface RelayCounters {
  /** Halves now, by state. */
  readonly halvesWaiting: number;
  readonly halvesPaired: number;
  /** Running sessions now. */
  readonly sessions: Iterable<{ readonly protocol: number; readonly recorded: boolean; readonly count: number }>;
  /** By protocol number (R3). */
  readonly sessionsTotal: ReadonlyMap<number, number>;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  /** By the reason's word (R26 and the refusals of R1 to R14). */
  readonly refused: ReadonlyMap<string, number>;
  readonly halfErrors: ReadonlyMap<string, number>;
}

/** Sums over all pairs since start; the forwarders' totals have this shape. */
export interface ForwardingTotals {
  readonly bytesUserToDevice: number;
  readonly bytesDeviceToUser: number;
  readonly messagesUserToDevice: number;
  readonly messagesDeviceToUser: number;
  readonly flowPauses: number;
  readonly flowPausedSeconds: number;
  /** Bytes buffered for receivers now. */
  readonly bufferedBytes: number;
}

export interface ServerCounters {
  /** Upgrade requests whose authentication is under way now. */
  readonly pendingUpgrades: number;
  /** True while the listener rests for want of file descriptors (R41). */
  readonly listenerResting: boolean;
  readonly listenerRests: number;
}

export interface EventCounters {
  /** Events since start by code, `CPL-1001I`. */
  readonly events: ReadonlyMap<string, number>;
  /** Failures since start by sink. */
  readonly sinkFailures: ReadonlyMap<string, number>;
}

/** Counts of calls by how long they took. */
export interface DurationCounts {
  /** Microseconds, rising. */
  readonly boundsUs: readonly number[];
  /** `counts[i]` calls took at most `boundsUs[i]` and more than the bound before; one more than bounds. */
  readonly counts: readonly number[];
  readonly sumUs: number;
}

/** Recording, all files together. The recorder's statistics are the part of it up to `failures`; counts since start. */
export interface RecordingFigures {
  readonly bytesWritten: number;
  /** Bytes that wait to be written now. */
  readonly queueBytes: number;
  /** Bytes of messages forwarded in pieces that are not complete now. */
  readonly assemblyBytes: number;
  readonly openFiles: number;
  readonly writeLatency: DurationCounts;
  readonly syncLatency: DurationCounts;
  /** Failures of recordings that had started, by errno's name. */
  readonly failures: Readonly<Record<string, number>>;
  /** Recordings that could not start, by errno's name or a word (`start-timeout`); added to the others of that reason. */
  readonly startFailures: Readonly<Record<string, number>>;
  /** Recordings that ended as they should. */
  readonly finished: number;
  /** Files put in order at the start (R37). */
  readonly salvaged: number;
  /** Files that retention deleted, by the limit (R38). */
  readonly deleted: Readonly<Record<'age' | 'count' | 'bytes' | 'orphan', number>>;
}

/** Agents, and what is remembered of the directory. */
export interface DeviceFigures {
  readonly agentsOnline: number;
  /** Control channels that have not proven anything yet. */
  readonly agentsPending: number;
  /** Since start, by reason. */
  readonly agentsRefused: ReadonlyMap<string, number>;
  readonly cacheEntries: number;
  readonly cacheHits: number;
  readonly cacheMisses: number;
}

/** [K1] The cluster as this server sees it; counts since start. */
export interface ClusterFigures {
  /** Live servers, this one included; 0 while it has not joined. */
  readonly servers: number;
  readonly isRedisUp: boolean;
  readonly redisCommands: Readonly<Record<'ok' | 'timeout' | 'error' | 'refused', number>>;
  readonly claims: number;
  /** By where halves found their rendezvous. */
  readonly rendezvous: Readonly<Record<string, number>>;
  readonly conflicts: number;
  readonly linksOut: number;
  readonly linksIn: number;
  readonly bytesToPeer: number;
  readonly bytesFromPeer: number;
  /** Bytes buffered for links and their halves now. */
  readonly bufferedBytes: number;
  readonly linkFailures: ReadonlyMap<string, number>;
  readonly peersLost: number;
  /** By `METHOD RESULT`. */
  readonly requests: ReadonlyMap<string, number>;
  readonly clockOffsetSeconds: number;
}

/** Each function is called once in a scrape and reads, never computes. */
export interface MetricSources {
  relay(): RelayCounters;
  /** Every forwarder in use: native, portable, or both where some mates are not sockets of the relay. */
  forwarders(): Iterable<{ readonly kind: 'native' | 'portable'; readonly totals: ForwardingTotals }>;
  /** Seconds in which pacing or flow control held reading back, all sessions, both directions (R26). */
  throttledSeconds(): number;
  server(): ServerCounters;
  events(): EventCounters;
  devices(): DeviceFigures;
  /** Absent where the server is the only one: then there are no such metrics. */
  readonly cluster?: (() => ClusterFigures) | undefined;
  /** Log lines lost since start, see the logger's `droppedLines`. */
  droppedLogLines(): number;
  /** Absent or `undefined` where nothing is recorded, so that reading does not start the recorder. */
  recording?(): RecordingFigures | undefined;
}

/** What the process is, for `couplet_build_info`. */
export interface BuildInfo {
  readonly version: string;
  readonly nodeVersion: string;
}
