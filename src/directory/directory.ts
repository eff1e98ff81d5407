import type { EventLog } from './event-store.ts';
import type { LoginAttempt, LoginResult } from './login.ts';
import type {
  Access,
  ApiToken,
  Device,
  DeviceGroup,
  Domain,
  Link,
  LoginSession,
  Page,
  Reach,
  Share,
  Standing,
  User,
  UserGroup,
} from './types.ts';

export type { EventPage, EventQuery, StoredEvent } from './event-store.ts';
export type { LoginAttempt, LoginResult } from './login.ts';
export type * from './types.ts';

/**
 * What changed: whoever holds a session of one of these users, to one of these devices or by one of these shares is to
 * ask again whether it may go on [T4]. Deleted ones are named too.
 */
export interface DirectoryChange {
  /** Too much to name, or not known (a lost connection to the database): everything is to be asked again. */
  readonly all: boolean;
  readonly users: readonly string[];
  readonly devices: readonly string[];
  readonly shares: readonly string[];
  /** Domains whose policy changed, or that came or went. */
  readonly domains: readonly string[];
}

export type ChangeListener = (change: DirectoryChange) => void;

/*
 * Errors, everywhere below: `CPL_DIRECTORY_UNKNOWN` (404) for an id that is not there, `CPL_DIRECTORY_EXISTS` (409) for
 * a name that is taken, `CPL_DIRECTORY_VALUE` (400) for a value that is not allowed, `CPL_DIRECTORY_IN_USE` (409) for
 * what still holds others, `CPL_DIRECTORY_AMBIGUOUS` (409) for a name of two things, `CPL_DIRECTORY_UNAVAILABLE` (503)
 * where the database does not answer, `CPL_DIRECTORY_NONE` (409) where there is no directory. Reads of an unknown id give
 * `undefined`; a name as hostile as any is unknown or refused, never more.
 */

export interface Domains {
  /** True where halves of this domain are served [R1]. */
  isKnown(id: string): Promise<boolean>;
  get(id: string): Promise<Domain | undefined>;
  list(): Promise<Domain[]>;
  /** Makes a domain, or changes what is given of one. */
  put(id: string, policy?: Partial<Omit<Domain, 'id' | 'createdMs'>>): Promise<Domain>;
  /** A domain must be empty to go; the default one stays. */
  remove(id: string): Promise<void>;
}

export interface NewUser {
  readonly domain?: string;
  readonly name: string;
  readonly realname?: string;
  readonly siteRights?: number;
  readonly password?: string;
}

export interface Users {
  create(user: NewUser): Promise<User>;
  get(id: string): Promise<User | undefined>;
  list(domain: string, page?: Page): Promise<User[]>;
  /** By id or name. */
  find(domain: string, idOrName: string): Promise<User>;
  /** A user who is locked loses login sessions; API tokens rest. The bit `locked` in `siteRights` locks. */
  update(id: string, change: Partial<Pick<User, 'realname' | 'siteRights' | 'locked'>>): Promise<User>;
  /** Ends the user's login sessions. */
  setPassword(id: string, password: string): Promise<void>;
  /** With links, memberships, shares, login sessions and API tokens. */
  remove(id: string): Promise<void>;
  count(): Promise<number>;
}

export interface UserGroups {
  create(group: { domain?: string; name: string; description?: string }): Promise<UserGroup>;
  get(id: string): Promise<UserGroup | undefined>;
  list(domain: string, page?: Page): Promise<UserGroup[]>;
  find(domain: string, idOrName: string): Promise<UserGroup>;
  update(id: string, change: Partial<Pick<UserGroup, 'name' | 'description'>>): Promise<UserGroup>;
  remove(id: string): Promise<void>;
  /** Adding twice is no error. */
  addMember(groupId: string, userId: string): Promise<void>;
  removeMember(groupId: string, userId: string): Promise<void>;
  /** Ids of users. */
  members(groupId: string, page?: Page): Promise<string[]>;
  /** Ids of the user's groups. */
  groupsOf(userId: string): Promise<string[]>;
}

