import { readlinkSync } from 'node:fs';
import type { Clock } from '../../src/core/clock.ts';
import { systemClock } from '../../src/core/clock.ts';
import { type FileGuard, freshMs } from '../../src/recording/locks.ts';

/** By when every file that a test has made is no longer fresh. */
export const laterClock: Clock = { ...systemClock, nowMs: () => systemClock.nowMs() + freshMs + 1000 };

/** A guard under which the files whose path `isLocked` tells are locked by somebody else. */
export function guardWith(isLocked: (path: string) => boolean = () => false, clock: Clock = laterClock): FileGuard {
  return { tryLock: (fd) => !isLocked(readlinkSync(`/proc/self/fd/${fd}`)), clock };
}
