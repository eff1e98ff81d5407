import type { Events } from './audit/events.ts';
import type { EventRecord } from './audit/sink.ts';
import { LiveEvents } from './audit/sinks/live.ts';
import { Admitter } from './auth/admission.ts';
import { CookieSealer } from './auth/cookie.ts';
import type { SingleUseFile } from './auth/single-use.ts';
import { ClusterClock } from './cluster/cluster-clock.ts';
import { ApiServer } from './compose/api.ts';
import { Cluster } from './compose/cluster.ts';
import { ClusterLive } from './compose/cluster-events.ts';
import { Counters } from './compose/counters.ts';
import { Decider } from './compose/decide.ts';
import { Devices } from './compose/devices.ts';
import { openEvents } from './compose/event-log.ts';
import type { RelayHooks } from './compose/hooks.ts';
import { type Counting, metricSources } from './compose/metric-sources.ts';
import { observe } from './compose/observe.ts';
import { observeRouting } from './compose/observe-routing.ts';
import { certificateFacts, choosePath, tlsFiles } from './compose/path.ts';
import { allFolders, Recordings } from './compose/recordings.ts';
import { makeRelay } from './compose/relay.ts';
import { Rest } from './compose/rest.ts';
import { loginKeyOf, relaySettings } from './compose/settings.ts';
import { holdFolder, openSingleUse, serveOwnMetrics, type WorkerPart } from './compose/worker.ts';
import type { LoadedConfig } from './config/load.ts';
import { planReload } from './config/reload.ts';
import type { Config } from './config/schema.ts';
import { parseListen } from './config/setting.ts';
import { type Clock, systemClock } from './core/clock.ts';
import type { CoupletError } from './core/errors.ts';
import { ensureFolder } from './core/lifecycle.ts';
import type { LogHandle } from './core/logger.ts';
import { packageVersion } from './core/version.ts';
import type { Directory } from './directory/directory.ts';
import type { MetricsServer } from './metrics/http.ts';
import { createRelayMetrics, type RelayMetrics } from './metrics/relay-metrics.ts';
import type { Forwarder } from './relay/forwarder.ts';
import { NativeForwarder } from './relay/native-forwarder.ts';
import type { Relay } from './relay/relay.ts';
import { TrustedProxies } from './server/address.ts';
import { registerAgents } from './server/agent-endpoint.ts';
import { checkCertificate, Listener } from './server/app.ts';
import { registerHttp } from './server/http.ts';
import { RelayEndpoint } from './server/relay-endpoint.ts';

export { forbidCoreDumps } from './native/binding.ts';

/** From the first to the last close of a drain, milliseconds (R39). */
const drainSpreadMs = 3000;

/** From the last close frame to the end of its connection, milliseconds (R42), and a little slack. */
const lastCloseMs = 2500;

/** What a server is made of besides its configuration. */
export interface Surroundings {
  readonly log: LogHandle;
  readonly hooks?: RelayHooks;
  readonly clock?: Clock;
  /** Absent: the only process of its server. */
  readonly worker?: WorkerPart | undefined;
}

/** A running relay server. */
export class Server {
  readonly #log: LogHandle;
  readonly #clock: Clock;
  readonly #startedMs: number;
  readonly #worker: WorkerPart | undefined;
  #loaded: LoadedConfig;
  #relay!: Relay;
  #events!: Events;
  #devices!: Devices;
  #cluster: Cluster | undefined;
  #listener!: Listener;
  #endpoint!: RelayEndpoint;
  #proxies!: TrustedProxies;
  #api!: ApiServer;
  #singleUse: SingleUseFile | undefined;
  #metrics!: RelayMetrics;
  #metricsServer: MetricsServer | undefined;
  #recordings: Recordings | undefined;
  #rest: Rest | undefined;
  #forwarder!: Forwarder;
  #forwarders: readonly Forwarder[] = [];
  #letGo = () => {};
  #stopping: Promise<void> | undefined;
  readonly #hurry = new AbortController();

  private constructor(loaded: LoadedConfig, { log, clock = systemClock, worker }: Surroundings) {
    this.#loaded = loaded;
    this.#log = log;
    this.#worker = worker;
    this.#clock = clock;
    this.#startedMs = clock.monotonicMs();
  }

