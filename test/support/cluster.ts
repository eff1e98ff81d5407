import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { EventRecord } from '../../src/index.ts';
import { temporaryFolder, until } from './relay.ts';
import { type ServeChild, type ServeOptions, startServe } from './serve.ts';
import { isAlive, sample } from './workers.ts';

export interface ClusterOptions extends Omit<ServeOptions, 'folder' | 'args' | 'env'> {
  readonly redis: string;
  /** How many servers to start with. */
  readonly servers: number;
  /** How a server is started, where not as the others: another network, another place of Redis. */
  readonly eachServer?: (number: number) => Pick<ServeOptions, 'under' | 'settings'> & { readonly redis?: string };
}

/** One server of a cluster: a folder for good, and a process that may end and come again. */
export class ClusterServer {
  readonly number: number;
  readonly folder: string;
  serve!: ServeChild;
  isPaused = false;
  readonly #start: () => Promise<ServeChild>;

  constructor(number: number, folder: string, start: () => Promise<ServeChild>) {
    this.number = number;
    this.folder = folder;
    this.#start = start;
  }

  /** A new boot of it, on a new port. */
  async start(): Promise<void> {
    this.serve = await this.#start();
    this.isPaused = false;
  }

  get port(): number {
    return this.serve.port;
  }

  get isRunning(): boolean {
    return !this.serve.ended && isAlive(this.serve.pid);
  }

  /** As a crash of the machine. */
  async kill(): Promise<void> {
    this.serve.signal('SIGKILL');
    await this.serve.exited;
  }

  pause(): void {
    this.serve.signal('SIGSTOP');
    this.isPaused = true;
  }

  resume(): void {
    this.serve.signal('SIGCONT');
    this.isPaused = false;
  }

  events(): EventRecord[] {
    return this.serve.events();
  }

  async scrape(): Promise<string> {
    const response = await fetch(`http://${this.serve.metricsAddress}/metrics`, {
      headers: { connection: 'close' },
      signal: AbortSignal.timeout(5000),
    });
    return await response.text();
  }

  /** A metric by its name and labels as they stand in the text. */
  async metric(name: string): Promise<number> {
    return sample(await this.scrape(), name);
  }
}

/** Servers of one cluster, each a process with a data folder of its own, all with the same login key. */
export class TestCluster {
  readonly servers: ClusterServer[] = [];
  readonly #t: TestContext;
  readonly #options: ClusterOptions;
  readonly #folder: string;
  #count = 0;
  readonly #key = randomBytes(80).toString('hex');

  constructor(t: TestContext, options: ClusterOptions) {
    this.#t = t;
    this.#options = options;
    // Before their folder goes.
    t.after(() => Promise.all(this.servers.filter(({ isRunning }) => isRunning).map((server) => server.kill())));
    this.#folder = temporaryFolder(t);
  }

