import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createApiEvents } from '../api/audit-events.ts';
import type { ApiEvents, ApiParts } from '../api/parts.ts';
import { rootRequest } from '../api/request.ts';
import { Router } from '../api/router.ts';
import { allRoutes } from '../api/routes/index.ts';
import { Events } from '../audit/events.ts';
import { createChainKey } from '../audit/hash-chain.ts';
import { readHeads } from '../audit/heads.ts';
import { openJsonLinesSink } from '../audit/sinks/json-lines.ts';
import { CookieSealer } from '../auth/cookie.ts';
import type { LoginKey } from '../auth/keys.ts';
import type { LoadedConfig } from '../config/load.ts';
import { type Clock, systemClock } from '../core/clock.ts';
import { CoupletError, systemFailure } from '../core/errors.ts';
import { ensureFolder } from '../core/lifecycle.ts';
import { packageVersion } from '../core/version.ts';
import type { Directory } from '../directory/directory.ts';
import { DirectoryEventSink } from '../directory/event-sink.ts';
import { openDirectory } from '../directory/open.ts';
import { directoryWitness } from './audit-heads.ts';
import { requireOwner } from './owner.ts';
import { loginKeyOf } from './settings.ts';

/** In whose name a call is made that is none of root's. */
export interface OnBehalf {
  readonly domain: string;
  /** Name or id. */
  readonly user: string;
}

/**
 * The API over a data folder, called as `root` by who owns the folder; a server may run over it at the same time.
 *
 * What is changed is on record like a server's own doing: in the directory's database, and in the hash-chained log.
 * Many processes can write that log, for each has files of its own: a file's number is taken by making the file, its
 * first line vouches for how far the one before it reached, and it is made at the first change, so that looking
 * leaves none.
 */
export class DataFolder {
  readonly #loaded: LoadedConfig;
  readonly #clock: Clock;
  readonly #loginKey: LoginKey;
  readonly #directory: Directory;
  readonly #router: Router;
  #events: Events | undefined;
  #told: ApiEvents | undefined;
  #failure: unknown;
  /** What an event sink could not do. */
  #sinkFailure: unknown;

  /**
   * Opens the directory that the configuration names, as `couplet serve` does.
   * @param options.mayMake false: nothing is made, what is not there is an error
   * @throws CoupletError (as rejection) `CPL_DATA_DIR`, `CPL_DIRECTORY_…`
   */
  static async open(
    loaded: LoadedConfig,
    { mayMake, clock = systemClock }: { mayMake: boolean; clock?: Clock },
  ): Promise<DataFolder> {
    const { directory: kind, server } = loaded.config;
    if (kind === 'none') {
      const text =
        'there is no directory to work on: set `directory` to sqlite or postgres:URL, or name a server by --url';
      throw new CoupletError('CPL_DIRECTORY_NONE', text, { level: 'error' });
    }
    if (!mayMake) requireMade(loaded);
    ensureFolder(server.dataDir);
    requireOwner(server.dataDir);
    const loginKey = loginKeyOf(loaded);
    const directory = await openDirectory({
      directory: kind,
      file: join(server.dataDir, 'directory.sqlite'),
      clock,
      // Only what runs in the background: a command's own calls get their errors themselves.
      onError: () => {},
    });
    return new DataFolder(loaded, clock, loginKey, directory);
  }

