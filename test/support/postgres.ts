import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { freePort } from './processes.ts';
import { findProgram } from './services.ts';

const packaged = '/usr/lib/postgresql';

/** A program of PostgreSQL's: in PATH, or where Debian's package has it. */
function programOf(name: string): string | undefined {
  const versions = existsSync(packaged) ? readdirSync(packaged).sort((a, b) => Number(b) - Number(a)) : [];
  const files = versions.map((version) => join(packaged, version, 'bin', name));
  return findProgram(name) ?? files.find((file) => existsSync(file));
}

/** True where a PostgreSQL server can be started. */
export function hasPostgres(): boolean {
  return programOf('initdb') !== undefined && programOf('postgres') !== undefined;
}

/** PostgreSQL refuses to run as root: then it runs as the user of its package. */
function account(): { uid: number; gid: number } | Record<string, never> {
  if (process.getuid?.() !== 0) return {};
  const id = (flag: string) => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }));
  return { uid: id('-u'), gid: id('-g') };
}

/** A PostgreSQL server of a test's own: its own data folder, a free loopback port. */
export class Postgres {
  readonly port: number;
  readonly #folder: string;
  #child: ChildProcess;
  #databases = 0;

  private constructor(folder: string, port: number, child: ChildProcess) {
    this.#folder = folder;
    this.port = port;
    this.#child = child;
  }

  static async start(): Promise<Postgres> {
    const folder = mkdtempSync(join(tmpdir(), 'couplet-postgres-'));
    const as = account();
    if (as.uid !== undefined) chownSync(folder, as.uid, as.gid!);
    const data = join(folder, 'data');
    const flags = ['-D', data, '-U', 'couplet', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'];
    execFileSync(programOf('initdb')!, flags, { ...as, cwd: folder, stdio: 'pipe' });
    const port = await freePort();
    const server = new Postgres(folder, port, run(data, port, folder));
    await server.#answers();
    return server;
  }

  /** The URL of a new, empty database. */
  async database(): Promise<string> {
    const name = `couplet${++this.#databases}`;
    await this.query(`create database ${name}`);
    return `postgres://couplet@127.0.0.1:${this.port}/${name}`;
  }

  /** A statement in a session of its own. @param url a database; the server's own unless told */
  async query(text: string, url = `postgres://couplet@127.0.0.1:${this.port}/postgres`): Promise<pg.QueryResult> {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      return await client.query(text);
    } finally {
      await client.end();
    }
  }

  /** Stops the server as a crash would, and starts it again on the same port. */
  async restart(): Promise<void> {
    await this.crash();
    await this.resume();
  }

  async crash(): Promise<void> {
    await this.#end('SIGQUIT');
  }

  async resume(): Promise<void> {
    this.#child = run(join(this.#folder, 'data'), this.port, this.#folder);
    await this.#answers();
  }

  async stop(): Promise<void> {
    await this.#end('SIGINT');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill(signal);
    await ended;
  }

  async #answers(): Promise<void> {
    for (;;) {
      const answered = await this.query('select 1').then(
        () => true,
        () => false,
      );
      if (answered) return;
      assert.ok(this.#child.exitCode === null && this.#child.signalCode === null, 'postgres has ended');
      await delay(50);
    }
  }
}

function run(data: string, port: number, folder: string): ChildProcess {
  const settings = [`listen_addresses=127.0.0.1`, `port=${port}`, 'unix_socket_directories=', 'fsync=off'];
  const flags = ['-D', data, ...settings.flatMap((setting) => ['-c', setting])];
  return spawn(programOf('postgres')!, flags, { ...account(), cwd: folder, stdio: ['ignore', 'ignore', 'ignore'] });
}
