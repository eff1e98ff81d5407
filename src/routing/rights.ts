import { rightBits, type Tunnel, tunnelAllowed } from '../core/rights.ts';
import { shareAllows } from '../core/share-protocols.ts';
import type { Access, Share, ShareState, Standing } from '../directory/directory.ts';
import type { Admission } from '../relay/half.ts';

/** What is asked of the directory. */
export interface RightsDirectory {
  access(userid: string, nodeid: string): Promise<Access>;
  standing(userid: string): Standing | Promise<Standing>;
  readonly shares: { check(id: string, nodeid: string): Promise<ShareState> };
}

/** What a routed half may do: enough to tell the agent, which holds it to that (T8). */
export interface Permit {
  readonly ok: true;
  readonly access: Access;
  readonly share: Share | undefined;
  /** The rights that the session has: the user's, of a guest only what the share needs. */
  readonly rights: number;
  readonly viewOnly: boolean;
}

/** `user-replaced`: what was issued then was issued to another of that name, or to one who is gone. */
export type StandingAnswer = 'good' | 'user-locked' | 'user-replaced';
export type StandingQuestion = Pick<Admission, 'identity' | 'issuedSeconds'>;

export interface NoPermit {
  readonly ok: false;
  /** A word for the event: of `NoAccess`, of `ShareRefusal`, the right that is missing or takes away, `share`. */
  readonly reason: string;
}

/**
 * [T2][T4][T5][T15] Whether a routed half may have its session, asked when it comes and again at every change of the
 * directory.
 */
export class TunnelRights {
  readonly #directory: RightsDirectory;
  readonly #requireRelayRight: () => boolean;

  /** @param requireRelayRight `routing.requireRelayRight` */
  constructor(directory: RightsDirectory, requireRelayRight: () => boolean) {
    this.#directory = directory;
    this.#requireRelayRight = requireRelayRight;
  }

  /** @throws CoupletError `CPL_DIRECTORY_UNAVAILABLE` (as rejection) */
  async judge({ identity, protocol, routing }: Admission): Promise<Permit | NoPermit> {
    if (routing === undefined) return { ok: false, reason: 'no-target' };
    const { nodeid, transport, port, address } = routing;
    const tunnel = { protocol, transport, port, address };
    if (identity.shareid === undefined) {
      const access = await this.#directory.access(identity.userid, nodeid);
      return this.#judgeAccess(access, tunnel, undefined);
    }
    const state = await this.#directory.shares.check(identity.shareid, nodeid);
    if (!state.ok) return { ok: false, reason: `share-${state.refusal}` };
    if (!shareAllows(state.share, tunnel)) return { ok: false, reason: 'share-protocol' };
    return this.#judgeAccess(state.access, tunnel, state.share);
  }

  /** [T4] Whether the one in whose name a half comes, or came, still is who it was. At once where it is remembered. */
  standing({ identity, issuedSeconds }: StandingQuestion): StandingAnswer | Promise<StandingAnswer> {
    if (identity.userid === '') return 'good';
    const judge = ({ locked, sinceMs }: Standing): StandingAnswer => {
      if (locked) return 'user-locked';
      return isOlder(issuedSeconds, sinceMs) ? 'user-replaced' : 'good';
    };
    const standing = this.#directory.standing(identity.userid);
    return standing instanceof Promise ? standing.then(judge) : judge(standing);
  }

  /** Whether a user may have a session of this protocol with a device, as far as the directory knows both. */
  async mayUse(userid: string, nodeid: string, protocol: number): Promise<boolean> {
    const access = await this.#directory.access(userid, nodeid);
    return this.#judgeAccess(access, { protocol, transport: 'none' }, undefined).ok;
  }

  #judgeAccess(access: Access, tunnel: Tunnel, share: Share | undefined): Permit | NoPermit {
    if (access.refusal !== undefined) return { ok: false, reason: access.refusal };
    const verdict = tunnelAllowed(access.rights, tunnel, this.#requireRelayRight());
    if (!verdict.allowed) return { ok: false, reason: verdict.by };
    const viewOnly = verdict.viewOnly || share?.viewOnly === true;
    if (viewOnly && share !== undefined) {
      // The share may say so where the rights of who shared do not: then it takes away what the right would.
      const seen = tunnelAllowed(rightBits['remote-control'] | rightBits['view-only'], tunnel, false);
      if (!seen.allowed) return { ok: false, reason: seen.by };
    }
    return { ok: true, access, share, rights: share === undefined ? access.rights : guestRights(viewOnly), viewOnly };
  }
}

function guestRights(viewOnly: boolean): number {
  return rightBits['remote-control'] | (viewOnly ? rightBits['view-only'] : 0);
}

/** Cookies tell whole seconds: one of the same second counts as not older. */
function isOlder(issuedSeconds: number | undefined, sinceMs: number): boolean {
  return issuedSeconds !== undefined && issuedSeconds < Math.floor(sinceMs / 1000);
}
