import { randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { WebSocket } from 'ws';
import { LoginKey } from '../../src/auth/keys.ts';
import { Links } from '../../src/cluster/link.ts';
import { LinkDialer } from '../../src/cluster/link-dial.ts';
import { LinkSeal, newChallenge } from '../../src/cluster/link-seal.ts';
import { LinkTickets } from '../../src/cluster/link-tickets.ts';
import { PeerNetworks } from '../../src/cluster/peer-address.ts';
import { PeerChannels } from '../../src/cluster/peers.ts';
import type { ServerEntry, Servers } from '../../src/cluster/servers.ts';
import { systemClock } from '../../src/core/clock.ts';
import { loadNative } from '../../src/native/binding.ts';
import type { ForwardedPair, Forwarder } from '../../src/relay/forwarder.ts';
import type { Admission } from '../../src/relay/half.ts';
import { NativeForwarder } from '../../src/relay/native-forwarder.ts';
import { PortableForwarder } from '../../src/relay/portable-forwarder.ts';
import { Relay, type RelaySettings } from '../../src/relay/relay.ts';
import type { Half } from '../../src/relay/session.ts';
import { Listener } from '../../src/server/app.ts';
import { LinkEndpoint } from '../../src/server/link-endpoint.ts';
import { RelayEndpoint } from '../../src/server/relay-endpoint.ts';
import { makeCertificate, temporaryFolder } from '../support/relay.ts';
import { admission, defaultSettings, deviceIdentity, ObserverDouble, userIdentity } from '../support/relay-doubles.ts';

/** How a pair's halves are forwarded on a test server. */
export type Path = 'native' | 'portable' | 'no-addon';

/** A registry that the test writes. */
export class ServersDouble implements Servers {
  readonly self: ServerEntry;
  readonly entries = new Map<string, ServerEntry>();
  refreshed = 0;

  constructor(self: ServerEntry) {
    this.self = self;
  }
  get(boot: string): ServerEntry | undefined {
    return this.entries.get(boot);
  }
  others(): readonly ServerEntry[] {
    return [...this.entries.values()];
  }
  refresh(): Promise<void> {
    this.refreshed++;
    return Promise.resolve();
  }
  onGone(): () => void {
    return () => undefined;
  }
}

/** What takes connections and never says a word, as a server does that stands still: its URL, and who has come. */
export async function silentServer(t: TestContext): Promise<{ linkUrl: string; connections: Socket[] }> {
  const connections: Socket[] = [];
  const server = createServer((socket) => void connections.push(socket.on('error', () => undefined).resume()));
  t.after(() => {
    for (const socket of connections) socket.destroy();
    server.close();
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return { linkUrl: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`, connections };
}

export function newSeal(): LinkSeal {
  return new LinkSeal(LoginKey.parse(randomBytes(80).toString('hex')).derive('link-tickets'));
}

export interface SiteOptions {
  readonly seal: LinkSeal;
  readonly path?: Path;
  readonly tls?: boolean;
  readonly heartbeatMs?: number;
  readonly idleMs?: number;
  readonly networks?: readonly string[];
  readonly settings?: Partial<RelaySettings>;
}

/** One server without Redis: relay, its halves' listener, its link listener, its peers and links. */
export class Site {
  readonly boot = newChallenge();
  readonly observer = new ObserverDouble();
  readonly refusals: string[] = [];
  readonly failures: unknown[] = [];
  readonly lost: string[] = [];
  /** What was told of servers that could not be dialled. */
  readonly unreachable: string[] = [];
  readonly links: Links;
  readonly relay: Relay;
  readonly peers: PeerChannels;
  readonly tickets: LinkTickets;
  readonly servers: ServersDouble;
  readonly dialer: LinkDialer;
  readonly linkListener: Listener;
  readonly listener: Listener;
  readonly presented: Half[] = [];
  /** Halves of this server that were carried to another. */
  readonly carried: Half[] = [];
  readonly ends: Promise<void>[] = [];
  /** Where a half of this server is to be carried to. */
  owner: Site | undefined;
  carryError: unknown;
  isClosed = false;

  constructor(t: TestContext, options: SiteOptions) {
    const { seal, path = 'portable', tls = false, heartbeatMs = 10_000 } = options;
    const certificate = tls ? makeCertificate(temporaryFolder(t)) : undefined;
    const { addon } = path === 'no-addon' ? { addon: undefined } : loadNative();
    const forwarder = (): Forwarder =>
      path === 'native' ? new NativeForwarder(addon!) : new PortableForwarder(systemClock);
    const settings = { ...defaultSettings, ...options.settings };
    this.tickets = new LinkTickets({ seal, boot: this.boot, clock: systemClock });
    this.relay = new Relay(settings, forwarder(), this.observer, systemClock);
    const networks = new PeerNetworks(options.networks ?? ['127.0.0.0/8']);
    this.linkListener = new Listener({
      host: '127.0.0.1',
      port: 0,
      tls: certificate,
      register: (app, ssl) => this.#linkEndpoint.register(app, ssl, settings.maxMessageBytes),
    });
    const failed = (error: unknown) => void this.failures.push(error);
    const self = (): ServerEntry => ({
      boot: this.boot,
      linkUrl: `${tls ? 'wss' : 'ws'}://127.0.0.1:${this.linkListener.port}`,
      fingerprint:
        certificate === undefined ? '' : new X509Certificate(readFileSync(certificate.certFile)).fingerprint256,
      directory: 'none',
      startedMs: 0,
      version: 'test',
    });
    const unreachable = (url: string, why: string) => void this.unreachable.push(`${url} ${why}`);
    const parts = { tickets: this.tickets, networks, heartbeatMs, failed, unreachable };
    const idle = options.idleMs === undefined ? {} : { idleMs: options.idleMs };
    const late = { get: () => undefined, onGone: () => () => undefined } as unknown as ServersDouble;
    let servers = late;
    this.peers = new PeerChannels({
      ...parts,
      ...idle,
      get servers() {
        return servers;
      },
    });
    this.peers.onLost((boot) => this.lost.push(boot));
    this.links = new Links({
      native: path === 'native' ? this.#watched(forwarder()) : undefined,
      portable: this.#watched(new PortableForwarder(systemClock)),
      peers: this.peers,
      tickets: this.tickets,
      settings: () => settings,
      incomingLost: (half) => this.#endSession(half),
    });
    this.dialer = new LinkDialer({
      heartbeatMs: 1000,
      tickets: this.tickets,
      networks,
      peers: this.peers,
      addon: path === 'native' ? addon : undefined,
      maxMessageBytes: () => settings.maxMessageBytes,
    });
    this.#linkEndpoint = new LinkEndpoint({
      tickets: this.tickets,
      peers: this.peers,
      addon,
      maxEarlyBytes: () => settings.highWaterBytes,
      accepting: () => !this.isClosed,
      presented: (half, { boot }) => {
        this.presented.push(half);
        this.links.arrived(half, boot);
        this.relay.join(half);
      },
      closed: (half) => {
        this.links.left(half);
        this.relay.left(half);
      },
      flooded: (half) => this.relay.flooded(half),
      refused: (reason) => this.refusals.push(reason),
    });
    const endpoint = new RelayEndpoint({
      relay: this.relay,
      join: (half) => this.relay.join(half),
      addon,
      decide: ({ query }) => ({
        ok: true,
        admission: admissionOf(query),
        enter: (half) => (this.owner === undefined ? this.relay.join(half) : void this.#carry(half, this.owner)),
      }),
      clientAddress: ({ tcp }) => tcp,
      pendingMs: () => 5000,
      maxEarlyBytes: () => settings.highWaterBytes,
      accepting: () => true,
      refused: () => undefined,
      limitHit: () => undefined,
      failed,
    });
    this.listener = new Listener({
      host: '127.0.0.1',
      port: 0,
      tls: undefined,
      register: (app, ssl) => endpoint.register(app, ssl, settings.maxMessageBytes),
    });
    this.peers.serve('present', (body, boot) => {
      const { domain, id } = body as { domain: string; id: string };
      return { challenge: this.tickets.expect({ boot, domain, id }) };
    });
    this.linkListener.listen();
    this.listener.listen();
    this.servers = servers = new ServersDouble(self());
    t.after(() => this.close());
  }

  readonly #linkEndpoint: LinkEndpoint;
  readonly #linkPairs: ForwardedPair[] = [];

  #watched(forwarder: Forwarder): Forwarder {
    const pairs = this.#linkPairs;
    return {
      kind: forwarder.kind,
      pair(...of) {
        const pair = forwarder.pair(...of);
        pairs.push(pair);
        return pair;
      },
      totals: () => forwarder.totals(),
    };
  }

  get entry(): ServerEntry {
    return this.servers.self;
  }

  knows(...others: readonly Site[]): void {
    for (const { entry } of others) this.servers.entries.set(entry.boot, entry);
  }

  /** Path and query of a half; read by `admissionOf`. */
  url(side: 'user' | 'device', id: string): string {
    return `ws://127.0.0.1:${this.listener.port}${this.path(side, id)}`;
  }

  path(side: 'user' | 'device', id: string): string {
    return `/meshrelay.ashx?side=${side}&id=${id}`;
  }

  /** Ends everything as a process that dies does: without close frames. */
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.listener.close();
    this.linkListener.close();
    this.peers.close();
    // Its timer of holds would keep the process.
    void this.relay.drain(0, 0, AbortSignal.abort());
  }

  /** Ends all outgoing links as their forwarder does that has found a reason. */
  endLinks(code: number, reason: string): void {
    for (const pair of this.#linkPairs.splice(0)) pair.end('normal', code, reason);
  }

  async #carry(half: Half, owner: Site): Promise<void> {
    try {
      const { domain, id } = half.admission;
      const answer = await this.peers.ask(owner.boot, 'present', { domain, id });
      const { challenge } = answer as { challenge: string };
      const request = { challenge, fence: 1, waitedMs: 0, admission: half.admission };
      const link = await this.dialer.dial(this.servers.get(owner.boot)!, request);
      this.carried.push(half);
      this.links.carry(half, link, owner.boot);
    } catch (error) {
      this.carryError = error;
      this.relay.turnAway(half, 'no-peer', 4408, 'no link');
    }
  }

  #endSession(half: Half): void {
    for (const session of this.relay.sessions()) {
      if (session.user !== half.admission && session.device !== half.admission) continue;
      session.pair.end('peer-error', 4502, 'peer server lost');
    }
    this.relay.turnAway(half, 'peer-error', 4502, 'peer server lost');
  }
}

