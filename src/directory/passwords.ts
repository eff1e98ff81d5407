import { type Algorithm, hash, verify } from '@node-rs/argon2';
import { CoupletError } from '../core/errors.ts';
import { badValue } from './errors.ts';
import { isWellFormed } from './names.ts';

/** OWASP's first choice for argon2id: 19 MiB, two passes, one lane; some 20 ms of a core. */
const cost = {
  algorithm: 2 satisfies Algorithm.Argon2id as Algorithm,
  memoryCost: 19_456,
  timeCost: 2,
  parallelism: 1,
};
const parameters = '$argon2id$v=19$m=19456,t=2,p=1$';
const minLength = 8;
const maxBytes = 1_024;
/** At once, for each takes memory and a thread of those that also write files. */
const maxRunning = 2;
const maxQueued = 64;

/** The same characters in another encoding are the same password. */
const normal = (password: string) => password.normalize('NFC');

/** [T1] Passwords as argon2id hashes; at most two are worked on at a time, the others wait their turn. */
export class Passwords {
  #running = 0;
  readonly #queue: (() => void)[] = [];
  /** What a login of an unknown user is compared with, so that it takes as long as any. */
  #nobody: Promise<string> | undefined;

  /** @throws CoupletError `CPL_DIRECTORY_VALUE`, which does not say the password; `CPL_DIRECTORY_BUSY` */
  async hash(password: string): Promise<string> {
    const text = normal(password);
    if ([...text].length < minLength || Buffer.byteLength(text) > maxBytes || !isWellFormed(text)) {
      throw badValue(`a password must have at least ${minLength} characters and at most ${maxBytes} bytes`);
    }
    return await this.#inTurn(() => hash(text, cost));
  }

  /** With today's costs, of a password that is one already. */
  rehash(password: string): Promise<string> {
    return this.#inTurn(() => hash(normal(password), cost));
  }

  /**
   * Does the same work whether the user is there or not.
   * @param stored `undefined`: there is no such user, or no password
   * @throws CoupletError `CPL_DIRECTORY_BUSY` where too many wait
   */
  async verify(stored: string | undefined, password: string): Promise<boolean> {
    this.#nobody ??= this.#inTurn(() => hash(Buffer.from(crypto.getRandomValues(new Uint8Array(32))), cost));
    const against = stored ?? (await this.#nobody);
    // Longer ones cannot be right, and are not worth the work of reading them.
    const text = Buffer.byteLength(password) > maxBytes ? '' : normal(password);
    const right = await this.#inTurn(() => verify(against, text));
    return right && stored !== undefined;
  }

  /** True where a stored hash was made with other costs than today's. */
  isOutdated(stored: string): boolean {
    return !stored.startsWith(parameters);
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running < maxRunning) this.#running++;
    else {
      if (this.#queue.length >= maxQueued) {
        throw new CoupletError('CPL_DIRECTORY_BUSY', `${maxQueued} logins wait already: try again later`, {
          httpStatus: 503,
          reason: 'busy',
        });
      }
      // Whoever ends hands its turn over.
      await new Promise<void>((resolve) => this.#queue.push(resolve));
    }
    try {
      return await work();
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#running--;
      else next();
    }
  }
}