  /** Starts one more; it listens, but the others may not know it yet. */
  async add(): Promise<ClusterServer> {
    const number = this.#count++;
    const folder = join(this.#folder, String(number));
    mkdirSync(folder);
    writeFileSync(join(folder, 'key'), this.#key, { mode: 0o600 });
    const server = new ClusterServer(number, folder, () => this.#serve(number, folder));
    await server.start();
    this.servers.push(server);
    return server;
  }

  #serve(number: number, folder: string): Promise<ServeChild> {
    const { redis, servers: _count, eachServer, settings = {}, ...rest } = this.#options;
    const own = eachServer?.(number);
    const all: Record<string, Readonly<Record<string, unknown>>> = { ...settings };
    for (const [group, values] of Object.entries(own?.settings ?? {})) all[group] = { ...all[group], ...values };
    all.cluster = { heartbeatMs: 1000, ...all.cluster };
    all.relay = { upgradesPerAddressPerSecond: 0, maxWaitingPerAddress: 100_000, ...all.relay };
    all.log = { level: 'warn' };
    const listen = all.cluster.linkListen === undefined ? ['--link-listen', '127.0.0.1:0'] : [];
    const args = ['--redis', own?.redis ?? redis, ...listen, '--directory', 'none'];
    const under = own?.under === undefined ? {} : { under: own.under };
    return startServe(this.#t, { ...rest, ...under, folder, settings: all, args });
  }

  /** Those that run and are not paused. */
  get live(): ClusterServer[] {
    return this.servers.filter((server) => server.isRunning && !server.isPaused);
  }

  /** Every server knows every other one, and Redis is up for all. */
  async whole(withinMs: number): Promise<void> {
    let seen = '';
    const isWhole = async () => {
      const { live } = this;
      const texts = await Promise.all(live.map((server) => server.scrape()));
      const figures = texts.map((text) => [
        sample(text, 'couplet_cluster_redis_up'),
        sample(text, 'couplet_cluster_servers'),
      ]);
      seen = JSON.stringify(figures);
      return figures.every(([up, servers]) => up === 1 && servers === live.length);
    };
    await until(isWhole, 'every server knows every other one', withinMs).catch((cause) => {
      throw new Error(`${(cause as Error).message}; [redis_up, servers] of each: ${seen}`, { cause });
    });
  }

  /** A metric of all live servers. */
  async sum(name: string): Promise<number> {
    const all = await Promise.all(this.live.map((server) => server.metric(name)));
    return all.reduce((sum, value) => sum + value, 0);
  }

  /** How often each id's session was started, by the event logs of all servers, dead ones too. */
  starts(): Map<string, number> {
    const counts = new Map<string, number>();
    for (const { code, msgArgs } of this.servers.flatMap((server) => server.events())) {
      if (code !== 'CPL-1001I') continue;
      const [id] = msgArgs as [string];
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    return counts;
  }
}

/** Starts a cluster; it is whole, unless Redis is down. */
export async function startCluster(t: TestContext, options: ClusterOptions, isRedisUp = true): Promise<TestCluster> {
  const cluster = new TestCluster(t, options);
  await Promise.all(Array.from({ length: options.servers }, () => cluster.add()));
  cluster.servers.sort((x, y) => x.number - y.number);
  if (isRedisUp) await cluster.whole(20_000);
  return cluster;
}

/** A TCP stub in front of a server: what goes through it, either way, is late by `delayMs`. */
export class TcpStub {
  delayMs = 0;
  /** Only connections are late that begin with this. */
  only = '';
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
  }

  /** @param t closes it */
  static async start(t: TestContext, target: number, host = '127.0.0.1'): Promise<TcpStub> {
    const server = createServer((from) => stub.#join(from, createConnection({ host: '127.0.0.1', port: target })));
    const stub = new TcpStub(server);
    await new Promise<void>((resolve) => server.listen(0, host, resolve));
    t.after(() => stub.close());
    return stub;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #join(from: Socket, to: Socket): void {
    let isConcerned: boolean | undefined;
    for (const [one, other] of [
      [from, to],
      [to, from],
    ] as const) {
      this.#sockets.add(one);
      one.setNoDelay(true);
      // Whichever breaks, both end; a broken Redis is a broken connection for its client.
      one.on('error', () => one.destroy());
      one.on('close', () => {
        this.#sockets.delete(one);
        other.destroy();
      });
      one.on('data', (chunk) => {
        isConcerned ??= chunk.toString('latin1').startsWith(this.only);
        if (this.delayMs === 0 || !isConcerned) other.write(chunk);
        else setTimeout(() => other.writable && other.write(chunk), this.delayMs);
      });
    }
  }
}

/** The keys of all claims in a Redis server. */
export async function claimsIn(redis: { cli(...args: string[]): Promise<string> }): Promise<string[]> {
  const text = await redis.cli('--scan', '--pattern', 'couplet:claim:*');
  return text === '' ? [] : text.split('\n');
}

/** Most descriptors that a process of this test may have. */
export function descriptorLimit(): number {
  const file = '/proc/self/limits';
  const line = existsSync(file) ? /^Max open files\s+(\d+)/m.exec(readFileSync(file, 'latin1')) : null;
  return line === null ? 1024 : Number(line[1]);
}
