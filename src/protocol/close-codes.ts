import type { Outcome } from '../core/outcome.ts';

/** WebSocket close codes the relay sends (R27). The reason text beside a code names the rule that was applied. */
export const closeCodes = {
  normal: 1000,
  goingAway: 1001,
  protocolError: 1002,
  tooBig: 1009,
  expired: 4401,
  denied: 4403,
  deviceOffline: 4404,
  noPeer: 4408,
  duplicate: 4409,
  revoked: 4410,
  limit: 4429,
  recordingFailed: 4500,
  peerError: 4502,
  slow: 4503,
  idle: 4504,
} as const;

export type CloseCode = (typeof closeCodes)[keyof typeof closeCodes];

/** How a pair ends whose link half was closed with some code (K3). */
export interface LinkEnding {
  readonly outcome: Outcome;
  /** Word for `couplet_half_errors_total`. */
  readonly error: '' | 'too-big' | 'broken' | 'stalled';
  /** By whom: the half that the link stands for, or a relay. */
  readonly closedBy: 'half' | 'relay';
  /** Whether the mate still gets what came before the close. */
  readonly keepsTail: boolean;
}

const ending = (
  outcome: Outcome,
  error: LinkEnding['error'] = '',
  closedBy: LinkEnding['closedBy'] = 'relay',
  keepsTail = false,
): LinkEnding => ({ outcome, error, closedBy, keepsTail });

const anyOther = ending('peer-error');

const linkEndings: ReadonlyMap<number, LinkEnding> = new Map([
  [closeCodes.normal, ending('normal', '', 'half', true)],
  [closeCodes.protocolError, ending('peer-error', '', 'half')],
  [closeCodes.goingAway, ending('shutdown', '', 'relay', true)],
  [closeCodes.tooBig, ending('limit', 'too-big')],
  [closeCodes.expired, ending('expired')],
  [closeCodes.denied, ending('denied')],
  [closeCodes.deviceOffline, ending('no-peer')],
  [closeCodes.noPeer, ending('no-peer')],
  [closeCodes.duplicate, ending('duplicate')],
  [closeCodes.revoked, ending('revoked')],
  [closeCodes.limit, ending('limit')],
  [closeCodes.recordingFailed, ending('recording-failed')],
  [closeCodes.peerError, ending('peer-error', 'broken', 'half', true)],
  [closeCodes.slow, ending('slow', 'stalled')],
  [closeCodes.idle, ending('idle')],
]);

/**
 * [K3] What the close code of a link half says about the half that it stands for. The mate is closed with that code.
 * native/link.cc holds the same table.
 * @param code as in the close frame; 1005 (none given) must be read as 1000 by the caller
 */
export function linkEnding(code: number): LinkEnding {
  return linkEndings.get(code) ?? anyOther;
}
