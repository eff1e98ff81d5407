import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { adminRights, adminSiteRights } from '../../src/core/rights.ts';
import type { Device, DeviceGroup, Directory, User } from '../../src/directory/directory.ts';
import { openDirectory } from '../../src/directory/open.ts';
import {
  CookieSealer,
  createRelay,
  type EventRecord,
  LoginKey,
  type RelayServer,
  systemClock,
} from '../../src/index.ts';
import { type Client, connect } from './client.ts';
import type { Postgres } from './postgres.ts';
import { enrolRaw, RawAgent } from './raw-agent.ts';
import { type RedisServer, startRedis } from './redis.ts';
import { temporaryFolder } from './relay.ts';
import { readEvents, type ServeChild, type ServeOptions, startServe } from './serve.ts';

/** A server of the cluster: in this process, or one of its own. */
export interface ClusterPlace {
  readonly port: number;
  readonly metricsAddress: string;
}

export interface ApiAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: a body as the test knows it.
  readonly body: any;
}

/** Several servers on one directory and one Redis: alice, who may do everything, and bob, who may do nothing yet. */
export class ClusterSite {
  readonly t: TestContext;
  readonly redis: RedisServer;
  readonly directory: Directory;
  readonly loginKey: LoginKey;
  readonly sealer: CookieSealer;
  readonly alice: User;
  readonly bob: User;
  readonly group: DeviceGroup;
  readonly #databaseUrl: string;
  readonly #folders: string[] = [];
  readonly #servers: RelayServer[] = [];
  readonly #dataDirs = new Map<ClusterPlace, string>();

  private constructor(
    t: TestContext,
    redis: RedisServer,
    directory: Directory,
    databaseUrl: string,
    made: { alice: User; bob: User; group: DeviceGroup },
  ) {
    this.t = t;
    this.redis = redis;
    this.directory = directory;
    this.#databaseUrl = databaseUrl;
    this.loginKey = LoginKey.parse(randomBytes(80).toString('hex'));
    this.sealer = new CookieSealer(this.loginKey, systemClock, 'base64');
    this.alice = made.alice;
    this.bob = made.bob;
    this.group = made.group;
    t.after(async () => {
      // The first call drains; the second skips what waiting is left.
      await Promise.all(this.#servers.flatMap((server) => [server.close(), server.close()]));
      await directory.close();
      for (const folder of this.#folders) rmSync(folder, { recursive: true, force: true });
    });
  }

  /** No server yet. `undefined` where there is no redis-server: then the test is skipped and must end. */
  static async start(t: TestContext, postgres: Postgres): Promise<ClusterSite | undefined> {
    const redis = await startRedis(t);
    if (redis === undefined) return undefined;
    const url = await postgres.database();
    const directory = await openDirectory({
      directory: url,
      file: join(temporaryFolder(t), 'unused'),
      clock: systemClock,
      onError: (error) => t.diagnostic(String(error)),
    });
    const { users, deviceGroups, links } = directory;
    const alice = await users.create({ name: 'alice', password: 'correct horse', siteRights: adminSiteRights });
    const bob = await users.create({ name: 'bob' });
    const group = await deviceGroups.create({ name: 'lab' });
    await links.grant(alice.id, group.id, adminRights);
    return new ClusterSite(t, redis, directory, url, { alice, bob, group });
  }

  #folder(): string {
    const folder = mkdtempSync(join(tmpdir(), 'couplet-cluster-'));
    this.#folders.push(folder);
    return folder;
  }

  get #clusterSettings(): Record<string, unknown> {
    return { redis: this.redis.url, heartbeatMs: 1000 };
  }

