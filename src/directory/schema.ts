import type { Generated, Kysely, Transaction } from 'kysely';

/*
 * The tables as the migrations make them; one set for both databases. Times are epoch milliseconds, flags and lists JSON
 * text or whole numbers, so that both give the same values back.
 */

export interface DomainRow {
  id: string;
  title: string;
  consent: number;
  privacy_bar_text: string;
  recording: string;
  created_ms: number;
}

export interface UserRow {
  id: string;
  domain: string;
  name: string;
  realname: string;
  site_rights: number;
  locked: number;
  password_hash: string | null;
  created_ms: number;
  last_login_ms: number | null;
}

export interface UserGroupRow {
  id: string;
  domain: string;
  name: string;
  description: string;
  created_ms: number;
}

export interface DeviceGroupRow extends UserGroupRow {
  consent: number;
}

export interface DeviceRow {
  id: string;
  domain: string;
  name: string;
  device_group_id: string;
  public_key: string | null;
  join_id: string | null;
  join_key: string | null;
  join_expires_ms: number | null;
  revoked_ms: number | null;
  created_ms: number;
  last_seen_ms: number | null;
}

export interface MembershipRow {
  user_id: string;
  user_group_id: string;
}

/** One of the first two and one of the next two is set. */
export interface RemovedUserRow {
  id: string;
  removed_ms: number;
}

export interface LinkRow {
  user_id: string | null;
  user_group_id: string | null;
  device_group_id: string | null;
  device_id: string | null;
  rights: number;
  created_ms: number;
}

export interface ShareRow {
  id: string;
  device_id: string;
  created_by: string;
  guest_name: string;
  bits: number;
  tcp_ports: string;
  view_only: number;
  created_ms: number;
  expires_ms: number;
  revoked_ms: number | null;
  uses: number;
}

export interface LoginSessionRow {
  id: string;
  token_hash: string;
  user_id: string;
  address: string;
  created_ms: number;
  expires_ms: number;
  last_use_ms: number;
}

export interface ApiTokenRow {
  id: string;
  token_hash: string;
  user_id: string;
  name: string;
  scopes: string;
  created_ms: number;
  expires_ms: number | null;
  last_use_ms: number | null;
}

/** Attempts to log in that have not succeeded, by user or address. */
export interface LoginFailureRow {
  id: string;
  failures: number;
  /** When the count is forgotten. */
  until_ms: number;
}

export interface EventRow {
  seq: Generated<number>;
  /** Who wrote it and which of its events it is: a batch written twice is there once. */
  uid: string;
  time_ms: number;
  code: string;
  domain: string;
  user_id: string | null;
  node_id: string | null;
  json: string;
}

/** How far a file of an event log is known to reach. */
export interface AuditHeadRow {
  log: string;
  file: number;
  line: number;
  mac: string;
  closed: number;
}

/** SQLite only: what changed, for other processes on the same file. */
export interface ChangeRow {
  seq: Generated<number>;
  body: string;
}

export interface Schema {
  domains: DomainRow;
  users: UserRow;
  removed_users: RemovedUserRow;
  user_groups: UserGroupRow;
  device_groups: DeviceGroupRow;
  devices: DeviceRow;
  memberships: MembershipRow;
  links: LinkRow;
  shares: ShareRow;
  login_sessions: LoginSessionRow;
  api_tokens: ApiTokenRow;
  login_failures: LoginFailureRow;
  events: EventRow;
  audit_heads: AuditHeadRow;
  changes: ChangeRow;
}

export type Db = Kysely<Schema>;
export type Tx = Transaction<Schema>;
