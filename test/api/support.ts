import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { AgentPresence, ApiEvents, ApiParts, LiveSession } from '../../src/api/parts.ts';
import type { Route } from '../../src/api/route.ts';
import { Router } from '../../src/api/router.ts';
import { allRoutes } from '../../src/api/routes/index.ts';
import { SessionSight } from '../../src/api/session-sight.ts';
import { LiveEvents } from '../../src/audit/sinks/live.ts';
import { CookieSealer } from '../../src/auth/cookie.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { ClusterLive, type OtherEvents } from '../../src/compose/cluster-events.ts';
import { systemClock } from '../../src/core/clock.ts';
import type { Directory } from '../../src/directory/directory.ts';
import type { LoginLimits } from '../../src/directory/login.ts';
import { openDirectory } from '../../src/directory/open.ts';
import { RecordingCatalog } from '../../src/recording/catalog.ts';
import { RecordingJobs } from '../../src/recording/jobs.ts';
import { ApiEndpoint, type ApiEndpointLimits } from '../../src/server/api-endpoint.ts';
import { Listener } from '../../src/server/app.ts';
import { makeCertificate } from '../support/relay.ts';

export interface TestApiOptions {
  readonly routes?: readonly Route[];
  readonly limits?: Partial<ApiEndpointLimits>;
  readonly loginLimits?: Partial<LoginLimits>;
  readonly allowedOrigins?: readonly string[];
  readonly requireRelayRight?: boolean;
  readonly tls?: boolean;
  readonly admit?: (address: string) => boolean;
  /** Events of other servers. */
  readonly others?: OtherEvents;
  /** Instead of the parts that the test keeps. */
  readonly parts?: Partial<ApiParts>;
  /** Instead of those that `told` keeps. */
  readonly events?: ApiEvents;
}

/** One event that the API told, with its name. */
export type Told = { readonly event: keyof ApiEvents } & Record<string, unknown>;

/** What an HTTP request came to. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test says itself what it expects
  readonly body: any;
}

export interface CallOptions {
  readonly body?: unknown;
  /** Bearer token. */
  readonly token?: string | undefined;
  /** Value of the login cookie. */
  readonly cookie?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The API over a directory in SQLite and a uWebSockets.js listener on a free loopback port. */
export class TestApi {
  readonly directory: Directory;
  readonly router: Router;
  readonly endpoint: ApiEndpoint;
  readonly listener: Listener;
  readonly loginKey: LoginKey;
  readonly told: Told[];
  readonly failures: unknown[];
  readonly agents: Map<string, AgentPresence>;
  /** By domain and id, joined with a NUL. */
  readonly sessions: Map<string, LiveSession>;
  /** The recordings folder; not there until a test makes it. */
  readonly recordings: string;
  readonly live: LiveEvents;
  readonly clusterLive: ClusterLive;
  readonly parts: ApiParts;
  readonly tls: boolean;

  private constructor(fields: Omit<TestApi, 'url' | 'origin' | 'call' | 'head' | 'fetch' | 'token'>) {
    this.directory = fields.directory;
    this.router = fields.router;
    this.endpoint = fields.endpoint;
    this.listener = fields.listener;
    this.loginKey = fields.loginKey;
    this.told = fields.told;
    this.failures = fields.failures;
    this.agents = fields.agents;
    this.sessions = fields.sessions;
    this.recordings = fields.recordings;
    this.live = fields.live;
    this.clusterLive = fields.clusterLive;
    this.parts = fields.parts;
    this.tls = fields.tls;
  }

