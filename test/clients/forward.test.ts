import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { AgentOptions } from '../../src/clients/agent/agent.ts';
import { type ForwardOptions, forwardTcp, type Listener } from '../../src/clients/forward.ts';
import { parseForward, parseTarget } from '../../src/clients/forward-spec.ts';
import { forwardUdp } from '../../src/clients/forward-udp.ts';
import { forwardSocks } from '../../src/clients/socks.ts';
import type { CoupletError } from '../../src/core/errors.ts';
import { type ControlServer, keepable, startAgent, startControl, type TestAgent } from '../support/control-server.ts';
import { until } from '../support/relay.ts';
import { requireProgram } from '../support/services.ts';

const execute = promisify(execFile);
const run = async (file: string, args: readonly string[]): Promise<string> => (await execute(file, args)).stdout;
const local = { bindAddress: '127.0.0.1', localPort: 0 };

interface Ground {
  readonly control: ControlServer;
  readonly agent: TestAgent;
  readonly options: ForwardOptions;
  readonly errors: (CoupletError | undefined)[];
  open(listener: Promise<Listener>): Promise<Listener>;
}

async function ground(t: TestContext, agentOptions: Partial<AgentOptions> = {}): Promise<Ground> {
  const control = await startControl(t);
  const agent = await startAgent(t, control, agentOptions);
  const errors: Ground['errors'] = [];
  return {
    control,
    agent,
    errors,
    options: {
      device: agent.nodeid,
      open: control.open,
      security: {},
      events: { opened: () => undefined, closed: (_connection, error) => errors.push(keepable(error)) },
    },
    open: async (opening) => {
      const listener = await opening;
      t.after(() => listener.close());
      return listener;
    },
  };
}

