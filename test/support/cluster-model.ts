import { Rendezvous } from '../../src/cluster/rendezvous.ts';
import type { Identity } from '../../src/relay/half.ts';
import { Relay } from '../../src/relay/relay.ts';
import { Half } from '../../src/relay/session.ts';
import type { Random } from './random.ts';
import {
  admission,
  defaultSettings,
  deviceIdentity,
  ForwarderDouble,
  ObserverDouble,
  type PairDouble,
  SocketDouble,
  userIdentity,
} from './relay-doubles.ts';

const heartbeatMs = 10_000;

/** What can be left out of the protocol, to see that the model finds it. */
export interface Mutation {
  /** Releases compare the boot, not the fence. */
  readonly releaseIgnoresFence?: boolean;
  /** A claim is taken over whatever stands. */
  readonly takeIgnoresValue?: boolean;
  /** A server that others have taken for dead pairs halves on, without asking. */
  readonly leaseIgnored?: boolean;
}

/** A client's half, wherever links carry it. */
interface Client {
  readonly id: string;
  readonly half: Half;
  readonly server: ModelServer;
  isOpen: boolean;
}

/** Tells of pairs as they start. */
class ModelForwarder extends ForwarderDouble {
  onPair: (pair: PairDouble) => void = () => {};

  override pair(...[user, device, greeting, options, onEnd]: Parameters<ForwarderDouble['pair']>): PairDouble {
    const pair = super.pair(user, device, greeting, options, (end) => {
      onEnd(end);
      for (const socket of [user, device]) (socket as ModelSocket).onClose();
    });
    this.onPair(pair);
    return pair;
  }
}

/** What a half at a link's owner is: a half of another server's, maybe a link itself, and in the end a client's. */
interface Link {
  readonly server: ModelServer;
  readonly owner: ModelServer;
  readonly client: Client;
  readonly from: Half;
}

class ModelServer {
  readonly boot: string;
  readonly forwarder = new ModelForwarder();
  readonly relay: Relay;
  readonly redis = { isUp: true, epoch: 0, beatMs: 0 };
  /** The servers by the last look. */
  known = new Set<string>();
  isAlive = true;
  isFrozen = false;
  /** Its heartbeat has been missed, and has not come yet. */
  isLapsed = false;
  rendezvous!: Rendezvous;
  /** Calls to it that are not answered yet. */
  readonly pending = new Set<() => void>();
  /** Its pairs when it stood still last: nobody could know then that it would go on. */
  before: readonly PairDouble[] = [];

  constructor(boot: string, clock: { monotonicMs(): number; nowMs(): number }) {
    this.boot = boot;
    this.relay = new Relay({ ...defaultSettings, holdMs: 1_000_000 }, this.forwarder, new ObserverDouble(), clock);
  }
}

/** The socket of a half, or of one end of a link: what it is closed with reaches whoever is behind it. */
class ModelSocket extends SocketDouble {
  readonly onClose: () => void;

  constructor(onClose: () => void) {
    super();
    this.onClose = onClose;
  }

  override close(code: number, reason: string): void {
    super.close(code, reason);
    this.onClose();
  }
}

interface Task {
  readonly server: ModelServer | undefined;
  readonly run: () => void;
}

/**
 * Several servers' real rendezvous and relays over a Redis, a network and a clock of the test's: every message is a
 * task, and which one happens next is drawn.
 */
export class ClusterModel {
  readonly servers: ModelServer[] = [];
  readonly clients: Client[] = [];
  readonly #random: Random;
  readonly #mutation: Mutation;
  readonly #redis = new Map<string, string>();
  readonly #registered = new Set<string>();
  #tasks: Task[] = [];
  /** Whether commands to Redis are given up now and then: whoever is on one server may pair without a claim then [K6]. */
  hasDeadlines = false;
  #nowMs = 1;
  /** From a link's half at its owner to the client's half that it stands for. */
  readonly #standsFor = new Map<object, Client>();
  /** Links' ends whose dialler has given up: nobody is behind them. */
  readonly #orphans = new Set<object>();

