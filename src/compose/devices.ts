import { join } from 'node:path';
import type { AgentPresence, AgentState } from '../api/parts.ts';
import type { HeadsWitness } from '../audit/heads-witness.ts';
import type { ShareGrant } from '../auth/admission-types.ts';
import { CookieSealer } from '../auth/cookie.ts';
import type { ShareCookie } from '../auth/cookie-kinds.ts';
import type { LoginKey } from '../auth/keys.ts';
import { IdSigner, pairingIdOf } from '../auth/signed-id.ts';
import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import { DirectoryEventSink } from '../directory/event-sink.ts';
import { openDirectory } from '../directory/open.ts';
import type { DeviceFigures } from '../metrics/sources.ts';
import { closeCodes } from '../protocol/close-codes.ts';
import { isMessengerId } from '../protocol/relay-query.ts';
import type { KnownParties, RecordingSelection } from '../recording/policy.ts';
import type { Admission } from '../relay/half.ts';
import type { Relay } from '../relay/relay.ts';
import type { Session } from '../relay/session.ts';
import type { AgentSocket } from '../routing/agent-channel.ts';
import { type AgentObserver, Agents } from '../routing/agents.ts';
import { Revocation, type RevocationParts } from '../routing/revocation.ts';
import { TunnelRights } from '../routing/rights.ts';
import { type TunnelObserver, Tunnels } from '../routing/tunnel.ts';
import { directoryWitness } from './audit-heads.ts';
import { ClusterDevices, type DeviceCluster } from './cluster-devices.ts';
import type { DirectoryDecisions } from './decide.ts';
import { ownHosts } from './own-hosts.ts';

export interface DevicesParts {
  /** The configuration in use. */
  readonly config: () => Config;
  readonly loginKey: LoginKey;
  readonly clock: Clock;
  /** Something that is no event and should be looked into. */
  readonly onProblem: (error: unknown, message: string) => void;
}

/** What the routing part tells. */
export type RoutingObserver = AgentObserver & Pick<RevocationParts, 'revoked'> & { readonly tunnels: TunnelObserver };

export interface RoutingParts {
  readonly relay: Relay;
  readonly observer: RoutingObserver;
  /** What the server listens on, once it does. */
  readonly listening: () => { readonly host: string; readonly port: number };
  /** [K4] The cluster that this server is of, where it is of one. */
  readonly cluster?: DeviceCluster | undefined;
}

const dayMs = 86_400_000;
const pruneMs = 3_600_000;
const pruneBatch = 1000;
/** How often the directory is asked whether it answers, and how long it may take. */
const pingMs = 5000;

/** Everything about devices in a server: the directory, the agents that are connected, routed sessions, revocation. */
export class Devices implements DirectoryDecisions {
  readonly directory: Awaited<ReturnType<typeof openDirectory>>;
  /** [K8] A word that only servers with the same directory have. */
  readonly directoryId: string;
  agents!: Agents;
  readonly #parts: DevicesParts;
  readonly #rights: TunnelRights;
  /** Domains of the directory; the configuration's are known besides. */
  #domains: ReadonlySet<string> = new Set();
  #tunnels!: Tunnels;
  #revocation!: Revocation;
  /** Resolves when agents that lost their key in a change are closed. */
  #rechecked: Promise<void> = Promise.resolve();
  #cluster: ClusterDevices | undefined;
  #sink: DirectoryEventSink | undefined;
  #unsubscribe = () => {};
  #pruner: NodeJS.Timeout | undefined;
  #answers = true;
  #pinger: NodeJS.Timeout | undefined;
  #pinging = false;

  /** Opens the directory. @throws CoupletError of `openDirectory` */
  static async open(parts: DevicesParts): Promise<Devices> {
    const { directory: kind, server } = parts.config();
    const directory = await openDirectory({
      directory: kind,
      file: join(server.dataDir, 'directory.sqlite'),
      clock: parts.clock,
      onError: (error) => parts.onProblem(error, 'the directory had trouble'),
    });
    const devices = new Devices(directory, parts, await directory.identity());
    await devices.#readDomains();
    return devices;
  }

  private constructor(directory: Devices['directory'], parts: DevicesParts, directoryId: string) {
    this.directoryId = directoryId;
    this.directory = directory;
    this.#parts = parts;
    this.#rights = new TunnelRights(directory, () => parts.config().routing.requireRelayRight);
  }

  /** [R31] Takes the events into the database; `undefined` where there is none. */
  eventSink(): DirectoryEventSink | undefined {
    if (!this.routes) return undefined;
    this.#sink ??= new DirectoryEventSink({ events: this.directory.events });
    return this.#sink;
  }

  /** [R31] Keeps the heads of the event log; `undefined` where there is no database. */
  headsWitness(): HeadsWitness | undefined {
    const sink = this.eventSink();
    return sink && directoryWitness(this.directory, sink);
  }

  /** Whether there are devices at all: `none` knows no users and no devices [T3]. */
  get routes(): boolean {
    return this.directory.kind !== 'none';
  }

