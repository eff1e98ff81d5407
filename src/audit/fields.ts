import type { Outcome } from '../core/outcome.ts';

/** What is known of a session when it starts. Addresses without port, as R12 sees them. */
export interface SessionFacts {
  readonly domain: string;
  readonly id: string;
  /** Protocol number of R3. */
  readonly protocol: number;
  readonly userid: string;
  readonly username: string;
  readonly guestname?: string | undefined;
  /** Of the share that the guest came by. */
  readonly shareid?: string | undefined;
  readonly nodeid: string;
  /** Address of the half that waited (IP1). */
  readonly waitingAddress: string;
  /** Address of the half that came second (IP2). */
  readonly newcomerAddress: string;
}

export interface SessionEndFacts extends SessionFacts {
  readonly durationMs: number;
  readonly bytesUserToDevice: number;
  readonly bytesDeviceToUser: number;
  readonly messagesUserToDevice: number;
  readonly messagesDeviceToUser: number;
  readonly outcome: Outcome;
  readonly closedBy: 'user' | 'device' | 'relay';
  /** By direction; the event tells their sum. */
  readonly throttledUserToDeviceMs: number;
  readonly throttledDeviceToUserMs: number;
  /** File name of the recording, where there is one. */
  readonly recording?: string | undefined;
}

export interface HalfRefusedFacts {
  readonly domain: string;
  readonly id: string;
  readonly address: string;
  readonly userid?: string | undefined;
  readonly nodeid?: string | undefined;
  /** One of the words of `couplet_refused_total{reason}`. */
  readonly reason: string;
  /** HTTP status of the answer. */
  readonly status: number;
}

export interface PairingRefusedFacts {
  readonly domain: string;
  readonly id: string;
  readonly address: string;
  readonly userid: string;
  readonly nodeid: string;
  /** Whom the half that was there first stands for. */
  readonly waitingUserid: string;
  readonly reason: string;
  readonly outcome: Outcome;
  readonly closeCode: number;
}

export interface HoldExpiredFacts {
  readonly domain: string;
  readonly id: string;
  readonly address: string;
  readonly userid: string;
  readonly username: string;
  readonly protocol: number;
  readonly nodeid: string;
  readonly heldMs: number;
}

export interface ProtocolMismatchFacts {
  readonly domain: string;
  readonly id: string;
  readonly userid: string;
  readonly field: 'protocol' | 'nodeid';
  readonly userValue: number | string;
  readonly deviceValue: number | string;
}

export interface LimitHitFacts {
  /** The word of R26's table: `message-size`, `rate`, `waiting` … */
  readonly limit: string;
  readonly address: string;
  readonly domain?: string | undefined;
  /** The session that the limit ended; absent where a half was refused before there was one. */
  readonly id?: string | undefined;
  readonly userid?: string | undefined;
}

interface Kind {
  readonly word: string;
  readonly startMsgid: number;
  readonly endMsgid: number;
}

const relay: Kind = { word: 'relay', startMsgid: 13, endMsgid: 9 };
const terminal: Kind = { word: 'terminal', startMsgid: 14, endMsgid: 10 };
const kinds = new Map<number, Kind>([
  [1, terminal],
  [6, terminal],
  [8, terminal],
  [9, terminal],
  [2, { word: 'desktop', startMsgid: 15, endMsgid: 11 }],
  [5, { word: 'file management', startMsgid: 16, endMsgid: 12 }],
  [200, { word: 'messenger', startMsgid: 162, endMsgid: 112 }],
]);

type Fields = Record<string, string | number | readonly (string | number)[] | undefined>;

/** The start event of R29, without time and code. */
export function startFields(facts: SessionFacts): Fields {
  const { word, startMsgid } = kinds.get(facts.protocol) ?? relay;
  return {
    etype: 'relay',
    action: 'relaylog',
    domain: facts.domain,
    userid: facts.userid,
    username: facts.username,
    guestname: facts.guestname,
    shareid: facts.shareid,
    msgid: startMsgid,
    msgArgs: [facts.id, facts.waitingAddress, facts.newcomerAddress],
    msg: `Started ${word} session "${facts.id}" from ${facts.waitingAddress} to ${facts.newcomerAddress}`,
    protocol: facts.protocol,
    nodeid: facts.nodeid,
  };
}

/** The end event of R29, without time and code; `seconds` are whole ones that have passed. */
export function endFields(facts: SessionEndFacts): Fields {
  const { word, endMsgid } = kinds.get(facts.protocol) ?? relay;
  const seconds = Math.floor(facts.durationMs / 1000);
  return {
    etype: 'relay',
    action: 'relaylog',
    domain: facts.domain,
    userid: facts.userid,
    username: facts.username,
    guestname: facts.guestname,
    shareid: facts.shareid,
    msgid: endMsgid,
    msgArgs: [facts.id, facts.waitingAddress, facts.newcomerAddress, seconds],
    msg: `Ended ${word} session "${facts.id}" from ${facts.waitingAddress} to ${facts.newcomerAddress}, ${seconds} second(s)`,
    protocol: facts.protocol,
    nodeid: facts.nodeid,
    seconds,
    bytesin: facts.bytesUserToDevice,
    bytesout: facts.bytesDeviceToUser,
    messagesin: facts.messagesUserToDevice,
    messagesout: facts.messagesDeviceToUser,
    outcome: facts.outcome,
    closedby: facts.closedBy,
    throttledms: facts.throttledUserToDeviceMs + facts.throttledDeviceToUserMs,
    recording: facts.recording,
  };
}
