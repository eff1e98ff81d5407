import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { after, afterEach, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { mintId } from '../../src/core/ids.ts';
import { requireProgram } from '../support/services.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'dist', 'main.js');
const folder = mkdtempSync(join(tmpdir(), 'couplet-e2e-pipe-'));
const data = join(folder, 'data');
const MiB = 1024 * 1024;

const running = new Set<ChildProcess>();
function start(program: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  const child = spawn(program, args, { cwd: root, ...options });
  running.add(child);
  child.on('close', () => running.delete(child));
  child.stdin?.on('error', () => undefined); // a command that ended early is seen in its status
  return child;
}

async function statusOf(child: ChildProcess): Promise<number> {
  const [code] = await once(child, 'close');
  return code;
}

interface LogLine {
  readonly msg: string;
  readonly address: string;
  readonly metricsAddress: string;
  readonly action?: string;
  readonly msgArgs?: readonly string[];
  readonly outcome?: string;
}

/** A running `couplet serve` and what it has logged. */
let relay: { child: ChildProcess; url: string; metricsUrl: string; ended(id: string): Promise<LogLine> };

before(async () => {
  assert.ok(existsSync(main), 'dist/main.js is missing: run "npm run build"');
  const flags = ['--listen', '127.0.0.1:0', '--metrics-listen', '127.0.0.1:0', '--data', data, '--directory', 'none'];
  const child = start(process.execPath, [main, 'serve', ...flags], { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines: LogLine[] = [];
  const log = createInterface({ input: child.stdout! });
  log.on('line', (line) => lines.push(JSON.parse(line)));
  const find = async (wanted: (line: LogLine) => boolean) => {
    for (;;) {
      const line = lines.find(wanted);
      if (line) return line;
      await once(log, 'line');
    }
  };
  const { address, metricsAddress } = await find(({ msg }) => msg === 'listening');
  relay = {
    child,
    url: `ws://${address}/relay`,
    metricsUrl: `http://${metricsAddress}/metrics`,
    ended: (id) => find(({ outcome, msgArgs }) => outcome !== undefined && msgArgs?.[0] === id),
  };
});
afterEach(() => {
  for (const child of running) if (child !== relay.child) child.kill('SIGKILL');
});
after(async () => {
  relay.child.kill('SIGTERM');
  await once(relay.child, 'close');
  rmSync(folder, { recursive: true });
});

/** The arguments of node for one `couplet pipe`. */
function pipe(side: 'user' | 'device', id: string): string[] {
  const key = ['--login-key-file', join(data, 'login.key')];
  return [main, 'pipe', '--url', relay.url, '--id', id, ...key, '--as', `${side}:user//demo`];
}

/** The device half of a session, connected to a TCP server of this machine: its input and output are that socket. */
function bridge(id: string, port: number): { status: Promise<number>; errors: Promise<string> } {
  const shell = `exec "$@" <>/dev/tcp/127.0.0.1/${port} >&0`;
  const child = start('bash', ['-c', shell, 'bash', process.execPath, ...pipe('device', id)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return { status: statusOf(child), errors: text(child.stderr!) };
}

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

/** A file of random bytes; returns its SHA-256. */
function writeRandomFile(path: string, megabytes: number): string {
  const noise = createCipheriv('aes-128-ctr', randomBytes(16), Buffer.alloc(16));
  const zeros = Buffer.alloc(MiB);
  const hash = createHash('sha256');
  const file = openSync(path, 'wx', 0o600);
  for (let written = 0; written < megabytes; written++) {
    const piece = noise.update(zeros);
    hash.update(piece);
    writeSync(file, piece);
  }
  closeSync(file);
  return hash.digest('hex');
}

test('[R22] [R24] 120 MiB of random bytes each way at once through two pipes arrive whole', async () => {
  const id = mintId();
  const [left, right] = [join(folder, 'left'), join(folder, 'right')];
  const sums = [writeRandomFile(left, 120), writeRandomFile(right, 121)];
  // One end has a file and a socket as its standard streams, the other two pipes.
  const input = openSync(left, 'r');
  const user = start(process.execPath, pipe('user', id), { stdio: [input, 'pipe', 'pipe'] });
  closeSync(input);
  const shell = `set -o pipefail; cat ${right} | "$@" | sha256sum`;
  const device = start('bash', ['-c', shell, 'bash', process.execPath, ...pipe('device', id)]);
  const [errors, deviceErrors, deviceSum] = [user.stderr!, device.stderr!, device.stdout!].map((from) => text(from));
  const statuses = [statusOf(user), statusOf(device)];
  const hash = createHash('sha256');
  for await (const chunk of user.stdout!) hash.update(chunk);
  assert.equal(hash.digest('hex'), sums[1]);
  assert.equal((await deviceSum!).split(' ')[0], sums[0]);
  assert.deepEqual(await Promise.all([...statuses, errors, deviceErrors]), [0, 0, '', '']);
  assert.equal((await relay.ended(id)).outcome, 'normal');
});

test('[R20] [T11] each direction ends on its own through the real relay', async () => {
  const id = mintId();
  const user = start(process.execPath, pipe('user', id));
  const device = start(process.execPath, pipe('device', id));
  const statuses = [statusOf(user), statusOf(device)];
  user.stdin!.end('question');
  assert.equal(await text(device.stdout!), 'question');
  device.stdin!.end('answer');
  assert.equal(await text(user.stdout!), 'answer');
  assert.deepEqual(await Promise.all(statuses), [0, 0]);
  assert.equal((await relay.ended(id)).outcome, 'normal');
});

test('[R18] [R27] a third half is told that the id is taken; the pair goes on', async () => {
  const id = mintId();
  const user = start(process.execPath, pipe('user', id));
  const device = start(process.execPath, pipe('device', id));
  const statuses = [statusOf(user), statusOf(device)];
  user.stdin!.write('a');
  assert.equal(String((await once(device.stdout!, 'data'))[0]), 'a');
  const third = start(process.execPath, pipe('user', id));
  const line = text(third.stderr!);
  assert.equal(await statusOf(third), 1);
  assert.match(await line, /^couplet pipe: the session id is already in use \(close code 4409\b[^\n]*\)\n$/);
  user.stdin!.end('b');
  device.stdin!.end();
  assert.equal(await text(device.stdout!), 'b');
  user.stdout!.resume();
  assert.deepEqual(await Promise.all(statuses), [0, 0]);
});

async function waitingHalves(): Promise<number> {
  const page = await (await fetch(relay.metricsUrl)).text();
  return Number(/^couplet_halves\{state="waiting"\} (\d+)$/m.exec(page)?.[1]);
}

test('[R15] SIGTERM while waiting: status 1 at once, and the place is free again', async () => {
  const id = mintId();
  const waiting = start(process.execPath, pipe('user', id));
  const line = text(waiting.stderr!);
  const status = statusOf(waiting);
  while ((await waitingHalves()) !== 1) await new Promise((resolve) => setTimeout(resolve, 20));
  waiting.kill('SIGTERM');
  assert.equal(await status, 1);
  assert.match(await line, /^couplet pipe: ended by SIGTERM [^\n]*\n$/);
  const user = start(process.execPath, pipe('user', id));
  const device = start(process.execPath, pipe('device', id));
  user.stdin!.end();
  device.stdin!.end('late');
  assert.equal(await text(user.stdout!), 'late');
});

test('[R22] curl through two pipes to an HTTP server: 20 MiB up and down, and a small request', async (t) => {
  const curl = requireProgram(t, 'curl');
  if (curl === undefined) return;
  const http = createHttpServer((request, response) => {
    response.setHeader('connection', 'close');
    request.pipe(response);
  });
  const httpPort = await listen(http);
  const ends: Promise<number | string>[] = [];
  // Every connection of curl is a session of its own, and itself the standard input and output of its pipe.
  const local = createServer({ pauseOnConnect: true }, (socket: Socket) => {
    const id = mintId();
    const device = bridge(id, httpPort);
    const user = start(process.execPath, pipe('user', id), { stdio: [socket, socket, 'pipe'] });
    socket.destroy(); // this process's copy of the descriptor
    ends.push(statusOf(user), text(user.stderr!), device.status, device.errors);
  });
  const url = `http://127.0.0.1:${await listen(local)}/`;
  const [sent, received] = [join(folder, 'sent'), join(folder, 'received')];
  const sum = writeRandomFile(sent, 20);
  for (const args of [
    ['--data-binary', `@${sent}`, '-H', 'Expect:', '-o', received],
    ['--data-binary', 'hello'],
  ]) {
    const child = start(curl, ['-q', '-sS', '--noproxy', '*', '--max-time', '60', ...args, url]);
    const [out, errors] = [text(child.stdout!), text(child.stderr!)];
    const outcome = [await statusOf(child), await errors];
    // Only a failure waits here: what the pipes say is its cause.
    if (outcome[0] !== 0) assert.deepEqual([...outcome, ...(await Promise.all(ends))], [0, '', 0, '', 0, '']);
    if (args.includes('-o')) assert.equal(createHash('sha256').update(readFileSync(received)).digest('hex'), sum);
    else assert.equal(await out, 'hello');
  }
  assert.deepEqual(await Promise.all(ends), [0, '', 0, '', 0, '', 0, '']);
  local.close();
  http.close();
});

/** A private sshd on a free loopback port, with keys of its own. */
async function startSshd(sshd: string): Promise<{ port: number; client: string[] }> {
  const ssh = join(folder, 'ssh');
  mkdirSync(ssh, { mode: 0o700 });
  // What the package's service does before it starts its daemon, and sshd insists on when it runs as root.
  if (userInfo().uid === 0) mkdirSync('/run/sshd', { recursive: true, mode: 0o755 });
  for (const name of ['host', 'user']) {
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', join(ssh, name)]);
  }
  const free = createServer();
  const port = await listen(free);
  free.close();
  await once(free, 'close');
  const config = [
    ...['ListenAddress 127.0.0.1', `Port ${port}`, `HostKey ${join(ssh, 'host')}`, 'PidFile none', 'UsePAM no'],
    ...[`AuthorizedKeysFile ${join(ssh, 'user.pub')}`, 'StrictModes no', 'AuthenticationMethods publickey'],
  ];
  writeFileSync(join(ssh, 'sshd_config'), `${config.join('\n')}\n`);
  const daemon = start(sshd, ['-D', '-e', '-f', join(ssh, 'sshd_config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  daemon.stderr!.on('data', (piece) => {
    log += piece;
  });
  while (!(await answers(port))) {
    assert.equal(daemon.exitCode, null, `sshd did not start: ${log}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  writeFileSync(join(ssh, 'known_hosts'), `couplet-test ${readFileSync(join(ssh, 'host.pub'), 'utf8')}`);
  const options = [
    ...[`UserKnownHostsFile=${join(ssh, 'known_hosts')}`, 'GlobalKnownHostsFile=/dev/null', 'BatchMode=yes'],
    ...['StrictHostKeyChecking=yes', 'IdentitiesOnly=yes', 'IdentityAgent=none', 'LogLevel=ERROR'],
  ];
  return {
    port,
    client: ['-F', 'none', '-i', join(ssh, 'user'), ...options.flatMap((option) => ['-o', option])],
  };
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'data'); // its banner
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

test('[R22] [T11] an ssh session runs through two pipes: data both ways, exit status, a clean end', async (t) => {
  const [sshd, ssh] = [requireProgram(t, 'sshd'), requireProgram(t, 'ssh')];
  if (sshd === undefined || ssh === undefined) return;
  const { port, client } = await startSshd(sshd);
  const content = randomBytes(20 * MiB);
  const sum = createHash('sha256').update(content).digest('hex');
  for (const { command, input, output, status } of [
    { command: 'sha256sum', input: content, output: `${sum}  -\n`, status: 0 },
    { command: 'echo here; exit 7', input: '', output: 'here\n', status: 7 },
  ]) {
    const id = mintId();
    const device = bridge(id, port);
    const proxy = [process.execPath, ...pipe('user', id)].map((word) => `'${word}'`).join(' ');
    const target = `${userInfo().username}@couplet-test`;
    const child = start(ssh, [...client, '-o', `ProxyCommand=${proxy}`, target, command]);
    const [out, errors] = [text(child.stdout!), text(child.stderr!)];
    child.stdin!.end(input);
    assert.equal(await statusOf(child), status, await errors);
    assert.deepEqual([await out, await errors], [output, '']);
    assert.deepEqual([await device.status, await device.errors], [0, '']);
    assert.equal((await relay.ended(id)).outcome, 'normal');
  }
});
