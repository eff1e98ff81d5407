import type { LiveFilter, LiveListener } from '../audit/sinks/live.ts';
import type { CookieSealer } from '../auth/cookie.ts';
import type { Clock } from '../core/clock.ts';
import type { ApiToken, Directory, Share } from '../directory/directory.ts';
import type { RecordingCatalog } from '../recording/catalog.ts';

/** Who did something, for events. */
export interface Actor {
  /** Empty for root. */
  readonly userid: string;
  readonly via: 'session' | 'cookie' | 'token' | 'root';
  readonly address: string;
}

/** What was done to the directory; `target` is the id of what it was done to. */
export type DirectoryAction =
  | `${'user' | 'user-group' | 'device-group' | 'device'}-${'created' | 'changed' | 'removed'}`
  | 'user-password-set'
  | `member-${'added' | 'removed'}`
  | `domain-${'changed' | 'removed'}`
  | `device-${'revoked' | 'join-code-made'}`
  | `grant-${'made' | 'withdrawn'}`
  | 'share-removed'
  | 'login-session-ended';

export interface DirectoryChangeFacts {
  readonly actor: Actor;
  readonly domain: string;
  readonly action: DirectoryAction;
  readonly target: string;
  /** What of it, in a few words; may hold names as hostile as any, never a secret. */
  readonly detail: string;
}

/** [R30] Business events of the API; none throws, none waits. */
export interface ApiEvents {
  /** `loginId`: the login session's. */
  loggedIn(facts: { userid: string; domain: string; address: string; loginId: string }): void;
  /** `name` is what the peer wrote: anything. */
  loginFailed(facts: { name: string; domain: string; address: string; reason: string }): void;
  loggedOut(facts: { userid: string; domain: string; address: string; loginId: string }): void;
  tokenCreated(facts: { actor: Actor; domain: string; token: ApiToken }): void;
  tokenRevoked(facts: { actor: Actor; domain: string; token: ApiToken }): void;
  directoryChanged(facts: DirectoryChangeFacts): void;
  shareCreated(facts: { actor: Actor; domain: string; share: Share }): void;
  /** `createdBy`: who had made it. */
  shareRevoked(facts: {
    actor: Actor;
    domain: string;
    shareId: string;
    nodeid: string;
    guestname: string;
    createdBy: string;
  }): void;
  /** `userid` is the session's user. */
  sessionKilled(facts: {
    actor: Actor;
    domain: string;
    id: string;
    userid: string;
    nodeid: string;
    protocol: number;
  }): void;
  /** [R38] `count`: how many were told of. */
  recordingsListed(facts: { actor: Actor; domain: string; count: number }): void;
  recordingViewed(facts: { actor: Actor; domain: string; file: string }): void;
  /** `range`: `FIRST-LAST`; `undefined`: all of it. */
  recordingDownloaded(facts: {
    actor: Actor;
    domain: string;
    file: string;
    range: string | undefined;
    bytes: number;
    complete: boolean;
  }): void;
  recordingDeleted(facts: { actor: Actor; domain: string; file: string; bytes: number }): void;
}

/** A session that runs. */
export interface LiveSession {
  readonly domain: string;
  readonly id: string;
  /** Protocol number of R3. */
  readonly protocol: number;
  /** The session's user; for a guest the one who shared. */
  readonly userid: string;
  readonly username: string;
  readonly guestname: string | undefined;
  /** Empty where no device was named. */
  readonly nodeid: string;
  readonly userAddress: string;
  readonly deviceAddress: string;
  /** Epoch ms. */
  readonly startedMs: number;
  readonly durationMs: number;
  readonly bytesUserToDevice: number;
  readonly bytesDeviceToUser: number;
  readonly messagesUserToDevice: number;
  readonly messagesDeviceToUser: number;
  /** Time in which the user half's sending was held back: the device half did not take it as fast, or by a limit. */
  readonly throttledUserToDeviceMs: number;
  readonly throttledDeviceToUserMs: number;
  /** File name of the recording. */
  readonly recording: string | undefined;
}

/** Whose sight a list of sessions is made for. */
export interface SessionViewer {
  /** `undefined`: who sees all of the domain. */
  readonly userid: string | undefined;
}

export interface SessionPage {
  /** By id. */
  readonly sessions: readonly LiveSession[];
  /** Servers of the cluster that did not answer in time: their sessions are not among these. 0 without a cluster. */
  readonly missingServers: number;
}

/** [K9] The sessions that run, on any server of the cluster, and their end. */
export interface LiveSessions {
  /** The first `limit` of one domain that the viewer sees, by id, of those after `after`. */
  list(domain: string, viewer: SessionViewer, page: { after: string; limit: number }): Promise<SessionPage>;
  /** The one of this id, or none. */
  find(domain: string, id: string): Promise<SessionPage>;
  /** Ends one, both halves closed with 4410; false where there is none (any more). */
  end(domain: string, id: string): Promise<boolean>;
}

/** A device's agent, where it is connected. */
export interface AgentPresence {
  readonly address: string;
  /** Epoch ms. */
  readonly sinceMs: number;
  readonly hostname: string;
  readonly platform: string;
  readonly version: string;
  readonly capabilities: readonly string[];
}

/** `unknown`: it is not connected to this server, and whether it is to another cannot be found out now [K4][K6]. */
export type AgentState = AgentPresence | 'offline' | 'unknown';

/** Events as they happen, on any server of the cluster [K5]. */
export interface LiveEventSource {
  /**
   * As `LiveEvents.subscribe`.
   * @param gap called where events of other servers may have been missed; nobody knows how many
   */
  subscribe(filter: LiveFilter, listener: LiveListener, gap?: () => void): () => void;
}

/** All that the API needs besides itself; `compose` passes it. */
export interface ApiParts {
  readonly directory: Directory;
  readonly clock: Clock;
  readonly sealer: Pick<CookieSealer, 'seal'>;
  readonly events: ApiEvents;
  readonly sessions: LiveSessions;
  readonly recordings: Pick<RecordingCatalog, 'list' | 'get' | 'read' | 'remove'>;
  readonly live: LiveEventSource;
  /** [K4] Where the agents of these devices are connected, to whichever server; in the same order. */
  online(nodeids: readonly string[]): Promise<readonly AgentState[]>;
  /**
   * [T4] The directory was changed here: resolves when every server has applied that, and after 1 s at the latest. Never
   * rejects.
   */
  spreadChanges(): Promise<void>;
  /** `routing.requireRelayRight`. */
  requireRelayRight(): boolean;
  /** `server.allowedOrigins`. */
  allowedOrigins(): readonly string[];
  /** Of the program. */
  readonly version: string;
  /** An error that is answered without details. */
  failed(error: unknown): void;
}
