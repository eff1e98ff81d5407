import type { ChangeListener, DirectoryChange } from './directory.ts';
import type { Tx } from './schema.ts';

/** More than this in one change is told as `all`; a message of PostgreSQL's has at most 8000 bytes. */
const maxNamed = 20;

/** Gathers what one transaction touches. */
export class Touched {
  readonly users = new Set<string>();
  readonly devices = new Set<string>();
  readonly shares = new Set<string>();
  readonly domains = new Set<string>();

  get isEmpty(): boolean {
    return this.users.size + this.devices.size + this.shares.size + this.domains.size === 0;
  }

  toChange(): DirectoryChange {
    const { users, devices, shares, domains } = this;
    if (users.size + devices.size + shares.size + domains.size > maxNamed) return everything;
    return { all: false, users: [...users], devices: [...devices], shares: [...shares], domains: [...domains] };
  }
}

export const everything: DirectoryChange = { all: true, users: [], devices: [], shares: [], domains: [] };

/** What another process wrote; anything that is not a change means everything, for nothing may be missed. */
export function readChange(text: string): DirectoryChange {
  try {
    const { users, devices, shares, domains, all } = JSON.parse(text) as Partial<Record<string, unknown>>;
    const lists = [users, devices, shares, domains];
    if (all === false && lists.every(isTexts)) return { all, users, devices, shares, domains } as DirectoryChange;
    return everything;
  } catch {
    return everything;
  }
}

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every((item) => typeof item === 'string');
}

/** How changes travel between processes on one database. */
export interface Feed {
  /** Part of the transaction that makes the change. */
  publish(tx: Tx, change: DirectoryChange): Promise<void>;
  /** After the commit: tells the listeners in this process. */
  committed(change: DirectoryChange): void;
  /** False while changes by others may go unheard: nothing may be answered from memory then. May first look for news. */
  isCurrent(): boolean;
  /** Looks for news at once; resolves when the listeners were told of all that was committed before. Rejects where that cannot be said. */
  catchUp(): Promise<void>;
  close(): Promise<void>;
}

/** Listeners of one process. One that throws does not keep the others from hearing. */
export class Listeners {
  readonly #listeners = new Set<ChangeListener>();
  readonly #onError: (error: unknown) => void;

  constructor(onError: (error: unknown) => void) {
    this.#onError = onError;
  }

  add(listener: ChangeListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  readonly tell = (change: DirectoryChange): void => {
    for (const listener of this.#listeners) {
      try {
        listener(change);
      } catch (error) {
        this.#onError(error);
      }
    }
  };
}
