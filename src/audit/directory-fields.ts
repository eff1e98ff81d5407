import { basename } from 'node:path';
import type { EventValue } from './sink.ts';

/** A running session that somebody or something ends from outside. */
export interface EndedSessionFacts {
  readonly domain: string;
  /** Session id. */
  readonly id: string;
  /** The session's user. */
  readonly userid: string;
  readonly nodeid: string;
  readonly protocol: number;
}

export interface SessionKilledFacts extends EndedSessionFacts {
  /** Who asked for it. */
  readonly actorid: string;
}

export interface SessionRevokedFacts extends EndedSessionFacts {
  /** One word: the right, lock, deletion or share that was behind it [T4]. */
  readonly reason: string;
}

export interface LoginFacts {
  readonly domain: string;
  readonly userid: string;
  readonly username: string;
  readonly address: string;
  /** Public id of the login session; absent where the login gave none. */
  readonly loginid?: string | undefined;
}

export interface LoginFailedFacts {
  readonly domain: string;
  /** As given: it need not be a user's. */
  readonly username: string;
  readonly address: string;
  /** The true reason, which the peer is not told. */
  readonly reason: string;
  /** Where it is known to be a user. */
  readonly userid?: string | undefined;
}

export interface LoginEndedFacts {
  readonly domain: string;
  readonly userid: string;
  readonly username: string;
  readonly loginid: string;
  /** `logout`: the user's own; `ended`: from another login session, or by somebody else; `password`: it was changed. */
  readonly reason: string;
  /** Who did it, where it was somebody else. */
  readonly actorid?: string | undefined;
}

export interface TokenFacts {
  readonly domain: string;
  /** Whose token it is. */
  readonly userid: string;
  readonly username: string;
  /** Public id; the secret is in no event. */
  readonly tokenid: string;
  readonly tokenname: string;
  /** Who did it, where it was somebody else. */
  readonly actorid?: string | undefined;
}

export interface TokenCreatedFacts extends TokenFacts {
  readonly scopes: readonly string[];
  /** Epoch ms; absent: until it is revoked. */
  readonly expiresMs?: number | undefined;
}

/** What was changed in the directory, in a word. Shares, tokens and keys of devices have events of their own. */
export type DirectoryChangeWord =
  | `${'user' | 'user-group' | 'device-group' | 'device'}-${'created' | 'changed' | 'removed'}`
  | `domain-${'changed' | 'removed'}`
  | `member-${'added' | 'removed'}`
  | `grant-${'made' | 'withdrawn'}`
  | 'user-password-set'
  | 'device-join-code-made'
  | 'share-removed';

export interface DirectoryChangedFacts {
  readonly domain: string;
  /** Who did it; empty: whoever may use the data folder. */
  readonly userid: string;
  readonly username: string;
  readonly actor: 'api' | 'cli';
  readonly change: DirectoryChangeWord;
  /** Id of what was changed. */
  readonly target: string;
  /** What became of it, in a few words; never a secret. */
  readonly detail?: string | undefined;
  /** The device, where it is about one and that is not the target itself. */
  readonly nodeid?: string | undefined;
}

/** One who looks at recordings, by the API [R38]. */
export interface RecordingAccessFacts {
  readonly domain: string;
  readonly userid: string;
  readonly username: string;
  readonly address: string;
}

export interface RecordingsListedFacts extends RecordingAccessFacts {
  /** How many were told of. */
  readonly count: number;
}

export interface RecordingViewedFacts extends RecordingAccessFacts {
  readonly file: string;
}

export interface RecordingDownloadedFacts extends RecordingViewedFacts {
  /** Bytes that were sent. */
  readonly bytes: number;
  /** `FIRST-LAST`; absent: all of it. */
  readonly range?: string | undefined;
  /** All that was asked for was sent. */
  readonly complete: boolean;
}

type Fields = Record<string, EventValue | undefined>;