  /** Opens everything and accepts connections when it resolves. @throws CoupletError; then nothing is left open */
  static async start(loaded: LoadedConfig, surroundings: Surroundings): Promise<Server> {
    const server = new Server(loaded, surroundings);
    try {
      await server.#start(surroundings.hooks ?? {});
    } catch (error) {
      await server.#closeAll('could not start');
      throw error;
    }
    return server;
  }

  /** `HOST:PORT` it listens on. */
  get address(): string {
    const { host } = parseListen(this.#loaded.config.server.listen)!;
    return `${host.includes(':') ? `[${host}]` : host}:${this.#listener.port}`;
  }

  get port(): number {
    return this.#listener.port;
  }

  /** Empty where it is a worker, whose supervisor serves the metrics. */
  get metricsAddress(): string {
    if (this.#metricsServer === undefined) return '';
    const { host, port } = this.#metricsServer;
    return `${host.includes(':') ? `[${host}]` : host}:${port}`;
  }

  get tls(): boolean {
    return tlsFiles(this.#loaded.config) !== undefined;
  }

  get directory(): Directory {
    return this.#devices.directory;
  }

  get metrics(): RelayMetrics {
    return this.#metrics;
  }

  get relay(): Relay {
    return this.#relay;
  }

  get forwarderKind(): 'native' | 'portable' {
    return this.#forwarder.kind;
  }

  async #start(hooks: RelayHooks): Promise<void> {
    const { config } = this.#loaded;
    // What only these parts can tell is asked first: a configuration error is told before anything is opened (R40).
    const tls = tlsFiles(config);
    if (tls !== undefined) checkCertificate(tls);
    this.#proxies = new TrustedProxies(config.server.trustedProxies);
    ensureFolder(config.server.dataDir);
    this.#letGo = holdFolder(config, this.#worker, this.#log.logger);
    const loginKey = loginKeyOf(this.#loaded);
    const path = await choosePath(config, this.#clock);
    this.#forwarder = path.forwarder;
    this.#singleUse = openSingleUse(config, this.#clock, this.#log.logger, this.#worker);
    const counters = new Counters();
    const onProblem = (error: unknown, message: string) => this.#log.logger.error({ err: error }, message);
    const accepting = () => this.#stopping === undefined;
    // What cookies and rights are judged by [K5]: in a cluster it is corrected by Redis.
    const clock = config.cluster.redis === undefined ? this.#clock : new ClusterClock(this.#clock);
    const common = { config: () => this.#loaded.config, loginKey, clock, onProblem, path, accepting };
    this.#devices = await Devices.open(common);
    const { onEvent } = hooks;
    const live = new LiveEvents();
    const cluster = Cluster.open({ ...common, devices: this.#devices, missedEvents: () => wideLive.missed() });
    this.#cluster = cluster;
    const wideLive = new ClusterLive(live, { subscribe: (to) => cluster!.reader.subscribe(({ event }) => to(event)) });
    const sinks = [
      this.#devices.eventSink(),
      live,
      cluster?.sink,
      onEvent && { name: 'hook', write: (event: EventRecord) => onEvent.call(hooks, event) },
    ];
    const witness = this.#devices.headsWitness();
    this.#events = await openEvents(config, loginKey, this.#clock, this.#log.logger, sinks, witness);
    const figures = cluster && (() => cluster.figures());
    this.#metrics = createRelayMetrics(
      metricSources(counters, () => this.#counting(), figures),
      { version: packageVersion(), nodeVersion: process.version },
    );
    const observer = observe(this.#events, counters, this.#metrics);
    this.#recordings = Recordings.open({
      config: () => this.#loaded.config,
      events: this.#events,
      clock: this.#clock,
      parties: this.#devices.routes ? (session) => this.#devices.parties(session) : undefined,
      software: `couplet ${packageVersion()}`,
      sweeps: this.#worker === undefined || this.#worker.number === 1,
      onProblem,
    });
    this.#recordings?.start();
    const { relay, forwarders } = makeRelay(
      config,
      path.forwarder,
      {
        ...observer.relay,
        sessionStarting: (session) => {
          observer.relay.sessionStarting(session);
          this.#devices.sessionStarting(session);
        },
      },
      clock,
      this.#recordings?.recorder,
    );
    this.#relay = relay;
    this.#forwarders = forwarders;
    cluster?.meet(relay, (half) => this.#devices.answer(half));
    const { directory } = this.#devices;
    this.#devices.start({
      relay,
      observer: observeRouting({ events: this.#events, counters, clock: this.#clock, directory, onProblem }),
      listening: () => ({ host: parseListen(config.server.listen)!.host, port: this.port }),
      cluster: cluster?.devices,
    });
    const admitter = new Admitter({
      loginKey,
      cookieEncoding: config.auth.cookieEncoding,
      clock,
      singleUse: cluster?.singleUse(this.#singleUse) ?? this.#singleUse,
      allowNoUser: config.auth.allowNoUser,
      signedIds: config.relay.signedIds,
      anonymousDevice: config.messenger.allowAnonymousDevice,
      routing: this.#devices.routes,
      knownDomain: (domain) => this.#devices.knowsDomain(domain),
      ...(this.#devices.routes && { resolveShare: (share) => this.#devices.resolveShare(share) }),
    });
    const decider = new Decider(admitter, hooks, this.#devices, config.server.allowedOrigins);
    this.#api = new ApiServer({
      directory,
      live: cluster === undefined ? live : wideLive,
      peers: cluster?.calls,
      relay,
      recordingFolders: () => allFolders(this.#loaded.config),
      clock,
      sealer: new CookieSealer(loginKey, clock, config.auth.cookieEncoding),
      events: this.#events,
      online: (nodeids) => this.#devices.online(nodeids),
      spreadChanges: () => this.#devices.spreadChanges(),
      requireRelayRight: () => this.#loaded.config.routing.requireRelayRight,
      allowedOrigins: () => config.server.allowedOrigins,
      clientAddress: (claims) => this.#proxies.clientAddress(claims),
      // Counted apart from upgrades.
      admit: (address) => this.#relay.limits.admitUpgrade(`api ${address}`),
      accepting,
      failed: (error) => onProblem(error, 'a request of the API failed'),
    });
    this.#endpoint = new RelayEndpoint({
      relay,
      join: (half) => (cluster === undefined ? relay.join(half) : cluster.rendezvous.enter(half)),
      addon: path.addon,
      decide: (request) => decider.decide(request),
      clientAddress: (claims) => this.#proxies.clientAddress(claims),
      pendingMs: () => this.#loaded.config.auth.pendingMs,
      maxEarlyBytes: () => this.#loaded.config.relay.highWaterBytes,
      accepting,
      refused: observer.refused,
      limitHit: observer.upgradeLimitHit,
      failed: (error) => this.#log.logger.error({ err: error }, 'an upgrade request could not be decided on'),
    });
    await cluster?.start(this.#events);
    await this.#open(config);
    this.#events.serverStarted({
      version: packageVersion(),
      pid: process.pid,
      listen: [this.address],
      forwarder: path.forwarder.kind,
    });
    if (path.portableBecause !== '') this.#tellPortable(config, path.portableBecause);
  }

  async #open(config: Config): Promise<void> {
    const { host, port } = parseListen(config.server.listen)!;
    const worker = this.#worker;
    this.#metricsServer = await serveOwnMetrics(config, this.#metrics, this.#log.logger, worker);
    this.#listener = new Listener({
      host,
      port,
      shared: worker?.sharesPort ?? false,
      tls: tlsFiles(config),
      register: (app, ssl) => {
        this.#endpoint.register(app, ssl, this.#loaded.config.relay.maxMessageBytes);
        this.#api.register(app, ssl);
        registerAgents(app, {
          serves: () => this.#devices.routes,
          accepting: () => this.#stopping === undefined,
          clientAddress: (claims) => this.#proxies.clientAddress(claims),
          admit: (address) => this.#relay.limits.admitUpgrade(address),
          connected: (socket, address) => this.#devices.connected(socket, address),
        });
        registerHttp(app, {
          notReady: () => this.#notReady(),
          scrape: config.server.publicMetrics ? () => (worker?.scrapeAll ?? this.#metrics.scrape)() : undefined,
          failed: (error) => this.#log.logger.error({ err: error }, 'the metrics could not be read'),
        });
      },
    });
    this.#listener.listen();
    const listeners = [this.#listener, ...(this.#cluster === undefined ? [] : [this.#cluster.listener])];
    const onProblem = (error: unknown, message: string) => this.#log.logger.error({ err: error }, message);
    this.#rest = new Rest({ listeners, events: this.#events, clock: this.#clock, address: this.address, onProblem });
  }

  /** Everything that counts, for the metrics. */
  #counting(): Counting {
    return {
      relay: this.#relay,
      forwarders: this.#forwarders,
      recordings: this.#recordings,
      devices: this.#devices,
      events: this.#events,
      log: this.#log,
      server: {
        pendingUpgrades: this.#endpoint.pendingUpgrades,
        listenerResting: this.#rest?.isResting ?? false,
        listenerRests: this.#rest?.count ?? 0,
      },
    };
  }

  #tellPortable(config: Config, why: string): void {
    if (config.relay.forwarder === 'auto') this.#events.forwarderSelfTestFailed(why);
    this.#events.portablePathInUse(why);
  }

  #notReady(): string {
    if (this.#stopping !== undefined) return 'draining';
    if (this.#rest?.isResting) return 'no file descriptors left';
    return this.#devices.notReady || (this.#recordings?.notReady ?? '') || (this.#cluster?.notReady ?? '');
  }

  /**
   * R40: takes over what can change at run time; a certificate that does not work keeps the old one.
   * @throws CoupletError, and the old configuration stays in use
   */
  reload(next: LoadedConfig): void {
    const plan = planReload(this.#loaded, next);
    if (this.#recordings === undefined) Recordings.refuseWithout(plan.running.config);
    if (plan.renewTls) {
      const tls = tlsFiles(plan.running.config)!;
      this.#listener.replaceCertificate(tls);
    }
    this.#loaded = plan.running;
    this.#relay.configure(relaySettings(plan.running.config));
    this.#recordings?.reconfigured();
    this.#log.setLevel(plan.running.config.log.level);
    if (plan.needsRestart.length > 0) {
      const keys = plan.needsRestart.map(({ key }) => key).join(', ');
      this.#log.logger.warn({ keys }, `changed settings that count after a restart only: ${keys}`);
    }
    this.#events.configurationReloaded(plan.applies.map(({ key }) => key));
    const tls = tlsFiles(plan.running.config);
    if (plan.renewTls && tls !== undefined) {
      this.#events.certificateReplaced({ listen: this.address, ...certificateFacts(tls) });
    }
  }

  /** R40: a reload that could not even be loaded. */
  reloadRefused(error: CoupletError): void {
    this.#log.logger.error({ err: error }, error.message);
    this.#events.configurationReloadRefused(error.message);
  }

  /** R39: drains, closes, flushes. Asked again it skips the wait. Resolves when everything is closed. */
  stop(reason: string): Promise<void> {
    if (this.#stopping !== undefined) this.#hurry.abort();
    this.#stopping ??= this.#stop(reason);
    return this.#stopping;
  }

  async #stop(reason: string): Promise<void> {
    this.#log.logger.info({ reason, sessions: this.#relay.sessionCount }, 'stopping');
    this.#rest?.stop();
    this.#devices.stopAgents();
    this.#api.endStreams();
    const { drainMs } = this.#loaded.config.server;
    const drains = [this.#relay, this.#cluster].map((part) => part?.drain(drainMs, drainSpreadMs, this.#hurry.signal));
    await Promise.all(drains);
    await this.#endpoint.allClosed(lastCloseMs);
    await this.#closeAll(reason);
  }

  async #closeAll(reason: string): Promise<void> {
    this.#rest?.stop();
    this.#listener?.close();
    await this.#api?.close();
    await this.#cluster?.leave(lastCloseMs);
    await this.#recordings?.stop();
    const uptimeMs = this.#clock.monotonicMs() - this.#startedMs;
    this.#events?.serverStopped({ pid: process.pid, reason, uptimeMs });
    await this.#events?.close();
    await this.#devices?.close();
    await this.#cluster?.close();
    await this.#metricsServer?.close();
    this.#singleUse?.close();
    this.#letGo();
    if (this.#forwarder instanceof NativeForwarder) this.#forwarder.release();
  }
}
