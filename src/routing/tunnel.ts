import type { Clock } from '../core/clock.ts';
import { adminRights } from '../core/rights.ts';
import type { TunnelReport } from '../protocol/agent-messages.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import { relayPathOf } from '../protocol/paths.ts';
import { buildTunnelCommand, type TunnelCommand, type TunnelDetails } from '../protocol/tunnel-command.ts';
import type { Admission } from '../relay/half.ts';
import type { Half } from '../relay/session.ts';
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
  /**
   * Sends a command for the session `at` to a device's agent, wherever it is connected; false where it is nowhere. At
   * once where that is known here; a promise, which never rejects, where another server has to be asked.
   */
  send(nodeid: string, command: TunnelCommand, at: SessionPlace): boolean | Promise<boolean>;
  /** Seals the device cookie. */
  seal(content: Readonly<Record<string, unknown>>): string;
  /** The id as the agent is to name it: signed where ids must be [R14]. */
  idFor(id: string): string;
  /** The id of a session as the relay knows it, from how the agent names it. */
  idOf(named: string): string;
  readonly clock: Clock;
  /**
   * Lets a half wait for its mate, or meet it.
   * @param settled called once it is known which: the half waits here, is paired, was turned away or is carried to
   *   another server. Before this returns where no other server is concerned.
   */
  join(half: Half, settled?: () => void): void;
  /** Closes a half that waits, or is not to wait at all. */
  turnAway(half: Half, ending: Ending): void;
  /** The half that waits under this id. */
  waitingAt(at: SessionPlace): Half | undefined;
}

/** What a session is found by. */
export interface SessionPlace {
  readonly domain: string;
  readonly id: string;
}

/** How a half is turned away. */
export interface Ending {
  readonly outcome: 'denied' | 'no-peer' | 'peer-error';
  readonly code: number;
  readonly reason: string;
}

/** An agent was told to come. */
interface Order {
  /** Monotonic milliseconds. */
  readonly sinceMs: number;
  /** Boot id of the server whose user half waits; empty: it waits here. */
  readonly boot: string;
  readonly nodeid: string;
  /** Of the command: one that comes twice is sent once. */
  readonly value: string;
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

function domainOf(nodeid: string): string {
  return nodeid.split('/')[1] ?? '';
}

/** Routed sessions [T5]–[T8]: may the user half have it, and the order to the device's agent to connect back. */
export class Tunnels {
  readonly #parts: TunnelParts;
  /** Sessions whose agents were told to come and have not yet, oldest first. */
  readonly #ordered = new Map<string, Order>();

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
    this.#parts.join(half, () => this.#joined(half, permit));
  }

  #joined(half: Half, permit: Permit): void {
    const { admission } = half;
    // Its mate was there already, it went to another server, or the relay has turned it away.
    if (half.state !== 'waiting') return;
    // Neither port nor protocol: it names the device, and asks nothing of it.
    if (admission.routing?.transport === 'none' && admission.protocol === 0) return;
    const nodeid = admission.routing?.nodeid ?? '';
    const command = this.#command(admission, permit);
    const sent = this.#parts.send(nodeid, command, admission);
    if (sent === false) return this.#unsent(half);
    // The agent may be here before the server that holds its channel has said that it was told.
    const order = this.#order(admission, nodeid, command, '');
    if (sent === true) return this.#parts.observer.sent(admission, permit);
    void sent.then((was) => {
      if (was) return this.#parts.observer.sent(admission, permit);
      const key = keyOf(admission.domain, admission.id);
      if (this.#ordered.get(key) === order) this.#ordered.delete(key);
      this.#unsent(half);
    });
  }

  #unsent(half: Half): void {
    // It may have left, or met its mate, while another server was asked.
    if (half.state !== 'waiting') return;
    this.#parts.observer.refused(half.admission, 'offline');
    this.#parts.turnAway(half, offline);
  }

  /**
   * [K4] The command of another server's user half, for an agent that is connected here: whoever answers it is taken in
   * by {@link answer} on this server too. False where it was passed on before: it is not to be sent again.
   */
  orderedFrom(boot: string, at: SessionPlace, nodeid: string, command: TunnelCommand): boolean {
    const before = this.#ordered.get(keyOf(at.domain, at.id));
    if (before !== undefined && before.boot === boot && before.value === command.value) return false;
    this.#order(at, nodeid, command, boot);
    return true;
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
      this.#parts.join(half, () => {
        if (half.state === 'waiting') this.#parts.turnAway(half, mateLeft);
      });
    };
  }

  #order({ domain, id }: SessionPlace, nodeid: string, { value }: TunnelCommand, boot: string): Order {
    const sinceMs = this.#parts.clock.monotonicMs();
    for (const [key, order] of this.#ordered) {
      if (sinceMs - order.sinceMs < cookieMinutes * 60_000) break;
      this.#ordered.delete(key);
    }
    const order: Order = { sinceMs, boot, nodeid, value };
    // Anew at the end: the oldest stay first.
    this.#ordered.delete(keyOf(domain, id));
    this.#ordered.set(keyOf(domain, id), order);
    return order;
  }

  /** [K4] Boot id of the server whose user half the agent was told to come for; `undefined`: none but this one's. */
  bootOf(nodeid: string, report: TunnelReport): string | undefined {
    const order = this.#ordered.get(keyOf(domainOf(nodeid), this.#parts.idOf(report.id)));
    return order === undefined || order.boot === '' || order.nodeid !== nodeid ? undefined : order.boot;
  }

  /** [T8] An agent tells that a command came to nothing; it can end the half that waits for it, and no other. */
  reported(nodeid: string, report: TunnelReport): void {
    const half = this.#parts.waitingAt({ domain: domainOf(nodeid), id: this.#parts.idOf(report.id) });
    if (half?.admission.routing?.nodeid !== nodeid) return;
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