  constructor(random: Random, servers: number, mutation: Mutation = {}) {
    this.#random = random;
    this.#mutation = mutation;
    const clock = { monotonicMs: () => this.#nowMs, nowMs: () => this.#nowMs };
    for (let i = 0; i < servers; i++) {
      const server = new ModelServer(`boot-${i}`, clock);
      this.servers.push(server);
      this.#registered.add(server.boot);
      server.redis.beatMs = this.#nowMs;
    }
    for (const server of this.servers) {
      server.known = new Set(this.#registered);
      server.rendezvous = this.#rendezvousOf(server, clock);
      server.relay.wider = server.rendezvous;
      server.forwarder.onPair = (pair) => this.#paired(server, pair);
    }
  }

  /** A client comes to a server. */
  arrive(server: ModelServer, id: string, kind: 'user' | 'device'): void {
    if (!server.isAlive) return;
    const identity: Identity = kind === 'user' ? userIdentity() : deviceIdentity();
    const socket = new ModelSocket(() => this.#close(client));
    const client: Client = { id, server, isOpen: true, half: new Half(admission(id, identity), socket) };
    this.#standsFor.set(socket, client);
    this.clients.push(client);
    this.#later(server, () => {
      if (client.isOpen) server.rendezvous.enter(client.half);
    });
  }

  /** A client hangs up. */
  leave(client: Client): void {
    if (client.isOpen) (client.half.socket as ModelSocket).onClose();
  }

  crash(server: ModelServer): void {
    server.isAlive = false;
    for (const fail of server.pending) fail();
    server.rendezvous.stop();
    for (const client of this.clients) if (client.server === server) client.isOpen = false;
    for (const [half, far] of [...this.#links]) {
      if (far.server === server || far.owner === server) this.#linkLost(half);
    }
    // Its entry goes by its time, which others see later still.
    this.#later(undefined, () => this.#registered.delete(server.boot));
  }

  /** Stands still until {@link thaw}: long enough for the others to take it for dead. */
  freeze(server: ModelServer): void {
    server.isFrozen = true;
    for (const fail of server.pending) fail();
    server.isLapsed = true;
    server.before = server.forwarder.pairs.filter(({ running }) => running);
    this.#pass(heartbeatMs + 1);
    this.#registered.delete(server.boot);
  }

  /** Goes on with whatever has come meanwhile, its heartbeat being only one thing of it. */
  thaw(server: ModelServer): void {
    if (!server.isFrozen) return;
    server.isFrozen = false;
    if (this.#mutation.leaseIgnored) server.redis.beatMs = this.#nowMs;
    this.#later(server, () => {
      this.#beat(server).then(
        () => server.rendezvous.sweep(),
        () => {},
      );
    });
  }

  /** A failover that loses claims; the servers see it one after the other. */
  loseClaims(): void {
    for (const key of [...this.#redis.keys()]) if (this.#random.chance(0.7)) this.#redis.delete(key);
    for (const server of this.servers) {
      this.#later(server, () => {
        server.redis.epoch++;
        server.rendezvous.sweep();
      });
    }
  }

  /** Redis does not answer for a while. */
  setRedis(isUp: boolean): void {
    for (const server of this.servers) {
      server.redis.isUp = isUp;
      if (isUp) server.redis.epoch++;
    }
  }

