import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, mkdirSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { controlTexts } from '../../src/protocol/control-messages.ts';
import { Counter } from '../support/counter.ts';
import { hasPostgres, Postgres } from '../support/postgres.ts';
import { CoupletChild, type EndedSession, freePort, Ground, run, tokenFor } from '../support/processes.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import { mainFile } from '../support/serve.ts';
import { missing, requireProgram } from '../support/services.ts';

/** How much `scp` copies: 1 GiB, half a minute; a slow machine may take less. */
const scpBytes = Number(process.env.COUPLET_TEST_SCP_MIB ?? 1024) * 1024 * 1024;

/** Texts of a TCP session between Couplet clients, which the relay forwards and counts as it does data. */
const textsUp = controlTexts.caps.length + controlTexts.eof.length;
const textsDown = textsUp + controlTexts.connected.length;

/** Sessions of alice are recorded, strictly; those of others are not. */
const recording = { mode: 'strict', users: ['user//alice'], index: false };

async function start(t: TestContext): Promise<Ground & { nodeid: string; agent: CoupletChild }> {
  const ground = await Ground.start(t, { recording });
  const { agent, device } = await ground.addAgent('box');
  return Object.assign(ground, { nodeid: device.id, agent });
}

/** A session that went well is told from start to end, with the bytes that the target saw, and is on record. */
async function checkSession(
  ground: Ground & { nodeid: string },
  session: EndedSession,
  { up, down }: { up: number; down: number },
): Promise<void> {
  const { start, end } = session;
  assert.deepEqual([start.userid, start.nodeid, end.outcome], ['user//alice', ground.nodeid, 'normal']);
  assert.deepEqual({ up: end.bytesin, down: end.bytesout }, { up: up + textsUp, down: down + textsDown });
  assert.deepEqual(await ground.recorded(session), { up, down });
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

async function startSshd(t: TestContext, sshd: string, keygen: string): Promise<{ port: number; options: string[] }> {
  const folder = temporaryFolder(t);
  for (const name of ['host', 'user']) {
    const made = await run(keygen, ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, name)]);
    assert.equal(made.code, 0, made.stderr);
  }
  const port = await freePort();
  if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true });
  writeFileSync(
    join(folder, 'sshd_config'),
    `ListenAddress 127.0.0.1:${port}\nHostKey ${folder}/host\nAuthorizedKeysFile ${folder}/user.pub\nPidFile none
StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nSubsystem sftp internal-sftp\n`,
  );
  const server = spawn(sshd, ['-D', '-e', '-f', join(folder, 'sshd_config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => server.kill());
  let log = '';
  server.stderr.on('data', (data) => {
    log += data;
  });
  await until(() => log.includes('listening on'), 'sshd listens');
  const plain = ['BatchMode=yes', 'StrictHostKeyChecking=no', `UserKnownHostsFile=${folder}/known`, 'LogLevel=ERROR'];
  return { port, options: ['-F', 'none', '-i', join(folder, 'user'), ...plain.flatMap((option) => ['-o', option])] };
}

test('[T13] ssh, scp, 20 ssh sessions at once and ProxyCommand, against a real sshd', {
  timeout: 300_000,
}, async (t) => {
  const programs = ['sshd', 'ssh', 'scp', 'ssh-keygen'].map((name) => requireProgram(t, name));
  const [sshd, ssh, scp, keygen] = programs;
  if (sshd === undefined || ssh === undefined || scp === undefined || keygen === undefined) return;
  const { port, options } = await startSshd(t, sshd, keygen);
  const counter = await Counter.before(t, port);
  const ground = await start(t);
  const forward = await ground.forward(['box', `0:127.0.0.1:${counter.port}`]);
  const who = `${userInfo().username}@127.0.0.1`;
  const by = ['-p', String(forward.ports[0]), who];

  await t.test('a command, its output, its exit status', async () => {
    const ran = await run(ssh, [...options, ...by, 'echo $((6 * 7)); head -c 5000000 /dev/zero | cksum; exit 9']);
    assert.match(ran.stdout, /^42\n\d+ 5000000\n$/, ran.stderr);
    assert.equal(ran.code, 9);
    const [session] = await ground.sessions(1);
    await checkSession(ground, session!, counter.connections[0]!);
  });

  await t.test(`scp of ${scpBytes} bytes, equal hashes`, async () => {
    const folder = temporaryFolder(t);
    const [from, to] = [join(folder, 'from'), join(folder, 'to')];
    const part = randomBytes(1024 * 1024);
    for (let at = 0; at < scpBytes; at += part.length) {
      part.writeUInt32LE(at / part.length, 0); // no two megabytes alike
      writeFileSync(from, part, { flag: 'a' });
    }
    const startMs = performance.now();
    const copied = await run(scp, [...options, '-P', String(forward.ports[0]), from, `${who}:${to}`], 280_000);
    assert.equal(copied.code, 0, copied.stderr);
    t.diagnostic(`scp: ${(scpBytes / 1048.576 / (performance.now() - startMs)).toFixed(1)} MiB/s`);
    assert.equal(await sha256(to), await sha256(from));
    const [, session] = await ground.sessions(2);
    const seen = counter.connections[1]!;
    assert.ok(seen.up > scpBytes);
    await checkSession(ground, session!, seen);
  });

  await t.test('20 sessions at once', async () => {
    const before = counter.connections.length;
    const ran = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        run(ssh, [...options, ...by, `head -c ${100_000 + i} /dev/zero | wc -c; cat`]),
      ),
    );
    assert.deepEqual(
      ran.map(({ stdout }) => stdout),
      Array.from({ length: 20 }, (_, i) => `${100_000 + i}\n`),
    );
    const sessions = (await ground.sessions(before + 20)).slice(before);
    const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0);
    const connections = counter.connections.slice(before);
    assert.equal(connections.length, 20);
    assert.deepEqual(
      sessions.map(({ end }) => Number(end.bytesin) - textsUp).sort(),
      connections.map(({ up }) => up).sort(),
    );
    assert.equal(sum(sessions.map(({ end }) => Number(end.bytesout) - textsDown)), sum(connections.map((c) => c.down)));
  });

  await t.test('ProxyCommand couplet forward --stdio', async () => {
    const before = counter.connections.length;
    const words = [process.execPath, mainFile, 'forward', ...ground.login(), '--stdio', 'box'];
    const proxy = `ProxyCommand=${words.join(' ')} 127.0.0.1:${counter.port}`;
    const ran = await run(ssh, [...options, '-o', proxy, who, 'head -c 3000000 /dev/zero | cksum; exit 3']);
    assert.match(ran.stdout, /^\d+ 3000000\n$/, ran.stderr);
    assert.equal(ran.code, 3);
    const session = (await ground.sessions(before + 1))[before]!;
    assert.equal(session.end.outcome, 'normal');
    assert.deepEqual(await ground.recorded(session), {
      up: counter.connections[before]!.up,
      down: counter.connections[before]!.down,
    });
  });
  assert.equal(forward.count('closed'), forward.count('opened'));
  assert.deepEqual([forward.stderr, ground.agent.stderr], ['', ''], 'nobody complains');
});

