import { closeSync, openSync, readFileSync } from 'node:fs';

/** How often the process's room for descriptors is looked at, milliseconds. */
const periodMs = 250;
/** Descriptors kept free for files, logs and scrapes, as long as the limit allows that many. */
const reserve = 64;

/** The process's soft limit of open files; 1024 where it cannot be told. */
export function descriptorLimit(): number {
  try {
    const line = /^Max open files\s+(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'latin1'));
    if (line !== null) return line[1] === 'unlimited' ? Number.MAX_SAFE_INTEGER : Number(line[1]);
  } catch {
    // No /proc: the least that any system gives.
  }
  return 1024;
}

/** The lowest free descriptor, which is how many are in use where they are used without gaps; `undefined`: none. */
function lowestFree(): number | undefined {
  try {
    const fd = openSync('/dev/null', 'r');
    closeSync(fd);
    return fd;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EMFILE' || code === 'ENFILE') return undefined;
    throw error;
  }
}

/**
 * R41: uWebSockets.js's accept loop spins when no descriptor is left, and says nothing. This watch tells when the
 * reserve is touched and when there is room again (with some distance between the two, so that it does not flutter).
 */
export class DescriptorWatch {
  readonly #limit = descriptorLimit();
  readonly #reserve = Math.min(reserve, Math.floor(this.#limit / 8));
  readonly #timer: NodeJS.Timeout;
  #short = false;

  /** @param onShort called with the error's name; @param onRoom called when descriptors are free again */
  constructor(onShort: (reason: string) => void, onRoom: () => void) {
    this.#timer = setInterval(() => {
      const free = lowestFree();
      if (!this.#short && (free === undefined || free >= this.#limit - this.#reserve)) {
        this.#short = true;
        onShort('EMFILE');
      } else if (this.#short && free !== undefined && free < this.#limit - 2 * this.#reserve) {
        this.#short = false;
        onRoom();
      }
    }, periodMs).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
