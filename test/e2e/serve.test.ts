import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { CookieSealer, LoginKey, systemClock } from '../../src/index.ts';
import { connect, connectPair, type Refused } from '../support/client.ts';
import { rawHalf } from '../support/raw-half.ts';
import { makeCertificate, temporaryFolder, until } from '../support/relay.ts';
import { couplet, startServe } from '../support/serve.ts';
import { requireProgram } from '../support/services.ts';

const anyPort = ['--listen', '127.0.0.1:0', '--metrics-listen', '127.0.0.1:0'];

async function get(address: string, path: string): Promise<{ status: number; body: string }> {
  const response = await fetch(`http://${address}${path}`);
  return { status: response.status, body: await response.text() };
}

/** Addresses on which the process listens, `IP:PORT`, read from the kernel's tables (IPv4 and IPv6). */
function listeners(pid: number): string[] {
  return ['tcp', 'tcp6'].flatMap((table) =>
    readFileSync(`/proc/${pid}/net/${table}`, 'latin1')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === '0A')
      .map((fields) => fields[1]!),
  );
}

/** Exactly one line, no stack, no control characters. */
function assertOneLine(stderr: string): void {
  assert.match(stderr, /^couplet[^\n\r]*\n$/);
  assert.doesNotMatch(stderr, /\n\s+at |\x1b/);
}

test('[R39] one line of JSON says listening, whatever the log level, and SIGTERM ends with 0', async (t) => {
  const serve = await startServe(t, { settings: { log: { level: 'error' } } });
  assert.match(serve.address, /^127\.0\.0\.1:[0-9]+$/);
  assert.notEqual(serve.port, 0);
  assert.equal(serve.listening.forwarder, 'native');
  assert.equal(serve.listening.pid, serve.pid);
  assert.equal((await get(serve.address, '/healthz')).status, 200, 'it accepts once it says so');
  serve.signal('SIGTERM');
  assert.deepEqual(await serve.exited, { code: 0, signal: '' });
  assert.equal(serve.stderr, '');
  assert.deepEqual(serve.strayLines, []);
  assert.deepEqual(
    serve.lines.map(({ msg }) => msg),
    ['listening'],
  );
});

test('SIGINT ends it in order too, and every line on stdout is JSON', async (t) => {
  const serve = await startServe(t, { settings: { log: { level: 'debug' } } });
  await connectPair(t, serve, 'talk');
  serve.signal('SIGINT');
  assert.deepEqual(await serve.exited, { code: 0, signal: '' });
  assert.deepEqual(serve.strayLines, []);
  assert.equal(serve.events().at(-1)?.action, 'stopped');
});

test('the defaults listen on loopback alone', async (t) => {
  const [unshare, ip] = [requireProgram(t, 'unshare'), requireProgram(t, 'ip')];
  if (unshare === undefined || ip === undefined) return;
  // A network of its own: the default ports are free there, and nothing else listens.
  const serve = await startServe(t, {
    under: [unshare, '-n', 'bash', '-c', `${ip} link set lo up && exec "$@"`, 'bash'],
    settings: { server: { listen: undefined, metricsListen: undefined } },
  });
  assert.equal(serve.address, '127.0.0.1:8080');
  assert.deepEqual(listeners(serve.pid).sort(), ['0100007F:1F90', '0100007F:24F8']);
});

test('[R40] --check-config says yes with 0 or no with 2, and neither listens nor makes anything', async (t) => {
  const folder = temporaryFolder(t);
  const data = join(folder, 'data');
  const good = await couplet(['serve', '--check-config', '--data', data, ...anyPort]);
  assert.deepEqual([good.code, good.stderr], [0, '']);
  const bad = await couplet(['serve', '--check-config', '--data', data, '--relay-hold-ms', '-1']);
  assert.equal(bad.code, 2);
  assertOneLine(bad.stderr);
  assert.equal(existsSync(data), false);
});

