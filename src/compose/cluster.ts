import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import type { LoginKey } from '../auth/keys.ts';
import type { SingleUse } from '../auth/single-use.ts';
import { ClusterClock } from '../cluster/cluster-clock.ts';
import { EventStreamSink } from '../cluster/event-stream.ts';
import { EventStreamReader } from '../cluster/event-stream-reader.ts';
import { Links } from '../cluster/link.ts';
import { LinkDialer } from '../cluster/link-dial.ts';
import { LinkSeal, newChallenge } from '../cluster/link-seal.ts';
import type { LinkSocket } from '../cluster/link-socket.ts';
import { LinkTickets } from '../cluster/link-tickets.ts';
import { PeerNetworks } from '../cluster/peer-address.ts';
import { PeerChannels } from '../cluster/peers.ts';
import { Redis } from '../cluster/redis.ts';
import { RedisStore } from '../cluster/redis-store.ts';
import { Rendezvous } from '../cluster/rendezvous.ts';
import type { Presentation } from '../cluster/rendezvous-parts.ts';
import { ValueSealer } from '../cluster/sealed-value.ts';
import { ServerRegistry } from '../cluster/servers.ts';
import { parseLinkUrl } from '../config/cluster.ts';
import { parseRedisUrl, type RedisTarget } from '../config/redis-url.ts';
import type { Config } from '../config/schema.ts';
import { parseListen } from '../config/setting.ts';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { packageVersion } from '../core/version.ts';
import type { ClusterFigures } from '../metrics/sources.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import type { Admission } from '../relay/half.ts';
import { NativeForwarder } from '../relay/native-forwarder.ts';
import { PortableForwarder } from '../relay/portable-forwarder.ts';
import type { Relay } from '../relay/relay.ts';
import type { Half } from '../relay/session.ts';
import { Listener } from '../server/app.ts';
import { LinkEndpoint } from '../server/link-endpoint.ts';
import type { DeviceCluster } from './cluster-devices.ts';
import { ClusterSingleUse } from './cluster-single-use.ts';
import { ClusterWatch, type ClusterWatchParts } from './cluster-watch.ts';
import type { Path } from './path.ts';
import type { PeerCalls } from './peer-calls.ts';
import { relaySettings } from './settings.ts';

export interface ClusterParts {
  /** The configuration in use. */
  readonly config: () => Config;
  readonly loginKey: LoginKey;
  /** Corrected by what is opened here. */
  readonly clock: ClusterClock;
  readonly path: Path;
  readonly devices: { readonly directoryId: string };
  /** False while the server takes no new halves (R39). */
  readonly accepting: () => boolean;
  /** Events of other servers were missed by whoever listens. */
  readonly missedEvents: () => void;
  readonly onProblem: (error: unknown, message: string) => void;
}

/** [R15] How to take in a half that answers a tunnel command; `undefined`: it answers none. */
type Answer = (admission: Admission) => ((half: Half) => void) | undefined;

const meeting = z.strictObject({ domain: z.string().max(256), id: z.string().max(256), fence: z.int().positive() });

/** [K1] What makes a server one of several: Redis, links, peer channels, and where halves meet. */
export class Cluster {
  readonly boot = newChallenge();
  readonly redis: Redis;
  readonly peers: PeerChannels;
  readonly links: Links;
  /** Once {@link meet} was called. */
  rendezvous!: Rendezvous;
  readonly registry: ServerRegistry;
  readonly sink: EventStreamSink;
  readonly reader: EventStreamReader;
  /** Of links and peer channels. */
  readonly listener: Listener;
  readonly #parts: ClusterParts;
  readonly #store: RedisStore;
  readonly #sealer: ValueSealer;
  readonly #endpoint: LinkEndpoint;
  readonly #native: NativeForwarder | undefined;
  readonly #dialer: LinkDialer;
  readonly #tickets: LinkTickets;
  #relay!: Relay;
  #answer: Answer = () => undefined;
  #watch: ClusterWatch | undefined;

  /**
   * Opens the link listener; nothing of it is known to others before {@link start}. `undefined` where the server is the
   * only one.
   * @throws CoupletError `CPL_LISTEN`, `CPL_TLS`, `CPL_PEER_NETWORK`
   */
  static open({ clock, ...parts }: Omit<ClusterParts, 'clock'> & { readonly clock: Clock }): Cluster | undefined {
    const { redis } = parts.config().cluster;
    if (redis === undefined || !(clock instanceof ClusterClock)) return undefined;
    return new Cluster({ ...parts, clock }, parseRedisUrl(redis)!);
  }

