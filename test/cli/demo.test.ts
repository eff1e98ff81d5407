import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { couplet, root } from '../support/serve.ts';
import { requireProgram } from '../support/services.ts';

const run = promisify(execFile);

/** Settings of this machine must not lead the demo elsewhere. */
function environment(dataDir: string, metricsPort: number): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('COUPLET_') && name !== 'NODE_OPTIONS');
  const settings = {
    COUPLET_SERVER_METRICS_LISTEN: `127.0.0.1:${metricsPort}`,
    COUPLET_SERVER_DATA_DIR: dataDir,
    PORT: '0',
  };
  return { ...Object.fromEntries(own), ...settings };
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const answer = new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
  return await answer;
}

/** A free port below those that the system gives out, with a free one behind it: the demo's example listens there. */
async function freePortPair(): Promise<number> {
  for (;;) {
    const port = randomInt(20_000, 30_000);
    if ((await isFree(port)) && (await isFree(port + 1))) return port;
  }
}

/** A data folder whose name needs quotes, also within quotes. */
function dataFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-demo-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, "the demo's data");
}

/** Processes whose command line or environment names this folder. */
function processesOf(folder: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return ['cmdline', 'environ'].some((file) => readFileSync(`/proc/${pid}/${file}`, 'utf8').includes(folder));
    } catch {
      return false; // it ended while we looked
    }
  });
}

interface Demo {
  readonly lines: string[];
  /** Resolves with the first line that satisfies it. */
  line(wanted: (line: string) => boolean): Promise<string>;
  /** The printed command that holds this. */
  command(part: RegExp): string;
  /** Ctrl-C in the terminal: to the whole process group. */
  /** What it said on standard error. */
  errors(): string;
  interrupt(): Promise<{ code: number | null; signal: string | null }>;
}