test('[T13] psql through a forward, a large result', { timeout: 120_000 }, async (t) => {
  const psql = requireProgram(t, 'psql');
  if (psql === undefined) return;
  if (!hasPostgres()) return missing(t, 'PostgreSQL is not installed; scripts/test-services says how');
  const postgres = await Postgres.start();
  t.after(() => postgres.stop());
  const counter = await Counter.before(t, postgres.port);
  const ground = await start(t);
  const forward = await ground.forward(['box', `0:127.0.0.1:${counter.port}`]);
  const query = 'select i, md5(i::text) from generate_series(1, 500000) as i';
  const ask = (port: number, statement: string) =>
    run(psql, [
      '-h',
      '127.0.0.1',
      '-p',
      String(port),
      '-U',
      'couplet',
      '-d',
      'postgres',
      '-X',
      '-q',
      '-t',
      '-A',
      '-c',
      statement,
    ]);
  const through = await ask(forward.ports[0]!, query);
  assert.equal(through.code, 0, through.stderr);
  const direct = await ask(postgres.port, query);
  assert.equal(through.stdout.length, direct.stdout.length);
  assert.ok(through.stdout === direct.stdout && through.stdout.length > 15_000_000);
  const [session] = await ground.sessions(1);
  await checkSession(ground, session!, counter.connections[0]!);
  const wrong = await ask(forward.ports[0]!, 'select broken');
  assert.match(wrong.stderr, /column "broken" does not exist/);
});

