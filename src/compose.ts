import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Events } from './audit/events.ts';
import type { EventSink } from './audit/sink.ts';
import { openJsonLinesSink } from './audit/sinks/json-lines.ts';
import { createLogSink } from './audit/sinks/log.ts';
import { Admitter } from './auth/admission.ts';
import { LoginKey } from './auth/keys.ts';
import { SingleUseFile } from './auth/single-use.ts';
import { Counters } from './compose/counters.ts';
import { Decider } from './compose/decide.ts';
import type { RelayHooks } from './compose/hooks.ts';
import { observe } from './compose/observe.ts';
import { choosePath, tlsFiles } from './compose/path.ts';
import { Recordings } from './compose/recordings.ts';
import type { LoadedConfig } from './config/load.ts';
import { planReload } from './config/reload.ts';
import type { Config } from './config/schema.ts';
import { parseListen } from './config/setting.ts';
import { type Clock, systemClock } from './core/clock.ts';
import type { CoupletError } from './core/errors.ts';
import { ensureFolder, ensureSecretFile } from './core/lifecycle.ts';
import type { LogHandle } from './core/logger.ts';
import { packageVersion } from './core/version.ts';
import { type MetricsServer, serveMetrics } from './metrics/http.ts';
import { createRelayMetrics, type RelayMetrics } from './metrics/relay-metrics.ts';
import type { Forwarder } from './relay/forwarder.ts';
import { NativeForwarder } from './relay/native-forwarder.ts';
import { PortableForwarder } from './relay/portable-forwarder.ts';
import { Relay, type RelaySettings } from './relay/relay.ts';
import { TrustedProxies } from './server/address.ts';
import { checkCertificate, Listener } from './server/app.ts';
import { DescriptorWatch } from './server/descriptor-watch.ts';
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
}

/** `relay.*` and what else of the configuration the relay follows. */
function relaySettings(config: Config): RelaySettings {
  return { ...config.relay, defaultUser: config.auth.defaultUser ?? '' };
}

/** The configured login key, else the one in the data folder, which is made where there is none (mode 0600). */
export function loginKeyOf(loaded: LoadedConfig): LoginKey {
  if (loaded.loginKey !== undefined) return LoginKey.parse(loaded.loginKey.toString('hex'));
  const hex = ensureSecretFile(loaded.config.server.dataDir, 'login.key', () => `${LoginKey.generate().toHex()}\n`);
  return LoginKey.parse(hex, `the login key file ${loaded.config.server.dataDir}/login.key`);
}

/** A running relay server. */
export class Server {
  readonly #log: LogHandle;
  readonly #clock: Clock;
  readonly #startedMs: number;
  #loaded: LoadedConfig;
  #relay!: Relay;
  #events!: Events;
  #listener!: Listener;
  #endpoint!: RelayEndpoint;
  #singleUse: SingleUseFile | undefined;
  #metrics!: RelayMetrics;
  #metricsServer: MetricsServer | undefined;
  #recordings: Recordings | undefined;
  #watch: DescriptorWatch | undefined;
  #forwarder!: Forwarder;
  /** Messenger sessions' while they are recorded. */
  #textForwarder!: Forwarder;
  #stopping: Promise<void> | undefined;
  readonly #hurry = new AbortController();
  #restingSinceMs: number | undefined;
  #rests = 0;
  /** Monotonic milliseconds before which a sink's next failure is not logged. */
  readonly #sinkToldMs = new Map<string, number>();

