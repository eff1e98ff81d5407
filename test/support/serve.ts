import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { CookieSealer, type EventRecord, LoginKey, systemClock } from '../../src/index.ts';
import type { QueryOptions } from './relay.ts';

export const root: string = fileURLToPath(new URL('../..', import.meta.url));
export const mainFile: string = join(root, 'dist', 'main.js');

/** Settings of this machine must not leak into a child: tests give what they mean. */
function cleanEnvironment(env: Readonly<Record<string, string>> = {}): Record<string, string | undefined> {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('COUPLET_') && name !== 'NODE_OPTIONS');
  return { ...Object.fromEntries(own), ...env };
}

export interface Finished {
  /** Exit code; -1 where a signal ended it. */
  readonly code: number;
  readonly signal: string;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `couplet ARGS` to its end; one that does not end is killed after `withinMs`. */
export function couplet(
  args: readonly string[],
  options: Pick<ServeOptions, 'env' | 'mainFile'> & { readonly cwd?: string; readonly withinMs?: number } = {},
): Promise<Finished> {
  if (!existsSync(mainFile)) throw new Error('dist/main.js is missing: run "npm run build"');
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [options.mainFile ?? mainFile, ...args],
      {
        cwd: options.cwd ?? root,
        env: cleanEnvironment(options.env),
        timeout: options.withinMs ?? 20_000,
        killSignal: 'SIGKILL',
        maxBuffer: 64 * 1024 * 1024,
      },
      (_error, stdout, stderr) => {
        resolve({ code: child.exitCode ?? -1, signal: child.signalCode ?? '', stdout, stderr });
      },
    );
  });
}

export interface LogLine {
  readonly msg: string;
  readonly level: string;
  readonly [field: string]: unknown;
}

export interface ServeOptions {
  /** Configuration file by group; server addresses, data folder and login key file are filled in. */
  readonly settings?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Program and arguments that start node, as `['prlimit', '--nofile=256']`. */
  readonly under?: readonly string[];
  /** The folder of an earlier child: same configuration file's place, data folder and login key. */
  readonly folder?: string;
  /** Another build's entry than this one's `dist/main.js`. */
  readonly mainFile?: string;
  /** Scratch program file that is loaded into the child before Couplet (`--import`). */
  readonly preload?: string;
}

/** A running `couplet serve`: a process of its own, with free ports and a folder of its own. */
export class ServeChild {
  readonly child: ChildProcess;
  readonly folder: string;
  readonly lines: LogLine[] = [];
  /** Lines on stdout that are no JSON: there must never be one. */
  readonly strayLines: string[] = [];
  stderr = '';
  readonly exited: Promise<{ code: number; signal: string }>;
  readonly sealer: CookieSealer;
  #ended = false;
  #wanted: (() => void)[] = [];

  constructor(child: ChildProcess, folder: string, loginKey: LoginKey) {
    this.child = child;
    this.folder = folder;
    this.sealer = new CookieSealer(loginKey, systemClock, 'base64');
    createInterface({ input: child.stdout! }).on('line', (line) => {
      try {
        this.lines.push(JSON.parse(line) as LogLine);
      } catch {
        this.strayLines.push(line);
      }
      this.#wake();
    });
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.exited = once(child, 'close').then(([code, signal]) => {
      this.#ended = true;
      this.#wake();
      return { code: (code as number | null) ?? -1, signal: (signal as string | null) ?? '' };
    });
  }

  get pid(): number {
    return this.child.pid!;
  }
  get ended(): boolean {
    return this.#ended;
  }
  get dataDir(): string {
    return join(this.folder, 'data');
  }
  get eventsDir(): string {
    return join(this.dataDir, 'events');
  }
  get configFile(): string {
    return join(this.folder, 'couplet.yaml');
  }
  get listening(): LogLine {
    return this.lines.find(({ msg }) => msg === 'listening')!;
  }
  get address(): string {
    return String(this.listening.address);
  }
  get port(): number {
    return Number(this.address.slice(this.address.lastIndexOf(':') + 1));
  }
  get metricsAddress(): string {
    return String(this.listening.metricsAddress);
  }
  get tls(): boolean {
    return this.listening.tls === true;
  }

  #wake(): void {
    for (const wake of this.#wanted.splice(0)) wake();
  }

