import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { systemClock } from '../../src/core/clock.ts';
import { adminRights } from '../../src/core/rights.ts';
import type { Device, DeviceGroup, Directory, User } from '../../src/directory/directory.ts';
import { openDirectory } from '../../src/directory/open.ts';
import type { EventRecord } from '../../src/index.ts';
import { blockFlag, blockType } from '../../src/recording/format.ts';
import { RecordingReader } from '../../src/recording/reader.ts';
import { temporaryFolder, until } from './relay.ts';
import { mainFile, root, type ServeChild, type ServeOptions, startServe } from './serve.ts';

/** A line that an agent or a forward prints. */
export interface Said {
  readonly msg: string;
  readonly [field: string]: unknown;
}

/** A running `couplet agent` or `couplet forward`: a process of its own that prints a JSON line for what happens. */
export class CoupletChild {
  readonly child: ChildProcess;
  readonly said: Said[] = [];
  stderr = '';
  readonly exited: Promise<unknown>;
  #ended = false;
  #wanted: (() => void)[] = [];

  constructor(t: TestContext, args: readonly string[], stdin?: string) {
    if (!existsSync(mainFile)) throw new Error('dist/main.js is missing: run "npm run build"');
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('COUPLET_')));
    this.child = spawn(process.execPath, [mainFile, ...args], { cwd: root, env, stdio: ['pipe', 'pipe', 'pipe'] });
    this.child.stdin!.end(stdin ?? '');
    createInterface({ input: this.child.stdout! }).on('line', (line) => {
      this.said.push(JSON.parse(line) as Said);
      this.#wake();
    });
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.exited = once(this.child, 'close').then(() => {
      this.#ended = true;
      this.#wake();
    });
    t.after(() => this.end('SIGKILL'));
  }

  get pid(): number {
    return this.child.pid!;
  }

  #wake(): void {
    for (const wake of this.#wanted.splice(0)) wake();
  }

  /** The first line that satisfies `wanted`, past (from index `since` on) or to come. */
  async line(wanted: (said: Said) => boolean, since = 0): Promise<Said> {
    for (;;) {
      const found = this.said.slice(since).find(wanted);
      if (found !== undefined) return found;
      if (this.#ended) throw new Error(`it ended without the line: ${this.stderr}`);
      await new Promise<void>((resolve) => this.#wanted.push(resolve));
    }
  }

  count(msg: string): number {
    return this.said.filter((said) => said.msg === msg).length;
  }

  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (!this.#ended) this.child.kill(signal);
    await this.exited;
  }

  descriptors(): number {
    return descriptorsOf(this.pid);
  }

  residentBytes(): number {
    return residentBytesOf(this.pid);
  }
}

export function descriptorsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

export function residentBytesOf(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1]) * 1024;
}

/** A forward and its local ports, in the order of its arguments; that of SOCKS last. */
export class ForwardChild extends CoupletChild {
  ports: number[] = [];

  async listens(count: number): Promise<this> {
    for (let i = 0; i < count; i++) {
      const { address } = await this.line((said) => said.msg === 'listening' && !this.ports.includes(portIn(said)));
      this.ports.push(Number(String(address).split(':').at(-1)));
    }
    return this;
  }
}

function portIn({ address }: Said): number {
  return Number(String(address).split(':').at(-1));
}

/** A server with a directory in a process of its own: alice, who may do everything with the devices of one group. */
export class Ground {
  readonly t: TestContext;
  serve: ServeChild;
  readonly directory: Directory;
  readonly alice: User;
  readonly group: DeviceGroup;
  readonly tokenFile: string;
  readonly #options: ServeOptions;

  private constructor(
    t: TestContext,
    options: ServeOptions,
    serve: ServeChild,
    directory: Directory,
    made: { alice: User; group: DeviceGroup; tokenFile: string },
  ) {
    this.t = t;
    this.#options = options;
    this.serve = serve;
    this.directory = directory;
    this.alice = made.alice;
    this.group = made.group;
    this.tokenFile = made.tokenFile;
  }

  static async start(t: TestContext, settings: NonNullable<ServeOptions['settings']> = {}): Promise<Ground> {
    const folder = temporaryFolder(t);
    // A port of its own from the beginning: a server that comes back must be found where it was.
    const port = await freePort();
    const options: ServeOptions = {
      folder,
      settings: { ...settings, server: { listen: `127.0.0.1:${port}`, ...settings.server } },
    };
    const serve = await startServe(t, options);
    const directory = await openDirectory({
      directory: 'sqlite',
      file: join(serve.dataDir, 'directory.sqlite'),
      clock: systemClock,
      onError: (error) => t.diagnostic(String(error)),
    });
    t.after(() => directory.close());
    const alice = await directory.users.create({ name: 'alice', realname: 'Alice A.', password: 'correct horse' });
    const group = await directory.deviceGroups.create({ name: 'lab' });
    await directory.links.grant(alice.id, group.id, adminRights);
    return new Ground(t, options, serve, directory, { alice, group, tokenFile: await tokenFor(t, directory, alice) });
  }