  private constructor(loaded: LoadedConfig, clock: Clock, loginKey: LoginKey, directory: Directory) {
    this.#loaded = loaded;
    this.#clock = clock;
    this.#loginKey = loginKey;
    this.#directory = directory;
    const { auth, routing } = loaded.config;
    const told = () => {
      if (this.#told === undefined) throw new Error('a call that changes nothing had something to tell');
      return this.#told;
    };
    const parts: ApiParts = {
      directory,
      clock,
      sealer: new CookieSealer(loginKey, clock, auth.cookieEncoding),
      get events() {
        return told();
      },
      get sessions() {
        return serversAlone();
      },
      get recordings() {
        return serversAlone();
      },
      get live() {
        return serversAlone();
      },
      online: async (nodeids) => nodeids.map(() => 'offline'),
      // Servers on this folder find out by themselves.
      spreadChanges: async () => {},
      requireRelayRight: () => routing.requireRelayRight,
      allowedOrigins: () => [],
      version: packageVersion(),
      failed: (error) => {
        this.#failure = error;
      },
    };
    this.#router = new Router(parts, allRoutes);
  }

  /**
   * One call of the API.
   * @param path below the prefix, percent-encoded, with query
   * @returns what a server would answer; `undefined` where that is nothing (204)
   * @throws CoupletError (as rejection) with the API's code and words
   */
  async request(method: string, path: string, body?: unknown, behalf?: OnBehalf): Promise<unknown> {
    if (method !== 'GET') await this.#openEvents();
    const request = rootRequest(method, path, body);
    const answer = await this.#router.dispatch(
      behalf === undefined ? request : { ...request, caller: await this.#callerFor(behalf) },
    );
    if (answer.kind !== 'json') throw new Error(`${method} ${path} does not answer by JSON`);
    if (answer.status >= 500) throw this.#failure;
    if (answer.status < 400) return answer.body;
    const { code, message } = (answer.body as { error: { code: `CPL_${string}`; message: string } }).error;
    throw new CoupletError(code, message, { httpStatus: answer.status });
  }

  /** @throws CoupletError (as rejection) `CPL_EVENT_LOST` where what was done is not on record */
  async close(): Promise<void> {
    // Before the directory, into which they go.
    await this.#events?.close();
    await this.#directory.close();
    if (this.#sinkFailure === undefined) return;
    const why = this.#sinkFailure instanceof Error ? this.#sinkFailure.message : String(this.#sinkFailure);
    const text = `the change was made, but its event could not be written everywhere: ${why}`;
    throw new CoupletError('CPL_EVENT_LOST', text, { level: 'error', cause: this.#sinkFailure });
  }

  async #callerFor({ domain, user: named }: OnBehalf) {
    const user = await this.#directory.users.find(domain, named);
    return { kind: 'session', user, scopes: ['all'], credentialId: '', address: '' } as const;
  }

  async #openEvents(): Promise<void> {
    if (this.#events !== undefined) return;
    const { dir: folder, maxFileBytes } = this.#loaded.config.audit;
    const key = this.#loginKey.derive('audit-chain').export();
    await requireSameKey(folder, key);
    const sink = new DirectoryEventSink({ events: this.#directory.events });
    const witness = directoryWitness(this.#directory, sink);
    const log = await openJsonLinesSink({ folder, key, clock: this.#clock, maxFileBytes, witness }).catch((cause) => {
      const why = systemFailure(cause);
      if (why === undefined) throw cause;
      const text = `nothing was changed: the event log ${JSON.stringify(folder)} cannot be written: ${why}`;
      throw new CoupletError('CPL_EVENT_LOG', text, { level: 'error', cause });
    });
    this.#events = new Events({
      clock: this.#clock,
      sinks: [log, sink],
      onSinkFailure: (_sink, error) => {
        this.#sinkFailure = error;
      },
    });
    this.#told = createApiEvents(this.#events);
  }
}

/** A mistyped folder is not to become one. @throws CoupletError `CPL_DATA_DIR` */
function requireMade({ config, loginKey }: LoadedConfig): void {
  const { dataDir } = config.server;
  const folder = `the data folder ${JSON.stringify(dataDir)}`;
  const isThere = existsSync(dataDir);
  // First: in a folder of another user's there may be nothing to see.
  if (isThere) requireOwner(dataDir);
  const missing = (what: string) =>
    new CoupletError('CPL_DATA_DIR', `${what}; "couplet serve" and "couplet user add" make one`, { level: 'error' });
  if (!isThere) throw missing(`${folder} is not there`);
  if (config.directory === 'sqlite' && !existsSync(join(dataDir, 'directory.sqlite'))) {
    throw missing(`${folder} holds no directory`);
  }
  if (loginKey === undefined && !existsSync(join(dataDir, 'login.key'))) throw missing(`${folder} holds no login key`);
}

function serversAlone(): never {
  throw new CoupletError('CPL_DATA_DIR', 'this is what a running server knows, not its data folder: give --url');
}

/** A log of two keys cannot be verified, and cookies of the wrong key open nothing. @throws CoupletError `CPL_LOGIN_KEY` */
async function requireSameKey(folder: string, key: Uint8Array): Promise<void> {
  ensureFolder(folder, 'audit.dir');
  const { state } = await readHeads(folder, [createChainKey(key)]);
  if (state !== 'other-key') return;
  const text = `the event log ${JSON.stringify(folder)} was written with another login key: name the server's by --config or --login-key-file`;
  throw new CoupletError('CPL_LOGIN_KEY', text, { level: 'error' });
}