function admissionOf(query: string): Admission {
  const values = new URLSearchParams(query);
  const id = values.get('id') ?? '';
  return admission(id, values.get('side') === 'user' ? userIdentity() : deviceIdentity());
}

/** A and B, who know each other; halves that come to A are carried to B. */
export function twoSites(t: TestContext, options: Partial<SiteOptions> = {}): { a: Site; b: Site } {
  const seal = newSeal();
  const a = new Site(t, { seal, ...options });
  const b = new Site(t, { seal, ...options });
  a.knows(b);
  b.knows(a);
  a.owner = b;
  return { a, b };
}

export interface Received {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

/** A client of one half; keeps what it got but the greeting. */
export class Client {
  readonly ws: WebSocket;
  readonly got: Received[] = [];
  greeting: string | undefined;
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>;

  constructor(t: TestContext, url: string) {
    this.ws = new WebSocket(url, { perMessageDeflate: false, maxPayload: 64 * 1024 * 1024 });
    t.after(() => this.ws.terminate());
    this.ws.on('error', () => undefined); // seen in the close code
    this.ws.on('message', (data, isBinary) => {
      if (this.greeting === undefined) this.greeting = String(data);
      else this.got.push({ data: data as Buffer, isBinary });
    });
    this.closed = new Promise((resolve) => {
      this.ws.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
    });
  }
}

/** A user half at `a`, carried to `b`, and a device half at `b`; both have their greeting when it resolves. */
export async function linkedPair(t: TestContext, a: Site, b: Site, id = newChallenge()): Promise<[Client, Client]> {
  const user = new Client(t, a.url('user', id));
  const device = new Client(t, b.url('device', id));
  await Promise.all([user, device].map(({ ws }) => once(ws, 'message')));
  return [user, device];
}
