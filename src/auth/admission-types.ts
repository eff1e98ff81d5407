import type { Clock } from '../core/clock.ts';
import type { QueryFault, RelayQuery, RoutingInstruction } from '../protocol/relay-query.ts';
import type { CookieFault } from './cookie.ts';
import type { ShareCookie } from './cookie-kinds.ts';
import type { CookieEncoding } from './cookie-text.ts';
import type { LoginKey } from './keys.ts';
import type { SignedIdFault } from './signed-id.ts';
import type { SingleUse } from './single-use.ts';

/** Why a half is refused: the true reason, for the audit event and `couplet_refused_total{reason}` (R8). */
export type RefusalReason =
  | CookieFault
  | SignedIdFault
  | QueryFault
  /** The domain in the path is not one of ours (404). */
  | 'domain-unknown'
  /** Cookie, user id, device id or messenger parties are of another domain than the path. */
  | 'domain-mismatch'
  /** The peer's address is not near the one in the cookie. */
  | 'cookie-address'
  /** The cookie is for another session id, or another device. */
  | 'cookie-id'
  | 'cookie-nodeid'
  | 'nouser-off'
  | 'once-used'
  | 'once-unavailable'
  | 'share-unavailable'
  | 'share-refused'
  | 'messenger-id'
  | 'messenger-party'
  | 'no-credential'
  /** A login session without a proper Origin (403). */
  | 'origin'
  /** The user is locked in the directory, or the cookie is older than the user of that name, or than its removal [T4]. */
  | 'user-locked'
  | 'user-replaced'
  /** The half would have to be routed, and this relay routes nothing (400). */
  | 'routing-unavailable';

export interface Refusal {
  readonly ok: false;
  readonly httpStatus: 400 | 401 | 403 | 404;
  readonly reason: RefusalReason;
  /** One sentence for the audit event; never holds a cookie. */
  readonly detail: string;
  /** The user that a cookie which opened named; empty where there was none. */
  readonly userid: string;
}

/** Who the half is; the relay's `Identity`. */
export interface AdmittedIdentity {
  readonly kind: 'user' | 'share' | 'device' | 'nouser' | 'anonymous';
  readonly side: 'user' | 'device';
  readonly userid: string;
  readonly username: string;
  readonly guestname?: string;
  readonly shareid?: string;
}

/** What pairing needs to know of a half; fits the relay's `Admission`. */
export interface AdmittedHalf {
  readonly domain: string;
  readonly id: string;
  readonly identity: AdmittedIdentity;
  readonly protocol: number;
  readonly nodeid: string;
  readonly browser: boolean;
  readonly noping: boolean;
  readonly hardClose: boolean;
  readonly address: string;
  readonly expiresAtMs?: number;
  /** Issue time of the cookie, epoch seconds; of a half without one: now. */
  readonly issuedSeconds: number;
  /** Where the session is to be routed: the cookie's instruction, else the URL's. Only on user halves. */
  readonly routing?: RoutingInstruction;
}

export type AdmissionResult =
  | {
      readonly ok: true;
      readonly half: AdmittedHalf;
      /** With `deferUse`, for a single-use cookie: uses it up; only then is the half let in. */
      readonly useUp?: () => AdmissionResult | Promise<AdmissionResult>;
    }
  | Refusal;

/** A browser's login session, already checked; counts where the URL has no cookie. */
export interface LoginIdentity {
  readonly userid: string;
  readonly username: string;
  /** Whether the request's Origin passed R10. */
  readonly originAllowed: boolean;
}

export interface AdmissionRequest {
  /** The path's domain; the default domain is the empty string. */
  readonly domain: string;
  readonly query: RelayQuery;
  /** The half's address as R12 sees it. */
  readonly address: string;
  readonly login?: LoginIdentity;
  /** Leave a single-use cookie unused until `useUp` is called: after the limits that could still turn the half away. */
  readonly deferUse?: boolean;
  /** Who the half is, where the program around the relay says so; cookies are then not looked at. */
  readonly vouched?: AdmittedIdentity;
}

/** What the directory says of a share: the user who shared, on whose behalf the guest comes; `undefined`: refused. */
export type ShareGrant = { readonly userid: string } | undefined;

export interface AdmissionOptions {
  readonly loginKey: LoginKey;
  readonly cookieEncoding: CookieEncoding;
  readonly clock: Clock;
  readonly singleUse: SingleUse;
  /** `auth.allowNoUser`, `relay.signedIds`, `messenger.allowAnonymousDevice`. */
  readonly allowNoUser: boolean;
  readonly signedIds: boolean;
  readonly anonymousDevice: boolean;
  /** True where tunnel commands can be sent, so that a half without an id can be given one. */
  readonly routing: boolean;
  knownDomain(domain: string): boolean;
  /** Without it share cookies are refused. */
  resolveShare?(share: ShareCookie, request: AdmissionRequest): ShareGrant | Promise<ShareGrant>;
}
