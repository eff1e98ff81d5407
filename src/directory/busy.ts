import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';

/** How long others may write to a SQLite file before who waits gives up. */
const waitMs = 15_000;
const maxPauseMs = 50;

/** Another connection, of this process or another, writes to the SQLite file. */
export function isBusy(error: unknown): boolean {
  return error instanceof Error && String((error as { code?: unknown }).code).startsWith('SQLITE_BUSY');
}

export function busyError(cause: unknown): CoupletError {
  const text = `the directory database is busy: another process has been writing to it for ${waitMs / 1000} s; try again later`;
  return new CoupletError('CPL_DIRECTORY_UNAVAILABLE', text, { httpStatus: 503, level: 'error', cause });
}

/**
 * Does what needs SQLite's one writer's lock, or waits for it without standing still.
 * @param work to be done again from its beginning where it ends with busy
 * @throws what `work` throws; where that is busy, after 15 s
 */
export async function whenFree<T>(clock: Clock, work: () => Promise<T>): Promise<T> {
  const deadlineMs = clock.monotonicMs() + waitMs;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!isBusy(error) || clock.monotonicMs() > deadlineMs) throw error;
      // By chance: of several that wait in step always the same one could win.
      await delay(5 + Math.random() * maxPauseMs);
    }
  }
}