  get url(): string {
    return `http://127.0.0.1:${this.serve.port}`;
  }

  /** Makes a device and starts its agent. */
  async addAgent(name: string, ...args: string[]): Promise<{ agent: CoupletChild; device: Device; state: string }> {
    const { device, join: code } = await this.directory.devices.create({ deviceGroupId: this.group.id, name });
    const state = join(temporaryFolder(this.t), 'state');
    return { agent: await this.runAgent(state, '--join', code.code, ...args), device, state };
  }

  /** Starts the agent of a device, and waits until it is online. */
  async runAgent(state: string, ...args: string[]): Promise<CoupletChild> {
    const agent = new CoupletChild(this.t, ['agent', '--url', this.url, '--state', state, ...args]);
    await agent.line(({ msg }) => msg === 'online');
    return agent;
  }

  /** Starts `couplet forward`, with alice's API token, and waits until it listens on `count` ports. */
  forward(args: readonly string[], count = 1, tokenFile = this.tokenFile): Promise<ForwardChild> {
    return new ForwardChild(this.t, ['forward', ...this.login(tokenFile), ...args]).listens(count);
  }

  login(tokenFile = this.tokenFile): string[] {
    return ['--url', this.url, '--token-file', tokenFile];
  }

  /** Kills the server as a crash would and starts it again: same port, same data. */
  async crash(): Promise<void> {
    this.serve.signal('SIGKILL');
    await this.serve.exited;
    this.serve = await startServe(this.t, this.#options);
  }

  /** The sessions that have ended, in the order of their ends, once there are `count`. */
  async sessions(count: number): Promise<EndedSession[]> {
    const ends = () => this.serve.events().filter(({ code }) => code === 'CPL-1002I');
    await until(() => ends().length >= count, `${count} sessions have ended`, 30_000);
    const starts = new Map(this.serve.events().flatMap((e) => (e.code === 'CPL-1001I' ? [[idOf(e), e]] : [])));
    return ends().map((end) => {
      const start = starts.get(idOf(end));
      if (start === undefined) throw new Error(`session ${idOf(end)} has no start event`);
      return { start, end };
    });
  }

  /** Bytes of binary messages in a session's recording, which becomes complete. */
  async recorded({ end }: EndedSession): Promise<{ up: number; down: number }> {
    const file = join(this.serve.dataDir, 'recordings', String(end.recording));
    await until(() => recordedBytes(file) !== undefined, `${file} is complete`);
    return recordedBytes(file)!;
  }
}

function recordedBytes(file: string): { up: number; down: number } | undefined {
  const reader = RecordingReader.open(file);
  try {
    const sums = { up: 0, down: 0 };
    for (const { type, flags, size } of reader.blocks()) {
      if (type !== blockType.data || (flags & blockFlag.binary) === 0) continue;
      if ((flags & blockFlag.user) === 0) sums.down += size;
      else sums.up += size;
    }
    return reader.end.state === 'complete' ? sums : undefined;
  } finally {
    reader.close();
  }
}

/** A session's start and end event. */
export interface EndedSession {
  readonly start: EventRecord;
  readonly end: EventRecord;
}

function idOf({ msgArgs }: EventRecord): string {
  return (msgArgs as string[])[0]!;
}

/** A file that holds an API token of a user, as people would have it. */
export async function tokenFor(t: TestContext, directory: Directory, user: User): Promise<string> {
  const scopes = ['devices:read', 'tunnels:write', 'sessions:read'];
  const { secret } = await directory.apiTokens.create(user.id, { name: 'test', scopes });
  const file = join(temporaryFolder(t), 'token');
  writeFileSync(file, `${secret}\n`, { mode: 0o600 });
  return file;
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. */
export function run(program: string, args: readonly string[], withinMs = 60_000, cwd = root): Promise<Ran> {
  return new Promise((resolve) => {
    const options = { cwd, timeout: withinMs, killSignal: 'SIGKILL', maxBuffer: 512 * 1024 * 1024 } as const;
    const child = execFile(program, args, options, (_error, stdout, stderr) => {
      resolve({ code: child.exitCode ?? -1, stdout, stderr });
    });
    child.stdin?.end();
  });
}