/** An HTTP server: /bytes/N answers so many, anything else is answered with the hash of what was sent. */
async function startHttp(t: TestContext): Promise<{ server: HttpServer; port: number; requests: () => number }> {
  let requests = 0;
  const server = createHttpServer(async (request, response) => {
    requests++;
    const bytes = /^\/bytes\/(\d+)/.exec(request.url ?? '');
    if (bytes) {
      response.end(Buffer.alloc(Number(bytes[1]), 'x'));
      return;
    }
    const hash = createHash('sha256');
    for await (const chunk of request) hash.update(chunk as Buffer);
    response.end(hash.digest('hex'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { server, port: (server.address() as AddressInfo).port, requests: () => requests };
}

test('[T13] curl: download, upload, 1,000 requests on one connection, SOCKS5, and who is not recorded', async (t) => {
  const curl = requireProgram(t, 'curl');
  if (curl === undefined) return;
  const http = await startHttp(t);
  const counter = await Counter.before(t, http.port);
  const ground = await start(t);
  const forward = await ground.forward(['box', `0:127.0.0.1:${counter.port}`, '--socks', '0'], 2);
  const [port, socks] = forward.ports;
  const base = `http://127.0.0.1:${port}`;
  const ask = async (...args: string[]) => {
    const ran = await run(curl, ['-sS', '--fail', ...args]);
    assert.equal(ran.code, 0, ran.stderr);
    return ran.stdout;
  };
  const check = async (count: number) => {
    assert.equal(counter.connections.length, count);
    await checkSession(ground, (await ground.sessions(count))[count - 1]!, counter.connections[count - 1]!);
  };

  assert.equal((await ask(`${base}/bytes/30000000`)).length, 30_000_000);
  await check(1);

  const file = join(temporaryFolder(t), 'upload');
  writeFileSync(file, randomBytes(30_000_000));
  assert.equal(await ask('-T', file, `${base}/put`), await sha256(file));
  await check(2);

  const before = http.requests();
  assert.equal((await ask(`${base}/bytes/10?n=[1-1000]`)).length, 10_000);
  assert.equal(http.requests() - before, 1000);
  await check(3);

  const url = `http://localhost:${counter.port}/bytes/100000`;
  assert.equal((await ask('--socks5-hostname', `127.0.0.1:${socks}`, url)).length, 100_000);
  await check(4);
  const refused = await run(curl, [
    '-sS',
    '--socks5-hostname',
    `127.0.0.1:${socks}`,
    `http://127.0.0.1:${await freePort()}/`,
  ]);
  assert.equal(refused.code, 97, refused.stderr);
  assert.match(refused.stderr, /\(5\)|refused/i);
  const forbidden = await run(curl, ['-sS', '--socks5-hostname', `127.0.0.1:${socks}`, 'http://192.0.2.1/']);
  assert.match(forbidden.stderr, /\(2\)|not allowed/i);

  const bob = await ground.directory.users.create({ name: 'bob', password: 'battery staple' });
  await ground.directory.links.grant(bob.id, ground.group.id, 8);
  const other = await ground.forward(
    ['box', `0:127.0.0.1:${counter.port}`],
    1,
    await tokenFor(t, ground.directory, bob),
  );
  assert.equal((await ask(`http://127.0.0.1:${other.ports[0]}/bytes/10`)).length, 10);
  const isBobs = ({ userid, code }: { userid?: unknown; code: string }) => userid === bob.id && code === 'CPL-1002I';
  await until(() => ground.serve.events().some(isBobs), "the end of bob's session");
  assert.equal(ground.serve.events().find(isBobs)?.recording, undefined, 'the policy does not say bob');
});

test('[T13] dig over --udp, against a real dnsmasq', async (t) => {
  const [dig, dnsmasq] = [requireProgram(t, 'dig'), requireProgram(t, 'dnsmasq')];
  if (dig === undefined || dnsmasq === undefined) return;
  const port = await freePort();
  const long = Array.from({ length: 5 }, (_, i) => String(i).repeat(200)).join(',');
  const names = Array.from({ length: 20 }, (_, i) => `--address=/host${i}.example/10.1.2.${i}`);
  const alone = ['--conf-file=/dev/null', '--pid-file=', '--user=', '--group=', '--no-resolv', '--no-hosts'];
  const where = ['--listen-address=127.0.0.1', '--bind-interfaces', `--port=${port}`, '--edns-packet-max=4096'];
  const records = [`--txt-record=long.example,${long}`, ...names];
  const server = spawn(dnsmasq, ['--keep-in-foreground', '--log-facility=-', ...alone, ...where, ...records], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  t.after(() => server.kill('SIGKILL'));
  let log = '';
  server.stderr.on('data', (data) => {
    log += data;
  });
  const query = (at: number, ...args: string[]) =>
    run(dig, ['@127.0.0.1', '-p', String(at), '+tries=1', '+time=5', ...args]);
  await until(async () => (await query(port, 'host1.example')).code === 0, `dnsmasq answers ${log}`);

  const ground = await start(t);
  const forward = await ground.forward(['box', `0:127.0.0.1:${port}`, '--udp']);
  const at = forward.ports[0]!;
  const large = await query(at, '+bufsize=4096', 'long.example', 'TXT');
  const received = Number(/MSG SIZE\s+rcvd: (\d+)/.exec(large.stdout)?.[1]);
  assert.ok(received > 1000, large.stdout);
  assert.match(large.stdout, /"4{200}"/);
  const answers = await Promise.all(names.map((_, i) => query(at, '+short', `host${i}.example`)));
  assert.deepEqual(
    answers.map(({ stdout }) => stdout),
    names.map((_, i) => `10.1.2.${i}\n`),
  );
  await forward.end();
  const sessions = await ground.sessions(21);
  const first = sessions.find(({ end }) => end.bytesout === received);
  assert.ok(first, JSON.stringify(sessions.map(({ end }) => end.bytesout)));
  assert.deepEqual([first.end.messagesin, first.end.messagesout], [1, 1], 'one datagram, one message');
  assert.deepEqual(await ground.recorded(first), { up: first.end.bytesin, down: received });
});

test('[T12][T13] couplet forward takes a password; SIGTERM ends agent and forward well, and their sessions', async (t) => {
  const ground = await start(t);
  const echo = createServer((socket) => socket.on('error', () => {}).pipe(socket)).listen(0, '127.0.0.1');
  await once(echo, 'listening');
  t.after(() => echo.close());
  const target = (echo.address() as AddressInfo).port;
  const flags = ['forward', '--url', ground.url, '--user', 'alice', '--password-stdin', 'box', `0:127.0.0.1:${target}`];
  const wrong = new CoupletChild(t, flags, 'battery staple\n');
  await wrong.exited;
  assert.match(wrong.stderr, /^couplet: [^\n]*HTTP 401: user or password is wrong\n$/);
  const forward = new CoupletChild(t, flags, 'correct horse\n');
  await forward.line(({ msg }) => msg === 'listening');
  await forward.end();
  assert.deepEqual([forward.child.exitCode, forward.stderr], [0, '']);
});
