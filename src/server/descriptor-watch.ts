import { closeSync, openSync, readFileSync } from 'node:fs';

/** How often the process's room for descriptors is looked at, milliseconds. */
const periodMs = 250;
/** Descriptors held back for files, logs and scrapes, as long as the limit allows that many. */
const reserveDescriptors = 64;

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

/** Opens so many descriptors, or none: then the error's name is returned. */
function take(count: number): number[] | string {
  const taken: number[] = [];
  try {
    while (taken.length < count) taken.push(openSync('/dev/null', 'r'));
    return taken;
  } catch (error) {
    give(taken);
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EMFILE' || code === 'ENFILE') return code;
    throw error;
  }
}

function give(descriptors: number[]): void {
  for (const descriptor of descriptors.splice(0)) closeSync(descriptor);
}

/**
 * R41: uWebSockets.js's accept loop spins when no descriptor is left, and says nothing. This watch tells when there is
 * next to no room and when there is room again (with some distance between the two, so that it does not flutter). Room
 * is found out by taking descriptors, as their numbers do not tell it: few may be free below the highest one. A crowd
 * that comes between two looks can take all there are; so a reserve is held from the start and given away then, or the
 * alarm itself could not be scraped.
 */
export class DescriptorWatch {
  readonly #reserve = Math.min(reserveDescriptors, Math.floor(descriptorLimit() / 8));
  readonly #onShort: (reason: string) => void;
  readonly #onRoom: () => void;
  readonly #timer: NodeJS.Timeout;
  #held: number[] = [];
  #short = false;

  /** @param onShort called with the error's name; @param onRoom called when descriptors are free again */
  constructor(onShort: (reason: string) => void, onRoom: () => void) {
    this.#onShort = onShort;
    this.#onRoom = onRoom;
    const reserve = take(this.#reserve);
    if (typeof reserve !== 'string') this.#held = reserve;
    this.#timer = setInterval(() => this.#look(), periodMs).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    give(this.#held);
  }

  #look(): void {
    // While it is short: the reserve, and as much again for those who come then.
    const room = take(this.#short ? 2 * this.#reserve : Math.ceil(this.#reserve / 4));
    if (typeof room !== 'string') {
      if (this.#short) this.#held = room.splice(0, this.#reserve);
      give(room);
      if (!this.#short) return;
      this.#short = false;
      this.#onRoom();
    } else if (!this.#short) {
      this.#short = true;
      give(this.#held);
      this.#onShort(room);
    }
  }
}