  private constructor(parts: ClusterParts, target: RedisTarget) {
    const { config, loginKey, clock, path, accepting, onProblem } = parts;
    const { cluster } = config();
    const { prefix, heartbeatMs, commandMs } = cluster;
    const { boot } = this;
    this.#parts = parts;
    const warn = (text: string) => onProblem(undefined, text);
    this.redis = new Redis({ target, commandMs, heartbeatMs, prefix, clock: clock.uncorrected, onProblem: warn });
    this.redis.onBeat(async (_redis, sample) => clock.note(sample));
    this.#sealer = new ValueSealer(loginKey.derive('cluster-values'));
    this.#store = new RedisStore(this.redis, prefix);
    const { redis } = this;
    const sealer = this.#sealer;
    this.sink = new EventStreamSink({ redis, sealer, prefix, boot, maxEvents: cluster.streamMaxEvents });
    this.reader = new EventStreamReader({
      ...{ redis, sealer, prefix, boot, target, commandMs, onProblem: warn },
      onGap: parts.missedEvents,
    });

    const tickets = new LinkTickets({ seal: new LinkSeal(loginKey.derive('link-tickets')), boot, clock });
    const networks = new PeerNetworks(cluster.peerNetworks);
    const forwards = path.forwarder.kind === 'native' ? path.addon : undefined;
    this.#endpoint = new LinkEndpoint({
      tickets,
      peers: { incoming: (hello) => this.peers.incoming(hello) },
      addon: path.addon,
      maxEarlyBytes: () => config().relay.highWaterBytes,
      accepting,
      presented: (half, origin) => {
        this.links.arrived(half, origin.boot);
        this.rendezvous.presented(half, origin, this.#answer(half.admission));
      },
      closed: (half) => {
        this.links.left(half);
        this.#relay.left(half);
      },
      flooded: (half) => this.#relay.flooded(half),
      refused: (reason) => this.links.failed(reason),
    });
    this.listener = this.#listen(config());
    this.registry = new ServerRegistry({
      ...{ redis, sealer, prefix, heartbeatMs, clock, onProblem: warn },
      self: this.#self(config()),
    });
    const servers = this.registry;
    servers.onJoined(({ linkUrl }) => {
      const host = parseLinkUrl(linkUrl)?.host ?? '';
      if (isIP(host) === 0 || networks.includes(host)) return;
      warn(`no links with the server at ${linkUrl}: cluster.peerNetworks is ${cluster.peerNetworks.join(', ')}`);
    });
    this.peers = new PeerChannels({
      ...{ servers, tickets, networks, heartbeatMs },
      failed: (error) => onProblem(error, 'a request of another server failed'),
      unreachable: (url, why) => warn(`no links with the server at ${url}: ${why}`),
    });
    const { peers } = this;
    this.#native = forwards && new NativeForwarder(forwards);
    this.links = new Links({
      native: this.#native,
      portable: new PortableForwarder(clock),
      ...{ peers, tickets },
      settings: () => relaySettings(config()),
      incomingLost: (half) => this.#incomingLost(half),
    });
    this.#tickets = tickets;
    this.#dialer = new LinkDialer({
      ...{ tickets, networks, peers, addon: forwards, heartbeatMs },
      maxMessageBytes: () => config().relay.maxMessageBytes,
    });
  }

  /** Halves of this relay seek their mates in the whole cluster from now on. */
  meet(relay: Relay, answer: Answer): void {
    const { boot, redis, registry, peers } = this;
    const { config, clock } = this.#parts;
    this.#relay = relay;
    this.#answer = answer;
    this.rendezvous = new Rendezvous({
      ...{ boot, redis, clock, relay },
      heartbeatMs: config().cluster.heartbeatMs,
      store: this.#store,
      servers: { has: (other) => registry.get(other) !== undefined, refresh: () => redis.beatNow() },
      ask: (other, body) => peers.ask(other, 'present', body),
      askResign: (other, body) => peers.ask(other, 'resign', body),
      dial: (other, half, presentation) => this.#dial(other, half, presentation),
      carry: (half, link, other, hard) => void this.links.carry(half, link as LinkSocket, other, hard),
      challenge: (other, at) => this.#tickets.expect({ boot: other, ...at }),
      seal: (key, text) => this.#sealer.seal(key, JSON.stringify(text)),
      unseal: (key, value) => this.#unseal(key, value),
      holdMs: () => config().relay.holdMs,
      pause: (ms) => delay(ms, undefined, { ref: false }),
    });
    relay.wider = this.rendezvous;
    peers.serve('present', (body, from) => this.rendezvous.expect(from, meeting.parse(body)));
    peers.serve('resign', (body) => this.rendezvous.resign(meeting.parse(body)));
    redis.onChange(() => this.rendezvous.sweep());
  }

  /**
   * Makes itself known to the other servers; resolves also where Redis is down, which is tried on.
   * @throws CoupletError `CPL_CLUSTER_DIRECTORY` where the others use another directory
   */
  async start(events: ClusterWatchParts['events']): Promise<void> {
    const { redis, registry } = this;
    this.#watch = new ClusterWatch({ redis, servers: registry, clock: this.#parts.clock, events });
    try {
      await registry.start();
    } finally {
      this.#watch.look();
    }
    this.rendezvous.start();
  }

  /** What devices need of it. */
  get devices(): DeviceCluster {
    return {
      boot: this.boot,
      peers: this.peers,
      links: this.links,
      store: this.#store,
      redis: this.redis,
      servers: this.registry,
      seal: (key, object) => this.#sealer.seal(key, JSON.stringify(object)),
      unseal: (key, text) => this.#unseal(key, text),
      join: (half, settled) => this.rendezvous.enter(half, settled),
    };
  }

  /** Requests to the other servers. Before this one has joined it does not know them: one at least is missing then. */
  get calls(): PeerCalls {
    const { peers, registry } = this;
    return {
      ask: (other, method, body, withinMs) => peers.ask(other, method, body, withinMs),
      serve: (method, handler) => peers.serve(method, handler),
      askAll: async (method, body, withinMs) => {
        const { answers, silent } = await peers.askAll(method, body, withinMs);
        return { answers, silent: registry.state === 'joined' ? silent : [...silent, 'unknown'] };
      },
    };
  }

  /** [R7] Uses up single-use cookies for all servers. */
  singleUse(own: SingleUse): SingleUse {
    return new ClusterSingleUse(own, this.#store, this.#parts.clock);
  }

  /** Why the server is kept out of the cluster, for `/readyz`; empty where it is not. */
  get notReady(): string {
    return this.registry.state === 'conflict' ? 'other servers of the cluster use another directory' : '';
  }

  figures(): ClusterFigures {
    const { redis, registry, rendezvous, links, peers } = this;
    const { bytesToPeer, bytesFromPeer, bufferedBytes } = links.totals();
    return {
      servers: registry.state === 'joined' ? registry.others().length + 1 : 0,
      isRedisUp: redis.isUp,
      redisCommands: redis.counters,
      claims: rendezvous.claimCount,
      rendezvous: rendezvous.counts,
      conflicts: rendezvous.conflicts,
      linksOut: links.outgoing,
      linksIn: links.incoming,
      bytesToPeer,
      bytesFromPeer,
      bufferedBytes,
      linkFailures: links.failures,
      peersLost: peers.lostTotal,
      requests: peers.requests,
      clockOffsetSeconds: this.#parts.clock.offsetSeconds,
    };
  }

  /** [R39] Lets links go on like sessions. */
  async drain(drainMs: number, spreadMs: number, signal: AbortSignal): Promise<void> {
    await this.links.drain(drainMs, spreadMs, signal);
  }

  /** After {@link drain}: leaves the cluster. Events are still written. */
  async leave(withinMs: number): Promise<void> {
    this.rendezvous?.stop();
    this.#watch?.stop();
    await this.#endpoint.allClosed(withinMs);
    await this.registry.stop();
    this.peers.close();
    this.listener.close();
  }

  /** The end, after everything that uses Redis. */
  async close(): Promise<void> {
    await this.reader.close();
    this.redis.close();
    this.#native?.release();
  }

  #listen({ cluster, relay }: Config): Listener {
    const { host, port } = parseListen(cluster.linkListen)!;
    const { linkCertFile: certFile, linkKeyFile: keyFile } = cluster;
    const listener = new Listener({
      host,
      port,
      shared: false,
      setting: 'cluster.linkListen',
      tls: certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile },
      register: (app, ssl) => this.#endpoint.register(app, ssl, relay.maxMessageBytes),
    });
    listener.listen();
    return listener;
  }

  #self({ cluster }: Config): ServerRegistry['self'] {
    const { host } = parseListen(cluster.linkListen)!;
    const scheme = cluster.linkCertFile === undefined ? 'ws' : 'wss';
    const certificate = cluster.linkCertFile && new X509Certificate(readFileSync(cluster.linkCertFile));
    return {
      boot: this.boot,
      linkUrl: cluster.advertise ?? `${scheme}://${host.includes(':') ? `[${host}]` : host}:${this.listener.port}`,
      fingerprint: certificate ? certificate.fingerprint256 : '',
      directory: this.#parts.devices.directoryId,
      startedMs: this.#parts.clock.nowMs(),
      version: packageVersion(),
    };
  }

  async #dial(boot: string, half: Half, { challenge, fence, waitedMs }: Presentation): Promise<LinkSocket> {
    const entry = this.registry.get(boot);
    try {
      if (entry === undefined) throw new CoupletError('CPL_PEER', 'the server is not in the registry any more');
      return await this.#dialer.dial(entry, { challenge, fence, waitedMs, admission: half.admission });
    } catch (error) {
      this.links.failed(error instanceof CoupletError ? (error.reason ?? 'unreachable') : 'error');
      throw error;
    }
  }

  /** [K7] */
  #incomingLost(half: Half): void {
    const relay = this.#relay;
    const reason = 'its server died';
    if (half.state === 'paired') relay.endSession(half.admission, 'peer-error', closeCodes.peerError, reason);
    else relay.turnAway(half, 'peer-error', closeCodes.peerError, reason);
  }

  #unseal(key: string, value: string): unknown {
    const text = this.#sealer.open(key, value);
    return text === undefined ? undefined : JSON.parse(text);
  }
}
