import { createHash } from 'node:crypto';
import { nodeText, type RedisNode } from '../config/redis-url.ts';
import { within } from './deadline.ts';
import { RedisConnection } from './redis-client.ts';
import { type DriverOptions, type RedisDriver, serverIdentity } from './redis-driver.ts';

const slotCount = 16_384;
const maxRedirections = 5;

/** The slot of a key: CRC-16 (XMODEM) modulo 16384. Our keys never hold braces, so the whole key counts. */
export function slotOf(key: string): number {
  let crc = 0;
  for (const byte of Buffer.from(key)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff;
  }
  return crc % slotCount;
}

/** Which master has which slots. */
interface Topology {
  readonly masters: ReadonlyMap<string, RedisNode>;
  /** By slot. */
  readonly owners: readonly (string | undefined)[];
  readonly text: string;
}

type SlotsReply = readonly (readonly [
  from: number,
  to: number,
  master: readonly [string | null, number],
  ...unknown[],
])[];

function topologyOf(reply: SlotsReply, asked: RedisNode): Topology {
  const masters = new Map<string, RedisNode>();
  const owners = new Array<string | undefined>(slotCount).fill(undefined);
  const lines: string[] = [];
  for (const [from, to, [host, port]] of reply) {
    // A server that does not know its own address leaves it out.
    const node = { host: host === null || host === '' || host === '?' ? asked.host : host, port };
    const name = nodeText(node);
    masters.set(name, node);
    owners.fill(name, from, to + 1);
    lines.push(`${from}-${to} ${name}`);
  }
  return { masters, owners, text: lines.sort().join('\n') };
}

async function askTopology(connection: RedisConnection, withinMs: number): Promise<Topology> {
  const asking = connection.send(['CLUSTER', 'SLOTS']);
  const reply = await within(asking, withinMs, `CLUSTER SLOTS of Redis ${nodeText(connection.node)}`);
  const topology = topologyOf(reply as SlotsReply, connection.node);
  if (topology.owners.includes(undefined)) throw new Error('Redis Cluster has slots that no server serves');
  return topology;
}

/**
 * Opens a Redis Cluster by one of the servers that the settings name. All masters are needed: one that is lost counts
 * as Redis being down until its replica stands in for it.
 */
export async function openRedisCluster(options: DriverOptions): Promise<RedisDriver> {
  const problems: string[] = [];
  // In another order each time: a server cut off from the rest would else be asked first for ever.
  for (const node of shuffled(options.target.nodes)) {
    let connection: RedisConnection | undefined;
    try {
      connection = await RedisConnection.open(node, { ...options, onLost: () => undefined });
      return new ClusterDriver(options, await askTopology(connection, options.withinMs));
    } catch (error) {
      problems.push(`${nodeText(node)}: ${(error as Error).message}`);
    } finally {
      connection?.close();
    }
  }
  throw new Error(`no server of the Redis Cluster can be used: ${problems.join('; ')}`);
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, place: Math.random() }))
    .sort((a, b) => a.place - b.place)
    .map(({ item }) => item);
}

class ClusterDriver implements RedisDriver {
  readonly #options: DriverOptions;
  readonly #connections = new Map<string, Promise<RedisConnection>>();
  #topology: Topology;
  #refreshing: Promise<void> | undefined;
  #ended = false;

  constructor(options: DriverOptions, topology: Topology) {
    this.#options = options;
    this.#topology = topology;
  }

  async send(key: string, args: readonly string[]): Promise<unknown> {
    let name = this.#topology.owners[slotOf(key)]!;
    let isAsking = false;
    for (let redirections = 0; ; redirections++) {
      const connection = await this.#connectionTo(name);
      try {
        if (!isAsking) return await connection.send(args);
        // Both are written in this turn, so that nothing comes between them.
        const [, reply] = await Promise.all([connection.send(['ASKING']), connection.send(args)]);
        return reply;
      } catch (error) {
        const redirection = /^(MOVED|ASK) \d+ (\S*):(\d+)$/.exec((error as Error).message);
        if (redirection === null || redirections >= maxRedirections) throw error;
        const [, word, host, port] = redirection;
        name = nodeText({ host: host === '' ? connection.node.host : host!, port: Number(port) });
        isAsking = word === 'ASK';
        if (!isAsking) await this.#refresh(connection);
      }
    }
  }

  async identity(): Promise<string> {
    const [first] = [...this.#topology.masters.keys()].sort();
    await this.#refresh(await this.#connectionTo(first!));
    const { masters, text } = this.#topology;
    const identities = await Promise.all(
      [...masters.keys()].sort().map(async (name) => {
        const identity = await serverIdentity(await this.#connectionTo(name), this.#options.withinMs);
        if (!identity.includes('role:master')) throw new Error(`Redis ${name} is no master any more`);
        return identity;
      }),
    );
    return createHash('sha256')
      .update([text, ...identities].join('\n'))
      .digest('hex');
  }

  close(): void {
    this.#ended = true;
    for (const name of [...this.#connections.keys()]) this.#drop(name);
  }

  /** Learns the slots anew; one at a time. */
  #refresh(connection: RedisConnection): Promise<void> {
    this.#refreshing ??= askTopology(connection, this.#options.withinMs)
      .then((topology) => {
        this.#topology = topology;
        for (const name of [...this.#connections.keys()]) if (!topology.masters.has(name)) this.#drop(name);
      })
      .finally(() => {
        this.#refreshing = undefined;
      });
    return this.#refreshing;
  }

  #connectionTo(name: string): Promise<RedisConnection> {
    const known = this.#connections.get(name);
    if (known !== undefined) return known;
    if (this.#ended) return Promise.reject(new Error('the connection is closed'));
    const node = this.#topology.masters.get(name) ?? nodeOfText(name);
    const opening = RedisConnection.open(node, { ...this.#options, onLost: (error) => this.#lost(error) });
    this.#connections.set(name, opening);
    opening.catch((error: Error) => this.#lost(error));
    return opening;
  }

  #drop(name: string): void {
    const opening = this.#connections.get(name);
    this.#connections.delete(name);
    opening?.then(
      (connection) => connection.close(),
      () => undefined,
    );
  }

  #lost(error: Error): void {
    if (this.#ended) return;
    this.close();
    this.#options.onLost(error);
  }
}

/** The node of an address as {@link nodeText} writes it; one that redirections name may not be in the topology yet. */
function nodeOfText(name: string): RedisNode {
  const colon = name.lastIndexOf(':');
  return { host: name.slice(0, colon).replace(/^\[(.*)\]$/, '$1'), port: Number(name.slice(colon + 1)) };
}
