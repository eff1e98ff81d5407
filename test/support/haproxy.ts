import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { freePort } from './processes.ts';
import { makeCertificate, temporaryFolder, until } from './relay.ts';

const shippedFile = new URL('../../deploy/haproxy.cfg', import.meta.url);
/** A line of a server in deploy/haproxy.cfg: where it stands, and what follows. */
const serverLine = /^ {4}server relay(\d+) 127\.0\.0\.1:\d+ id (\d+)(.*)$/;

/** One server of the test, as HAProxy is to know it. */
export interface Behind {
  readonly port: number;
  /** Its number in the file: `relayN`, `id N`. Its place in the list, counted from 1, unless told. */
  readonly number?: number;
}

export interface HaproxyOptions {
  readonly servers: readonly (Behind | number)[];
  /** More changes of the file, as a test of a mistake in it makes them. */
  readonly change?: (config: string) => string;
}

/** A running HAProxy that has deploy/haproxy.cfg with the addresses, and the limits, of this test. */
export class Haproxy {
  readonly port: number;
  readonly statusPort: number;
  readonly process: ChildProcess;
  readonly #socket: string;

  constructor(process: ChildProcess, port: number, statusPort: number, socket: string) {
    this.process = process;
    this.port = port;
    this.statusPort = statusPort;
    this.#socket = socket;
  }

  /** Says a line to the stats socket, such as `set server halves/relay1 state drain`; resolves with the answer. */
  async say(command: string): Promise<string> {
    const socket = connect(this.#socket);
    socket.end(`${command}\n`);
    let answer = '';
    socket.setEncoding('utf8').on('data', (text: string) => {
      answer += text;
    });
    await once(socket, 'close');
    return answer.trim();
  }

  /** A server's state as HAProxy has it: `UP`, `DOWN`, `DRAIN`, `MAINT`, with `1/2` behind it between two of them. */
  async state(server: string, backend = 'halves'): Promise<string> {
    const rows = (await this.say('show stat')).split('\n').map((line) => line.split(','));
    const column = rows[0]!.indexOf('status');
    const row = rows.find(([proxy, name]) => proxy === backend && name === server);
    if (row === undefined) throw new Error(`HAProxy has no server ${backend}/${server}`);
    return row[column]!;
  }

  /** Resolves once a server is in a state in which its checks have left it. */
  async awaits(server: string, state: string): Promise<void> {
    await until(async () => (await this.state(server)) === state, `${server} is ${state}`, 20_000);
  }
}

/**
 * The shipped file, changed in nothing but addresses, paths, the servers' lines and limits that need more descriptors
 * than a test has. Throws where one of these is no longer in the file.
 */
export function configFor(
  at: { port: number; statusPort: number; socket: string; pem: string },
  servers: readonly (Behind | number)[],
): string {
  const shipped = readFileSync(shippedFile, 'utf8');
  const replacements: [string, string][] = [
    ['bind :443 ', `bind 127.0.0.1:${at.port} `],
    ['bind 127.0.0.1:8405', `bind 127.0.0.1:${at.statusPort}`],
    ['/etc/haproxy/couplet.pem', at.pem],
    ['/run/haproxy/couplet.sock', at.socket],
    ['maxconn 200000', 'maxconn 5000'],
    ['maxconn 100000', 'maxconn 2500'],
    // Checks of a test need not wait.
    ['inter 2s', 'inter 200ms'],
  ];
  let config = shipped;
  for (const [from, to] of replacements) {
    if (!config.includes(from)) throw new Error(`deploy/haproxy.cfg no longer has ${JSON.stringify(from)}`);
    config = config.replaceAll(from, to);
  }
  const all = servers.map((server, index) =>
    typeof server === 'number' ? { port: server, number: index + 1 } : { number: index + 1, ...server },
  );
  return config.split('\n').flatMap(linesFor(all)).join('\n');
}

/** The first server's line becomes one for each of the test's, the others' go. */
function linesFor(servers: readonly Required<Behind>[]): (line: string) => string[] {
  return (line) => {
    const match = serverLine.exec(line);
    if (match === null) return [line];
    const [, name, id, rest] = match;
    if (name !== id) throw new Error(`deploy/haproxy.cfg: ${line.trim()}: a server's name and its id differ`);
    if (name !== '1') return [];
    return servers.map(({ port, number }) => {
      const tail = rest!.replace(/relay1$/, `relay${number}`);
      return `    server relay${number} 127.0.0.1:${port} id ${number}${tail}`;
    });
  };
}

/**
 * Starts HAProxy with deploy/haproxy.cfg in front of servers on loopback ports, with a certificate of the test's own;
 * it ends with the test. Resolves when it listens and has found every server up.
 */
export async function startHaproxy(t: TestContext, program: string, options: HaproxyOptions): Promise<Haproxy> {
  const folder = temporaryFolder(t);
  const { certFile, keyFile } = makeCertificate(folder);
  const pem = join(folder, 'couplet.pem');
  writeFileSync(pem, readFileSync(certFile, 'utf8') + readFileSync(keyFile, 'utf8'));
  const socket = join(folder, 'stats.sock');
  const [port, statusPort] = [await freePort(), await freePort()];
  const config = configFor({ port, statusPort, socket, pem }, options.servers);
  const file = join(folder, 'haproxy.cfg');
  writeFileSync(file, options.change === undefined ? config : options.change(config));
  execFileSync(program, ['-c', '-q', '-f', file]);
  const child = spawn(program, ['-db', '-q', '-f', file], { stdio: 'ignore' });
  const ended = once(child, 'exit');
  t.after(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const haproxy = new Haproxy(child, port, statusPort, socket);
  await until(() => haproxy.say('show info').then(isAnswer, () => false), 'HAProxy answers');
  for (const [index, server] of options.servers.entries()) {
    const number = typeof server === 'number' ? index + 1 : (server.number ?? index + 1);
    // A server counts as up until its first check: asked for is a check that went well.
    await until(
      async () => /L7OK/.test(await checkOf(haproxy, `relay${number}`)),
      `relay${number} passes its check`,
      20_000,
    );
  }
  return haproxy;
}

function isAnswer(text: string): boolean {
  return text.includes('Name: HAProxy');
}

async function checkOf(haproxy: Haproxy, server: string): Promise<string> {
  const rows = (await haproxy.say('show stat')).split('\n').map((line) => line.split(','));
  const column = rows[0]!.indexOf('check_status');
  return rows.find(([proxy, name]) => proxy === 'halves' && name === server)?.[column] ?? '';
}