  /** A server in this process. */
  async add(settings: Record<string, Record<string, unknown>> = {}): Promise<RelayServer> {
    const { server: more, cluster, ...others } = settings;
    const dataDir = this.#folder();
    const server = await createRelay({
      settings: {
        server: { listen: '127.0.0.1:0', metricsListen: '127.0.0.1:0', dataDir, drainMs: 0, ...more },
        auth: { loginKey: this.loginKey.toHex() },
        directory: this.#databaseUrl,
        relay: { upgradesPerAddressPerSecond: 0 },
        log: { level: 'error' },
        cluster: { ...this.#clusterSettings, ...cluster },
        ...others,
      },
      logTo: '/dev/null',
    });
    this.#servers.push(server);
    this.#dataDirs.set(server, dataDir);
    return server;
  }

  /** A server in a process of its own. */
  async spawn(options: ServeOptions = {}): Promise<ServeChild> {
    const folder = options.folder ?? this.#folder();
    writeFileSync(join(folder, 'key'), this.loginKey.toHex(), { mode: 0o600 });
    const settings = {
      ...options.settings,
      cluster: { ...this.#clusterSettings, ...options.settings?.cluster },
    };
    const args = ['--directory', this.#databaseUrl, ...(options.args ?? [])];
    return await startServe(this.t, { ...options, folder, settings, args });
  }

  /** What a server of this process has on record. */
  eventsOf(server: RelayServer): EventRecord[] {
    return readEvents(join(this.#dataDirs.get(server)!, 'events'));
  }

  ws({ port }: ClusterPlace): string {
    return `ws://127.0.0.1:${port}`;
  }

  http({ port }: ClusterPlace): string {
    return `http://127.0.0.1:${port}`;
  }

  /** A user half with a target. */
  routed(at: ClusterPlace, nodeid: string, query: Record<string, string | number> = {}, user = this.alice) {
    const auth = this.sealer.seal({ userid: user.id, domainid: '' });
    return connect(this.t, `${this.ws(at)}/meshrelay.ashx?${queryOf({ nodeid, tcpport: 22, auth, ...query })}`);
  }

  half(at: ClusterPlace, side: 'user' | 'device', id: string, user = this.alice): Promise<Client> {
    return connect(this.t, this.halfUrl(at, side, id, user));
  }

  halfUrl(at: ClusterPlace, side: 'user' | 'device', id: string, user = this.alice): string {
    const cookie: Record<string, string> =
      side === 'user'
        ? { auth: this.sealer.seal({ userid: user.id, domainid: '' }) }
        : { rauth: this.sealer.seal({ ruserid: user.id }) };
    return `${this.ws(at)}/meshrelay.ashx?${queryOf({ ...cookie, id })}`;
  }

  /** A session, past its greeting. */
  async pair(userAt: ClusterPlace, deviceAt: ClusterPlace, id: string, of = this.alice) {
    const user = await this.half(userAt, 'user', id, of);
    const device = await this.half(deviceAt, 'device', id, of);
    const greetings = [await user.nextText(), await device.nextText()];
    if (greetings.join() !== 'c,c') throw new Error(`greeted with ${greetings}`);
    return { user, device };
  }

  /** The device half that a tunnel command asks for. */
  answer(at: ClusterPlace, { path, id, rauth }: { path: string; id: string; rauth: string }): Promise<Client> {
    return connect(this.t, `${this.ws(at)}${path}?${queryOf({ id, rauth })}`);
  }

  async device(name = 'box'): Promise<{ device: Device; code: string }> {
    const { device, join: code } = await this.directory.devices.create({ deviceGroupId: this.group.id, name });
    return { device, code: code.code };
  }

  /** A device whose agent does what the test says. */
  async agent(at: ClusterPlace, name = 'box'): Promise<{ agent: RawAgent; nodeid: string }> {
    const { device, code } = await this.device(name);
    return { agent: await enrolRaw(this.t, this.ws(at), code), nodeid: device.id };
  }

  /** The same device, on another connection. */
  async again(at: ClusterPlace, nodeid: string, keys: RawAgent['keys']): Promise<RawAgent> {
    const agent = await RawAgent.open(this.t, this.ws(at), keys);
    agent.authenticate(nodeid);
    const answer = await agent.next();
    if ('action' in answer || answer.type !== 'accepted') throw new Error(`not accepted: ${JSON.stringify(answer)}`);
    return agent;
  }

  /** An API token of a user. */
  async token(user = this.alice, scopes: readonly string[] = ['all']): Promise<string> {
    return (
      await this.directory.apiTokens.create(user.id, { name: randomBytes(6).toString('hex'), scopes: [...scopes] })
    ).secret;
  }

  async api(at: ClusterPlace, token: string, method: string, path: string, body?: object): Promise<ApiAnswer> {
    const response = await fetch(`${this.http(at)}/api/v1${path}`, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        connection: 'close',
        ...(body && { 'content-type': 'application/json' }),
      },
      ...(body && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
  }

  /** Live events of a server, as its API tells them. */
  async live(at: ClusterPlace, token: string): Promise<LiveStream> {
    const asked = request(`${this.http(at)}/api/v1/events/live`, { headers: { authorization: `Bearer ${token}` } });
    this.t.after(() => asked.destroy());
    asked.end();
    const [response] = await once(asked, 'response');
    if (response.statusCode !== 200) throw new Error(`live events: ${response.statusCode}`);
    return new LiveStream(response);
  }

  async metric(at: ClusterPlace, name: string): Promise<number> {
    const response = await fetch(`http://${at.metricsAddress}/metrics`, { headers: { connection: 'close' } });
    const line = (await response.text()).split('\n').find((text) => text.startsWith(`${name} `));
    return line === undefined ? 0 : Number(line.slice(name.length + 1));
  }
}

/** What a stream of live events told. */
export class LiveStream {
  readonly told: { readonly event: string; readonly data: Record<string, unknown> }[] = [];

  constructor(response: NodeJS.ReadableStream) {
    let rest = '';
    response.on('error', () => {});
    response.on('data', (chunk: Buffer) => {
      const parts = (rest + chunk.toString()).split('\n\n');
      rest = parts.pop()!;
      for (const part of parts) {
        const event = /^event: (.*)$/m.exec(part)?.[1];
        const data = /^data: (.*)$/m.exec(part)?.[1];
        if (event !== undefined && data !== undefined) this.told.push({ event, data: JSON.parse(data) });
      }
    });
  }

  /** Events with one of these codes, in the order in which they came. */
  events(...codes: string[]): Record<string, unknown>[] {
    return this.told
      .filter(({ event, data }) => event === 'event' && codes.includes(String(data.code)))
      .map((e) => e.data);
  }

  gaps(): number {
    return this.told.filter(({ event }) => event === 'lost').length;
  }
}

function queryOf(query: Readonly<Record<string, string | number>>): string {
  return Object.entries(query)
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
    .join('&');
}