  /** The first log line that satisfies `wanted`, past or to come; rejects where the process ends without it. */
  async line(wanted: (line: LogLine) => boolean): Promise<LogLine> {
    for (;;) {
      const found = this.lines.find(wanted);
      if (found !== undefined) return found;
      if (this.#ended) throw new Error(`the process ended without the line; stderr: ${this.stderr}`);
      await new Promise<void>((resolve) => this.#wanted.push(resolve));
    }
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name);
  }

  /** Writes the configuration file anew, as {@link startServe} does; a text is written as it is. */
  configure(settings: ServeOptions['settings'] | string): void {
    writeConfig(this.folder, settings ?? {});
  }

  path(side: 'user' | 'device', id: string, query: QueryOptions = {}, user = 'alice'): string {
    const cookie =
      side === 'user'
        ? { auth: this.sealer.seal({ userid: `user//${user}`, domainid: '' }) }
        : { rauth: this.sealer.seal({ ruserid: `user//${user}` }) };
    const parameters = Object.entries({ ...cookie, id, ...query });
    return `/relay?${parameters.map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`).join('&')}`;
  }

  url(side: 'user' | 'device', id: string, query: QueryOptions = {}, user = 'alice'): string {
    return `${this.tls ? 'wss' : 'ws'}://127.0.0.1:${this.port}${this.path(side, id, query, user)}`;
  }

  /** Events on record, in order; a torn last line is left out. */
  events(): EventRecord[] {
    return readEvents(this.eventsDir);
  }

  async metric(name: string): Promise<number> {
    const response = await fetch(`http://${this.metricsAddress}/metrics`, { headers: { connection: 'close' } });
    const line = (await response.text()).split('\n').find((text) => text.startsWith(`${name} `));
    return line === undefined ? 0 : Number(line.slice(name.length + 1));
  }

  /** `couplet audit verify` of this server's event log, with its own login key, and its directory as witness. */
  verify(path: string = this.eventsDir): Promise<Finished> {
    const key = join(this.folder, 'key');
    return couplet(['audit', 'verify', path, '--login-key-file', key, '--config', this.configFile]);
  }

  descriptors(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  /** Resident memory, bytes. */
  residentBytes(): number {
    const line = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${this.pid}/status`, 'latin1'));
    return Number(line![1]) * 1024;
  }

  /** CPU time of the process so far, milliseconds. */
  cpuMs(): number {
    const fields = readFileSync(`/proc/${this.pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10;
  }
}

/** Events of a folder's event files, in order. */
export function readEvents(folder: string): EventRecord[] {
  return readdirSync(folder)
    .filter((name) => /^events-\d+\.jsonl$/.test(name))
    .sort()
    .flatMap((name) => readFileSync(join(folder, name), 'utf8').split('\n').slice(0, -1))
    .map((line) => JSON.parse(line) as EventRecord)
    .filter(({ code }) => code !== undefined);
}

function writeConfig(folder: string, settings: NonNullable<ServeOptions['settings']> | string): void {
  if (typeof settings === 'string') return writeFileSync(join(folder, 'couplet.yaml'), settings);
  const defaults: NonNullable<ServeOptions['settings']> = {
    server: {
      listen: '127.0.0.1:0',
      metricsListen: '127.0.0.1:0',
      dataDir: join(folder, 'data'),
      drainMs: 500,
    },
    auth: { loginKeyFile: join(folder, 'key') },
    relay: { upgradesPerAddressPerSecond: 0 },
  };
  const all: Record<string, unknown> = { ...defaults };
  for (const [group, values] of Object.entries(settings)) all[group] = { ...defaults[group], ...values };
  writeFileSync(join(folder, 'couplet.yaml'), JSON.stringify(all));
}

/** Starts `couplet serve` and waits until it listens; ended with the test, with its folder. */
export async function startServe(t: TestContext, options: ServeOptions = {}): Promise<ServeChild> {
  if (!existsSync(mainFile)) throw new Error('dist/main.js is missing: run "npm run build"');
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), 'couplet-serve-'));
  const keyFile = join(folder, 'key');
  if (!existsSync(keyFile)) writeFileSync(keyFile, randomBytes(80).toString('hex'), { mode: 0o600 });
  writeConfig(folder, options.settings ?? {});
  const preload = options.preload === undefined ? [] : ['--import', writePreload(folder, options.preload)];
  const [program = process.execPath, ...before] =
    options.under === undefined ? [] : [...options.under, process.execPath];
  const args = [
    ...preload,
    options.mainFile ?? mainFile,
    'serve',
    '--config',
    join(folder, 'couplet.yaml'),
    ...(options.args ?? []),
  ];
  const child = spawn(program, [...before, ...args], {
    cwd: root,
    env: cleanEnvironment(options.env),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const serve = new ServeChild(child, folder, LoginKey.readFile(keyFile));
  t.after(async () => {
    if (!serve.ended) child.kill('SIGKILL');
    await serve.exited;
    if (options.folder === undefined) rmSync(folder, { recursive: true, force: true });
  });
  await serve.line(({ msg }) => msg === 'listening');
  return serve;
}

function writePreload(folder: string, text: string): string {
  const file = join(folder, 'preload.mjs');
  writeFileSync(file, text);
  return file;
}
