import type { DirectoryChange } from '../directory/directory.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import type { Admission } from '../relay/half.ts';
import type { Half, RunningSession, Session } from '../relay/session.ts';
import type { TunnelRights } from './rights.ts';

export interface RevocationParts {
  readonly rights: TunnelRights;
  sessions(): Iterable<RunningSession>;
  /** Whether it has not ended meanwhile. */
  isRunning(session: RunningSession): boolean;
  waiting(): Iterable<Half>;
  /** Closes a half that waits, with 4410. */
  turnAway(half: Half): void;
  /** Halves whose session is another server's: that may have looked before they came. */
  carried(): Iterable<Half>;
  /** Sees to it that they end. */
  endCarried(halves: readonly Half[]): Promise<void>;
  /** Told before the session ends; `reason` is of `StandingAnswer` or `NoPermit`. */
  revoked(session: Session, reason: string): void;
  /** The directory could not be asked: nobody loses a session for that, and it is asked again at the next change. */
  failed(error: unknown): void;
}

/**
 * [T4] Who loses a right loses the sessions that stand on it. Told of every change of the directory, it asks again for
 * the sessions and waiting halves that the change touches, and ends those that would not be let in now.
 */
export class Revocation {
  readonly #parts: RevocationParts;
  /** Sessions that nobody routed, whose user was seen to hold the right to them all the same. */
  readonly #entitled = new WeakSet<Session>();
  #work: Promise<void> = Promise.resolve();
  /** Counts changes: a half that was judged while it went up is to be judged again before it comes in. */
  generation = 0;

  constructor(parts: RevocationParts) {
    this.#parts = parts;
  }

  /**
   * A session has started. One that was not routed by this server was let in by cookies alone; where the directory
   * grants it besides, it ends when the directory does not any more.
   */
  started(session: Session): void {
    const { userid, nodeid, user } = session;
    if (user.routing !== undefined || userid === '' || nodeid === '') return;
    this.#mayUse(session).then((may) => {
      if (may) this.#entitled.add(session);
    }, this.#parts.failed);
  }

  /** Resolves when everything that the change touches has been looked at. Changes are worked off in their order. */
  changed(change: DirectoryChange): Promise<void> {
    this.generation++;
    this.#work = this.#work.then(() => this.#apply(change)).catch(this.#parts.failed);
    return this.#work;
  }

  /** Resolves when every change that was told of until now has been worked off. */
  settled(): Promise<void> {
    return this.#work;
  }

  async #apply(change: DirectoryChange): Promise<void> {
    const touches = selector(change);
    for (const half of [...this.#parts.waiting()]) {
      if (!touches(half.admission, half.admission.nodeid) || (await this.#whyNot(half.admission)) === '') continue;
      this.#parts.turnAway(half);
    }
    for (const session of [...this.#parts.sessions()]) {
      const { user, device, nodeid } = session;
      if (!touches(user, nodeid) && !touches(device, nodeid)) continue;
      const reason = await this.#whyNotSession(session);
      if (reason === '' || !this.#parts.isRunning(session)) continue;
      this.#parts.revoked(session, reason);
      session.pair.end('revoked', closeCodes.revoked, 'revoked');
    }
    const carried: Half[] = [];
    for (const half of [...this.#parts.carried()]) {
      if (touches(half.admission, half.admission.nodeid) && (await this.#whyNot(half.admission)) !== '')
        carried.push(half);
    }
    await this.#parts.endCarried(carried);
  }

  async #whyNotSession(session: RunningSession): Promise<string> {
    const why = (await this.#whyNot(session.user)) || (await this.#whyNot(session.device));
    if (why !== '' || !this.#entitled.has(session)) return why;
    return (await this.#mayUse(session)) ? '' : 'right-withdrawn';
  }

  /** Why a half would not be let in now; empty where it would. */
  async #whyNot(admission: Admission): Promise<string> {
    const { rights } = this.#parts;
    const standing = await rights.standing(admission);
    if (standing !== 'good') return standing;
    if (admission.routing === undefined) return '';
    const permit = await rights.judge(admission);
    return permit.ok ? '' : permit.reason;
  }

  #mayUse({ userid, nodeid, protocol }: Session): Promise<boolean> {
    return this.#parts.rights.mayUse(userid, nodeid, protocol);
  }
}

/** Whether a change touches a half; `nodeid` is its session's device. */
function selector(change: DirectoryChange): (admission: Admission, nodeid: string) => boolean {
  const users = new Set(change.users);
  const devices = new Set(change.devices);
  const shares = new Set(change.shares);
  const domains = new Set(change.domains);
  return ({ identity, domain, routing }, nodeid) =>
    change.all ||
    users.has(identity.userid) ||
    devices.has(nodeid) ||
    devices.has(routing?.nodeid ?? '') ||
    shares.has(identity.shareid ?? '') ||
    domains.has(domain);
}
