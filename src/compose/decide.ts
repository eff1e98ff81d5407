import type { Admitter } from '../auth/admission.ts';
import type { AdmissionResult, AdmittedHalf } from '../auth/admission-types.ts';
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

  constructor(admitter: Admitter, hooks: RelayHooks) {
    this.#admitter = admitter;
    this.#hooks = hooks;
  }

  decide(request: UpgradeRequest): Decision | Promise<Decision> {
    const identity = this.#hooks.authenticate?.(request);
    if (identity instanceof Promise) return identity.then((known) => this.#admit(request, known));
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
    const { domain, address } = request;
    const vouched = identity === undefined ? {} : { vouched: identity };
    const result = this.#admitter.admit({ domain, query, address, ...vouched });
    if (result instanceof Promise) return result.then((admitted) => this.#authorize(admitted, query.id));
    return this.#authorize(result, query.id);
  }

  #authorize(result: AdmissionResult, id: string): Decision | Promise<Decision> {
    if (!result.ok) {
      const { httpStatus, reason, detail, userid } = result;
      return { ok: false, httpStatus, reason, detail, id, userid };
    }
    const allowed = this.#hooks.authorize?.(result.half) ?? true;
    if (allowed instanceof Promise) return allowed.then((answer) => decisionOf(result.half, answer));
    return decisionOf(result.half, allowed);
  }
}

function decisionOf(half: AdmittedHalf, allowed: boolean): Decision {
  if (allowed) return { ok: true, admission: half };
  const detail = 'the authorize hook denied the half';
  return { ok: false, httpStatus: 403, reason: 'hook-denied', detail, id: half.id, userid: half.identity.userid };
}