export interface DeviceGroups {
  create(group: { domain?: string; name: string; description?: string; consent?: number }): Promise<DeviceGroup>;
  get(id: string): Promise<DeviceGroup | undefined>;
  list(domain: string, page?: Page): Promise<DeviceGroup[]>;
  find(domain: string, idOrName: string): Promise<DeviceGroup>;
  update(id: string, change: Partial<Pick<DeviceGroup, 'name' | 'description' | 'consent'>>): Promise<DeviceGroup>;
  /** Refused while devices are in it, unless they are to go with it. */
  remove(id: string, options?: { withDevices?: boolean }): Promise<void>;
}

/** A join code, shown once [T9]: the directory keeps what its proof is checked with, until it is used. */
export interface JoinCode {
  readonly code: string;
  readonly expiresMs: number;
}

export interface Devices {
  /** @param device.joinForMs how long the join code is good; 24 hours unless told */
  create(device: {
    deviceGroupId: string;
    name: string;
    joinForMs?: number;
  }): Promise<{ device: Device; join: JoinCode }>;
  get(id: string): Promise<Device | undefined>;
  list(domain: string, page?: Page & { deviceGroupId?: string | undefined }): Promise<Device[]>;
  find(domain: string, idOrName: string): Promise<Device>;
  update(id: string, change: Partial<Pick<Device, 'name' | 'deviceGroupId'>>): Promise<Device>;
  remove(id: string): Promise<void>;
  /** A new join code, in place of one not used; the key of an enrolled device is good until the code is used. */
  newJoinCode(id: string, joinForMs?: number): Promise<JoinCode>;
  /** `joinCodeKey` of a good join code, with which its proof is checked; `undefined` where it is unknown, used or over. */
  joinKey(joinId: string): Promise<string | undefined>;
  /**
   * Uses a join code up and registers the agent's key [T9]; once, however many try at the same time.
   * @param joinId `joinCodeId` of the code, whose proof has been checked with {@link joinKey}
   * @param publicKey Ed25519, 32 bytes in base64url
   * @returns `undefined` where the code is unknown, used or over
   */
  enrol(joinId: string, publicKey: string): Promise<Device | undefined>;
  /** Takes key and join code away; a new join code lets it in again. */
  revoke(id: string): Promise<void>;
  /** Notes that the agent is there; no change in the sense of {@link DirectoryChange}. */
  seen(id: string): Promise<void>;
}

export interface LinkQuery {
  readonly subjectId?: string;
  readonly targetId?: string;
  readonly domain?: string;
  /** On a device of this device group. */
  readonly onDeviceOf?: string;
}

export interface Links {
  /** Makes the link, or gives it other rights. Both ends are of one domain. */
  grant(subjectId: string, targetId: string, rights: number): Promise<Link>;
  revoke(subjectId: string, targetId: string): Promise<void>;
  /** Those for which all of what is given is true; none where nothing is given. */
  list(of: LinkQuery): Promise<Link[]>;
  /** A device group or device by id or name, for `couplet grant`. */
  findTarget(domain: string, idOrName: string): Promise<DeviceGroup | Device>;
  /** A user or user group by id or name. */
  findSubject(domain: string, idOrName: string): Promise<User | UserGroup>;
}

export interface NewShare {
  readonly deviceId: string;
  readonly createdBy: string;
  readonly bits: number;
  readonly tcpPorts: readonly number[];
  readonly expiresMs: number;
  readonly guestName?: string;
  readonly viewOnly?: boolean;
}

/** Why a share opens nothing; `no-right`: who shared may not (any more). */
export type ShareRefusal = 'unknown' | 'revoked' | 'expired' | 'no-right';

export type ShareState =
  | { readonly ok: true; readonly share: Share; readonly access: Access }
  | { readonly ok: false; readonly refusal: ShareRefusal; readonly share: Share | undefined };

export interface Shares {
  create(share: NewShare): Promise<Share>;
  get(id: string): Promise<Share | undefined>;
  list(of: { domain?: string; deviceId?: string; createdBy?: string }, page?: Page): Promise<Share[]>;
  /**
   * Whether the share opens this device now: there, neither revoked nor over, and who made it holds remote control and
   * guest sharing over the device. `access` is that user's.
   */
  check(id: string, deviceId: string): Promise<ShareState>;
  countUse(id: string): Promise<void>;
  revoke(id: string): Promise<void>;
  remove(id: string): Promise<void>;
}

