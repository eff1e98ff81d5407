import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { Command } from 'commander';
import { ApiClient } from '../clients/api.ts';
import type { OnBehalf } from '../compose/admin.ts';
import { type LoadedConfig, loadConfig } from '../config/load.ts';
import { addSecurityOptions, optionsError, readFile, readSecurity, type SecurityOptions } from './server-options.ts';

/** What the directory's commands need of their surroundings. */
export interface DirectoryDeps {
  /** Writes one line to standard output, at its reader's pace. */
  print(line: string): Promise<void>;
  stdin(): Readable;
  /** @param mayMake whether folder, database and login key are made where they are not there */
  openDataFolder(loaded: LoadedConfig, mayMake: boolean): Promise<OpenApi>;
}

/** The API: of a server, or over a data folder. */
export interface OpenApi {
  request(method: string, path: string, body?: unknown, behalf?: OnBehalf): Promise<unknown>;
  close(): Promise<void>;
}

/** Flags of every command of the directory. */
export interface DirectoryFlags extends SecurityOptions {
  readonly url?: string;
  readonly token?: string;
  readonly tokenFile?: string;
  readonly data?: string;
  readonly directory?: string;
  readonly config?: string;
  readonly loginKeyFile?: string;
  readonly domain?: string;
  readonly json?: boolean;
}

export function addDirectoryOptions(command: Command): Command {
  return addSecurityOptions(
    command
      .option('--data <DIR>', 'the data folder (default: the configured one)')
      .option('--directory <KIND>', 'sqlite or postgres:URL (default: the configured one)')
      .option('--config <FILE>', 'configuration file that names folder, directory and login key [COUPLET_CONFIG]')
      .option('--login-key-file <FILE>', "file that holds the login key (default: the configured one, or the folder's)")
      .option('--url <URL>', 'a server instead of a data folder: https://HOST or http://HOST:PORT')
      .option('--token <TOKEN>', 'with --url: API token (others can see the command line: prefer --token-file)')
      .option('--token-file <FILE>', 'with --url: file that holds the API token')
      .option('--domain <DOMAIN>', 'the domain, "~" for the default one')
      .option('--json', 'print JSON: one line for each thing'),
  );
}

/** The API that a command's flags name, as the commands use it. */
export class DirectoryApi {
  readonly flags: DirectoryFlags;
  readonly #api: OpenApi;
  readonly #client: ApiClient | undefined;

  private constructor(flags: DirectoryFlags, api: OpenApi, client: ApiClient | undefined) {
    this.flags = flags;
    this.#api = api;
    this.#client = client;
  }

  /** @throws CoupletError (as rejection) `CPL_CLIENT_OPTIONS`, `CPL_CONFIG`, or of the directory */
  static async open(
    flags: DirectoryFlags,
    deps: Pick<DirectoryDeps, 'openDataFolder'>,
    mayMake: boolean,
  ): Promise<DirectoryApi> {
    if (flags.url !== undefined) {
      const client = serverClient(flags, flags.url);
      return new DirectoryApi(
        flags,
        { request: (method, path, body) => client.request(method, path, body), close: async () => {} },
        client,
      );
    }
    for (const name of ['token', 'tokenFile', 'ca', 'insecure'] as const) {
      if (flags[name] !== undefined) throw optionsError(`${optionName(name)} needs --url: a data folder needs none`);
    }
    const settings = {
      ...(flags.data !== undefined && { 'server.dataDir': flags.data }),
      ...(flags.directory !== undefined && { directory: flags.directory }),
      ...(flags.loginKeyFile !== undefined && { 'auth.loginKeyFile': flags.loginKeyFile }),
    };
    const loaded = loadConfig({ file: flags.config, flags: settings });
    return new DirectoryApi(flags, await deps.openDataFolder(loaded, mayMake), undefined);
  }

  /** True where a running server is asked, which knows what a data folder does not hold. */
  get isServer(): boolean {
    return this.#client !== undefined;
  }