  /** One drawn task; false where there is none. */
  async step(): Promise<boolean> {
    const ready = this.#tasks.filter(({ server }) => server === undefined || !server.isFrozen);
    if (ready.length === 0) return false;
    const task = ready[this.#random.below(ready.length)]!;
    this.#tasks = this.#tasks.filter((other) => other !== task);
    if (task.server === undefined || task.server.isAlive) task.run();
    await settled();
    return true;
  }

  /** Everything that is under way happens, and the servers look after their claims as time passes. */
  async calmDown(): Promise<void> {
    this.setRedis(true);
    for (const server of this.servers) this.thaw(server);
    for (let round = 0; round < 12; round++) {
      for (let steps = 0; await this.step(); steps++) if (steps > 20_000) throw new Error('it never ends');
      this.#pass(2500);
      for (const server of this.servers) if (server.isAlive) server.rendezvous.sweep();
      await settled();
    }
  }

  /** What must never be: two pairs of one id, or a client in two. */
  violation(): string | undefined {
    const pairs = this.#pairs();
    const ids = new Set<string>();
    const seen = new Set<Client>();
    for (const { id, ends } of pairs) {
      if (ids.has(id)) return `two pairs of ${id}`;
      ids.add(id);
      for (const end of ends) {
        if (end === undefined) continue;
        if (seen.has(end)) return `a half of ${id} is in two pairs`;
        seen.add(end);
      }
    }
    return undefined;
  }

  /** What must not be when all is calm: two halves of an id that both still wait. */
  left(): string | undefined {
    const paired = new Set(this.#pairs().flatMap(({ ends }) => ends));
    const waiting = new Map<string, number>();
    for (const client of this.clients) {
      if (!client.isOpen || paired.has(client)) continue;
      waiting.set(client.id, (waiting.get(client.id) ?? 0) + 1);
    }
    for (const [id, count] of waiting) if (count > 1) return `${count} halves of ${id} have not met`;
    for (const { id } of this.#pairs()) if (waiting.has(id)) return `a half waits beside the pair of ${id}`;
    return undefined;
  }

  /** The first pair that started although one of the same id ran on another server that was not standing still. */
  doubled: string | undefined;

  #paired(at: ModelServer, pair: PairDouble): void {
    const id = this.#idOf(pair);
    if (this.#orphans.has(pair.user) || this.#orphans.has(pair.device)) return;
    for (const server of this.servers) {
      if (server === at || !server.isAlive || server.isFrozen) continue;
      const isDouble = this.#pairsOf(server).some((p) => !server.before.includes(p) && this.#idOf(p) === id);
      if (isDouble) this.doubled ??= `${at.boot} pairs ${id} while ${server.boot} has it`;
    }
  }

  #idOf({ user }: PairDouble): string {
    return this.#standsFor.get(user)!.id;
  }

  /** Those whose halves have somebody behind them. */
  #pairsOf({ isAlive, forwarder }: ModelServer): PairDouble[] {
    const isWhole = ({ running, user, device }: PairDouble) =>
      running && !this.#orphans.has(user) && !this.#orphans.has(device);
    return isAlive ? forwarder.pairs.filter(isWhole) : [];
  }

  #pairs(): { id: string; ends: (Client | undefined)[] }[] {
    return this.servers.flatMap((server) =>
      this.#pairsOf(server).map((pair) => {
        const ends = [pair.user, pair.device].map((socket) => this.#standsFor.get(socket));
        return { id: this.#idOf(pair), ends };
      }),
    );
  }

  readonly #links = new Map<Half, Link>();
  readonly #farEnd = new Map<object, Half>();