async function httpServer(t: TestContext, host = '127.0.0.1'): Promise<number> {
  const server = createHttpServer((request, response) => response.end(`you asked for ${request.url}`));
  server.listen(0, host);
  await once(server, 'listening');
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

async function udpEcho(t: TestContext): Promise<{ port: number; peers: Set<number> }> {
  const socket = createSocket('udp4');
  const peers = new Set<number>();
  socket.on('message', (data, from) => {
    peers.add(from.port);
    socket.send(data, from.port, from.address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  t.after(() => socket.close());
  return { port: socket.address().port, peers };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

async function udpClient(t: TestContext, port: number): Promise<{ socket: UdpSocket; heard: Buffer[] }> {
  const socket = createSocket('udp4');
  const heard: Buffer[] = [];
  socket.on('message', (data) => heard.push(data));
  socket.connect(port, '127.0.0.1');
  await once(socket, 'connect');
  t.after(() => socket.close());
  return { socket, heard };
}

test('[T12] specs of forwards', () => {
  const loopback = { bindAddress: '127.0.0.1' };
  assert.deepEqual(parseForward('80:box:8080'), { ...loopback, localPort: 80, host: 'box', port: 8080 });
  assert.deepEqual(parseForward('0:[::1]:22'), { ...loopback, localPort: 0, host: '::1', port: 22 });
  assert.deepEqual(parseForward('[::]:80:a.b:1'), { bindAddress: '::', localPort: 80, host: 'a.b', port: 1 });
  assert.deepEqual(parseForward('0.0.0.0:80:a:1'), { bindAddress: '0.0.0.0', localPort: 80, host: 'a', port: 1 });
  assert.deepEqual(parseTarget('[::1]:22'), { host: '::1', port: 22 });
  for (const bad of [
    '80',
    '80:22',
    '80:a',
    'a:b:c',
    '80:a:0',
    '80:a:65536',
    '65536:a:1',
    '80:::1:22',
    '',
    '80:a b:1',
  ]) {
    assert.throws(() => parseForward(bad), { code: 'CPL_CLIENT_OPTIONS', message: /it must read LOCALPORT/ }, bad);
  }
  assert.throws(() => parseTarget('::1:22'), { code: 'CPL_CLIENT_OPTIONS' });
});

test('[T12] curl through two forwards at once', async (t) => {
  const curl = requireProgram(t, 'curl');
  if (curl === undefined) return;
  const set = await ground(t);
  const ports = [await httpServer(t), await httpServer(t)];
  const listeners = await Promise.all(
    ports.map((port) => set.open(forwardTcp(local, { host: '127.0.0.1', port }, set.options))),
  );
  for (const [index, { port }] of listeners.entries()) {
    const stdout = await run(curl, ['-sS', `http://127.0.0.1:${port}/${index}`]);
    assert.equal(stdout, `you asked for /${index}`);
  }
});

test('[T12] SOCKS5 through curl: by address, by name, by IPv6, and what cannot be reached', async (t) => {
  const curl = requireProgram(t, 'curl');
  if (curl === undefined) return;
  const set = await ground(t);
  const port = await httpServer(t);
  const port6 = await httpServer(t, '::1');
  const { port: socks } = await set.open(forwardSocks(local, set.options));
  const proxy = ['-sS', '--noproxy', '', '--max-time', '20'];
  for (const [option, url] of [
    ['--socks5', `http://127.0.0.1:${port}/a`],
    ['--socks5-hostname', `http://localhost:${port}/a`],
    ['--socks5', `http://[::1]:${port6}/a`],
  ] as const) {
    const stdout = await run(curl, [...proxy, option, `127.0.0.1:${socks}`, url]);
    assert.equal(stdout, 'you asked for /a', url);
  }
  const refused = async (url: string) => {
    const failure = run(curl, [...proxy, '--socks5-hostname', `127.0.0.1:${socks}`, url]);
    return failure.then(
      () => 'it was reached',
      (error: { stderr: string }) => error.stderr,
    );
  };
  // curl's words for the replies 5 and 2.
  assert.match(await refused(`http://127.0.0.1:${await freePort()}/`), /\(5\)/);
  assert.match(await refused('http://10.9.8.7:80/'), /\(2\)/);
});

/** Says something to a SOCKS5 listener, piece by piece, and gives all its answer. */
async function say(port: number, pieces: readonly (readonly number[])[]): Promise<number[]> {
  const socket: Socket = connect(port, '127.0.0.1');
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.on('error', () => undefined);
  socket.setNoDelay(true);
  const closed = once(socket, 'close');
  await once(socket, 'connect');
  for (const piece of pieces) {
    await new Promise((resolve) => socket.write(Buffer.from(piece), resolve));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await closed;
  return [...Buffer.concat(chunks)];
}

test('[T12] SOCKS5: what is not served is refused by the right reply, also byte by byte', async (t) => {
  const set = await ground(t);
  const { port } = await set.open(forwardSocks(local, set.options));
  const greeting = [5, 1, 0];
  const reply = (code: number) => [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0];
  const target = [1, 127, 0, 0, 1, 0, 80];
  assert.deepEqual(await say(port, [greeting, [5, 3, 0, ...target]]), reply(7), 'UDP ASSOCIATE');
  assert.deepEqual(await say(port, [greeting, [5, 2, 0, ...target]]), reply(7), 'BIND');
  assert.deepEqual(await say(port, [greeting, [5, 1, 0, 2]]), reply(8), 'an unknown kind of address');
  assert.deepEqual(await say(port, [greeting, [5, 1, 0, 3, 0, 0, 80]]), reply(1), 'an empty name');
  assert.deepEqual(await say(port, [greeting, [5, 1, 0, 3, 3, 97, 10, 98, 0, 80]]), reply(1), 'a name of two lines');
  const bytes = [...greeting, 5, 3, 0, ...target].map((byte) => [byte]);
  assert.deepEqual(await say(port, bytes), reply(7), 'byte by byte');
  assert.deepEqual(await say(port, [[5, 1, 2]]), [5, 255], 'no method in common');
  assert.deepEqual(await say(port, [[4, 1, 0, 80, 127, 0, 0, 1, 0]]), [], 'SOCKS4');
  assert.equal(set.errors.length, 0);
});

test('[T11][T12] UDP: one datagram is one message, each peer a session of its own', async (t) => {
  const set = await ground(t);
  const { port, peers } = await udpEcho(t);
  const listener = await set.open(forwardUdp(local, { host: '127.0.0.1', port }, set.options));
  const clients = [await udpClient(t, listener.port), await udpClient(t, listener.port)];
  const sizes = [0, 1, 1200, 9000, 60_000];
  for (const [index, { socket, heard }] of clients.entries()) {
    for (const size of sizes) {
      const before = heard.length;
      socket.send(Buffer.alloc(size, index + 1));
      await until(() => heard.length > before, `the answer of ${size} bytes`);
    }
    assert.deepEqual(
      heard.map(({ length }) => length),
      sizes,
    );
    assert.ok(heard.every((data) => data.every((byte) => byte === index + 1)));
  }
  assert.equal(peers.size, 2, 'two peers are two peers for the target too');
  assert.equal(set.agent.agent.tunnels, 2);
});

test('[T12] a UDP peer that is silent is forgotten, and comes back by a new session', async (t) => {
  const set = await ground(t);
  const { port, peers } = await udpEcho(t);
  const listener = await set.open(forwardUdp(local, { host: '127.0.0.1', port }, { ...set.options, idleMs: 150 }));
  const { socket, heard } = await udpClient(t, listener.port);
  socket.send('a');
  await until(() => heard.length === 1, 'an answer');
  await until(() => set.agent.agent.tunnels === 0 && set.errors.length === 1, 'the peer is forgotten');
  assert.deepEqual(set.errors, [undefined]);
  socket.send('b');
  await until(() => heard.length === 2, 'an answer again');
  assert.equal(peers.size, 2);
});

test('[T11] a UDP target that refuses datagrams is told, and so is one that is not allowed', async (t) => {
  const set = await ground(t);
  for (const [host, expected] of [
    ['127.0.0.1', /refuses datagrams: ECONNREFUSED|cannot send a datagram: ECONNREFUSED/],
    ['10.9.8.7', /not among the targets/],
  ] as const) {
    const before = set.errors.length;
    const listener = await set.open(forwardUdp(local, { host, port: await freePort() }, set.options));
    const { socket } = await udpClient(t, listener.port);
    socket.send('a');
    await until(() => set.errors.length > before, 'the session ends');
    assert.match(set.errors.at(-1)!.message, expected);
  }
});

test('[T12] a relay that was away: new connections go through again', async (t) => {
  const set = await ground(t);
  const port = await httpServer(t);
  let away = true;
  const { open } = set.control;
  const options: ForwardOptions = {
    ...set.options,
    open: async (request, signal) => {
      const ticket = await open(request, signal);
      return away ? { ...ticket, url: `ws://127.0.0.1:${await freePort()}/relay` } : ticket;
    },
  };
  const listener = await set.open(forwardTcp(local, { host: '127.0.0.1', port }, options));
  // Not by fetch: it would try again, for ever, whatever is reset before it has asked.
  const lost = connect(listener.port, '127.0.0.1');
  const why = await new Promise((resolve) => lost.once('error', (error: NodeJS.ErrnoException) => resolve(error.code)));
  assert.equal(why, 'ECONNRESET');
  await until(() => set.errors.length === 1, 'the forward says so');
  assert.equal(set.errors[0]?.code, 'CPL_CLIENT_CONNECT');
  away = false;
  const answer = await fetch(`http://127.0.0.1:${listener.port}/x`, { headers: { connection: 'close' } });
  assert.equal(await answer.text(), 'you asked for /x');
});

/** The heap after everything that is garbage has gone. */
async function heapBytes(): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let round = 0; round < 3; round++) {
    await new Promise((resolve) => setImmediate(resolve));
    collect();
  }
  return process.memoryUsage().heapUsed;
}

function resources(): { descriptors: number; timers: number } {
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    timers: process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length,
  };
}

test('[T12] many connections in a row leave no descriptor, timer or memory behind', { timeout: 580_000 }, async (t) => {
  const connections = Number(process.env.COUPLET_TEST_CONNECTIONS ?? 400);
  const set = await ground(t);
  const server = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const good = await set.open(forwardTcp(local, { host: '127.0.0.1', port }, set.options));
  const bad = await set.open(forwardTcp(local, { host: '127.0.0.1', port: await freePort() }, set.options));
  const one = async (index: number) => {
    const socket = connect(index % 8 === 0 ? bad.port : good.port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.end(`hello ${index}`);
    let heard = '';
    socket.on('data', (data) => {
      heard += data;
    });
    await new Promise((resolve) => socket.once('close', resolve));
    assert.equal(heard, index % 8 === 0 ? '' : `hello ${index}`);
  };
  const batch = async (from: number, to: number) => {
    for (let at = from; at < to; at += 8) await Promise.all(Array.from({ length: 8 }, (_, index) => one(at + index)));
    await until(() => set.agent.agent.tunnels === 0 && set.errors.length === to, 'all are closed');
  };
  await batch(0, 80);
  const before = resources();
  const heapBefore = await heapBytes();
  await batch(80, 80 + connections);
  await until(() => resources().descriptors <= before.descriptors + 4, 'the descriptors are back', 5000);
  await until(() => resources().timers <= before.timers + 4, 'the timers are back', 5000);
  const grown = (await heapBytes()) - heapBefore;
  console.log(`${connections} connections: the heap grew by ${(grown / connections).toFixed(0)} bytes each`);
  // What is kept on purpose: this test's list of errors, and the relay's and the runtime's own caches.
  assert.ok(
    grown < 2 * 1024 * 1024 + connections * 600,
    `${grown} bytes of heap are left of ${connections} connections`,
  );
});