test('[R40] a configuration error names key, value and what is allowed, and exits 2 before anything is made', async (t) => {
  const folder = temporaryFolder(t);
  const data = join(folder, 'data');
  const file = (name: string, content: string) => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };
  const other = makeCertificate(folder, 'other');
  const { certFile } = makeCertificate(folder);
  const key = 'ab'.repeat(79);
  const cases: { args: string[]; env?: Record<string, string>; says: RegExp[] }[] = [
    { args: ['--listen', 'everywhere'], says: [/server\.listen/, /everywhere/, /must be HOST:PORT/] },
    { args: ['--relay-hold-ms', '1.5'], says: [/relay\.holdMs/, /1\.5/, /whole number from 1 to/] },
    {
      args: [],
      env: { COUPLET_LOG_LEVEL: 'loud' },
      says: [/log\.level/, /COUPLET_LOG_LEVEL/, /"loud"/, /debug, info/],
    },
    { args: [], env: { COUPLET_RELAY_HOLDMS: '1' }, says: [/unknown variable/, /COUPLET_RELAY_HOLDMS/, /HOLD_MS/] },
    {
      args: ['--config', file('unknown.yaml', 'relay:\n  holdms: 3\n')],
      says: [/unknown key/, /relay\.holdms/, /did you mean relay\.holdMs/],
    },
    { args: ['--config', file('torn.json', '{"relay": {')], says: [/torn\.json/, /not YAML or JSON/, /line 1/] },
    { args: ['--config', join(folder, 'absent.yaml')], says: [/absent\.yaml/, /ENOENT/] },
    { args: ['--login-key', key], says: [/auth\.loginKey/, /160 hex digits/] },
    { args: ['--tls-cert', certFile], says: [/tls\.keyFile is not set/] },
    { args: ['--tls-cert', certFile, '--tls-key', other.keyFile], says: [/tls\.keyFile/, /key of the certificate/] },
    { args: ['--no-such-flag'], says: [/--no-such-flag/] },
    { args: ['--lisen', '127.0.0.1:0'], says: [/--lisen/, /--listen/] },
    { args: ['surplus'], says: [/too many arguments/] },
  ];
  for (const { args, env, says } of cases) {
    const { code, stdout, stderr } = await couplet(['serve', '--data', data, ...anyPort, ...args], env ? { env } : {});
    const name = JSON.stringify({ args, env, stderr });
    assert.equal(code, 2, name);
    assert.equal(stdout, '', name);
    assertOneLine(stderr);
    for (const pattern of says) assert.match(stderr, pattern, name);
    assert.doesNotMatch(stderr, new RegExp(key), 'a secret is never shown');
  }
  assert.equal(existsSync(data), false);
});

test('every other error is one line on stderr, too, with exit code 1 or 2', async (t) => {
  const folder = temporaryFolder(t);
  const file = join(folder, 'file');
  writeFileSync(file, 'not a key');
  const badKey = join(folder, 'bad-key');
  mkdirSync(badKey);
  writeFileSync(join(badKey, 'login.key'), 'not a key');
  const weak = makeCertificate(folder, 'weak', ['rsa:512']);
  const weakTls = ['--tls-cert', weak.certFile, '--tls-key', weak.keyFile, '--relay-forwarder', 'native'];
  const cases: [number, RegExp, string[]][] = [
    [1, /native.*handshake failure/, ['serve', ...anyPort, '--data', join(folder, 'weak'), ...weakTls]],
    [2, /a command is needed/, []],
    [2, /unknown command 'serv'/, ['serv']],
    [2, /a command is needed/, ['token']],
    [2, /a command is needed/, ['audit']],
    [2, /userid/, ['token', 'user']],
    [1, /user\/DOMAIN\/NAME/, ['token', 'user', 'bob', '--login-key-file', file]],
    [2, /--for/, ['token', 'device']],
    [2, /auth\.loginKey/, ['token', 'id']],
    [2, /--url/, ['pipe']],
    [1, /no event log/, ['audit', 'tail', '--data', join(folder, 'absent')]],
    [1, /login key/, ['audit', 'verify', folder, '--data', join(folder, 'absent')]],
    [1, /server\.dataDir/, ['serve', ...anyPort, '--data', file]],
    [1, /server\.dataDir/, ['serve', ...anyPort, '--data', join(file, 'below')]],
    [1, /server\.dataDir/, ['serve', ...anyPort, '--data', '/proc/absent/data']],
    [1, /login\.key/, ['serve', ...anyPort, '--data', badKey]],
    [1, /event log/, ['serve', ...anyPort, '--data', join(folder, 'data'), '--audit-dir', file]],
    [1, /192\.0\.2\.1/, ['serve', '--listen', '192.0.2.1:0', '--metrics-listen', '127.0.0.1:0', '--data', folder]],
  ];
  for (const [wanted, pattern, args] of cases) {
    const { code, stderr } = await couplet(args);
    const name = JSON.stringify({ args, stderr });
    assert.equal(code, wanted, name);
    assertOneLine(stderr);
    assert.match(stderr, pattern, name);
  }
});

