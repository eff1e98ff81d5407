import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { buffer, text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type ControlServer, startControl } from '../support/control-server.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import { requireProgram } from '../support/services.ts';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const command = [process.execPath, '--import', 'tsx', join(root, 'src', 'main.ts')] as const;

function couplet(t: TestContext, args: readonly string[], stdin: 'ignore' | 'pipe' = 'ignore'): ChildProcess {
  const child = spawn(command[0], [...command.slice(1), ...args], { cwd: root, stdio: [stdin, 'pipe', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  return child;
}

/** The first JSON line with this `msg`. */
async function line(child: ChildProcess, msg: string): Promise<Record<string, string>> {
  for await (const entry of createInterface({ input: child.stdout! })) {
    const fields = JSON.parse(entry);
    if (fields.msg === msg) return fields;
  }
  throw new Error(`it ended without ${msg}: ${await text(child.stderr!)}`);
}

/** A double of the API that the clients use, as src/clients/api.ts asks for it. */
async function startApi(t: TestContext, control: ControlServer): Promise<{ url: string; seen: string[] }> {
  const seen: string[] = [];
  const server = createHttpServer(async (request, response) => {
    const url = new URL(request.url ?? '', 'http://api');
    const body = await text(request);
    seen.push(`${request.method} ${url.pathname}`);
    const answer = (status: number, value: unknown) => {
      response.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
      response.end(JSON.stringify(value));
    };
    if (url.pathname === '/api/v1/login') {
      const { user, password } = JSON.parse(body);
      if (user === 'alice' && password === 'secret') answer(200, { token: 'T' });
      else answer(401, { error: { code: 'CPL_LOGIN', message: 'wrong user or password' } });
    } else if (request.headers.authorization !== 'Bearer T') {
      answer(401, { error: { code: 'CPL_TOKEN', message: 'the token is not valid' } });
    } else if (url.pathname === '/api/v1/devices') {
      const all = [...control.devices].map(([nodeid, { name }]) => ({ nodeid, name, online: true }));
      answer(200, { devices: all.filter(({ name }) => name === url.searchParams.get('name')) });
    } else if (url.pathname === '/api/v1/tunnels') {
      const { nodeid, ...target } = JSON.parse(body);
      answer(200, await control.open({ device: nodeid, ...target }, new AbortController().signal));
    } else answer(404, {});
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

async function ground(t: TestContext, agentArgs: readonly string[] = []) {
  const control = await startControl(t);
  const api = await startApi(t, control);
  const state = join(temporaryFolder(t), 'state');
  const args = ['agent', '--url', control.url, '--state', state, '--join', control.mintJoin('box'), ...agentArgs];
  const agent = couplet(t, args);
  const online = await line(agent, 'online');
  assert.equal(online.name, 'box');
  agent.stdout!.resume();
  const token = ['--url', api.url, '--token', 'T'];
  return { control, api, agent, args, token };
}

test('[T12] couplet agent and couplet forward, by name and password; SIGTERM ends both well', async (t) => {
  const { api, agent } = await ground(t);
  const web = createHttpServer((_request, response) => response.end('the page')).listen(0, '127.0.0.1');
  await once(web, 'listening');
  t.after(() => web.close());
  const target = (web.address() as AddressInfo).port;
  const forward = couplet(
    t,
    ['forward', '--url', api.url, '--user', 'alice', '--password-stdin', 'box', `0:127.0.0.1:${target}`],
    'pipe',
  );
  forward.stdin!.end('secret\n');
  const { address } = await line(forward, 'listening');
  forward.stdout!.resume();
  const page = await fetch(`http://${address}/`, { headers: { connection: 'close' } });
  assert.equal(await page.text(), 'the page');
  for (const child of [forward, agent]) {
    child.kill('SIGTERM');
    assert.deepEqual(await once(child, 'exit'), [0, null]);
  }
});

test('[T12] every mistake is one line on stderr, and its status', async (t) => {
  const { api, token } = await ground(t);
  const state = temporaryFolder(t);
  for (const [args, status, expected] of [
    [['forward', ...token, 'nobox', '0:a:1'], 1, /no device that you may see is called "nobox"/],
    [['forward', ...token, 'box'], 2, /at least one LOCALPORT:HOST:PORT or --socks/],
    [['forward', ...token, 'box', 'x'], 2, /"x" is no forward/],
    [['forward', '--url', api.url, '--token', 'X', 'box', '0:a:1'], 1, /HTTP 401: the token is not valid/],
    [['forward', '--url', api.url, 'box', '0:a:1'], 2, /exactly one of --password-stdin, --token and --token-file/],
    [['forward', ...token, '--stdio', '--udp', 'box', 'a:1'], 2, /--stdio does not go with/],
    [['agent', '--url', 'ws://127.0.0.1:1', '--state', state], 1, /not enrolled yet: give --join CODE/],
    [['agent', '--url', 'ws://127.0.0.1:1', '--state', state, '--allow', 'x'], 2, /--allow "x" is no target/],
  ] as const) {
    const child = couplet(t, args);
    const [errors, [code]] = await Promise.all([text(child.stderr!), once(child, 'exit')]);
    assert.match(errors, expected);
    assert.match(errors, /^couplet: [^\n]+\n$/);
    assert.equal(code, status);
  }
});

test('[T10] an agent killed and restarted is back within 5 s', async (t) => {
  const { control, agent, args } = await ground(t);
  agent.kill('SIGKILL');
  await until(() => control.agents.size === 0, 'it is gone');
  const start = Date.now();
  await line(couplet(t, args), 'online');
  assert.ok(Date.now() - start < 5000);
});

test('[T13] ssh by ProxyCommand couplet forward --stdio, and over a forward', { timeout: 60_000 }, async (t) => {
  const sshd = requireProgram(t, 'sshd');
  const ssh = requireProgram(t, 'ssh');
  const keygen = requireProgram(t, 'ssh-keygen');
  if (sshd === undefined || ssh === undefined || keygen === undefined) return;
  const { token } = await ground(t);
  const folder = temporaryFolder(t);
  for (const name of ['host', 'user']) await run(keygen, ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, name)]);
  const free = createServer().listen(0, '127.0.0.1');
  await once(free, 'listening');
  const { port } = free.address() as AddressInfo;
  free.close();
  await once(free, 'close');
  if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true });
  writeFileSync(
    join(folder, 'sshd_config'),
    `ListenAddress 127.0.0.1:${port}\nHostKey ${folder}/host\nAuthorizedKeysFile ${folder}/user.pub\nPidFile none
StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n`,
  );
  const server = spawn(sshd, ['-D', '-e', '-f', join(folder, 'sshd_config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => server.kill());
  let log = '';
  server.stderr.on('data', (data) => {
    log += data;
  });
  await until(() => log.includes('listening on'), 'sshd listens');
  const options = ['-F', 'none', '-i', join(folder, 'user'), '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=no'];
  const known = ['-o', `UserKnownHostsFile=${join(folder, 'known')}`, '-o', 'LogLevel=ERROR'];
  const user = userInfo().username;
  // Without a local port, and with one that is passed over.
  const proxy = [...command, 'forward', ...token, '--stdio', 'box', `0:127.0.0.1:${port}`].join(' ');
  const by = ['-o', `ProxyCommand=${proxy}`, `${user}@box`, 'echo $((6 * 7)); cat /dev/zero | head -c 3000000 | cksum'];
  const { stdout } = await run(ssh, [...options, ...known, ...by], { cwd: root });
  assert.match(stdout, /^42\n\d+ 3000000\n$/);
  const forward = couplet(t, ['forward', ...token, 'box', `0:127.0.0.1:${port}`]);
  const { address } = await line(forward, 'listening');
  forward.stdout!.resume();
  const over = ['-p', address!.split(':')[1]!, `${user}@127.0.0.1`, 'exit 9'];
  await assert.rejects(run(ssh, [...options, ...known, ...over]), { code: 9 });
});

test('[T12] couplet shell over pipes: input, output and exit status', async (t) => {
  const { token } = await ground(t, ['--shell', '/bin/sh']);
  const shell = couplet(t, ['shell', ...token, 'box'], 'pipe');
  const output = text(shell.stdout!);
  shell.stdin!.end('echo $((6 * 7)); exit 5\n');
  const [code] = await once(shell, 'exit');
  assert.equal(code, 5, await text(shell.stderr!));
  assert.match(await output, /42/);
});

test('[T12] couplet shell ends with its input, whatever the remote shell does at that moment', {
  timeout: 60_000,
}, async (t) => {
  const { token } = await ground(t, ['--shell', '/bin/bash']);
  for (const [input, expected] of [
    ['', /^/], // while the shell starts up
    ['sleep 2; echo $((6 * 7)); (exit 3)\n', /[\r\n]42\r\n/], // while it waits for a command
    ['echo $((6 * 7)); (exit 3)', /[\r\n]42\r\n/], // within a line
  ] as const) {
    const shell = couplet(t, ['shell', ...token, 'box'], 'pipe');
    const output = text(shell.stdout!);
    shell.stdin!.end(input);
    const [code] = await once(shell, 'exit');
    assert.equal(code, input === '' ? 0 : 3, await text(shell.stderr!));
    assert.match(await output, expected);
  }
});

test('[T12] a password on standard input is its first line, and not a byte after it is lost', async (t) => {
  const { api } = await ground(t, ['--shell', '/bin/sh']);
  const login = ['--url', api.url, '--user', 'alice', '--password-stdin', 'box'];
  const echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(0, '127.0.0.1');
  await once(echo, 'listening');
  t.after(() => echo.close());
  const { port } = echo.address() as AddressInfo;
  const data = Buffer.concat([Buffer.from('\n\r\nsecret\n'), randomBytes(300_000), Buffer.of(0x04, 0x0a)]);
  // At once, and within the line and at its end.
  for (const pieces of [
    [Buffer.concat([Buffer.from('secret\r\n'), data])],
    [Buffer.from('sec'), Buffer.from('ret\n'), data],
  ]) {
    const forward = couplet(t, ['forward', '--stdio', ...login, `127.0.0.1:${port}`], 'pipe');
    const output = buffer(forward.stdout!);
    for (const piece of pieces) await new Promise<void>((resolve) => forward.stdin!.write(piece, () => resolve()));
    forward.stdin!.end();
    const [code] = await once(forward, 'exit');
    assert.equal(code, 0, await text(forward.stderr!));
    assert.ok((await output).equals(data));
  }
  const shell = couplet(t, ['shell', ...login], 'pipe');
  const output = text(shell.stdout!);
  shell.stdin!.end('secret\necho $((6 * 7)); exit 5\n');
  const [code] = await once(shell, 'exit');
  assert.equal(code, 5, await text(shell.stderr!));
  assert.match(await output, /42/);
  const none = couplet(t, ['shell', ...login], 'pipe');
  none.stdin!.end('\nsecret\n');
  const errors = await text(none.stderr!);
  assert.match(errors, /^couplet: --password-stdin: standard input holds no password in its first line\n$/);
});

test('[T9] an agent ends where no agents are taken, and says so', async (t) => {
  const server = createHttpServer((_request, response) => response.end()).on('upgrade', (_request, socket) =>
    socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'),
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const joinCode = `${'A'.repeat(16)}.${'A'.repeat(43)}`;
  const agent = couplet(t, ['agent', '--url', url, '--state', join(temporaryFolder(t), 'state'), '--join', joinCode]);
  const [errors, [code]] = await Promise.all([text(agent.stderr!), once(agent, 'exit')]);
  assert.match(errors, /^couplet: ws:[^ ]+\/agent answered HTTP 404: no agents are taken there; .*directory.*\n$/);
  assert.equal(code, 2);
});
