import type { LogHandle } from '../core/logger.ts';

/** From an exception nobody caught to the end of the process, milliseconds. */
const lastWordsMs = 5000;

/**
 * Fault 38: an exception nobody caught is logged, sessions are closed, events and log flushed, and the process ends
 * with 1. What it broke is not known, so the end has a deadline.
 */
export class Fatal {
  server: { stop(reason: string): Promise<void> } | undefined;
  exitCode = 0;
  readonly #log: LogHandle;

  constructor(log: LogHandle) {
    this.#log = log;
    process.on('uncaughtException', (error) => this.die(error, 'an exception nobody caught'));
    process.on('unhandledRejection', (error) => this.die(error, 'a rejection nobody caught'));
  }

  die(error: unknown, what: string): void {
    this.#log.logger.error({ err: error }, what);
    if (this.exitCode !== 0) return;
    this.exitCode = 1;
    const end = () => {
      this.#log.flush();
      process.exit(1);
    };
    setTimeout(end, lastWordsMs);
    if (this.server === undefined) return end();
    void this.server.stop(what);
    void this.server.stop(what).then(end, end);
  }
}