test('a self-test that fails is told, and the portable path is used; nothing dies of it', async (t) => {
  // No handshake succeeds with so short a key, the self-test's own neither.
  const tls = makeCertificate(temporaryFolder(t), 'weak', ['rsa:512']);
  const serve = await startServe(t, { settings: { tls } });
  assert.equal(serve.listening.forwarder, 'portable');
  const failed = serve.events().find(({ code }) => code === 'CPL-2008E');
  assert.match(String(failed?.reason), /handshake failure/);
  assert.equal(await serve.metric('couplet_forwarder_info{kind="portable"}'), 1);
  serve.signal('SIGTERM');
  assert.deepEqual(await serve.exited, { code: 0, signal: '' });
});

test('every command has --help', async () => {
  const commands = ['', 'serve', 'token', 'token user', 'token device', 'token id', 'pipe'];
  for (const command of [...commands, 'audit', 'audit verify', 'audit tail']) {
    const words = command === '' ? [] : command.split(' ');
    const { code, stdout, stderr } = await couplet([...words, '--help']);
    assert.deepEqual([code, stderr], [0, ''], command);
    assert.match(stdout, new RegExp(`Usage: couplet ${command}`));
  }
  assert.match((await couplet(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/);
});

test('a port that is taken: exit 1, one clear line, nothing shared, nothing left listening', async (t) => {
  const first = await startServe(t);
  const freePort = await new Promise<number>((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as AddressInfo;
      probe.close(() => resolve(port));
    });
  });
  const data = join(temporaryFolder(t), 'data');
  const taken = ['--listen', first.address, '--metrics-listen', `127.0.0.1:${freePort}`, '--data', data];
  const second = await couplet(['serve', ...taken]);
  assert.equal(second.code, 1, second.stderr);
  assertOneLine(second.stderr);
  assert.match(second.stderr, new RegExp(`server\\.listen ${first.address} cannot be listened on`));
  assert.doesNotMatch(second.stdout, /"listening"/);

  const third = await couplet([
    'serve',
    '--listen',
    '127.0.0.1:0',
    '--metrics-listen',
    first.metricsAddress,
    '--data',
    data,
  ]);
  assert.equal(third.code, 1, third.stderr);
  assertOneLine(third.stderr);
  assert.match(third.stderr, new RegExp(`server\\.metricsListen ${first.metricsAddress} cannot be listened on`));

  for (let i = 0; i < 20; i++) assert.equal((await get(first.address, '/readyz')).status, 200);
  await connectPair(t, first, 'still-mine');
});

