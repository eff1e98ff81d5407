import type { EventValue } from './sink.ts';

/** A routed session as its events see it [T5][T6]. */
export interface TunnelFacts {
  readonly domain: string;
  /** The user half's user; for a guest the user who shared. */
  readonly userid: string;
  readonly username: string;
  readonly guestname?: string | undefined;
  /** Public id of the share that the guest came by. */
  readonly shareid?: string | undefined;
  readonly nodeid: string;
  /** Session id. */
  readonly id: string;
  /** Protocol number of R3. */
  readonly protocol: number;
  /** `tcp:127.0.0.1:22`, `udp:…`, or `none` where the agent itself serves the protocol. */
  readonly target: string;
}

export interface TunnelRefusedFacts {
  readonly domain: string;
  readonly userid: string;
  readonly nodeid: string;
  /** Session id; empty where the half had none. */
  readonly id: string;
  readonly address: string;
  /** One word: `offline`, a refusal of the directory's, or the right that is missing or takes the protocol away. */
  readonly reason: string;
  readonly guestname?: string | undefined;
  readonly shareid?: string | undefined;
  readonly protocol?: number | undefined;
  readonly target?: string | undefined;
}

/** What an agent said of a tunnel command that came to nothing. */
export interface TunnelFailedFacts {
  readonly domain: string;
  readonly nodeid: string;
  readonly id: string;
  /** `refused`: the agent will not; `failed`: it tried and could not. */
  readonly state: 'refused' | 'failed';
  /** The agent's word: `target`, `dial` … */
  readonly reason: string;
  /** The agent's sentence. */
  readonly detail: string;
  /** Absent where the session is not known any more. */
  readonly userid?: string | undefined;
}

/** A guest link and whom the event is about [T15]. */
export interface ShareFacts {
  readonly domain: string;
  /** Who made the share. */
  readonly userid: string;
  readonly nodeid: string;
  /** Public id. */
  readonly shareid: string;
  readonly guestname: string;
}

export interface ShareUsedFacts extends ShareFacts {
  /** Session id. */
  readonly id: string;
  readonly address: string;
  readonly protocol: number;
}

export interface ShareCreatedFacts extends ShareFacts {
  readonly username: string;
  /** As on the command line: `terminal,tcp:22`. */
  readonly protocols: string;
  readonly expiresMs: number;
  readonly viewOnly: boolean;
}

export interface ShareRevokedFacts extends ShareFacts {
  /** Who revoked it; may be another than who made it. */
  readonly actorid: string;
}

export interface AgentOnlineFacts {
  readonly domain: string;
  readonly nodeid: string;
  readonly address: string;
  /** What the device says of itself, unproven. */
  readonly hostname?: string | undefined;
  readonly platform?: string | undefined;
  readonly version?: string | undefined;
}

export interface AgentOfflineFacts {
  readonly domain: string;
  readonly nodeid: string;
  readonly address: string;
  /** One word: `closed`, `silent`, `replaced`, `revoked`, `shutdown` … */
  readonly reason: string;
  readonly onlineMs: number;
}

export interface AgentReplacedFacts {
  readonly domain: string;
  readonly nodeid: string;
  /** Of the connection that took over. */
  readonly address: string;
  /** Of the one that was there. */
  readonly replacedAddress: string;
}

export interface AgentRefusedFacts {
  readonly address: string;
  /** The true reason, in a word; the agent is told less [T9]. */
  readonly reason: string;
  readonly domain?: string | undefined;
  /** As claimed; absent where none was. */
  readonly nodeid?: string | undefined;
}

export interface DeviceEnrolledFacts {
  readonly domain: string;
  readonly nodeid: string;
  readonly address: string;
  readonly hostname: string;
  /** SHA-256 of the device's public key. */
  readonly fingerprint: string;
}

export interface DeviceRevokedFacts {
  readonly domain: string;
  readonly nodeid: string;
  /** Who did it. */
  readonly userid: string;
  readonly username: string;
}

type Fields = Record<string, EventValue | undefined>;

/** ISO 8601 of an epoch time, ms. Throws RangeError where it is none. */
function isoTime(epochMs: number): string {
  return new Date(epochMs).toISOString();
}

export function tunnelSentFields(facts: TunnelFacts): Fields {
  const { domain, userid, username, guestname, shareid, nodeid, id, protocol, target } = facts;
  const msg = `Asked ${nodeid} to join session "${id}" for ${userid}, protocol ${protocol}, target ${target}`;
  const who = { domain, userid, username, guestname, shareid };
  return { etype: 'tunnel', action: 'tunnelsent', ...who, nodeid, id, protocol, target, msg };
}