  private constructor(loaded: LoadedConfig, { log, clock = systemClock }: Surroundings) {
    this.#loaded = loaded;
    this.#log = log;
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

  get metricsAddress(): string {
    const { host, port } = this.#metricsServer!;
    return `${host.includes(':') ? `[${host}]` : host}:${port}`;
  }

  get tls(): boolean {
    return tlsFiles(this.#loaded.config) !== undefined;
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
    const proxies = new TrustedProxies(config.server.trustedProxies);
    ensureFolder(config.server.dataDir);
    const loginKey = loginKeyOf(this.#loaded);
    const path = await choosePath(config, this.#clock);
    this.#forwarder = path.forwarder;
    this.#singleUse = new SingleUseFile({
      path: `${config.server.dataDir}/single-use`,
      clock: this.#clock,
      onProblem: (problem) => this.#log.logger.error({ err: problem }, problem.message),
    });
    const counters = new Counters();
    this.#events = await this.#openEvents(loginKey, hooks);
    this.#metrics = createRelayMetrics(this.#sources(counters), {
      version: packageVersion(),
      nodeVersion: process.version,
    });
    const observer = observe(this.#events, counters, this.#metrics);
    this.#recordings = Recordings.open({
      config: () => this.#loaded.config,
      events: this.#events,
      clock: this.#clock,
      software: `couplet ${packageVersion()}`,
      onProblem: (error, message) => this.#log.logger.error({ err: error }, message),
    });
    this.#recordings?.start();
    this.#textForwarder = path.forwarder.kind === 'portable' ? path.forwarder : new PortableForwarder(this.#clock);
    this.#relay = new Relay(
      relaySettings(config),
      {
        pair: (user, device, greeting, options, onEnd) =>
          (options.recording?.takesText ? this.#textForwarder : this.#forwarder).pair(
            user,
            device,
            greeting,
            options,
            onEnd,
          ),
      },
      observer.relay,
      this.#clock,
      this.#recordings?.recorder,
    );
    const admitter = new Admitter({
      loginKey,
      cookieEncoding: config.auth.cookieEncoding,
      clock: this.#clock,
      singleUse: this.#singleUse,
      allowNoUser: config.auth.allowNoUser,
      signedIds: config.relay.signedIds,
      anonymousDevice: config.messenger.allowAnonymousDevice,
      routing: false,
      knownDomain: () => true,
    });
    const decider = new Decider(admitter, hooks, config.server.allowedOrigins);
    this.#endpoint = new RelayEndpoint({
      relay: this.#relay,
      addon: path.addon,
      decide: (request) => decider.decide(request),
      clientAddress: (claims) => proxies.clientAddress(claims),
      pendingMs: () => this.#loaded.config.auth.pendingMs,
      maxEarlyBytes: () => this.#loaded.config.relay.highWaterBytes,
      accepting: () => this.#stopping === undefined,
      refused: observer.refused,
      limitHit: observer.upgradeLimitHit,
      failed: (error) => this.#log.logger.error({ err: error }, 'an upgrade request could not be decided on'),
    });
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
    const metrics = parseListen(config.server.metricsListen)!;
    this.#metricsServer = await serveMetrics({
      ...metrics,
      scrape: () => this.#metrics.scrape(),
      onError: (error) => this.#log.logger.error({ err: error }, 'the metrics could not be read'),
    });
    this.#listener = new Listener({
      host,
      port,
      tls: tlsFiles(config),
      register: (app, ssl) => {
        this.#endpoint.register(app, ssl, this.#loaded.config.relay.maxMessageBytes);
        registerHttp(app, {
          notReady: () => this.#notReady(),
          scrape: config.server.publicMetrics ? () => this.#metrics.scrape() : undefined,
          failed: (error) => this.#log.logger.error({ err: error }, 'the metrics could not be read'),
        });
      },
    });
    this.#listener.listen();
    this.#watch = new DescriptorWatch(
      (reason) => this.#rest(reason),
      () => this.#wake(),
    );
  }

  async #openEvents(loginKey: LoginKey, hooks: RelayHooks): Promise<Events> {
    const { config } = this.#loaded;
    const sinks: EventSink[] = [
      await openJsonLinesSink({
        folder: config.audit.dir,
        key: loginKey.derive('audit-chain').export(),
        clock: this.#clock,
        maxFileBytes: config.audit.maxFileBytes,
      }),
      createLogSink(this.#log.logger),
    ];
    const { onEvent } = hooks;
    if (onEvent !== undefined) sinks.push({ name: 'hook', write: (event) => onEvent.call(hooks, event) });
    return new Events({
      clock: this.#clock,
      sinks,
      onSinkFailure: (sink, error) => this.#tellSinkFailure(sink, error),
    });
  }

  /** One line per sink and ten seconds; the metric counts them all. */
  #tellSinkFailure(sink: string, error: unknown): void {
    const now = this.#clock.monotonicMs();
    if (now < (this.#sinkToldMs.get(sink) ?? 0)) return;
    this.#sinkToldMs.set(sink, now + 10_000);
    this.#log.logger.error({ sink, err: error }, 'an event sink failed');
  }

  #sources(counters: Counters): Parameters<typeof createRelayMetrics>[0] {
    return {
      relay: () => counters.read(this.#relay),
      forwarders: () => this.#forwarders().map((forwarder) => ({ kind: forwarder.kind, totals: forwarder.totals() })),
      throttledSeconds: () =>
        this.#forwarders().reduce((seconds, forwarder) => seconds + forwarder.totals().throttledSeconds, 0),
      recording: () => this.#recordings?.figures(),
      server: () => ({
        pendingUpgrades: this.#endpoint.pendingUpgrades,
        listenerResting: this.#restingSinceMs !== undefined,
        listenerRests: this.#rests,
      }),
      events: () => ({ events: this.#events.counts, sinkFailures: this.#events.sinkFailures() }),
      droppedLogLines: () => this.#log.droppedLines(),
    };
  }

  #forwarders(): readonly Forwarder[] {
    return this.#forwarder === this.#textForwarder ? [this.#forwarder] : [this.#forwarder, this.#textForwarder];
  }

  #tellPortable(config: Config, why: string): void {
    if (config.relay.forwarder === 'auto') this.#events.forwarderSelfTestFailed(why);
    this.#events.portablePathInUse(why);
  }

  #notReady(): string {
    if (this.#stopping !== undefined) return 'draining';
    if (this.#restingSinceMs !== undefined) return 'no file descriptors left';
    return this.#recordings?.notReady ?? '';
  }

  #rest(reason: string): void {
    this.#restingSinceMs = this.#clock.monotonicMs();
    this.#rests++;
    this.#listener.rest();
    this.#events.listenerResting({ listen: this.address, reason });
  }

  #wake(): void {
    const since = this.#restingSinceMs;
    if (since === undefined || this.#stopping !== undefined) return;
    try {
      this.#listener.wake();
    } catch (error) {
      // Somebody else may have the port for a moment: the next look tries again.
      this.#log.logger.error({ err: error }, 'the listener could not wake');
      setTimeout(() => this.#wake(), 1000).unref();
      return;
    }
    this.#restingSinceMs = undefined;
    this.#events.listenerRecovered({ listen: this.address, restedMs: this.#clock.monotonicMs() - since });
  }

  /** R40: takes over what can change at run time; a certificate that does not work keeps the old one. */
  reload(next: LoadedConfig): void {
    const plan = planReload(this.#loaded, next);
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
      const certificate = new X509Certificate(readFileSync(tls.certFile));
      const notAfterMs = Date.parse(certificate.validTo);
      this.#events.certificateReplaced({ listen: this.address, fingerprint: certificate.fingerprint256, notAfterMs });
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
    this.#watch?.stop();
    await this.#relay.drain(this.#loaded.config.server.drainMs, drainSpreadMs, this.#hurry.signal);
    await this.#endpoint.allClosed(lastCloseMs);
    await this.#closeAll(reason);
  }

  async #closeAll(reason: string): Promise<void> {
    this.#watch?.stop();
    this.#listener?.close();
    await this.#recordings?.stop();
    const uptimeMs = this.#clock.monotonicMs() - this.#startedMs;
    this.#events?.serverStopped({ pid: process.pid, reason, uptimeMs });
    await this.#events?.close();
    await this.#metricsServer?.close();
    this.#singleUse?.close();
    if (this.#forwarder instanceof NativeForwarder) this.#forwarder.release();
  }
}
