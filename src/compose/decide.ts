import type { Admitter } from '../auth/admission.ts';
import type { AdmissionResult, AdmittedHalf, Refusal } from '../auth/admission-types.ts';
import { isOriginAllowed } from '../auth/origin.ts';
import { CoupletError } from '../core/errors.ts';
import { parseId } from '../core/ids.ts';
import { parseRelayQuery } from '../protocol/relay-query.ts';
import type { Identity } from '../relay/half.ts';
import type { Decision, UpgradeRequest } from '../server/relay-endpoint.ts';
import type { RelayHooks } from './hooks.ts';

/**
 * The one decision about an upgrade request: query, hook or cookies, authorisation. Made at once where nothing needs
 * to wait, which is the case for everything but hooks that answer with a promise.
 */
export class Decider {
  readonly #admitter: Admitter;
  readonly #hooks: RelayHooks;
  readonly #allowedOrigins: readonly string[];

  /** @param allowedOrigins `server.allowedOrigins` */
  constructor(admitter: Admitter, hooks: RelayHooks, allowedOrigins: readonly string[]) {
    this.#admitter = admitter;
    this.#hooks = hooks;
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
    const { domain, address } = request;
    const vouched = identity === undefined ? {} : { vouched: identity };
    const result = this.#admitter.admit({ domain, query, address, deferUse: true, ...vouched });
    if (result instanceof Promise) return result.then((admitted) => this.#authorize(admitted, query.id));
    return this.#authorize(result, query.id);
  }

  /**
   * R10: who sends a Cookie header is a browser with a login session, and any page can make a browser open a WebSocket.
   */
  #originAllowed({ cookie, origin, scheme, host }: UpgradeRequest): boolean {
    return cookie === '' || isOriginAllowed(origin, scheme, host, this.#allowedOrigins);
  }

  #authorize(result: AdmissionResult, id: string): Decision | Promise<Decision> {
    if (!result.ok) return refusal(result, id);
    const { half, useUp } = result;
    const confirm = useUp === undefined ? {} : { confirm: () => this.#confirm(useUp(), id) };
    if (this.#hooks.authorize === undefined) return { ok: true, admission: half, ...confirm };
    const answer = (allowed: boolean): Decision =>
      // Only `true` lets a half in: a hook written in JavaScript may forget its answer.
      allowed === true ? { ok: true, admission: half, ...confirm } : denied(half);
    const allowed = this.#hooks.authorize(half);
    return isPromise(allowed) ? Promise.resolve(allowed).then(answer) : answer(allowed);
  }

  #confirm(used: AdmissionResult | Promise<AdmissionResult>, id: string): Decision | Promise<Decision> {
    const decide = (result: AdmissionResult): Decision =>
      result.ok ? { ok: true, admission: result.half } : refusal(result, id);
    return used instanceof Promise ? used.then(decide) : decide(used);
  }
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
