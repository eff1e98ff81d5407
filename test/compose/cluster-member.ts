import { type KeyObject, randomBytes } from 'node:crypto';
import type { TestContext } from 'node:test';
import type { LiveSessions } from '../../src/api/parts.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { clusterSessions } from '../../src/compose/cluster-sessions.ts';
import { Devices } from '../../src/compose/devices.ts';
import { localSessions } from '../../src/compose/live-sessions.ts';
import { loadConfig } from '../../src/config/load.ts';
import { type Clock, systemClock } from '../../src/core/clock.ts';
import { adminRights } from '../../src/core/rights.ts';
import type { Device, DeviceGroup, Directory, User } from '../../src/directory/directory.ts';
import { readServerMessage, type ServerMessage, writeMessage } from '../../src/protocol/agent-messages.ts';
import {
  joinCodeId,
  joinCodeKey,
  mintDeviceKey,
  proveJoin,
  signAuthenticate,
  signEnrol,
} from '../../src/protocol/agent-proofs.ts';
import type { TunnelCommand } from '../../src/protocol/tunnel-command.ts';
import { Relay } from '../../src/relay/relay.ts';
import { Half } from '../../src/relay/session.ts';
import {
  type Kept,
  PeerNetwork,
  type PeersDouble,
  RedisDouble,
  ServersDouble,
  sealing,
} from '../cluster/presence-doubles.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import {
  admission,
  defaultSettings,
  deviceIdentity,
  ForwarderDouble,
  ObserverDouble,
  SocketDouble,
  userIdentity,
} from '../support/relay-doubles.ts';

export type DoubleHalf = Half & { readonly socket: SocketDouble };

/** Several servers on one directory, in one process: real devices, relays and directories; doubles between them. */
export class TestCluster {
  readonly network = new PeerNetwork();
  readonly kept: Kept = new Map();
  readonly members: Member[] = [];
  readonly #t: TestContext;
  readonly #folder: string;
  readonly #loginKey = LoginKey.parse(randomBytes(80).toString('hex'));
  alice!: User;
  group!: DeviceGroup;

  private constructor(t: TestContext) {
    this.#t = t;
    this.#folder = temporaryFolder(t);
  }

  static async start(t: TestContext, { signedIds = false } = {}): Promise<TestCluster> {
    const cluster = new TestCluster(t);
    for (const boot of ['A', 'B', 'C']) await cluster.#add(boot, signedIds);
    const { directory } = cluster.members[0]!;
    cluster.alice = await directory.users.create({ name: 'alice' });
    cluster.group = await directory.deviceGroups.create({ name: 'lab' });
    await directory.links.grant(cluster.alice.id, cluster.group.id, adminRights);
    for (const { servers } of cluster.members) await servers.refresh();
    return cluster;
  }

  async #add(boot: string, signedIds: boolean): Promise<void> {
    const settings = {
      server: { dataDir: this.#folder },
      auth: { loginKey: this.#loginKey.toHex() },
      directory: 'sqlite',
      relay: { signedIds },
    };
    const { config } = loadConfig({ env: {}, settings });
    const failures: unknown[] = [];
    const devices = await Devices.open({
      config: () => config,
      loginKey: this.#loginKey,
      clock: systemClock,
      onProblem: (error) => failures.push(error),
    });
    const member = new Member(boot, devices, this.network, this.kept, failures);
    this.members.push(member);
    this.#t.after(() => member.close());
  }

  async device(name = 'box'): Promise<{ device: Device; join: string }> {
    const { directory } = this.members[0]!;
    const { device, join } = await directory.devices.create({ deviceGroupId: this.group.id, name });
    return { device, join: join.code };
  }

  /** A device with its agent on this server, known to all of them. */
  async agentOn(member: Member, name = 'box'): Promise<AgentDouble> {
    const { join } = await this.device(name);
    const agent = await AgentDouble.enrol(member, join);
    await until(() => this.kept.size > 0, 'it stands in Redis');
    return agent;
  }
}

/** One server of a cluster, without network. */
export class Member {
  readonly boot: string;
  readonly devices: Devices;
  readonly peers: PeersDouble;
  readonly redis: RedisDouble;
  readonly servers: ServersDouble;
  readonly forwarder = new ForwarderDouble();
  readonly observer = new ObserverDouble();
  readonly relay: Relay;
  readonly sessions: LiveSessions;
  /** What routing told, a word or more each. */
  readonly told: string[] = [];
  readonly failures: unknown[];
  /** Halves that are carried to other servers, and what was said of them. */
  readonly carried: Half[] = [];
  readonly revokedLinks: Half[] = [];
  /** Who joins waits for it, and is not there before; then it says whether the half is carried to another server. */
  claiming: (() => Promise<'here' | 'linked'>) | undefined;

