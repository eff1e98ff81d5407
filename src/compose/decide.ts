import type { Admitter } from '../auth/admission.ts';
import type { AdmissionResult, AdmittedHalf, LoginIdentity, Refusal } from '../auth/admission-types.ts';
import { cookieValue, loginCookie } from '../auth/login-cookie.ts';
import { isOriginAllowed } from '../auth/origin.ts';
import { CoupletError } from '../core/errors.ts';
import { parseId } from '../core/ids.ts';
import { parseRelayQuery, type RelayQuery } from '../protocol/relay-query.ts';
import type { Identity } from '../relay/half.ts';
import type { Half } from '../relay/session.ts';
import type { StandingAnswer } from '../routing/rights.ts';
import type { Decision, UpgradeRequest } from '../server/relay-endpoint.ts';
import type { RelayHooks } from './hooks.ts';

/** What the directory has to say of a half. */
export interface DirectoryDecisions {
  /** The user of a login session; `undefined` where it does not hold. */
  login(token: string): Promise<{ readonly userid: string; readonly username: string } | undefined>;
  standing(half: AdmittedHalf): StandingAnswer | Promise<StandingAnswer>;
  /** [T5] Judges a half that is to be routed; the answer takes it in, or turns it away. */
  route(half: AdmittedHalf): Promise<(half: Half) => void>;
  /**
   * Looks at a user half that names a device and a session id, but no port. The half with a routing instruction where
   * the directory knows the device; `undefined`, at once or later, where it does not: then others see to the device.
   */
  named(half: AdmittedHalf): Promise<AdmittedHalf | undefined> | undefined;
  /** Takes in a half that answers a tunnel command; `undefined`: it answers none. */
  answer(half: AdmittedHalf): ((half: Half) => void) | undefined;
}

type Come = Extract<Decision, { ok: true }>;

/**
 * The one decision about an upgrade request: query, hook, cookies or login session, the user's standing, authorisation,
 * routing. Made at once where nothing needs to wait: hooks that answer with a promise, and what the directory has to be
 * asked.
 */
export class Decider {
  readonly #admitter: Admitter;
  readonly #hooks: RelayHooks;
  readonly #directory: DirectoryDecisions;
  readonly #allowedOrigins: readonly string[];

  /** @param allowedOrigins `server.allowedOrigins` */
  constructor(admitter: Admitter, hooks: RelayHooks, directory: DirectoryDecisions, allowedOrigins: readonly string[]) {
    this.#admitter = admitter;
    this.#hooks = hooks;
    this.#directory = directory;
    this.#allowedOrigins = allowedOrigins;
  }

  decide(request: UpgradeRequest): Decision | Promise<Decision> {
    const identity = this.#hooks.authenticate?.(request);
    if (isPromise(identity)) return Promise.resolve(identity).then((known) => this.#admit(request, known));
    return this.#admit(request, identity);
  }

  #admit(request: UpgradeRequest, identity: Identity | null | undefined): Decision | Promise<Decision> {
    const parsed = parseRelayQuery(request.query);
    if (!parsed.ok) return { ...parsed, id: '', userid: '' };
    const { query } = parsed;
    if (identity === null) {
      const detail = 'the authenticate hook refused the half';
      return { ok: false, httpStatus: 401, reason: 'hook-refused', detail, id: query.id, userid: '' };
    }
    if (identity !== undefined) requireIdentity(identity);
    if (identity !== undefined && !this.#originAllowed(request)) {
      const detail = 'a half with a login session needs an allowed Origin';
      return { ok: false, httpStatus: 403, reason: 'origin', detail, id: query.id, userid: identity.userid };
    }
    if (identity !== undefined) return this.#ask(request, query, { vouched: identity });
    // [R2][R10] A cookie in the URL goes before the browser's login session, whose token is then not looked at.
    const token = query.auth === '' && query.rauth === '' ? cookieValue(request.cookie, loginCookie) : undefined;
    if (token === undefined) return this.#ask(request, query, {});
    return this.#directory.login(token).then((user) => {
      const login = user === undefined ? {} : { login: { ...user, originAllowed: this.#originAllowed(request) } };
      return this.#ask(request, query, login);
    });
  }

