import type { Clock } from '../core/clock.ts';
import { adminRights } from '../core/rights.ts';
import type { TunnelReport } from '../protocol/agent-messages.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import { relayPathOf } from '../protocol/paths.ts';
import { buildTunnelCommand, type TunnelCommand, type TunnelDetails } from '../protocol/tunnel-command.ts';
import type { Admission } from '../relay/half.ts';
import type { Half } from '../relay/session.ts';
import type { OnlineAgent } from './agents.ts';
import type { NoPermit, Permit, TunnelRights } from './rights.ts';

/** What happens to tunnel commands, for events and metrics. None of these may throw. */
export interface TunnelObserver {
  sent(half: Admission, permit: Permit): void;
  /** `offline`, or the reason of a {@link NoPermit}. */
  refused(half: Admission, reason: string): void;
  /** The agent would not or could not. */
  failed(half: Admission, report: TunnelReport): void;
}

export interface TunnelParts {
  readonly rights: TunnelRights;
  readonly observer: TunnelObserver;
  /** Sends a command to a device's agent, wherever it is connected; false where it is nowhere. */
  send(nodeid: string, command: TunnelCommand): boolean;
  /** Seals the device cookie. */
  seal(content: Readonly<Record<string, unknown>>): string;
  /** The id as the agent is to name it: signed where ids must be [R14]. */
  idFor(id: string): string;
  readonly clock: Clock;
  /** Lets a half wait for its mate, or meet it. */
  join(half: Half): void;
  /** Closes a half that waits, or is not to wait at all. */
  turnAway(half: Half, ending: Ending): void;
  /** The half that waits under this id. */
  waitingAt(at: { readonly domain: string; readonly id: string }): Half | undefined;
}

/** How a half is turned away. */
export interface Ending {
  readonly outcome: 'denied' | 'no-peer' | 'peer-error';
  readonly code: number;
  readonly reason: string;
}

/** How long an agent may take to come, minutes: its cookie is good for no longer. */
const cookieMinutes = 5;
/** All bits as agents know them. */
const allRights = 0xffffffff;
/** A close frame holds 123 bytes of reason. */
const maxReasonLength = 100;

const denied = (reason: string): Ending => ({ outcome: 'denied', code: closeCodes.denied, reason });
const offline: Ending = { outcome: 'no-peer', code: closeCodes.deviceOffline, reason: 'device offline' };

const mateLeft: Ending = { outcome: 'no-peer', code: closeCodes.noPeer, reason: 'the user half has left' };

function keyOf(domain: string, id: string): string {
  return `${domain}\0${id}`;
}

/** Routed sessions [T5]–[T8]: may the user half have it, and the order to the device's agent to connect back. */
export class Tunnels {
  readonly #parts: TunnelParts;
  /** Sessions whose agents were told to come and have not yet, oldest first; monotonic milliseconds of the command. */
  readonly #ordered = new Map<string, number>();

  constructor(parts: TunnelParts) {
    this.#parts = parts;
  }

  /** [T5] Asked before the upgrade. A refusal is told to the half by a close code, after it. */
  judge(admission: Admission): Promise<Permit | NoPermit> {
    return this.#parts.rights.judge(admission);
  }

  /** The half's WebSocket is open: it is told why not, or it waits for the mate that its device is told to send. */
  enter(half: Half, permit: Permit | NoPermit): void {
    const { admission } = half;
    if (!permit.ok) {
      this.#parts.observer.refused(admission, permit.reason);
      return this.#parts.turnAway(half, denied(`routing refused: ${permit.reason}`));
    }
    this.#parts.join(half);
    // Its mate was there already, or the relay has turned it away.
    if (half.state !== 'waiting') return;
    // Neither port nor protocol: it names the device, and asks nothing of it.
    if (admission.routing?.transport === 'none' && admission.protocol === 0) return;
    if (this.#parts.send(admission.routing?.nodeid ?? '', this.#command(admission, permit))) {
      this.#order(admission);
      return this.#parts.observer.sent(admission, permit);
    }
    this.#parts.observer.refused(admission, 'offline');
    this.#parts.turnAway(half, offline);
  }

  /**
   * How to take in a half that answers a command, `undefined` where it answers none. Its mate was there before it: where
   * that has left meanwhile nobody will come, and the half does not wait (R15), or users who come and go would use up
   * what may wait of their device.
   */
  answer({ domain, id, identity }: Pick<Admission, 'domain' | 'id' | 'identity'>): ((half: Half) => void) | undefined {
    const key = keyOf(domain, id);
    if (identity.kind !== 'device' || !this.#ordered.has(key)) return undefined;
    return (half) => {
      this.#ordered.delete(key);
      this.#parts.join(half);
      if (half.state === 'waiting') this.#parts.turnAway(half, mateLeft);
    };
  }

  #order({ domain, id }: Admission): void {
    const nowMs = this.#parts.clock.monotonicMs();
    for (const [key, sinceMs] of this.#ordered) {
      if (nowMs - sinceMs < cookieMinutes * 60_000) break;
      this.#ordered.delete(key);
    }
    // Anew at the end: the oldest stay first.
    this.#ordered.delete(keyOf(domain, id));
    this.#ordered.set(keyOf(domain, id), nowMs);
  }

  /** [T8] An agent tells that a command came to nothing; it can end the half that waits for it, and no other. */
  reported(agent: OnlineAgent, report: TunnelReport): void {
    const domain = agent.nodeid.split('/')[1] ?? '';
    const half = this.#parts.waitingAt({ domain, id: report.id });
    if (half?.admission.routing?.nodeid !== agent.nodeid) return;
    this.#parts.observer.failed(half.admission, report);
    const detail = report.detail.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, maxReasonLength);
    const refused = report.type === 'tunnel-refused';
    const reason = `${refused ? 'refused by the device' : 'the device failed'}: ${detail}`.slice(0, 123);
    this.#parts.turnAway(
      half,
      refused ? denied(reason) : { outcome: 'peer-error', code: closeCodes.peerError, reason },
    );
  }

  /** [T6] */
  #command(admission: Admission, permit: Permit): TunnelCommand {
    const { domain, id, identity, protocol, routing } = admission;
    const { access, rights, viewOnly } = permit;
    const nodeid = routing?.nodeid ?? '';
    const { seal, idFor } = this.#parts;
    const rauth = seal({ ruserid: access.userId, domainid: domain, nodeid, id, expire: cookieMinutes });
    const target =
      routing === undefined || routing.transport === 'none'
        ? {}
        : { target: { transport: routing.transport, port: routing.port, address: routing.address } };
    const details: TunnelDetails = {
      ...target,
      rights: (rights & adminRights) === adminRights ? allRights : rights,
      consent: access.consent,
      username: access.username,
      userid: access.userId,
      sessionid: id,
      ...(access.realname === '' ? {} : { realname: access.realname }),
      ...(access.privacyBarText === '' ? {} : { privacybartext: access.privacyBarText.slice(0, 1024) }),
      ...(viewOnly ? { desktopviewonly: true } : {}),
      ...(identity.guestname === undefined || identity.guestname === '' ? {} : { guestname: identity.guestname }),
    };
    return buildTunnelCommand({ path: relayPathOf(domain), protocol, nodeid, id: idFor(id), rauth }, details);
  }
}