async function startDemo(t: TestContext, dataDir: string): Promise<Demo> {
  const metricsPort = await freePortPair();
  const child = spawn('npm', ['start'], {
    cwd: root,
    env: environment(dataDir, metricsPort),
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines: string[] = [];
  let wake = () => {};
  let isOver = false;
  createInterface({ input: child.stdout }).on('line', (line) => {
    lines.push(line);
    wake();
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const closed = once(child, 'close').then(([code, signal]) => {
    isOver = true;
    wake();
    return { code: code as number | null, signal: signal as string | null };
  });
  t.after(() => {
    for (const pid of processesOf(dataDir)) process.kill(Number(pid), 'SIGKILL');
  });
  return {
    lines,
    errors: () => stderr,
    line: async (wanted) => {
      for (;;) {
        const found = lines.find(wanted);
        if (found !== undefined) return found;
        if (isOver) throw new Error(`the demo ended: ${stderr}\n${lines.join('\n')}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    command: (part) => {
      const commands = lines.filter((line) => /^ {2}\S/.test(line)).map((line) => line.trim());
      const found = commands.filter((command) => part.test(command));
      assert.equal(found.length, 1, `one command like ${part}`);
      return found[0]!;
    },
    interrupt: () => {
      process.kill(-child.pid!, 'SIGINT');
      return closed;
    },
  };
}

/** What a person does with a printed line, in the folder that the demo names. */
async function paste(command: string): Promise<string> {
  return (await run('bash', ['-c', command], { cwd: root, timeout: 30_000 })).stdout;
}

async function endOf(child: ChildProcess): Promise<void> {
  process.kill(-child.pid!, 'SIGTERM');
  await once(child, 'close');
}

const ready = (line: string) => line.startsWith('Ctrl-C ends');

test('npm start: the printed commands work as they are; a second start finds what the first made', {
  timeout: 120_000,
}, async (t) => {
  const data = dataFolder(t);
  const first = await startDemo(t, data);
  await first.line(ready);

  for (const name of ['demo.json', 'demo.token', 'login.key', 'directory.sqlite']) {
    assert.equal(statSync(join(data, name)).mode & 0o777, 0o600, name);
  }
  assert.equal(statSync(data).mode & 0o777, 0o700);
  assert.equal(existsSync(join(data, 'agent.join')), false, 'the join code is gone');
  const { password } = JSON.parse(readFileSync(join(data, 'demo.json'), 'utf8')) as { password: string };
  assert.ok(password.length >= 16);
  assert.equal(first.lines.join('\n').includes(password), false);

  const shown = first.lines.join('\n');
  assert.match(shown, /^ {2}node dist\/main\.js shell /m);
  assert.doesNotMatch(shown, /npx/, 'npx would install and rebuild this folder first');
  const login = JSON.parse(await paste(first.command(/api\/v1\/login$/))) as { token: string; user: object };
  assert.equal((login.user as { siteRights: string }).siteRights, 'admin');
  const devices = JSON.parse(await paste(first.command(/api\/v1\/devices$/))) as { devices: Record<string, unknown>[] };
  const [device] = devices.devices;
  assert.deepEqual([device!.name, device!.online], ['this-machine', true]);

  const forward = spawn('bash', ['-c', first.command(/^\S+ \S+ forward /)], {
    cwd: root,
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => {
    if (forward.exitCode === null && forward.signalCode === null) process.kill(-forward.pid!, 'SIGKILL');
  });
  const output = createInterface({ input: forward.stdout });
  const [line = 'it ended'] = (await Promise.race([once(output, 'line'), once(output, 'close')])) as [string?];
  assert.match(line, /"msg":"listening"/);
  assert.match(await paste(first.command(/^curl -s http/)), /^couplet_agents\{?.*1$/m);
  await endOf(forward);

  assert.match(await paste(`echo 'echo $((6 * 7)); exit' | ${first.command(/ shell /)}`), /42/);
  const [id, url] = (await paste(first.command(/ share create /))).trim().split('\n');
  assert.ok(id!.length > 10);
  assert.match(url!, /^ws:\/\/127\.0\.0\.1:\d+\/.*auth=/);
  assert.match(await paste(first.command(/ session list /)), /^SESSION/);
  await ssh(t, first.command(/^ssh -o /));
  const recordings = first.lines.find((text) => text.startsWith('Recordings: '))!.split('   ')[1]!;
  assert.match(await paste(recordings), /\.mcrec/);
  const events = first.lines.find((text) => text.startsWith('Events: '))!.split('   ')[1]!;
  assert.match(await paste(events), /"action":"sharecreated"/);

  assert.deepEqual(await first.interrupt(), { code: 0, signal: null }, first.errors());
  assert.deepEqual(processesOf(data), []);
  const verified = await couplet([
    'audit',
    'verify',
    join(data, 'events'),
    '--login-key-file',
    join(data, 'login.key'),
  ]);
  assert.equal(verified.code, 0, verified.stderr);

  const kept = readFileSync(join(data, 'demo.json'), 'utf8');
  const second = await startDemo(t, data);
  await second.line(ready);
  assert.equal(readFileSync(join(data, 'demo.json'), 'utf8'), kept);
  const again = JSON.parse(await paste(second.command(/api\/v1\/devices$/))) as typeof devices;
  assert.deepEqual(
    again.devices.map(({ nodeid, online }) => [nodeid, online]),
    [[device!.nodeid, true]],
  );
  assert.notEqual(second.command(/api\/v1\/login$/), first.command(/api\/v1\/login$/), 'on another port');
  const how = await second.interrupt();
  assert.deepEqual(how, { code: 0, signal: null }, second.lines.slice(-6).join('\n') + second.errors());
  assert.deepEqual(processesOf(data), []);
});

test('npm start: Ctrl-C before it is set up ends it cleanly, and the next start sets up the rest', {
  timeout: 60_000,
}, async (t) => {
  const data = dataFolder(t);
  const first = await startDemo(t, data);
  await first.line((line) => line.includes('"msg":"listening"'));
  assert.deepEqual(await first.interrupt(), { code: 0, signal: null }, first.errors());
  assert.deepEqual(processesOf(data), []);
  const second = await startDemo(t, data);
  await second.line(ready);
  assert.deepEqual(await second.interrupt(), { code: 0, signal: null });
});

test('npm install in the folder, as npx does it each time, takes nothing away and builds nothing anew', {
  timeout: 180_000,
}, async (t) => {
  const addon = join(root, 'build', 'Release', 'couplet.node');
  const kept = join(root, 'dist', 'kept-by-install');
  writeFileSync(kept, '');
  t.after(() => rmSync(kept, { force: true }));
  const { ino, mtimeMs } = statSync(addon);
  for (const script of ['install', 'prepare']) await run('npm', ['run', '--silent', script], { cwd: root });
  assert.ok(existsSync(kept), 'dist is compiled over');
  assert.deepEqual([statSync(addon).ino, statSync(addon).mtimeMs], [ino, mtimeMs]);
});

/** The printed ssh line, to a server of this test's with a key of this test's. */
async function ssh(t: TestContext, command: string): Promise<void> {
  const [sshd, client, keygen] = ['sshd', 'ssh', 'ssh-keygen'].map((name) => requireProgram(t, name));
  if (sshd === undefined || client === undefined || keygen === undefined) return;
  const folder = mkdtempSync(join(tmpdir(), 'couplet-sshd-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const name of ['host', 'user']) await run(keygen, ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, name)]);
  const free = createServer().listen(0, '127.0.0.1');
  await once(free, 'listening');
  const { port } = free.address() as AddressInfo;
  free.close();
  await once(free, 'close');
  if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true });
  writeFileSync(
    join(folder, 'config'),
    `ListenAddress 127.0.0.1:${port}\nHostKey ${folder}/host\nAuthorizedKeysFile ${folder}/user.pub\nPidFile none
StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n`,
  );
  const server = spawn(sshd, ['-D', '-e', '-f', join(folder, 'config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => server.kill());
  const log = createInterface({ input: server.stderr });
  for await (const line of log) if (line.includes('listening on')) break;
  server.stderr.resume();
  const known = `-o UserKnownHostsFile=${folder}/known -o LogLevel=ERROR -l ${userInfo().username}`;
  const own = `ssh -F none -p ${port} -i ${folder}/user -o BatchMode=yes -o StrictHostKeyChecking=no ${known} -o`;
  assert.equal(await paste(`${command.replace('ssh -o', own)} 'echo $((6 * 7))'`), '42\n');
}
