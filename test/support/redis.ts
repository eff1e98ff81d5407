import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import { freePort } from './processes.ts';
import { until } from './relay.ts';
import { findProgram, requireProgram } from './services.ts';

const run = promisify(execFile);

export interface RedisServerOptions {
  /** Password of the user `default`. */
  readonly password?: string;
  /** An ACL user besides; `default` is off then. Rules as `~* +@all`. */
  readonly user?: { readonly name: string; readonly password: string; readonly rules: string };
  /** Files of a certificate and its key: TLS only. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string };
  /** Further lines of its configuration. */
  readonly lines?: readonly string[];
  /** Runs as a sentinel. */
  readonly sentinel?: boolean;
}

/** A redis-server (or sentinel) of a test's own: a folder and a loopback port of its own, nothing saved. */
export class RedisServer {
  readonly port: number;
  readonly folder: string;
  readonly #program: string;
  readonly #options: RedisServerOptions;
  #child: ChildProcess | undefined;

  private constructor(program: string, port: number, folder: string, options: RedisServerOptions) {
    this.#program = program;
    this.port = port;
    this.folder = folder;
    this.#options = options;
  }

  /** @param t ends it, and shows its log where the test failed */
  static async start(t: TestContext, options: RedisServerOptions = {}, extra: readonly string[] = []) {
    const port = await freePort();
    const folder = mkdtempSync(join(tmpdir(), 'couplet-redis-'));
    const { password, user, tls, sentinel, lines = [] } = options;
    const config = [
      'bind 127.0.0.1',
      ...(tls === undefined
        ? [`port ${port}`]
        : [
            'port 0',
            `tls-port ${port}`,
            `tls-cert-file ${tls.certFile}`,
            `tls-key-file ${tls.keyFile}`,
            'tls-auth-clients no',
          ]),
      `dir ${folder}`,
      `logfile ${join(folder, 'log')}`,
      'protected-mode no',
      ...(sentinel === true ? [] : ['save ""', 'appendonly no', 'repl-diskless-sync-delay 0']),
      ...(password === undefined ? [] : [`requirepass ${password}`]),
      ...(user === undefined ? [] : ['user default off', `user ${user.name} on >${user.password} ${user.rules}`]),
      ...lines,
      ...extra,
    ];
    writeFileSync(join(folder, 'redis.conf'), `${config.join('\n')}\n`);
    const program = findProgram(sentinel === true ? 'redis-sentinel' : 'redis-server')!;
    const server = new RedisServer(program, port, folder, options);
    t.after(async () => {
      await server.kill();
      if ((t as { passed?: boolean }).passed === false) t.diagnostic(`log of redis on ${port}:\n${server.log()}`);
      rmSync(folder, { recursive: true, force: true });
    });
    await server.#run();
    return server;
  }

  get pid(): number {
    return this.#child!.pid!;
  }