  static async start(t: Pick<TestContext, 'after'>, options: TestApiOptions = {}): Promise<TestApi> {
    const folder = mkdtempSync(join(tmpdir(), 'couplet-api-'));
    const failures: unknown[] = [];
    const directory = await openDirectory({
      directory: 'sqlite',
      file: join(folder, 'directory.db'),
      clock: systemClock,
      onError: (error) => failures.push(error),
      ...(options.loginLimits && { loginLimits: options.loginLimits }),
    });
    const loginKey = LoginKey.generate();
    const told: Told[] = [];
    const agents = new Map<string, AgentPresence>();
    const sessions = new Map<string, LiveSession>();
    const recordings = join(folder, 'recordings');
    const jobs = new RecordingJobs({ onProblem: (error) => failures.push(error) });
    const live = new LiveEvents();
    const clusterLive = new ClusterLive(live, options.others ?? { subscribe: () => () => {} });
    const tell = (event: keyof ApiEvents) => (facts: object) => void told.push({ ...facts, event });
    const parts: ApiParts = {
      directory,
      clock: systemClock,
      sealer: new CookieSealer(loginKey, systemClock),
      events: options.events ?? {
        loggedIn: tell('loggedIn'),
        loginFailed: tell('loginFailed'),
        loggedOut: tell('loggedOut'),
        directoryChanged: tell('directoryChanged'),
        shareCreated: tell('shareCreated'),
        shareRevoked: tell('shareRevoked'),
        tokenCreated: tell('tokenCreated'),
        tokenRevoked: tell('tokenRevoked'),
        sessionKilled: tell('sessionKilled'),
        recordingsListed: tell('recordingsListed'),
        recordingViewed: tell('recordingViewed'),
        recordingDownloaded: tell('recordingDownloaded'),
        recordingDeleted: tell('recordingDeleted'),
      },
      sessions: {
        async list(domain, viewer, { after, limit }) {
          const sight = new SessionSight(directory, viewer);
          const found: LiveSession[] = [];
          for (const session of [...sessions.values()].sort((a, b) => (a.id < b.id ? -1 : 1))) {
            if (session.domain !== domain || session.id <= after || found.length === limit) continue;
            if (await sight.sees(session)) found.push(session);
          }
          return { sessions: found, missingServers: 0 };
        },
        async find(domain, id) {
          const session = sessions.get(`${domain}\0${id}`);
          return { sessions: session === undefined ? [] : [session], missingServers: 0 };
        },
        end: async (domain, id) => sessions.delete(`${domain}\0${id}`),
      },
      recordings: new RecordingCatalog({ folders: () => [recordings], jobs }),
      live,
      online: async (nodeids) => nodeids.map((nodeid) => agents.get(nodeid) ?? 'offline'),
      spreadChanges: async () => {},
      requireRelayRight: () => options.requireRelayRight ?? false,
      allowedOrigins: () => options.allowedOrigins ?? [],
      version: '0.0.0-test',
      failed: (error) => failures.push(error),
      ...(options.others && { live: clusterLive }),
      ...options.parts,
    };
    const router = new Router(parts, options.routes ?? allRoutes);
    const endpoint = new ApiEndpoint({
      dispatch: router.dispatch,
      clientAddress: ({ tcp }) => tcp,
      admit: options.admit ?? (() => true),
      accepting: () => true,
      failed: (error) => failures.push(error),
      ...(options.limits && { limits: options.limits }),
    });
    const tls = options.tls ?? false;
    const listener = new Listener({
      host: '127.0.0.1',
      port: 0,
      tls: tls ? makeCertificate(folder) : undefined,
      register: (app, ssl) => {
        endpoint.register(app, ssl);
        app.any('/*', (res) => {
          res.writeStatus('404 Not Found').end('not the API');
        });
      },
    });
    listener.listen();
    t.after(async () => {
      listener.close();
      await jobs.close();
      await directory.close();
      rmSync(folder, { recursive: true, force: true });
    });
    return new TestApi({
      directory,
      router,
      endpoint,
      listener,
      loginKey,
      told,
      failures,
      agents,
      sessions,
      recordings,
      live,
      clusterLive,
      parts,
      tls,
    });
  }

  get origin(): string {
    return `${this.tls ? 'https' : 'http'}://127.0.0.1:${this.listener.port}`;
  }

  /** @param target below the prefix, with query */
  async call(method: string, target: string, options: CallOptions = {}): Promise<Answer> {
    return answerOf(await this.fetch(method, target, options));
  }

  /** The same, of whose success the beginning alone is looked at: it need not end. */
  async head(method: string, target: string, options: CallOptions = {}): Promise<Answer> {
    const leave = new AbortController();
    const response = await this.fetch(method, target, options, leave.signal);
    if (!response.ok) return answerOf(response);
    leave.abort();
    return { status: response.status, headers: response.headers, text: '', body: undefined };
  }

  fetch(method: string, target: string, options: CallOptions = {}, signal?: AbortSignal): Promise<Response> {
    const { body, token, cookie } = options;
    return fetch(`${this.origin}/api/v1${target}`, {
      method,
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
        ...(cookie !== undefined && { cookie: `couplet_session=${cookie}` }),
        ...options.headers,
      },
      ...(signal && { signal }),
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
  }

  /** A login session's token, made without a password. */
  async token(userId: string): Promise<string> {
    return (await this.directory.loginSessions.create(userId, { address: '127.0.0.1' })).token;
  }
}

async function answerOf(response: Response): Promise<Answer> {
  const text = await response.text();
  const isJson = response.headers.get('content-type') === 'application/json';
  return {
    status: response.status,
    headers: response.headers,
    text,
    body: isJson && text !== '' ? JSON.parse(text) : undefined,
  };
}
