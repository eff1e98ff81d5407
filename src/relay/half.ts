import type { RoutingInstruction } from '../protocol/relay-query.ts';

/** A half's role in a session (R16, R17): the user's browser or client, or the agent on the device. */
export type Side = 'user' | 'device';

/** How a half was authenticated. `anonymous`: no credential at all, only a messenger rule lets it in (R13). */
export type IdentityKind = 'user' | 'share' | 'device' | 'nouser' | 'anonymous';

/** Who a half is. */
export interface Identity {
  readonly kind: IdentityKind;
  readonly side: Side;
  /** The user the half stands for: its own id, or the `ruserid` of a device cookie. Empty for `nouser`, `anonymous`. */
  readonly userid: string;
  readonly username: string;
  readonly guestname?: string;
  /** Of a share's guest: its public id [T15]. */
  readonly shareid?: string;
}

/** An admitted half's request: everything pairing, limits and events need to know; made before the upgrade. */
export interface Admission {
  readonly domain: string;
  /** Session id as used for pairing (R14: the RANDOM part where ids are signed). */
  readonly id: string;
  readonly identity: Identity;
  /** Protocol number of R3, 0 where none was given. */
  readonly protocol: number;
  readonly nodeid: string;
  /** `browser=1`: with two user halves this one is the user side. */
  readonly browser: boolean;
  readonly noping: boolean;
  readonly hardClose: boolean;
  /** The half's own address as R12 sees it, without port. */
  readonly address: string;
  /** Epoch milliseconds at which the cookie ends the session (R6); `undefined` where it does not. */
  readonly expiresAtMs?: number;
  /** When that by which the half was let in was issued, epoch seconds [T4]. */
  readonly issuedSeconds?: number;
  /** Where the session is to be routed [T5]; only on user halves. */
  readonly routing?: RoutingInstruction | undefined;
}

/** What the relay asks of an admitted half's socket while it waits or is refused. `server/` implements it. */
export interface HalfSocket {
  /** One end of a link (K3): its close code says what became of the half at the other end, and its mate is closed with it. */
  readonly isLink: boolean;
  /** Sends a close frame and ends the TCP connection within 2 s (R42). Only for a half that is not paired. */
  close(code: number, reason: string): void;
  /**
   * The half's session is about to start. From now on an orderly goodbye of its peer is part of what its mate gets;
   * only a broken connection still ends it before.
   * @param isPromised false: it waits after all, and hanging up ends it
   */
  promise(isPromised?: boolean): void;
  /** True when the peer is known to have hung up, asked of the operating system at this moment (fault 4). */
  isGone(): boolean;
}
