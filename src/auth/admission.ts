import { mintId, parseId } from '../core/ids.ts';
import {
  isMessengerId,
  type MessengerParties,
  parseMessengerId,
  type RelayQuery,
  type RoutingInstruction,
} from '../protocol/relay-query.ts';
import type {
  AdmissionOptions,
  AdmissionRequest,
  AdmissionResult,
  AdmittedHalf,
  AdmittedIdentity,
  LoginIdentity,
  Refusal,
  RefusalReason,
  ShareGrant,
} from './admission-types.ts';
import { CookieSealer, type OpenedCookie } from './cookie.ts';
import type { DeviceCookie, NoUserCookie, ShareCookie, UserCookie } from './cookie-kinds.ts';
import { isSameNetwork } from './same-network.ts';
import { IdSigner, pairingIdOf } from './signed-id.ts';

const messengerProtocol = 200;
const anonymous: AdmittedIdentity = { kind: 'anonymous', side: 'device', userid: '', username: '' };
const noUser: AdmittedIdentity = { kind: 'nouser', side: 'device', userid: '', username: '' };

/**
 * Thrown and caught inside this file alone: it carries a refusal out of the rule that found it. No error, so that a
 * flood of refusals costs no stack traces.
 */
class Refused {
  readonly refusal: Refusal;
  constructor(httpStatus: Refusal['httpStatus'], reason: RefusalReason, detail: string, userid = '') {
    this.refusal = { ok: false, httpStatus, reason, detail, userid };
  }
}

