import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import {
  CookieSealer,
  createRelay,
  type EventRecord,
  LoginKey,
  type RelayHooks,
  type RelayServer,
  systemClock,
} from '../../src/index.ts';
import { type RedisServer, startRedis } from './redis.ts';

/** A temporary folder that goes when the test ends. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-test-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A self-signed certificate for 127.0.0.1 and localhost. */
export function makeCertificate(
  folder: string,
  name = 'tls',
  newKey: readonly string[] = ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
): { certFile: string; keyFile: string } {
  const certFile = join(folder, `${name}.crt`);
  const keyFile = join(folder, `${name}.key`);
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  const make = ['req', '-x509', '-newkey', ...newKey, '-nodes', '-days', '2'];
  execFileSync('openssl', [...make, ...subject, '-keyout', keyFile, '-out', certFile], { stdio: 'pipe' });
  return { certFile, keyFile };
}

export interface TestRelayOptions {
  /** Group by group, merged over the test's own defaults. */
  readonly settings?: Record<string, Record<string, unknown> | string>;
  readonly tls?: boolean;
  /** `portable` with the addon's pause; `no-addon` is not reachable by configuration. */
  readonly forwarder?: 'native' | 'portable';
  readonly hooks?: RelayHooks;
  /** Where log lines go; standard error unless told otherwise. */
  readonly logTo?: string;
  /** Two servers of a cluster: user halves come to one and device halves to the other. */
  readonly across?: boolean;
}

/** Set where a whole suite is run with its halves on two servers. */
const allAcross = process.env.COUPLET_TEST_ACROSS === '1';
/** Set where the servers' links have TLS. */
const tlsLinks = process.env.COUPLET_TEST_LINK_TLS === '1';

export type QueryOptions = Readonly<Record<string, string | number>>;

/** A relay in the test's own process, on a free loopback port, with its own data folder. */
export class TestRelay {
  readonly server: RelayServer;
  readonly loginKey: LoginKey;
  readonly sealer: CookieSealer;
  readonly folder: string;
  readonly tls: boolean;
  /** The server of device halves, where that is another one. */
  readonly other: RelayServer | undefined;
  /** Of the two servers. */
  readonly redis: RedisServer | undefined;

  constructor(
    server: RelayServer,
    loginKey: LoginKey,
    folder: string,
    tls: boolean,
    other?: RelayServer,
    redis?: RedisServer,
  ) {
    this.server = server;
    this.other = other;
    this.redis = redis;
    this.loginKey = loginKey;
    this.sealer = new CookieSealer(loginKey, systemClock, 'base64');
    this.folder = folder;
    this.tls = tls;
  }

  get port(): number {
    return this.server.port;
  }

  /** Where the halves of a side go. */
  portOf(side: 'user' | 'device'): number {
    return side === 'device' && this.other !== undefined ? this.other.port : this.server.port;
  }

  /** Path and query of a user half of `user//NAME`, or of a device half on that user's behalf. */
  path(side: 'user' | 'device', id: string, query: QueryOptions = {}, user = 'alice'): string {
    const cookie =
      side === 'user'
        ? { auth: this.sealer.seal({ userid: `user//${user}`, domainid: '' }) }
        : { rauth: this.sealer.seal({ ruserid: `user//${user}` }) };
    const all: Record<string, string> = {
      ...cookie,
      id,
      ...Object.fromEntries(Object.entries(query).map(([k, v]) => [k, String(v)])),
    };
    return `/meshrelay.ashx?${Object.entries(all)
      .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
      .join('&')}`;
  }

  url(side: 'user' | 'device', id: string, query: QueryOptions = {}, user = 'alice'): string {
    return `${this.tls ? 'wss' : 'ws'}://127.0.0.1:${this.portOf(side)}${this.path(side, id, query, user)}`;
  }

  /**
   * How many times as much it takes before a sender is held back: on the way over a second server are its buffer and
   * the kernel's for the link, megabytes each.
   */
  get depth(): number {
    return this.other === undefined ? 1 : 4;
  }

  /** The sessions that run, at whichever server. */
  sessions(): ReturnType<RelayServer['sessions']> {
    return [this.server, this.other].flatMap((server) => server?.sessions() ?? []);
  }

