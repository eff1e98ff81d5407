import ipaddr from 'ipaddr.js';
import type { Database } from './database.ts';
import type { User } from './directory.ts';
import { hashToken } from './names.ts';
import type { Passwords } from './passwords.ts';
import { toUser } from './stores/users.ts';

export interface LoginAttempt {
  readonly domain: string;
  readonly name: string;
  readonly password: string;
  /** As R12 sees it. */
  readonly address: string;
}

/** Why a login failed; for the event. The peer is told `refused`, or `locked-out` with the time, and no more. */
export type LoginRefusal =
  /** Name or password wrong, or the user has none. */
  | 'credentials'
  /** The password was right; the user is locked. */
  | 'user-locked'
  /** Too many attempts for this name, or from this address; the password was not looked at. */
  | 'locked-out';

export type LoginResult =
  | { readonly ok: true; readonly user: User }
  | {
      readonly ok: false;
      readonly refusal: LoginRefusal;
      /** Milliseconds until it is worth another try; 0 save for `locked-out`. */
      readonly retryAfterMs: number;
    };

export interface LoginLimits {
  /** Attempts without success for one user from one network, and from one network for all users, until `windowMs` after the last one. */
  readonly perUser: number;
  /** The same from all networks together. */
  readonly perUserAnywhere: number;
  readonly perAddress: number;
  readonly windowMs: number;
}

export const defaultLoginLimits: LoginLimits = {
  perUser: 10,
  perUserAnywhere: 200,
  perAddress: 50,
  windowMs: 900_000,
};

/**
 * Logins. An attempt is counted before its password is looked at, so that many at once get no further than many in a
 * row; one that succeeds clears its user's count and is taken off its address's. The counts are in the database: they hold across restarts and for
 * all servers. Unknown names are counted and worked on like known ones.
 */
export class Logins {
  readonly #database: Database;
  readonly #passwords: Passwords;
  readonly #limits: LoginLimits;

  constructor(database: Database, passwords: Passwords, limits: LoginLimits) {
    this.#database = database;
    this.#passwords = passwords;
    this.#limits = limits;
  }

  async login({ domain, name, password, address }: LoginAttempt): Promise<LoginResult> {
    const id = `user/${domain}/${name.toLowerCase()}`;
    const network = networkOf(address);
    const addressKey = `a:${network}`;
    // By network, so that who does not know the password does not keep out who does, from elsewhere.
    const userKey = `n:${network}:${hashToken(id)}`;
    const anywhereKey = `u:${hashToken(id)}`;
    const waitMs = await this.#count(addressKey, userKey, anywhereKey);
    if (waitMs > 0) return { ok: false, refusal: 'locked-out', retryAfterMs: waitMs };

    const row = id.includes('\0')
      ? undefined
      : await this.#database.read((db) => db.selectFrom('users').selectAll().where('id', '=', id).executeTakeFirst());
    const stored = row?.password_hash ?? undefined;
    const right = await this.#passwords.verify(stored, password);
    if (!right || row === undefined || stored === undefined) return refused('credentials');
    if (row.locked === 1) return refused('user-locked');

    const last_login_ms = this.#database.clock.nowMs();
    const rehashed = this.#passwords.isOutdated(stored) ? await this.#passwords.rehash(password) : undefined;
    const stillThere = await this.#database.relaxed(async (tx) => {
      // In the order of `#count`, so that no two wait for each other.
      const failures = tx.updateTable('login_failures').set(({ eb }) => ({ failures: eb('failures', '-', 1) }));
      await failures.where('id', '=', addressKey).where('failures', '>', 0).execute();
      await tx.deleteFrom('login_failures').where('id', 'in', [anywhereKey, userKey]).execute();
      const change = rehashed === undefined ? { last_login_ms } : { last_login_ms, password_hash: rehashed };
      // Only with the password that was looked at: it may have been changed meanwhile, and the user locked.
      const query = tx.updateTable('users').set(change).where('id', '=', id).where('password_hash', '=', stored);
      return (await query.where('locked', '=', 0).executeTakeFirst()).numUpdatedRows > 0n;
    });
    if (!stillThere) return refused('credentials');
    return { ok: true, user: toUser({ ...row, last_login_ms }) };
  }

  /** Drops counts that are over. */
  async sweep(): Promise<void> {
    const nowMs = this.#database.clock.nowMs();
    await this.#database.relaxed((tx) => tx.deleteFrom('login_failures').where('until_ms', '<=', nowMs).execute());
  }

  /** Counts the attempt. @returns ms to wait, 0 where it may be made */
  async #count(addressKey: string, userKey: string, anywhereKey: string): Promise<number> {
    const { perAddress, perUser, perUserAnywhere } = this.#limits;
    return await this.#database.relaxed(async (tx) => {
      const add = async (id: string, most: number): Promise<number> => {
        const nowMs = this.#database.clock.nowMs();
        const untilMs = nowMs + this.#limits.windowMs;
        const row = await tx
          .insertInto('login_failures')
          .values({ id, failures: 1, until_ms: untilMs })
          .onConflict((conflict) =>
            conflict.column('id').doUpdateSet(({ eb, ref }) => ({
              failures: eb
                .case()
                .when('login_failures.until_ms', '<=', nowMs)
                .then(1)
                .else(eb('login_failures.failures', '+', 1))
                .end(),
              // Who is locked out does not make it longer by knocking.
              until_ms: eb
                .case()
                .when(eb.and([eb('login_failures.until_ms', '>', nowMs), eb('login_failures.failures', '>=', most)]))
                .then(ref('login_failures.until_ms'))
                .else(untilMs)
                .end(),
            })),
          )
          .returningAll()
          .executeTakeFirstOrThrow();
        return row.failures > most ? row.until_ms - nowMs : 0;
      };
      // An address that is out does not use up the tries of the users it names.
      return (
        (await add(addressKey, perAddress)) ||
        (await add(userKey, perUser)) ||
        (await add(anywhereKey, perUserAnywhere))
      );
    });
  }
}

function refused(refusal: LoginRefusal): LoginResult {
  return { ok: false, refusal, retryAfterMs: 0 };
}

/** Of IPv6 the /64: all of it is one peer's. What is no address is one of its own. */
export function networkOf(address: string): string {
  if (!ipaddr.isValid(address)) return hashToken(address);
  const parsed = ipaddr.process(address);
  if (parsed.kind() === 'ipv4') return parsed.toString();
  return ipaddr.IPv6.networkAddressFromCIDR(`${parsed.toString()}/64`).toString();
}