/** Decides whether a half is let in, and as whom (R1, R2, R4, R6–R10, R13, R14 as far as one half shows). */
export class Admitter {
  readonly #options: AdmissionOptions;
  readonly #sealer: CookieSealer;
  readonly #idSigner: IdSigner;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#sealer = new CookieSealer(options.loginKey, options.clock, options.cookieEncoding);
    this.#idSigner = new IdSigner(options.loginKey, options.clock);
  }

  /**
   * Admits or refuses. The answer comes at once, except where `singleUse` or `resolveShare` answer with a promise; if
   * one of those fails, so does this. A single-use cookie is used up last, when everything else is right: ask this after
   * every limit that could still turn the half away.
   */
  admit(request: AdmissionRequest): AdmissionResult | Promise<AdmissionResult> {
    try {
      return this.#admit(request);
    } catch (error) {
      if (error instanceof Refused) return error.refusal;
      throw error;
    }
  }

  #admit(request: AdmissionRequest): AdmissionResult | Promise<AdmissionResult> {
    const { domain, query, login } = request;
    if (!this.#options.knownDomain(domain)) {
      throw new Refused(404, 'domain-unknown', `domain ${JSON.stringify(domain)} is not known`);
    }
    if (request.vouched !== undefined) return { ok: true, half: this.#withVouched(request, request.vouched) };
    const opened = this.#open(query);
    if (opened === undefined) return { ok: true, half: this.#withoutCookie(request, login) };
    const { cookie } = opened;
    if (cookie.kind !== 'share')
      return this.#useUp(request, opened, this.#withCookie(request, cookie, opened.expiresAtMs));
    const half = this.#withShare(request, cookie);
    const grant = this.#options.resolveShare!(cookie, request);
    if (!(grant instanceof Promise)) return this.#useUp(request, opened, grantShare(half, grant, opened));
    return grant
      .then((resolved) => this.#useUp(request, opened, grantShare(half, resolved, opened)))
      .catch((error: unknown) => {
        if (error instanceof Refused) return error.refusal;
        throw error;
      });
  }

  /** [R2] `auth` goes before `rauth`, which is not even looked at; `undefined` where there is neither. */
  #open(query: RelayQuery): OpenedCookie | undefined {
    if (query.auth === '' && query.rauth === '') return undefined;
    const parameter = query.auth !== '' ? 'auth' : 'rauth';
    const opened = this.#sealer.open(query[parameter], parameter);
    if (!opened.ok) throw new Refused(401, opened.fault, `the cookie in ${parameter} is bad: ${opened.fault}`);
    return opened;
  }

  /** A half that the program around the relay vouches for: the rules about domains and ids hold all the same. */
  #withVouched(request: AdmissionRequest, identity: AdmittedIdentity): AdmittedHalf {
    const { domain, query } = request;
    const { userid } = identity;
    if (userid !== '') requireDomain(domain, userid, parseId(userid)?.domain, userid);
    if (identity.side === 'user') return this.#half(request, identity, this.#userId(query, userid), query.routing);
    if (query.id === '') throw new Refused(400, 'no-id', 'a device half must name an id', userid);
    const nodeid = query.nodeid === '' ? undefined : query.nodeid;
    return this.#half(request, identity, this.#urlId(query.id, userid), undefined, undefined, nodeid);
  }

  /** [R9][R10] A login session, or a messenger half that needs no credential. */
  #withoutCookie(request: AdmissionRequest, login: LoginIdentity | undefined): AdmittedHalf {
    const { domain, query } = request;
    if (login !== undefined) {
      const { userid, username } = login;
      if (!login.originAllowed) throw new Refused(403, 'origin', 'a login session needs an allowed Origin', userid);
      requireDomain(domain, userid, parseId(userid)?.domain, userid);
      const identity: AdmittedIdentity = { kind: 'user', side: 'user', userid, username };
      return this.#half(request, identity, this.#userId(query, userid), query.routing);
    }
    const id = query.id === '' ? '' : this.#urlId(query.id, '');
    if (!isMessengerId(id)) throw new Refused(401, 'no-credential', 'there is neither a cookie nor a login session');
    return this.#half(request, anonymous, id);
  }

  #withCookie(
    request: AdmissionRequest,
    cookie: UserCookie | DeviceCookie | NoUserCookie,
    expiresAtMs: number | undefined,
  ): AdmittedHalf {
    const { domain, query } = request;
    const userid = cookie.kind === 'nouser' ? '' : cookie.userid;
    if (cookie.domainid !== undefined) requireDomain(domain, 'the cookie', cookie.domainid, userid);
    if (userid !== '') requireDomain(domain, userid, parseId(userid)?.domain, userid);
    const username = parseId(userid)?.name ?? '';

    if (cookie.kind === 'user') {
      if (cookie.ip !== undefined && !isSameNetwork(cookie.ip, request.address)) {
        throw new Refused(401, 'cookie-address', `the cookie is for ${cookie.ip}, not ${request.address}`, userid);
      }
      const identity: AdmittedIdentity = { kind: 'user', side: 'user', userid, username };
      const { routing } = cookie;
      if (routing === undefined) {
        const id = this.#userId(query, userid);
        if (cookie.id !== undefined) this.#requireId(cookie.id, id, userid);
        return this.#half(request, identity, id, query.routing, expiresAtMs);
      }
      requireDomain(domain, routing.nodeid, parseId(routing.nodeid)?.domain, userid);
      // [R7] This target only, and never under an id of the URL's choosing: that would open any session of the user's.
      const id = cookie.id === undefined ? this.#mint(userid) : this.#cookieId(cookie.id);
      const half = this.#half(request, identity, id, routing, expiresAtMs);
      if (cookie.protocol === undefined || isMessengerId(id)) return half;
      return { ...half, protocol: cookie.protocol };
    }

    if (cookie.kind === 'nouser' && !this.#options.allowNoUser) {
      throw new Refused(401, 'nouser-off', 'a cookie without a user is not allowed here');
    }
    if (query.id === '') throw new Refused(400, 'no-id', 'a device half must name an id', userid);
    const id = this.#urlId(query.id, userid);
    if (cookie.id !== undefined) this.#requireId(cookie.id, id, userid);
    const nodeid = requireNodeid(domain, cookie.nodeid, query.nodeid, userid);
    const identity: AdmittedIdentity =
      cookie.kind === 'nouser' ? noUser : { kind: 'device', side: 'device', userid, username };
    return this.#half(request, identity, id, undefined, expiresAtMs, nodeid);
  }

  #withShare(request: AdmissionRequest, cookie: ShareCookie): AdmittedHalf {
    const { domain, query } = request;
    if (this.#options.resolveShare === undefined) {
      throw new Refused(401, 'share-unavailable', 'shares need a directory');
    }
    if (cookie.domainid !== undefined) requireDomain(domain, 'the cookie', cookie.domainid, '');
    const nodeid = requireNodeid(domain, cookie.nodeid, query.nodeid, '');
    const identity: AdmittedIdentity = {
      kind: 'share',
      side: 'user',
      userid: '',
      username: '',
      shareid: cookie.publicId,
    };
    // [T15] The shared device only, and never under an id of the URL's choosing: see the same of user cookies.
    const routing = query.routing ?? { nodeid: cookie.nodeid, transport: 'none', port: 0, address: '' };
    return this.#half(request, identity, this.#mint(''), routing, undefined, nodeid);
  }

  /** The id of a user half whose cookie has no target: the URL's, or a minted one where the URL has a target (R2). */
  #userId(query: RelayQuery, userid: string): string {
    if (query.id !== '') return this.#urlId(query.id, userid);
    if (query.routing !== undefined) return this.#mint(userid);
    throw new Refused(400, 'no-id', 'there is neither an id nor a routing target', userid);
  }

  /** [R4] An id of at least 128 random bits, for the mate that a tunnel command will bring. */
  #mint(userid: string): string {
    if (this.#options.routing) return mintId();
    throw new Refused(400, 'routing-unavailable', 'a half that is to be routed needs a directory', userid);
  }

  /** [R14] The URL's id as pairing uses it. */
  #urlId(id: string, userid: string): string {
    if (!this.#options.signedIds) return id;
    const checked = this.#idSigner.check(id);
    if (checked.ok) return checked.random;
    const what = checked.fault === 'id-age' ? 'signed too long ago or in the future' : 'not signed by this relay';
    throw new Refused(401, checked.fault, `the id ${JSON.stringify(id)} is ${what}`, userid);
  }

  /** A cookie's id as pairing uses it. The cookie is proof enough: a signature in it may be old, or missing (R14). */
  #cookieId(id: string): string {
    return this.#options.signedIds ? pairingIdOf(id) : id;
  }

  /** [R7] An id in a cookie must be the session's. */
  #requireId(cookieId: string, id: string, userid: string): void {
    if (this.#cookieId(cookieId) === id) return;
    throw new Refused(401, 'cookie-id', `the cookie is for the id ${JSON.stringify(cookieId)}`, userid);
  }

  #half(
    request: AdmissionRequest,
    identity: AdmittedIdentity,
    id: string,
    routing?: RoutingInstruction,
    expiresAtMs?: number,
    cookieNodeid?: string,
  ): AdmittedHalf {
    const { domain, query, address } = request;
    const messenger = isMessengerId(id) ? this.#requireParty(domain, id, identity, cookieNodeid) : undefined;
    return {
      domain,
      id,
      identity,
      protocol: messenger === undefined ? query.protocol : messengerProtocol,
      nodeid: routing?.nodeid ?? cookieNodeid ?? messenger?.nodeid ?? query.nodeid,
      browser: query.browser,
      noping: query.noping,
      hardClose: query.hardClose,
      address,
      issuedSeconds: Math.floor(this.#options.clock.nowMs() / 1000),
      ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
      ...(routing === undefined ? {} : { routing }),
    };
  }

  /** [R13] That this half is one of the two parties; that the other is the other one, pairing must see to. */
  #requireParty(
    domain: string,
    id: string,
    identity: AdmittedIdentity,
    cookieNodeid: string | undefined,
  ): MessengerParties {
    const { kind, userid } = identity;
    const parties = parseMessengerId(id);
    if (parties === undefined) {
      const rule = 'must be meshmessenger/A/B with two different parties of one domain, one of them a user';
      throw new Refused(401, 'messenger-id', `the id ${JSON.stringify(id)} ${rule}`, userid);
    }
    requireDomain(domain, id, parties.domain, userid);
    const isUser = kind === 'user' && parties.userids.includes(userid);
    const isDevice = identity.side === 'device' && parties.nodeid !== '' && cookieNodeid === parties.nodeid;
    const isAllowed = kind === 'anonymous' && parties.nodeid !== '' && this.#options.anonymousDevice;
    if (isUser || isDevice || isAllowed) return parties;
    const reason = kind === 'anonymous' ? 'no-credential' : 'messenger-party';
    throw new Refused(401, reason, `the half is no party of ${JSON.stringify(id)}`, userid);
  }

  /** [R7] `once`: the cookie counts as used from here on. */
  #useUp(
    request: AdmissionRequest,
    opened: OpenedCookie,
    bare: AdmittedHalf,
  ): AdmissionResult | Promise<AdmissionResult> {
    const { once, issuedSeconds } = opened;
    const half = { ...bare, issuedSeconds };
    if (once === undefined) return { ok: true, half };
    const judge = (result: 'fresh' | 'used' | 'unavailable'): AdmissionResult => {
      if (result === 'fresh') return { ok: true, half };
      const detail = result === 'used' ? 'the cookie was used before' : 'it cannot be told whether the cookie was used';
      return new Refused(401, `once-${result}`, detail, half.identity.userid).refusal;
    };
    const use = () => {
      const result = this.#options.singleUse.use(once);
      return result instanceof Promise ? result.then(judge) : judge(result);
    };
    return request.deferUse ? { ok: true, half, useUp: use } : use();
  }
}