export function tunnelRefusedFields(facts: TunnelRefusedFacts): Fields {
  const { domain, userid, guestname, shareid, nodeid, id, address, protocol, target, reason } = facts;
  const msg = `Refused ${userid} from ${address} a tunnel to ${nodeid}: ${reason}`;
  const who = { domain, userid, guestname, shareid };
  return { etype: 'tunnel', action: 'tunnelrefused', ...who, nodeid, id, address, protocol, target, reason, msg };
}

export function tunnelFailedFields({ domain, userid, nodeid, id, state, reason, detail }: TunnelFailedFacts): Fields {
  const verb = state === 'refused' ? 'refuses' : 'failed at';
  const msg = `The agent of ${nodeid} ${verb} the tunnel of session "${id}": ${reason}: ${detail}`;
  return { etype: 'tunnel', action: 'tunnelfailed', domain, userid, nodeid, id, state, reason, detail, msg };
}

export function shareUsedFields(facts: ShareUsedFacts): Fields {
  const { domain, userid, nodeid, shareid, guestname, id, address, protocol } = facts;
  const msg = `Guest "${guestname}" from ${address} used the share ${shareid} of ${userid} to ${nodeid}`;
  const share = { domain, userid, nodeid, shareid, guestname };
  return { etype: 'share', action: 'shareused', ...share, id, address, protocol, msg };
}

export function shareCreatedFields(facts: ShareCreatedFacts): Fields {
  const { domain, userid, username, nodeid, shareid, guestname, protocols, viewOnly } = facts;
  const expires = isoTime(facts.expiresMs);
  const msg = `${userid} shared ${nodeid} with "${guestname}" until ${expires}: ${protocols}`;
  const share = { domain, userid, username, nodeid, shareid, guestname };
  return { etype: 'share', action: 'sharecreated', ...share, protocols, expires, viewonly: viewOnly, msg };
}

export function shareRevokedFields({ domain, userid, nodeid, shareid, guestname, actorid }: ShareRevokedFacts): Fields {
  const msg = `${actorid} revoked the share ${shareid} of ${userid} to ${nodeid}`;
  return { etype: 'share', action: 'sharerevoked', domain, userid, nodeid, shareid, guestname, actorid, msg };
}

export function agentOnlineFields({ domain, nodeid, address, ...says }: AgentOnlineFacts): Fields {
  const { hostname, platform, version } = says;
  const msg = `The agent of ${nodeid} is online from ${address}`;
  return { etype: 'agent', action: 'agentonline', domain, nodeid, address, hostname, platform, version, msg };
}

export function agentOfflineFields({ domain, nodeid, address, reason, onlineMs }: AgentOfflineFacts): Fields {
  const seconds = Math.floor(onlineMs / 1000);
  const msg = `The agent of ${nodeid} is offline after ${seconds} second(s): ${reason}`;
  return { etype: 'agent', action: 'agentoffline', domain, nodeid, address, reason, seconds, msg };
}

export function agentReplacedFields({ domain, nodeid, address, replacedAddress }: AgentReplacedFacts): Fields {
  const msg = `A newer connection from ${address} replaced that of the agent of ${nodeid} from ${replacedAddress}`;
  return { etype: 'agent', action: 'agentreplaced', domain, nodeid, address, replacedaddress: replacedAddress, msg };
}

export function agentRefusedFields({ domain, nodeid, address, reason }: AgentRefusedFacts): Fields {
  const msg = `Refused an agent${nodeid === undefined ? '' : ` that says it is ${nodeid}`} from ${address}: ${reason}`;
  return { etype: 'agent', action: 'agentrefused', domain, nodeid, address, reason, msg };
}

export function deviceEnrolledFields({ domain, nodeid, address, hostname, fingerprint }: DeviceEnrolledFacts): Fields {
  const msg = `"${hostname}" enrolled as ${nodeid} from ${address}`;
  return { etype: 'agent', action: 'deviceenrolled', domain, nodeid, address, hostname, fingerprint, msg };
}

export function deviceRevokedFields({ domain, nodeid, userid, username }: DeviceRevokedFacts): Fields {
  const msg = `${userid} took the key of ${nodeid} away`;
  return { etype: 'agent', action: 'devicerevoked', domain, nodeid, userid, username, msg };
}