  get isAlive(): boolean {
    return this.#child?.exitCode === null && this.#child.signalCode === null;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Its URL, with the user and password that it wants. */
  get url(): string {
    const { password, user, tls } = this.#options;
    const login = user !== undefined ? `${user.name}:${user.password}@` : password !== undefined ? `:${password}@` : '';
    return `${tls === undefined ? 'redis' : 'rediss'}://${login}${this.address}`;
  }

  log(): string {
    const file = join(this.folder, 'log');
    return existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(-60).join('\n') : '';
  }

  /** Runs a command by redis-cli; gives what it prints. */
  async cli(...args: string[]): Promise<string> {
    const { password, user, tls } = this.#options;
    const login =
      user !== undefined
        ? ['--user', user.name, '--pass', user.password]
        : password !== undefined
          ? ['--pass', password]
          : [];
    const secure = tls === undefined ? [] : ['--tls', '--insecure'];
    const all = ['-p', String(this.port), '--no-auth-warning', ...login, ...secure, ...args];
    const { stdout } = await run(findProgram('redis-cli')!, all, { timeout: 20_000 });
    return stdout.trim();
  }

  /** Ends it as a crash would. */
  kill(): Promise<void> {
    return this.#end('SIGKILL');
  }

  /** Ends it in order. */
  stop(): Promise<void> {
    return this.#end('SIGTERM');
  }

  pause(): void {
    this.#child!.kill('SIGSTOP');
  }

  resume(): void {
    this.#child!.kill('SIGCONT');
  }

  /** Starts it again on its port after `kill` or `stop`: empty, for nothing was saved. */
  async start(): Promise<void> {
    await this.#run();
  }

  async restart(): Promise<void> {
    await this.kill();
    await this.start();
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    // A paused process takes SIGTERM only once it goes on.
    child.kill('SIGCONT');
    await ended;
  }

  async #run(): Promise<void> {
    const out = openSync(join(this.folder, 'out'), 'a');
    const args = [join(this.folder, 'redis.conf')];
    const child = spawn(this.#program, args, { stdio: ['ignore', out, out] });
    closeSync(out);
    this.#child = child;
    await until(async () => {
      if (child.exitCode !== null)
        throw new Error(`redis has ended: ${readFileSync(join(this.folder, 'out'), 'utf8')}`);
      return await this.cli('PING').then(
        (text) => text === 'PONG',
        () => false,
      );
    }, `redis on ${this.port} answers`);
  }
}

/** Starts a Redis server; `undefined` where the program is missing: then the test is skipped and must end. */
export async function startRedis(t: TestContext, options: RedisServerOptions = {}): Promise<RedisServer | undefined> {
  if (requireProgram(t, 'redis-server') === undefined) return undefined;
  return await RedisServer.start(t, options);
}

export interface RedisSentinels {
  readonly url: string;
  /** The first master and its replica. */
  readonly servers: readonly [RedisServer, RedisServer];
  readonly sentinels: readonly RedisServer[];
  readonly masterName: string;
}

/** A master, a replica and three sentinels that fail over about a second after the master is gone. */
export async function startSentinel(t: TestContext): Promise<RedisSentinels | undefined> {
  if (requireProgram(t, 'redis-server') === undefined || requireProgram(t, 'redis-sentinel') === undefined) {
    return undefined;
  }
  const master = await RedisServer.start(t);
  const replica = await RedisServer.start(t, {}, [`replicaof 127.0.0.1 ${master.port}`]);
  const link = async () => (await replica.cli('INFO', 'replication')).includes('master_link_status:up');
  await until(link, 'the replica follows its master', 20_000);
  const watch = [
    `sentinel monitor main 127.0.0.1 ${master.port} 2`,
    'sentinel down-after-milliseconds main 1000',
    'sentinel failover-timeout main 3000',
    'sentinel parallel-syncs main 1',
  ];
  const sentinels = await Promise.all([1, 2, 3].map(() => RedisServer.start(t, { sentinel: true }, watch)));
  const complete = async () => {
    const views = await Promise.all(sentinels.map((sentinel) => sentinel.cli('SENTINEL', 'MASTER', 'main')));
    return views.every((view) => /num-other-sentinels\n2\n/.test(view) && /num-slaves\n1\n/.test(view));
  };
  await until(complete, 'the sentinels know each other', 30_000);
  const url = `redis+sentinel://${sentinels.map(({ address }) => address).join(',')}/main`;
  return { url, servers: [master, replica], sentinels, masterName: 'main' };
}

export interface RedisClusterServers {
  readonly url: string;
  /** Masters first, as they were made. */
  readonly servers: readonly RedisServer[];
  /** The server that serves a key now. */
  ownerOf(key: string): Promise<RedisServer>;
}

/** A Redis Cluster that fails over about two seconds after a master is gone. */
export async function startRedisCluster(
  t: TestContext,
  masters = 3,
  replicas = 1,
): Promise<RedisClusterServers | undefined> {
  if (requireProgram(t, 'redis-server') === undefined) return undefined;
  const count = masters * (1 + replicas);
  const servers = await Promise.all(
    Array.from({ length: count }, async () =>
      RedisServer.start(t, {}, [
        'cluster-enabled yes',
        'cluster-config-file nodes.conf',
        'cluster-node-timeout 2000',
        // The bus; by default the port plus 10,000, which may be none.
        `cluster-port ${await freePort()}`,
      ]),
    ),
  );
  const addresses = servers.map(({ address }) => address);
  const flags = ['--cluster-replicas', String(replicas), '--cluster-yes'];
  await run(findProgram('redis-cli')!, ['--cluster', 'create', ...addresses, ...flags], { timeout: 60_000 });
  const complete = async () => {
    const views = await Promise.all(servers.map((server) => server.cli('CLUSTER', 'INFO')));
    const roles = await Promise.all(servers.map((server) => server.cli('INFO', 'replication')));
    const following = roles.filter((role) => role.includes('master_link_status:up')).length;
    return views.every((view) => view.includes('cluster_state:ok')) && following === masters * replicas;
  };
  await until(complete, 'the Redis Cluster is whole', 60_000);
  const ownerOf = async (key: string) => {
    const alive = servers.filter((server) => server.isAlive);
    const slot = Number(await alive[0]!.cli('CLUSTER', 'KEYSLOT', key));
    const lines = (await alive[0]!.cli('CLUSTER', 'NODES')).split('\n');
    const has = (range: string) => {
      const [from, to = from] = range.split('-').map(Number);
      return slot >= from! && slot <= to!;
    };
    const line = lines.find((text) => text.includes('master') && text.split(' ').slice(8).some(has));
    return servers.find(({ port }) => line?.includes(`127.0.0.1:${port}@`))!;
  };
  return { url: `redis+cluster://${addresses.slice(0, 3).join(',')}`, servers, ownerOf };
}
