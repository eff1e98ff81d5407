export type EventValue = string | number | boolean | readonly (string | number)[];

/** One event as the sinks get it; the fields of each kind are in `codes.ts` and `docs/reference/events.md`. */
export interface EventRecord {
  /** ISO 8601, UTC, milliseconds. */
  readonly time: string;
  readonly code: string;
  readonly etype: string;
  readonly action: string;
  readonly msg: string;
  readonly [field: string]: EventValue;
}

/** By this a sink says what went wrong after `write` had returned. */
export interface SinkReport {
  /** An attempt failed; the event may still get through. Raises `couplet_event_sink_failures_total{sink}`. */
  failed(error: unknown): void;
  /** The sink works again, but this many events never got through; becomes an event of its own. */
  lost(count: number): void;
}

/** Where events go: the hash-chained file, the log, a hook, later the directory's database. */
export interface EventSink {
  /** Label of the metric; a fixed word. */
  readonly name: string;
  /** Called once, before the first event. */
  attach?(report: SinkReport): void;
  /**
   * Takes one event; `json` is the same on one escaped line. May throw, reject or never settle: it is counted and
   * nobody waits for it (fault 51).
   */
  write(event: EventRecord, json: string): void | Promise<void>;
  /** Resolves when all that was written is on stable storage, rejects where that cannot be had (R32). */
  flushDurable?(): Promise<void>;
  close?(): Promise<void>;
}

/** What audit needs of a logger; pino's fits. */
export interface AuditLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  /** False where a line of this level would be thrown away; where it is absent none is. */
  isLevelEnabled?(level: 'info' | 'warn' | 'error'): boolean;
}