test('the login key is generated once: 160 hex digits, mode 0600, in a data folder of mode 0700', async (t) => {
  const settings = { auth: { loginKeyFile: undefined } };
  const first = await startServe(t, { settings });
  const file = join(first.dataDir, 'login.key');
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.equal(statSync(first.dataDir).mode & 0o777, 0o700);
  assert.equal(statSync(first.eventsDir).mode & 0o777, 0o700);
  const key = readFileSync(file, 'utf8');
  assert.match(key, /^[0-9a-f]{160}\n$/);
  const token = await couplet(['token', 'user', 'user//alice', '--login-key-file', file]);
  assert.equal(token.code, 0, token.stderr);
  const path = `/relay?id=own-key&auth=${encodeURIComponent(token.stdout.trim())}`;
  assert.match((await rawHalf(t, first.port, path)).status, /^HTTP\/1\.1 101 /);
  assert.doesNotMatch(JSON.stringify(first.lines) + first.stderr, new RegExp(key.trim()));
  first.signal('SIGTERM');
  await first.exited;

  const second = await startServe(t, { settings, folder: first.folder });
  assert.equal(readFileSync(file, 'utf8'), key);
  assert.match((await rawHalf(t, second.port, path)).status, /^HTTP\/1\.1 101 /);
});

test('/healthz, /readyz; 503 while draining; /metrics on the metrics address alone', async (t) => {
  const serve = await startServe(t, { settings: { server: { drainMs: 60_000 } } });
  assert.deepEqual(await get(serve.address, '/healthz'), { status: 200, body: 'ok\n' });
  assert.deepEqual(await get(serve.address, '/readyz'), { status: 200, body: 'ready\n' });
  assert.equal((await get(serve.address, '/metrics')).status, 404);
  const metrics = await get(serve.metricsAddress, '/metrics');
  assert.equal(metrics.status, 200);
  assert.match(metrics.body, /^couplet_build_info\{/m);
  assert.equal((await get(serve.metricsAddress, '/relay')).status, 404);
  const { user } = await connectPair(t, serve, 'holds-the-drain');
  serve.signal('SIGTERM');
  await until(async () => (await get(serve.address, '/readyz')).status === 503, 'not ready any more');
  assert.equal((await get(serve.address, '/healthz')).status, 200);
  assert.equal((await get(serve.metricsAddress, '/metrics')).status, 200, 'a drain can be watched');
  user.ws.close();
  assert.deepEqual(await serve.exited, { code: 0, signal: '' });
});

test('server.publicMetrics: /metrics on the public address as well', async (t) => {
  const serve = await startServe(t, { args: ['--public-metrics'] });
  assert.match((await get(serve.address, '/metrics')).body, /^couplet_halves\{state="waiting"\} 0$/m);
});

test('settings: file, then environment, then flags', async (t) => {
  const args = ['--relay-hold-ms', '300'];
  const env = { COUPLET_RELAY_HOLD_MS: '60000', COUPLET_RELAY_MAX_WAITING: '1' };
  const serve = await startServe(t, { settings: { relay: { holdMs: 60_000, maxWaiting: 5 } }, env, args });
  const half = await connect(t, serve.url('user', 'a'));
  await assert.rejects(connect(t, serve.url('user', 'b')), (error: Refused) => error.status === 503);
  assert.equal((await half.closed).code, 4408);
});

test('[R1] [R4] both paths, with a domain in front, and what is none of them', async (t) => {
  const serve = await startServe(t, { args: ['--directory', 'none'] });
  const sealer = new CookieSealer(LoginKey.readFile(join(serve.folder, 'key')), systemClock, 'base64');
  const cookie = (domain: string) => encodeURIComponent(sealer.seal({ userid: `user/${domain}/al`, domainid: domain }));
  const status = async (path: string) => (await rawHalf(t, serve.port, path)).status.split(' ')[1];
  for (const [index, path] of ['/meshrelay.ashx', '/relay'].entries()) {
    assert.equal(await status(`${path}?id=p${index}&auth=${cookie('')}`), '101');
    assert.equal(await status(`/corp${path}?id=d${index}&auth=${cookie('corp')}`), '101');
    assert.equal(await status(`/corp${path}?id=x&auth=${cookie('')}`), '401', 'another domain than its own');
    assert.equal(await status(`${path}?id=x&auth=${cookie('corp')}`), '401');
    assert.equal(await status(`${path}?id=x`), '401');
    assert.equal(await status(`${path}?auth=${cookie('')}`), '400', 'neither id nor routing');
    assert.equal(await status(`${path}?id=${'x'.repeat(257)}&auth=${cookie('')}`), '400');
    assert.equal((await get(serve.address, path)).status, 426);
  }
  for (const path of ['/', '/relayx', '/a/b/relay', '/meshrelay.ashx/', '//relay', '/agent']) {
    assert.equal(await status(`${path}?id=x&auth=${cookie('')}`), '404', path);
  }
});

/** What `openssl s_client` says of the protocol it got; empty where the handshake failed. */
async function negotiated(t: TestContext, openssl: string, port: number, version: string): Promise<string> {
  const offer = ['-cipher', 'ALL:@SECLEVEL=0', `-${version}`];
  const child = spawn(openssl, ['s_client', '-connect', `127.0.0.1:${port}`, ...offer], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  t.after(() => child.kill('SIGKILL'));
  child.stdin.on('error', () => {});
  child.stdin.end('Q\n');
  const [out] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  const cipher = /^New, (TLSv[\d.]+), Cipher is (\S+)/m.exec(out);
  return cipher === null || cipher[2] === '(NONE)' ? '' : (/^\s*Protocol\s*:\s*(\S+)/m.exec(out)?.[1] ?? cipher[1]!);
}

test('TLS 1.2 and 1.3 are spoken, 1.1 and 1.0 are refused', async (t) => {
  const openssl = requireProgram(t, 'openssl');
  if (openssl === undefined) return;
  const folder = temporaryFolder(t);
  const { certFile, keyFile } = makeCertificate(folder);
  const serve = await startServe(t, { settings: { tls: { certFile, keyFile } } });
  assert.equal(serve.tls, true);
  assert.equal(await negotiated(t, openssl, serve.port, 'tls1_3'), 'TLSv1.3');
  assert.equal(await negotiated(t, openssl, serve.port, 'tls1_2'), 'TLSv1.2');
  assert.equal(await negotiated(t, openssl, serve.port, 'tls1_1'), '');
  assert.equal(await negotiated(t, openssl, serve.port, 'tls1'), '');
  await connectPair(t, serve, 'over-tls');

  // The same client does get TLS 1.1 where it is spoken: the refusals above are the relay's.
  const old = ['-tls1_1', '-cipher', 'ALL:@SECLEVEL=0', '-cert', certFile, '-key', keyFile, '-accept', '127.0.0.1:0'];
  const server = spawn(openssl, ['s_server', ...old], { stdio: ['pipe', 'pipe', 'ignore'] });
  t.after(() => server.kill('SIGKILL'));
  let said = '';
  server.stdout.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  await until(() => /ACCEPT 127\.0\.0\.1:\d+/.test(said), 'openssl s_server listens');
  const port = Number(/ACCEPT 127\.0\.0\.1:(\d+)/.exec(said)![1]);
  assert.equal(await negotiated(t, openssl, port, 'tls1_1'), 'TLSv1.1');
});

test('[R7] fault 7: a second server on a data folder does not start, and used cookies stay used', async (t) => {
  const first = await startServe(t);
  const file = join(first.folder, 'couplet.yaml');
  const beside = await couplet([
    'serve',
    '--config',
    file,
    '--listen',
    '127.0.0.1:0',
    '--metrics-listen',
    '127.0.0.1:0',
  ]);
  assert.equal(beside.code, 1, beside.stdout);
  assert.match(beside.stderr, /^couplet: server\.dataDir "[^\n]*" is another server's; [^\n]*\n$/);
  const once = ['--once', '--login-key-file', join(first.folder, 'key')];
  const cookie = encodeURIComponent((await couplet(['token', 'user', 'user//alice', ...once])).stdout.trim());
  const path = (id: string) => `/relay?id=${id}&auth=${cookie}`;
  assert.match((await rawHalf(t, first.port, path('a'))).status, /^HTTP\/1\.1 101 /);
  first.signal('SIGKILL');
  await first.exited;
  const again = await startServe(t, { folder: first.folder });
  assert.match((await rawHalf(t, again.port, path('b'))).status, /^HTTP\/1\.1 401 /);
});