  /** @param path with names already encoded by {@link segment}; the domain is added */
  call(method: string, path: string, body?: unknown): Promise<Thing> {
    return this.#api.request(method, this.#inDomain(path), body) as Promise<Thing>;
  }

  /**
   * A call in the caller's own name, for what is of a user himself: of the token's user, or of the one named.
   * @throws CoupletError (as rejection) `CPL_CLIENT_OPTIONS` where the wrong one, or none, is given
   */
  callAs(user: string | undefined, method: string, path: string, body?: unknown): Promise<Thing> {
    if (this.isServer) {
      if (user !== undefined)
        throw optionsError('--user is for a data folder: at a server it is the user of the token');
      return this.#api.request(method, path, body) as Promise<Thing>;
    }
    if (user === undefined) throw optionsError('over a data folder this needs --user NAME: whose it is');
    const { domain = '' } = this.flags;
    const behalf = { domain: domain === '~' ? '' : domain, user };
    return this.#api.request(method, path, body, behalf) as Promise<Thing>;
  }

  /**
   * Every thing of a list that comes in pages, in the order of its ids.
   * @param onPage told of each whole answer
   */
  async *list(path: string, key: string, idKey?: string, onPage?: (page: Thing) => void): AsyncGenerator<Thing> {
    for (let after = ''; ; ) {
      const page = `${path}${path.includes('?') ? '&' : '?'}limit=${pageSize}${after && `&after=${segment(after)}`}`;
      const answer = await this.call('GET', page);
      onPage?.(answer);
      const things = answer[key] as unknown[];
      const last = things.at(-1);
      if (last === undefined) return;
      for (const thing of things) yield thing as Thing;
      after = String(idKey === undefined ? last : (last as Thing)[idKey]);
    }
  }

  /** A path of the server's as the whole URL; as it is where there is no server. */
  relayUrl(path: string): string {
    return this.#client?.relayUrl({ url: path }) ?? path;
  }

  close(): Promise<void> {
    return this.#api.close();
  }

  #inDomain(path: string): string {
    const { domain } = this.flags;
    if (domain === undefined) return path;
    return `${path}${path.includes('?') ? '&' : '?'}domain=${segment(domain === '' ? '~' : domain)}`;
  }
}

/** What the API answers: an object of JSON. */
export type Thing = Readonly<Record<string, unknown>>;

const pageSize = 500;

/** A name or id as part of a path or query. @throws CoupletError `CPL_CLIENT_OPTIONS` where it is empty */
export function segment(nameOrId: string): string {
  if (nameOrId === '') throw optionsError('a name or id is empty');
  return encodeURIComponent(nameOrId);
}

/**
 * Runs a command's work and closes what it was opened for; the work's own error goes before that of closing.
 * @param mayMake for commands that may be the first ones over a new data folder; others find it, or say so
 */
export async function withDirectory(
  flags: DirectoryFlags,
  deps: DirectoryDeps,
  work: (api: DirectoryApi) => Promise<void>,
  mayMake = false,
): Promise<void> {
  const api = await DirectoryApi.open(flags, deps, mayMake);
  try {
    await work(api);
  } catch (error) {
    await api.close().catch(() => {});
    throw error;
  }
  await api.close();
}

/** The first line of standard input. */
export async function readPassword(stdin: Readable): Promise<string> {
  const [password = ''] = (await text(stdin)).split(/\r?\n/);
  if (password === '') throw optionsError('--password-stdin: standard input holds no password in its first line');
  return password;
}

function serverClient(flags: DirectoryFlags, url: string): ApiClient {
  for (const name of ['data', 'directory', 'config', 'loginKeyFile'] as const) {
    if (flags[name] !== undefined) throw optionsError(`${optionName(name)} does not go with --url`);
  }
  const { token, tokenFile } = flags;
  if ((token === undefined) === (tokenFile === undefined)) {
    throw optionsError('--url needs exactly one of --token and --token-file; "couplet api-token create" makes one');
  }
  return new ApiClient(url, readSecurity(flags), (token ?? readFile(tokenFile!, '--token-file')).trim());
}

function optionName(name: string): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