  #rendezvousOf(server: ModelServer, clock: { monotonicMs(): number; nowMs(): number }): Rendezvous {
    const find = (boot: string) => this.servers.find((other) => other.boot === boot && other.isAlive);
    return new Rendezvous({
      boot: server.boot,
      relay: server.relay,
      store: this.#storeOf(server),
      redis: server.redis,
      servers: {
        has: (boot) => server.known.has(boot),
        refresh: () => this.#beat(server),
      },
      ask: (boot, body) => this.#callServer(server, find(boot), (owner) => owner.rendezvous.expect(server.boot, body)),
      dial: (boot, half, presentation) =>
        this.#callServer(server, find(boot), (owner, isOver) => {
          const client = this.clients.find((one) => one.half === half) ?? this.#standsFor.get(half.socket)!;
          const far: ModelSocket = new ModelSocket(() => this.#linkLost(farHalf));
          const farHalf = new Half(half.admission, far);
          this.#standsFor.set(far, client);
          this.#links.set(farHalf, { server, owner, client, from: half });
          if (isOver) this.#orphans.add(far);
          owner.rendezvous.presented(farHalf, presentation);
          const near = new ModelSocket(() => {
            this.#orphans.add(far);
            this.#later(owner, () => this.#linkLost(farHalf));
          });
          this.#farEnd.set(near, farHalf);
          return near;
        }),
      askResign: (boot, at) => this.#callServer(server, find(boot), (owner) => owner.rendezvous.resign(at)),
      carry: (half, link) => {
        if (!this.#links.has(this.#farEnd.get(link)!)) (half.socket as ModelSocket).onClose();
      },
      challenge: () => 'challenge',
      seal: (key, text) => JSON.stringify({ key, ...text }),
      unseal: (_key, value) => {
        const { key: _, ...text } = JSON.parse(value) as Record<string, unknown>;
        return text;
      },
      clock,
      holdMs: () => 1_000_000,
      heartbeatMs,
      pause: (ms) =>
        new Promise((resolve) => {
          this.#later(server, () => {
            this.#pass(ms);
            resolve();
          });
        }),
    });
  }

  #storeOf(server: ModelServer) {
    const redis = this.#redis;
    const mutation = this.#mutation;
    const bootOf = (value: string | undefined) =>
      value === undefined ? '' : (JSON.parse(value) as { boot: string }).boot;
    return {
      claim: (key: string, value: string) =>
        this.#callRedis(server, () => {
          const standing = redis.get(key);
          if (standing === undefined) redis.set(key, value);
          return standing;
        }),
      take: (key: string, value: string, _ttlMs: number, instead?: string) =>
        this.#callRedis(server, () => {
          const standing = redis.get(key);
          const isFree = standing === undefined || standing === value || standing === instead;
          if (!isFree && !mutation.takeIgnoresValue) return standing;
          redis.set(key, value);
          return undefined;
        }),
      release: (key: string, value: string) =>
        this.#callRedis(server, () => {
          const standing = redis.get(key);
          const isOurs = mutation.releaseIgnoresFence ? bootOf(standing) === bootOf(value) : standing === value;
          if (isOurs) redis.delete(key);
        }),
    };
  }

  /** Renews a server's registration, from the moment it asked for that, and reads the others'. */
  async #beat(server: ModelServer): Promise<void> {
    const sentMs = this.#nowMs;
    const known = await this.#callRedis(server, () => new Set(this.#registered.add(server.boot)));
    server.known = known;
    server.redis.beatMs = Math.max(server.redis.beatMs, sentMs);
    if (!server.isLapsed || this.#nowMs - sentMs >= heartbeatMs) return;
    server.isLapsed = false;
    server.redis.epoch++;
  }

  /** Time passes; who lives and moves has its heartbeats in time, and sees the others'. */
  #pass(ms: number): void {
    this.#nowMs += ms;
    for (const server of this.servers) {
      if (!server.isAlive || server.isFrozen || server.isLapsed) continue;
      server.redis.beatMs = this.#nowMs;
      if (this.#random.chance(0.5)) server.known = new Set(this.#registered);
    }
  }

  #later(server: ModelServer | undefined, run: () => void): void {
    this.#tasks.push({ server, run });
  }

  /** A command may be given up before it is carried out. */
  #callRedis<T>(server: ModelServer, run: () => T): Promise<T> {
    if (!server.redis.isUp) return Promise.reject(new Error('down'));
    return new Promise((resolve, reject) => {
      let isOver = false;
      this.#later(undefined, () => {
        const answer = run();
        this.#later(server, () => {
          if (!isOver) resolve(answer);
        });
      });
      if (!this.hasDeadlines || !this.#random.chance(0.03)) return;
      this.#later(server, () => {
        isOver = true;
        reject(new Error('deadline'));
      });
    });
  }

  #callServer<T>(
    from: ModelServer,
    to: ModelServer | undefined,
    run: (to: ModelServer, isOver: boolean) => T,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      let isOver = false;
      const fail = () => {
        isOver = true;
        to?.pending.delete(fail);
        this.#later(from, () => reject(new Error('unreachable')));
      };
      if (to === undefined || to.isFrozen || this.#random.chance(0.03)) fail();
      if (to === undefined || (isOver && this.#random.chance(0.5))) return;
      to.pending.add(fail);
      this.#later(to, () => {
        const answer = run(to, isOver);
        if (!isOver && this.#random.chance(0.03)) fail();
        to.pending.delete(fail);
        if (!isOver) this.#later(from, () => resolve(answer));
        // Whoever dialled in vain leaves nothing behind.
        else if (answer instanceof ModelSocket) answer.onClose();
      });
    });
  }

  #linkLost(farHalf: Half): void {
    const link = this.#links.get(farHalf);
    if (link === undefined) return;
    this.#links.delete(farHalf);
    this.#later(link.owner, () => {
      this.#endPairOf(link.owner, farHalf);
      link.owner.relay.left(farHalf);
      // One that was carried on takes its next link with it.
      for (const [next, { from }] of [...this.#links]) if (from === farHalf) this.#linkLost(next);
    });
    if (link.from.state === 'linked') (link.from.socket as ModelSocket).onClose();
  }

  #close(client: Client): void {
    if (!client.isOpen) return;
    client.isOpen = false;
    const { half, server } = client;
    this.#endPairOf(server, half);
    this.#later(server, () => server.relay.left(half));
    for (const [farHalf, link] of [...this.#links]) if (link.client === client) this.#linkLost(farHalf);
  }

  #endPairOf({ forwarder }: ModelServer, { socket }: Half): void {
    const pair = forwarder.pairs.find(({ user, device, running }) => running && (user === socket || device === socket));
    if (pair === undefined) return;
    pair.over('normal', 'user');
  }
}

/** All promises that can go on have. */
async function settled(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}