  #ask(
    { domain, address }: UpgradeRequest,
    query: RelayQuery,
    who: { vouched?: Identity; login?: LoginIdentity },
  ): Decision | Promise<Decision> {
    const result = this.#admitter.admit({ domain, query, address, deferUse: true, ...who });
    if (result instanceof Promise) return result.then((admitted) => this.#admitted(admitted, query.id));
    return this.#admitted(result, query.id);
  }

  /**
   * R10: who sends a Cookie header is a browser with a login session, and any page can make a browser open a WebSocket.
   */
  #originAllowed({ cookie, origin, scheme, host }: UpgradeRequest): boolean {
    return cookie === '' || isOriginAllowed(origin, scheme, host, this.#allowedOrigins);
  }

  #admitted(result: AdmissionResult, id: string): Decision | Promise<Decision> {
    if (!result.ok) return refusal(result, id);
    const { half, useUp } = result;
    const come: Come = { ok: true, admission: half };
    const go = (standing: StandingAnswer): Decision | Promise<Decision> => {
      if (standing !== 'good') return noStanding(half, standing);
      const decided = this.#authorize(come, half);
      if (useUp === undefined) return decided;
      return isPromise(decided)
        ? decided.then((decision) => this.#confirmed(decision, useUp, id))
        : this.#confirmed(decided, useUp, id);
    };
    const standing = this.#directory.standing(half);
    return isPromise(standing) ? standing.then(go) : go(standing);
  }

  #authorize(come: Come, half: AdmittedHalf): Decision | Promise<Decision> {
    if (this.#hooks.authorize === undefined) return this.#route(come, half);
    const answer = (allowed: boolean): Decision | Promise<Decision> =>
      // Only `true` lets a half in: a hook written in JavaScript may forget its answer.
      allowed === true ? this.#route(come, half) : denied(half);
    const allowed = this.#hooks.authorize(half);
    return isPromise(allowed) ? Promise.resolve(allowed).then(answer) : answer(allowed);
  }

  #route(come: Come, half: AdmittedHalf): Decision | Promise<Decision> {
    if (half.routing !== undefined) return this.#directory.route(half).then((enter) => ({ ...come, enter }));
    const enter = this.#directory.answer(half);
    if (enter !== undefined) return { ...come, enter };
    const named = this.#directory.named(half);
    if (named === undefined) return come;
    return named.then((routed) => (routed === undefined ? come : this.#route({ ...come, admission: routed }, routed)));
  }

  /** With what uses up a single-use cookie. */
  #confirmed(decision: Decision, useUp: () => AdmissionResult | Promise<AdmissionResult>, id: string): Decision {
    if (!decision.ok) return decision;
    const judge = (used: AdmissionResult): Decision => (used.ok ? decision : refusal(used, id));
    const confirm = () => {
      const used = useUp();
      return used instanceof Promise ? used.then(judge) : judge(used);
    };
    return { ...decision, confirm };
  }
}

/** [T4] The cookie opened, and yet its user is not the one it was made for any more. */
function noStanding({ id, identity: { userid } }: AdmittedHalf, reason: Exclude<StandingAnswer, 'good'>): Decision {
  const detail = reason === 'user-locked' ? `${userid} is locked` : `${userid} is not who it was then`;
  return { ok: false, httpStatus: 401, reason, detail, id, userid };
}

function refusal({ httpStatus, reason, detail, userid }: Refusal, id: string): Decision {
  return { ok: false, httpStatus, reason, detail, id, userid };
}

/** True for promises of other makes too: one that is taken for an answer would let everybody in. */
function isPromise<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof (value as PromiseLike<T> | null | undefined)?.then === 'function';
}

const kinds: readonly string[] = ['user', 'share', 'device', 'nouser', 'anonymous'] satisfies Identity['kind'][];

/** A hook written in JavaScript may answer anything; half an identity would be compared with others as if it were one. */
function requireIdentity(identity: Identity): void {
  const { kind, side, userid, username } = identity;
  const nobody = kind === 'nouser' || kind === 'anonymous';
  const isUserid = typeof userid === 'string' && (nobody ? userid === '' : parseId(userid)?.kind === 'user');
  const isSide = side === 'user' || side === 'device';
  if (kinds.includes(kind) && isSide && isUserid && typeof username === 'string') return;
  const said = JSON.stringify({ kind, side, userid, username });
  throw new CoupletError(
    'CPL_HOOK',
    `the authenticate hook answered ${said}; it must be undefined, null or a whole identity with a userid user/DOMAIN/NAME`,
    { level: 'error' },
  );
}

function denied(half: AdmittedHalf): Decision {
  const detail = 'the authorize hook denied the half';
  return { ok: false, httpStatus: 403, reason: 'hook-denied', detail, id: half.id, userid: half.identity.userid };
}