  /** Ends a session wherever it runs; false where there is none. */
  revoke(domain: string, id: string): boolean {
    return [this.server, this.other].map((server) => server?.revoke(domain, id)).includes(true);
  }

  /** All events on record, in order; of two servers those of the first before the other's. */
  events(): EventRecord[] {
    return [...this.#eventsIn('data'), ...(this.other === undefined ? [] : this.#eventsIn('other'))];
  }

  #eventsIn(data: string): EventRecord[] {
    const folder = join(this.folder, data, 'events');
    const lines = readdirSync(folder)
      .filter((name) => /\d.*\.(jsonl|log)$/.test(name))
      .sort()
      .flatMap((name) => readFileSync(join(folder, name), 'utf8').split('\n'));
    return lines
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as EventRecord)
      .filter((event) => event.code !== undefined);
  }

  /** A metric's value by its name and labels as they stand in the text: `couplet_halves{state="waiting"}`; of both servers. */
  async metric(name: string): Promise<number> {
    let sum = 0;
    // A recorder counts for the whole process.
    const isOfProcess = name.startsWith('couplet_recording_');
    for (const server of [this.server, isOfProcess ? undefined : this.other]) {
      if (server === undefined) continue;
      const response = await fetch(`http://${server.metricsAddress}/metrics`, { headers: { connection: 'close' } });
      const line = (await response.text()).split('\n').find((text) => text.startsWith(`${name} `));
      sum += line === undefined ? 0 : Number(line.slice(name.length + 1));
    }
    return sum;
  }
}

/** Starts a relay for a test; it is closed when the test ends. */
export async function startRelay(t: TestContext, options: TestRelayOptions = {}): Promise<TestRelay> {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-test-'));
  const loginKey = LoginKey.parse(randomBytes(80).toString('hex'));
  const tls = options.tls === true ? makeCertificate(folder) : undefined;
  const defaults: Record<string, Record<string, unknown>> = {
    server: { listen: '127.0.0.1:0', metricsListen: '127.0.0.1:0', dataDir: join(folder, 'data'), drainMs: 0 },
    auth: { loginKey: loginKey.toHex() },
    relay: { forwarder: options.forwarder ?? 'native', upgradesPerAddressPerSecond: 0 },
    log: { level: 'error' },
    ...(tls === undefined ? {} : { tls }),
  };
  const settings: Record<string, Record<string, unknown> | string> = { ...defaults };
  for (const [group, values] of Object.entries(options.settings ?? {}))
    settings[group] = typeof values === 'string' ? values : { ...defaults[group], ...values };
  const make = (more: Record<string, Record<string, unknown>>) =>
    createRelay({
      ...options.hooks,
      settings: { ...settings, ...more },
      ...(options.logTo === undefined ? {} : { logTo: options.logTo }),
    });
  const servers: RelayServer[] = [];
  // Halves' ends come from the forwarders, and a link ends with them: the servers close together.
  t.after(async () => {
    // The first call drains; the second skips what waiting is left.
    await Promise.all(servers.flatMap((server) => [server.close(), server.close()]));
    rmSync(folder, { recursive: true, force: true });
  });
  let redis: RedisServer | undefined;
  if (options.across ?? allAcross) {
    redis = (await startRedis(t))!;
    const link = tlsLinks ? makeCertificate(folder, 'link') : undefined;
    const linkFiles = link && { linkCertFile: link.certFile, linkKeyFile: link.keyFile };
    const cluster = { redis: redis.url, heartbeatMs: 1000, ...linkFiles, ...(settings.cluster as object | undefined) };
    servers.push(await make({ cluster }));
    const other = { ...(settings.server as object), dataDir: join(folder, 'other') };
    // Their directory is one, as that of the workers of one machine is.
    mkdirSync(other.dataDir, { mode: 0o700 });
    symlinkSync(join('..', 'data', 'directory.sqlite'), join(other.dataDir, 'directory.sqlite'));
    servers.push(await make({ cluster, server: other }));
  } else servers.push(await make({}));
  return new TestRelay(servers[0]!, loginKey, folder, tls !== undefined, servers[1], redis);
}

/** Resolves when `condition` holds; asks again each turn of the event loop's timers, until `withinMs`. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  withinMs = 10_000,
): Promise<void> {
  const end = Date.now() + withinMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
