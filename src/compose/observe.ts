import type { Events } from '../audit/events.ts';
import type { SessionFacts } from '../audit/fields.ts';
import type { RelayMetrics } from '../metrics/relay-metrics.ts';
import type { RelayObserver } from '../relay/relay.ts';
import type { Session } from '../relay/session.ts';
import type { EndpointParts } from '../server/relay-endpoint.ts';
import type { Counters } from './counters.ts';

function sessionFacts(session: Session): SessionFacts {
  const { domain, id, protocol, userid, username, guestname, nodeid, waitingAddress, newcomerAddress, user } = session;
  const { shareid } = user.identity;
  return { domain, id, protocol, userid, username, guestname, shareid, nodeid, waitingAddress, newcomerAddress };
}

/** Turns what relay and endpoint tell into events and counters: the one place where each happening gets both. */
export function observe(
  events: Events,
  counters: Counters,
  metrics: RelayMetrics,
): { relay: RelayObserver; refused: EndpointParts['refused']; upgradeLimitHit: EndpointParts['limitHit'] } {
  const relay: RelayObserver = {
    sessionStarting(session) {
      counters.count(counters.sessionsTotal, session.protocol);
      metrics.observePairing(session.waitedMs / 1000);
      events.sessionStarted(sessionFacts(session));
    },
    sessionEnded(session, end) {
      counters.outcomes[end.outcome]++;
      if (end.error !== '') counters.count(counters.halfErrors, end.error);
      metrics.observeSession(end.durationMs / 1000);
      const { bufferedBytes: _, ...statistics } = end.statistics;
      const { durationMs, outcome, closedBy, recording } = end;
      events.sessionEnded({ ...sessionFacts(session), ...statistics, durationMs, outcome, closedBy, recording });
    },
    rendezvousEnded(_admission, outcome) {
      counters.outcomes[outcome]++;
    },
    pairingRefused(newcomer, refusal, waiting) {
      counters.count(counters.refused, refusal.outcome);
      const { domain, id, address, nodeid, identity } = newcomer;
      events.pairingRefused({
        domain,
        id,
        address,
        nodeid,
        userid: identity.userid,
        waitingUserid: waiting?.identity.userid ?? '',
        reason: refusal.reason,
        outcome: refusal.outcome,
        closeCode: refusal.code,
      });
    },
    holdExpired({ domain, id, address, identity, protocol, nodeid }, heldMs) {
      const { userid, username } = identity;
      events.holdExpired({ domain, id, address, userid, username, protocol, nodeid, heldMs });
    },
    mismatch({ domain, id, userid }, { field, user, device }) {
      events.protocolMismatch({ domain, id, userid, field, userValue: user, deviceValue: device });
    },
    limitHit(limit, { domain, id, address, identity }) {
      counters.count(counters.refused, limit);
      events.limitHit({ limit, address, domain, id, userid: identity.userid });
    },
  };
  return {
    relay,
    refused({ domain, address }, { id, userid, reason, httpStatus }) {
      counters.count(counters.refused, reason);
      events.halfRefused({ domain, id, address, userid, reason, status: httpStatus });
    },
    upgradeLimitHit(limit, { domain, address }) {
      counters.count(counters.refused, limit);
      events.limitHit({ limit, address, domain });
    },
  };
}