function grantShare(half: AdmittedHalf, grant: ShareGrant, opened: OpenedCookie): AdmittedHalf {
  if (grant === undefined) throw new Refused(401, 'share-refused', 'the share does not hold, or not for this');
  const { userid } = grant;
  requireDomain(half.domain, userid, parseId(userid)?.domain, userid);
  const guestname = opened.cookie.kind === 'share' ? opened.cookie.guestname : '';
  const identity: AdmittedIdentity = { ...half.identity, userid, username: parseId(userid)?.name ?? '', guestname };
  return {
    ...half,
    identity,
    ...(opened.expiresAtMs === undefined ? {} : { expiresAtMs: opened.expiresAtMs }),
  };
}

/** [R1] Path, cookie and ids must be of one domain. */
function requireDomain(domain: string, what: string, its: string | undefined, userid: string): void {
  if (its === domain) return;
  const detail = `${what} is of domain ${JSON.stringify(its ?? null)}, the path of ${JSON.stringify(domain)}`;
  throw new Refused(401, 'domain-mismatch', detail, userid);
}

/** [R7] A device in a cookie must be the URL's, if that names one (T6: agents are not told their own). */
function requireNodeid(
  domain: string,
  cookieNodeid: string | undefined,
  urlNodeid: string,
  userid: string,
): string | undefined {
  if (cookieNodeid === undefined) return undefined;
  requireDomain(domain, cookieNodeid, parseId(cookieNodeid)?.domain, userid);
  if (urlNodeid === '' || urlNodeid === cookieNodeid) return cookieNodeid;
  throw new Refused(401, 'cookie-nodeid', `the cookie is for the device ${JSON.stringify(cookieNodeid)}`, userid);
}