  constructor(boot: string, devices: Devices, network: PeerNetwork, kept: Kept, failures: unknown[]) {
    this.boot = boot;
    this.devices = devices;
    this.failures = failures;
    this.peers = network.join(boot);
    this.redis = new RedisDouble(kept);
    this.servers = new ServersDouble(network);
    const clock: Clock = systemClock;
    this.relay = new Relay(defaultSettings, this.forwarder, this.observer, clock);
    this.sessions = clusterSessions(localSessions(this.relay, clock, devices.directory), this.peers);
    const { relay, told, peers, redis, servers } = this;
    devices.start({
      relay,
      listening: () => ({ host: '127.0.0.1', port: 8080 }),
      observer: {
        online: ({ nodeid }) => told.push(`online ${nodeid}`),
        offline: (_agent, reason) => told.push(`offline ${reason}`),
        enrolled: () => {},
        replaced: (_agent, by) => told.push(`replaced by ${by}`),
        refused: (_address, _nodeid, reason) => told.push(`agent refused ${reason}`),
        report: () => {},
        failed: (error) => failures.push(error),
        revoked: (_session, reason) => told.push(`revoked ${reason}`),
        tunnels: {
          sent: () => told.push('sent'),
          refused: (_half, reason) => told.push(`refused ${reason}`),
          failed: (_half, { reason }) => told.push(`failed ${reason}`),
        },
      },
      cluster: {
        ...{ boot, peers, store: redis, redis, servers, ...sealing },
        links: {
          carried: () => this.carried.values(),
          revoke: async (halves) => void this.revokedLinks.push(...halves),
        },
        join: (half, settled) => this.#join(half, settled),
      },
    });
  }

  get directory(): Directory {
    return this.devices.directory;
  }

  #join(half: Half, settled: (() => void) | undefined): void {
    const done = (where: 'here' | 'linked') => {
      if (where === 'linked') {
        half.state = 'linked';
        this.carried.push(half);
      } else if (half.state === 'new') this.relay.join(half);
      settled?.();
    };
    if (this.claiming === undefined) done('here');
    else void this.claiming().then(done);
  }

  /** A user half that is to be routed to a device's port 22. */
  async user(of: User, nodeid: string, id: string): Promise<DoubleHalf> {
    const routing = { nodeid, transport: 'tcp', port: 22, address: '127.0.0.1' } as const;
    const identity = { ...userIdentity(of.name), userid: of.id };
    const half = new Half(admission(id, identity, { nodeid, routing }), new SocketDouble()) as DoubleHalf;
    (await this.devices.route(half.admission))(half);
    return half;
  }

  /** A device half, as an agent opens it for a tunnel command. */
  device(of: User, id: string): DoubleHalf {
    const half = new Half(
      admission(id, { ...deviceIdentity(of.name), userid: of.id }),
      new SocketDouble(),
    ) as DoubleHalf;
    const enter = this.devices.answer(half.admission);
    if (enter === undefined) this.#join(half, undefined);
    else enter(half);
    return half;
  }

  async close(): Promise<void> {
    await this.relay.drain(0, 0, AbortSignal.abort());
    await this.devices.close();
  }
}

/** An agent's end of a control channel. */
export class AgentDouble {
  readonly nodeid: string;
  readonly keys: { privateKey: KeyObject; publicKey: string };
  readonly messages: ServerMessage[];
  readonly closes: { code: number; reason: string }[];
  readonly say: (message: Parameters<typeof writeMessage>[0]) => void;
  readonly leave: () => void;

  private constructor(fields: Pick<AgentDouble, 'nodeid' | 'keys' | 'messages' | 'closes' | 'say' | 'leave'>) {
    this.nodeid = fields.nodeid;
    this.keys = fields.keys;
    this.messages = fields.messages;
    this.closes = fields.closes;
    this.say = fields.say;
    this.leave = fields.leave;
  }

  static enrol(member: Member, code: string): Promise<AgentDouble> {
    return AgentDouble.#open(member, mintDeviceKey(), '192.0.2.1', (context, { privateKey, publicKey }) => ({
      type: 'enrol',
      joinId: joinCodeId(code),
      joinProof: proveJoin(joinCodeKey(code), context, publicKey),
      publicKey,
      signature: signEnrol(privateKey, context),
    }));
  }

  /** The same device, from another address, on another connection. */
  again(member: Member, address = '192.0.2.2'): Promise<AgentDouble> {
    const { nodeid } = this;
    return AgentDouble.#open(member, this.keys, address, (context, { privateKey }) => ({
      type: 'authenticate',
      nodeid,
      signature: signAuthenticate(privateKey, context, nodeid),
    }));
  }

  static async #open(
    member: Member,
    keys: AgentDouble['keys'],
    address: string,
    prove: (context: { host: string; serverId: string; challenge: string }, keys: AgentDouble['keys']) => object,
  ): Promise<AgentDouble> {
    const messages: ServerMessage[] = [];
    const closes: AgentDouble['closes'] = [];
    const socket = {
      sendText(text: string) {
        const read = readServerMessage(text);
        if (!read.ok) throw new Error(`the server said what it must not: ${text}`);
        messages.push(read.message);
      },
      close: (code: number, reason: string) => void closes.push({ code, reason }),
      terminate: () => void closes.push({ code: 1006, reason: '' }),
    };
    const channel = member.devices.connected(socket, address);
    const hello = messages.shift();
    if (hello === undefined || 'action' in hello || hello.type !== 'hello') throw new Error('no hello');
    const host = '127.0.0.1:8080';
    const facts = { hostname: 'box.example', platform: 'linux', version: '1.0.0', capabilities: ['tcp'] };
    const proof = prove({ host, serverId: hello.serverId, challenge: hello.challenge }, keys);
    channel.heard(JSON.stringify({ ...proof, host, facts }));
    await until(() => messages.length > 0, 'the agent is answered');
    const accepted = messages.shift()!;
    if ('action' in accepted || accepted.type !== 'accepted') throw new Error(`not accepted: ${accepted.type}`);
    return new AgentDouble({
      nodeid: accepted.nodeid,
      keys,
      messages,
      closes,
      say: (message) => channel.heard(writeMessage(message)),
      leave: () => channel.closed(),
    });
  }

  /** The tunnel commands it was sent. */
  get commands(): TunnelCommand[] {
    return this.messages.filter((message) => 'action' in message);
  }
}