  /** Why routed sessions cannot be had, for `/readyz`; empty where they can. */
  get notReady(): string {
    return this.#answers ? '' : 'the directory does not answer';
  }

  figures(agentsRefused: ReadonlyMap<string, number>): DeviceFigures {
    const { size = 0, hits = 0, misses = 0 } = this.directory.cache ?? {};
    const { count = 0, pending = 0 } = this.agents ?? {};
    return {
      agentsOnline: count,
      agentsPending: pending,
      agentsRefused,
      cacheEntries: size,
      cacheHits: hits,
      cacheMisses: misses,
    };
  }

  /** [K4] For figures; `undefined` where this server stands alone. */
  get cluster():
    | Pick<ClusterDevices, 'tunnelsUnsent' | 'reportsLost' | 'changesUnanswered' | 'agentsUntold'>
    | undefined {
    return this.#cluster;
  }

  /** Starts what stands on relay and events. */
  start({ relay, observer, listening, cluster }: RoutingParts): void {
    const { config, loginKey, clock } = this.#parts;
    const sealer = new CookieSealer(loginKey, clock, config().auth.cookieEncoding);
    const signer = new IdSigner(loginKey, clock);
    const failed = (error: unknown) => this.#parts.onProblem(error, 'the directory could not be asked');
    this.agents = new Agents({
      serverId: loginKey.derive('server-id').export().toString('base64url'),
      heartbeatMs: config().agents.heartbeatMs,
      clock,
      directory: {
        get: (nodeid) => this.directory.devices.get(nodeid),
        joinKey: (joinId) => this.directory.devices.joinKey(joinId),
        enrol: (joinId, publicKey) => this.directory.devices.enrol(joinId, publicKey),
        seen: (nodeid) => this.directory.devices.seen(nodeid),
      },
      observer: {
        ...observer,
        online: (agent) => {
          observer.online(agent);
          this.#cluster?.online(agent);
        },
        offline: (agent, reason) => {
          observer.offline(agent, reason);
          this.#cluster?.presence.offline(agent.nodeid);
        },
        report: (agent, report) => {
          observer.report(agent, report);
          this.#cluster?.reported(agent.nodeid, report);
          this.#tunnels.reported(agent.nodeid, report);
        },
      },
      isOwnHost: (host) => {
        const at = listening();
        return ownHosts(at.host, at.port, config().agents.hosts).has(host);
      },
    });
    this.#tunnels = new Tunnels({
      rights: this.#rights,
      observer: observer.tunnels,
      send: (nodeid, command, at) => (this.#cluster ?? this.agents).send(nodeid, command, at),
      seal: (content) => sealer.seal(content),
      clock,
      idFor: (id) => (config().relay.signedIds ? signer.sign(id) : id),
      idOf: (named) => (config().relay.signedIds ? pairingIdOf(named) : named),
      join: (half, settled) => {
        if (cluster !== undefined) return cluster.join(half, settled);
        relay.join(half);
        settled?.();
      },
      turnAway: (half, { outcome, code, reason }) => relay.turnAway(half, outcome, code, reason),
      waitingAt: (at) => relay.pairing.waitingAt(at),
    });
    this.#revocation = new Revocation({
      rights: this.#rights,
      sessions: () => relay.sessions(),
      isRunning: (session) => relay.isRunning(session),
      revoked: observer.revoked,
      waiting: () => relay.waiting(),
      turnAway: (half) => relay.turnAway(half, 'revoked', closeCodes.revoked, 'revoked'),
      carried: () => cluster?.links.carried() ?? [],
      endCarried: async (halves) => cluster?.links.revoke(halves),
      failed,
    });
    if (cluster !== undefined) {
      this.#cluster = new ClusterDevices({
        ...{ cluster, clock, failed },
        agents: this.agents,
        tunnels: this.#tunnels,
        applyChanges: () => this.#applyChanges(),
      });
    }
    this.#unsubscribe = this.directory.onChange((change) => {
      void this.#revocation.changed(change);
      if (change.all || change.devices.length > 0) {
        const recheck = this.agents.recheck(change.all ? undefined : change.devices).catch(failed);
        this.#rechecked = this.#rechecked.then(() => recheck);
      }
      if (change.all || change.domains.length > 0) this.#readDomains().catch(failed);
    });
    this.#pinger = setInterval(() => void this.#ping(), pingMs).unref();
    this.#pruner = setInterval(() => void this.#prune(), pruneMs).unref();
  }

  /** An agent's WebSocket is open. */
  connected(socket: AgentSocket, address: string): { heard(text: string): void; closed(): void } {
    const channel = this.agents.connected(socket, address);
    return { heard: (text) => channel.heard(text), closed: () => this.agents.closed(channel) };
  }

  /** [K4] Where the agents of these devices are connected; in the same order. */
  async online(nodeids: readonly string[]): Promise<AgentState[]> {
    const elsewhere = nodeids.filter((nodeid) => this.agents.get(nodeid) === undefined);
    const states = (await this.#cluster?.states(elsewhere)) ?? [];
    const found = new Map(elsewhere.map((nodeid, at) => [nodeid, states[at]]));
    return nodeids.map((nodeid) => this.#presence(nodeid) ?? found.get(nodeid) ?? 'offline');
  }

  /** [T4][K4] What was changed here is applied on every server when this resolves; after 1 s at the latest. */
  async spreadChanges(): Promise<void> {
    if (this.routes) await this.#cluster?.spreadChanges();
  }

  #presence(nodeid: string): AgentPresence | undefined {
    const agent = this.agents.get(nodeid);
    return agent && { address: agent.address, sinceMs: agent.sinceMs, ...agent.facts };
  }

  async #applyChanges(): Promise<void> {
    await this.directory.catchUp();
    await Promise.all([this.#revocation.settled(), this.#rechecked]);
  }

  /** [R1] */
  knowsDomain(domain: string): boolean {
    return !this.routes || this.#domains.has(domain) || Object.hasOwn(this.#parts.config().domains, domain);
  }

  /** [T15] On whose behalf the guest comes; whether the share opens this target is judged when it is routed. */
  async resolveShare({ publicId, nodeid }: ShareCookie): Promise<ShareGrant> {
    const state = await this.directory.shares.check(publicId, nodeid);
    return state.ok ? { userid: state.share.createdBy } : undefined;
  }

  async login(token: string): Promise<{ readonly userid: string; readonly username: string } | undefined> {
    const found = await this.directory.loginSessions.verify(token);
    return found === undefined ? undefined : { userid: found.user.id, username: found.user.name };
  }

  standing(half: Admission): ReturnType<DirectoryDecisions['standing']> {
    return this.#rights.standing(half);
  }

  /** [T5] Judged again where the directory changed meanwhile: revocation looks at halves that are in already. */
  async route(half: Admission): ReturnType<DirectoryDecisions['route']> {
    for (;;) {
      const { generation } = this.#revocation;
      const permit = await this.#tunnels.judge(half);
      if (generation === this.#revocation.generation) return (open) => this.#tunnels.enter(open, permit);
    }
  }

  /**
   * [T5] With an id of its own, `nodeid` and `p` may describe a session that others have arranged. Not where the device
   * is this directory's: there nobody else sends its agent, and nobody may name it who has no right to it.
   */
  named(half: Parameters<DirectoryDecisions['named']>[0]): ReturnType<DirectoryDecisions['named']> {
    const { identity, nodeid, id } = half;
    if (!this.routes || identity.kind !== 'user' || nodeid === '' || isMessengerId(id)) return undefined;
    return this.directory.access(identity.userid, nodeid).then(({ deviceGroupId }) => {
      const routing = { nodeid, transport: 'none', port: 0, address: '' } as const;
      return deviceGroupId === '' ? undefined : { ...half, routing };
    });
  }

  answer(half: Admission): ReturnType<DirectoryDecisions['answer']> {
    return this.#tunnels.answer(half);
  }

  sessionStarting(session: Session): void {
    if (this.routes) this.#revocation.started(session);
  }

  /** [R33][R34] What recordings need to know. */
  async parties({ domain, userid, nodeid }: Session): Promise<KnownParties> {
    const [access, policy] = await Promise.all([
      this.directory.access(userid, nodeid),
      this.directory.domains.get(domain),
    ]);
    const { userGroupIds, deviceGroupId, deviceName } = access;
    const selects = Object.values(policy?.recording ?? {}).some((list) => list !== undefined);
    const selection = selects ? (policy?.recording as RecordingSelection) : undefined;
    return { userGroupIds, deviceGroupId, deviceName, selection };
  }

  /** No agent is kept, none comes; sessions go on. */
  stopAgents(): void {
    this.agents?.stop();
  }

  /** After the events' sinks are closed. */
  async close(): Promise<void> {
    this.#unsubscribe();
    clearInterval(this.#pinger);
    clearInterval(this.#pruner);
    this.agents?.stop();
    await this.#cluster?.presence.close();
    await this.directory.close();
  }

  async #readDomains(): Promise<void> {
    this.#domains = new Set((await this.directory.domains.list()).map(({ id }) => id));
  }

  async #ping(): Promise<void> {
    if (this.#pinging) {
      this.#answers = false;
      return;
    }
    this.#pinging = true;
    try {
      await this.directory.ping();
      this.#answers = true;
    } catch {
      this.#answers = false; // `/readyz` says so; who needed it was told why
    }
    this.#pinging = false;
  }

  /** Old events leave the database a few at a time: nobody waits long. */
  async #prune(): Promise<void> {
    const { databaseDays } = this.#parts.config().audit;
    if (databaseDays === 0 || !this.routes) return;
    const olderThanMs = this.#parts.clock.nowMs() - databaseDays * dayMs;
    try {
      while ((await this.directory.events.prune(olderThanMs, pruneBatch)) === pruneBatch);
    } catch (error) {
      this.#parts.onProblem(error, 'old events could not be taken out of the directory');
    }
  }
}