export function sessionKilledFields({ domain, id, userid, nodeid, protocol, actorid }: SessionKilledFacts): Fields {
  const msg = `${actorid} ended session "${id}" of ${userid}`;
  return { etype: 'relay', action: 'sessionkilled', domain, id, userid, nodeid, protocol, actorid, msg };
}

export function sessionRevokedFields({ domain, id, userid, nodeid, protocol, reason }: SessionRevokedFacts): Fields {
  const msg = `Session "${id}" of ${userid} is not allowed any more: ${reason}`;
  return { etype: 'relay', action: 'sessionrevoked', domain, id, userid, nodeid, protocol, reason, msg };
}

export function loginFields({ domain, userid, username, address, loginid }: LoginFacts): Fields {
  const msg = `${userid} logged in from ${address}`;
  return { etype: 'login', action: 'login', domain, userid, username, address, loginid, msg };
}

export function loginFailedFields({ domain, userid, username, address, reason }: LoginFailedFacts): Fields {
  const msg = `A login as "${username}" from ${address} failed: ${reason}`;
  return { etype: 'login', action: 'loginfailed', domain, userid, username, address, reason, msg };
}

export function loginEndedFields({ domain, userid, username, loginid, reason, actorid }: LoginEndedFacts): Fields {
  const msg = `A login session of ${userid} ended: ${reason}${actorid === undefined ? '' : `, by ${actorid}`}`;
  return { etype: 'login', action: 'loginended', domain, userid, username, loginid, reason, actorid, msg };
}

export function tokenCreatedFields(facts: TokenCreatedFacts): Fields {
  const { domain, userid, username, tokenid, tokenname, actorid, scopes, expiresMs } = facts;
  const expires = expiresMs === undefined ? undefined : new Date(expiresMs).toISOString();
  const until = expires === undefined ? 'until it is revoked' : `until ${expires}`;
  const msg = `An API token "${tokenname}" of ${userid} was made, good ${until}: ${scopes.join(', ')}`;
  const token = { domain, userid, username, tokenid, tokenname, actorid };
  return { etype: 'login', action: 'tokencreated', ...token, scopes, expires, msg };
}

export function tokenRevokedFields({ domain, userid, username, tokenid, tokenname, actorid }: TokenFacts): Fields {
  const msg = `The API token "${tokenname}" of ${userid} was revoked by ${actorid ?? userid}`;
  return { etype: 'login', action: 'tokenrevoked', domain, userid, username, tokenid, tokenname, actorid, msg };
}

export function directoryChangedFields(facts: DirectoryChangedFacts): Fields {
  const { domain, userid, username, actor, change, target, detail } = facts;
  const nodeid = facts.nodeid ?? (target.startsWith('node/') ? target : undefined);
  const who = userid === '' ? `the ${actor}` : userid;
  const msg = `${change} of ${target} by ${who}${detail === undefined ? '' : `: ${detail}`}`;
  const changed = { change, target, detail, nodeid };
  return { etype: 'directory', action: 'directorychanged', domain, userid, username, actor, ...changed, msg };
}

export function recordingViewedFields(facts: RecordingViewedFacts): Fields {
  const { domain, userid, username, address } = facts;
  const file = basename(facts.file);
  const msg = `${userid} from ${address} looked at the recording ${file}`;
  return { etype: 'recording', action: 'recordingviewed', domain, userid, username, address, file, msg };
}

export function recordingDownloadedFields(facts: RecordingDownloadedFacts): Fields {
  const { domain, userid, username, address, range, bytes, complete } = facts;
  const file = basename(facts.file);
  const part = range === undefined ? '' : `, bytes ${range}`;
  const msg = `${userid} from ${address} downloaded the recording ${file}${part}: ${bytes} byte(s)`;
  const who = { domain, userid, username, address };
  return { etype: 'recording', action: 'recordingdownloaded', ...who, file, range, bytes, complete, msg };
}

export function recordingsListedFields({ domain, userid, username, address, count }: RecordingsListedFacts): Fields {
  const msg = `${userid} from ${address} listed ${count} recording(s)`;
  return { etype: 'recording', action: 'recordingslisted', domain, userid, username, address, count, msg };
}