export interface LoginSessions {
  /** The token is for an HttpOnly cookie, and nowhere else. */
  create(
    userId: string,
    options: { address: string; lifetimeMs?: number },
  ): Promise<{ token: string; session: LoginSession }>;
  /** The session and its user; `undefined` for a token unknown, over or unused for too long, or a user who is locked. */
  verify(token: string): Promise<{ session: LoginSession; user: User } | undefined>;
  list(userId: string): Promise<LoginSession[]>;
  end(id: string): Promise<void>;
  /** @returns how many there were */
  endAll(userId: string): Promise<number>;
}

export interface ApiTokens {
  /** @param options.scopes words such as `devices:read`; what they open the API says */
  create(
    userId: string,
    options: { name: string; scopes: readonly string[]; expiresMs?: number | undefined },
  ): Promise<{ secret: string; token: ApiToken }>;
  verify(secret: string): Promise<{ token: ApiToken; user: User } | undefined>;
  list(userId: string): Promise<ApiToken[]>;
  revoke(id: string): Promise<void>;
}

/** The newest line of an event file that is known to be there. */
export interface AuditHead {
  /** Number of the file, from 1. */
  readonly file: number;
  /** 0: only that the file exists. */
  readonly line: number;
  /** MAC of that line, 64 hex digits; empty where `line` is 0. */
  readonly mac: string;
  /** The line is the closing one: nothing may follow. */
  readonly closed: boolean;
}

/**
 * [R31] Heads of event logs, so that lines taken off a log's folder together with the heads that stand there are still
 * found missing. Only `couplet audit verify` reads them.
 */
export interface AuditHeads {
  /**
   * Notes heads; never lowers one, whoever else notes heads at the same time. The newest 256 files of a log are kept.
   * Not fsynced: it costs a server next to nothing.
   * @param log the log's id, which stands in each of its files: several servers' logs may share a database
   */
  note(log: string, heads: readonly AuditHead[]): Promise<void>;
  /** The newest file first; none for a log that is not known. */
  list(log: string): Promise<AuditHead[]>;
}

/** [T1]–[T4], [T15] Users, groups, devices, links and what else is kept of them. */
export interface Directory {
  readonly kind: 'none' | 'sqlite' | 'postgres';
  readonly domains: Domains;
  readonly users: Users;
  readonly userGroups: UserGroups;
  readonly deviceGroups: DeviceGroups;
  readonly devices: Devices;
  readonly links: Links;
  readonly shares: Shares;
  readonly loginSessions: LoginSessions;
  readonly apiTokens: ApiTokens;
  readonly events: EventLog;
  readonly auditHeads: AuditHeads;

  /** [T1][T2] What a user may do with a device. Correct within 1 s of a change, by whomever. */
  access(userId: string, deviceId: string): Promise<Access>;
  /** [T4] Whether a user id still stands for the one it was issued to. At once where it is remembered. */
  standing(userId: string): Standing | Promise<Standing>;
  /** The devices that a user reaches, ordered by id. */
  devicesOf(userId: string, page?: Page): Promise<Reach<'deviceId'>[]>;
  /** The users who reach a device, ordered by id; those who are locked too. */
  usersOf(deviceId: string, page?: Page): Promise<Reach<'userId'>[]>;

  /** Checks name and password, with its limits. The peer is told nothing but yes or no. */
  login(attempt: LoginAttempt): Promise<LoginResult>;

  /** [T4] Tells of every change, also by other processes, within 1 s; never while the call that makes it still runs on a transaction. */
  onChange(listener: ChangeListener): () => void;

  /**
   * [T4] Looks for changes by other processes at once: resolves when the listeners were told of everything that was
   * committed before the call. @throws CoupletError `CPL_DIRECTORY_UNAVAILABLE` where that cannot be said
   */
  catchUp(): Promise<void>;

  /** [K8] A word that only servers with the same database have. */
  identity(): Promise<string>;

  /** Resolves where the database answers. @throws CoupletError `CPL_DIRECTORY_UNAVAILABLE` */
  ping(): Promise<void>;
  close(): Promise<void>;
}
