import { sql } from 'kysely';
import type { Clock } from '../core/clock.ts';
import type { Feed, Listeners } from './changes.ts';
import { Database } from './database.ts';
import type {
  Access,
  ChangeListener,
  Directory,
  LoginAttempt,
  LoginResult,
  Page,
  Reach,
  Standing,
} from './directory.ts';
import { EventStore } from './event-store.ts';
import { type LoginLimits, Logins } from './login.ts';
import { Passwords } from './passwords.ts';
import type { Db } from './schema.ts';
import { fileIdentity } from './sqlite.ts';
import { AccessStore } from './stores/access.ts';
import { ApiTokenStore } from './stores/api-tokens.ts';
import { AuditHeadStore } from './stores/audit-heads.ts';
import { DeviceGroupStore } from './stores/device-groups.ts';
import { DeviceStore } from './stores/devices.ts';
import { DomainStore } from './stores/domains.ts';
import { LinkStore } from './stores/links.ts';
import { LoginSessionStore } from './stores/login-sessions.ts';
import { ShareStore } from './stores/shares.ts';
import { UserGroupStore } from './stores/user-groups.ts';
import { UserStore } from './stores/users.ts';

const sweepMs = 300_000;

export interface SqlDirectoryParts {
  readonly kind: 'sqlite' | 'postgres';
  readonly db: Db;
  readonly feed: Feed;
  readonly listeners: Listeners;
  readonly clock: Clock;
  readonly loginLimits: LoginLimits;
  readonly maxCached: number;
  onError(error: unknown): void;
}

/** [T3] The directory over a database; which one makes a difference only to who opened it. */
export class SqlDirectory implements Directory {
  readonly kind: 'sqlite' | 'postgres';
  readonly domains: DomainStore;
  readonly users: UserStore;
  readonly userGroups: UserGroupStore;
  readonly deviceGroups: DeviceGroupStore;
  readonly devices: DeviceStore;
  readonly links: LinkStore;
  readonly shares: ShareStore;
  readonly loginSessions: LoginSessionStore;
  readonly apiTokens: ApiTokenStore;
  readonly events: EventStore;
  readonly auditHeads: AuditHeadStore;
  readonly #database: Database;
  readonly #feed: Feed;
  readonly #listeners: Listeners;
  readonly #access: AccessStore;
  readonly #logins: Logins;
  readonly #sweeper: NodeJS.Timeout;
  #sweeping: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  constructor(parts: SqlDirectoryParts) {
    const { kind, db, feed, listeners, clock } = parts;
    const database = new Database(db, kind === 'sqlite', feed, clock);
    const passwords = new Passwords();
    this.kind = kind;
    this.#database = database;
    this.#feed = feed;
    this.#listeners = listeners;
    this.#access = new AccessStore(database, feed, parts.maxCached);
    this.#logins = new Logins(database, passwords, parts.loginLimits);
    // The first of all listeners: whoever asks because of a change gets what is new.
    listeners.add(this.#access.forget);
    this.domains = new DomainStore(database);
    this.users = new UserStore(database, passwords);
    this.userGroups = new UserGroupStore(database);
    this.deviceGroups = new DeviceGroupStore(database);
    this.devices = new DeviceStore(database);
    this.links = new LinkStore(database, this);
    this.shares = new ShareStore(database, (userId, deviceId) => this.access(userId, deviceId));
    this.loginSessions = new LoginSessionStore(database);
    this.apiTokens = new ApiTokenStore(database);
    this.events = new EventStore(database);
    this.auditHeads = new AuditHeadStore(database);
    this.#sweeper = setInterval(() => {
      this.#sweeping = this.sweep().catch((error) => parts.onError(error));
    }, sweepMs).unref();
  }

  /** Of the memory of {@link access}, for metrics. */
  get cache(): { readonly size: number; readonly hits: number; readonly misses: number } {
    return this.#access.cache;
  }

  access(userId: string, deviceId: string): Promise<Access> {
    return this.#access.access(userId, deviceId);
  }

  standing(userId: string): Standing | Promise<Standing> {
    return this.#access.standing(userId);
  }

  devicesOf(userId: string, page?: Page): Promise<Reach<'deviceId'>[]> {
    return this.#access.devicesOf(userId, page);
  }

  usersOf(deviceId: string, page?: Page): Promise<Reach<'userId'>[]> {
    return this.#access.usersOf(deviceId, page);
  }

  login(attempt: LoginAttempt): Promise<LoginResult> {
    return this.#logins.login(attempt);
  }

  onChange(listener: ChangeListener): () => void {
    return this.#listeners.add(listener);
  }

  catchUp(): Promise<void> {
    return this.#feed.catchUp();
  }

  /**
   * [K8] Of PostgreSQL the installation, the database and the schema, by whatever name it is reached; of SQLite the file,
   * on this machine since it was started.
   */
  async identity(): Promise<string> {
    if (this.kind === 'sqlite') {
      const query = sql<{ file: string }>`select file from pragma_database_list where name = 'main'`;
      const { rows } = await this.#database.read((db) => query.execute(db));
      return fileIdentity(rows[0]!.file);
    }
    const query = sql<{ identity: string }>`
      select concat_ws(' ', system_identifier, oid, current_schema()) as identity
      from pg_control_system(), pg_database where datname = current_database()`;
    const { rows } = await this.#database.read((db) => query.execute(db));
    return `postgres ${rows[0]!.identity}`;
  }

  async ping(): Promise<void> {
    await this.#database.read((db) => sql`select 1`.execute(db));
  }

  /** Drops login sessions, tokens and counts of failed logins that are over; done from time to time by itself. */
  async sweep(): Promise<void> {
    await this.loginSessions.sweep();
    await this.apiTokens.sweep();
    await this.#logins.sweep();
  }

  get isClosing(): boolean {
    return this.#closing !== undefined;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    clearInterval(this.#sweeper);
    await this.#sweeping;
    await this.#feed.close();
    await this.#database.db.destroy();
  }
}
