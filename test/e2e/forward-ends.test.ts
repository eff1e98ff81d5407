import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect as connectTcp, createServer, type Server, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import type { PairStatistics } from '../../src/relay/forwarder.ts';
import { type Line, startLine } from '../support/line.ts';
import { freePort, Ground } from '../support/processes.ts';
import { until } from '../support/relay.ts';

/** What should hear of an end and does not would wait for ever. */
const limits = { timeout: 30_000 };

/** A target whose connections the test takes one by one. */
async function startTarget(t: TestContext): Promise<{ port: number; accept(): Promise<Socket> }> {
  const sockets: Socket[] = [];
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket.on('error', () => undefined));
    server.emit('taken');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  let next = 0;
  const accept = async () => {
    while (sockets.length <= next) await once(server, 'taken');
    return sockets[next++]!;
  };
  return { port: (server.address() as AddressInfo).port, accept };
}

function statistics({ site }: Line): PairStatistics {
  return site.relay.sessions()[0]!.pair.statistics();
}

async function outcome({ site }: Line): Promise<unknown> {
  const end = () => site.relay.events().find(({ code }) => code === 'CPL-1002I');
  await until(() => end() !== undefined, 'the end event');
  return end()?.outcome;
}

async function noneLeft({ site, agent }: Line): Promise<void> {
  const waiting = () => site.relay.metric('couplet_halves{state="waiting"}');
  await until(async () => site.relay.sessions().length === 0 && (await waiting()) === 0, 'no half is left', 3000);
  await until(() => agent.tunnels() === 0, 'no tunnel is left', 3000);
}

/** Everything up to the end; unlike what iterates over a stream it leaves the other direction open. */
async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.resume();
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

async function text(socket: Socket): Promise<string> {
  return String(await readAll(socket));
}

/** The code of the error with which a socket ends. */
async function failure(socket: Socket): Promise<string> {
  const [error] = await once(socket, 'error');
  return (error as NodeJS.ErrnoException).code ?? '';
}

test('[T11] half-close: each direction ends on its own, whichever ends first', limits, async (t) => {
  const line = await startLine(t);
  const target = await startTarget(t);
  const client = await line.dial(target.port);
  client.end('the question');
  const asked = await target.accept();
  assert.equal(await text(asked), 'the question', 'the end came through');
  asked.write('the ');
  assert.equal(String((await once(client, 'data'))[0]), 'the ');
  const rest = text(client);
  asked.end('answer');
  assert.equal(await rest, 'answer');
  assert.equal(await outcome(line), 'normal');

  const second = await line.dial(target.port);
  const greeter = await target.accept();
  greeter.end('bye');
  assert.equal(await text(second), 'bye');
  second.write(Buffer.alloc(300_000, 'x'));
  second.end('tail');
  const left = await text(greeter);
  assert.equal(left.length, 300_004);
  assert.ok(left.endsWith('xtail'));
  await until(() => line.errors.length === 2, 'both are closed');
  assert.deepEqual(line.errors, [undefined, undefined]);
  await noneLeft(line);
});

test('[T11] a reset is a reset on the other side, never an end of data, also after a half-close', limits, async (t) => {
  const line = await startLine(t);
  const target = await startTarget(t);
  const pair = async () => {
    const client = await line.dial(target.port);
    client.write('hello');
    const served = await target.accept();
    await once(served, 'data');
    served.write('hello');
    await once(client, 'data');
    client.resume();
    served.resume();
    return { client, served };
  };
  const first = await pair();
  first.client.resetAndDestroy();
  assert.equal(await failure(first.served), 'ECONNRESET');
  const second = await pair();
  second.served.resetAndDestroy();
  assert.equal(await failure(second.client), 'ECONNRESET');
  const third = await pair();
  third.client.end();
  await once(third.served, 'end');
  third.served.resetAndDestroy();
  assert.equal(await failure(third.client), 'ECONNRESET');
  const fourth = await pair();
  fourth.served.end();
  await once(fourth.client, 'end');
  fourth.client.resetAndDestroy();
  assert.equal(await failure(fourth.served), 'ECONNRESET');
  await until(() => line.errors.length === 4, 'all are closed');
  assert.ok(line.errors.every((error) => error !== undefined));
  await noneLeft(line);
});

/** Writes what it can, and tells how much the other side has taken. */
function pour(socket: Socket, bytes: number): { hash: string; written(): number } {
  const chunk = Buffer.alloc(65_536);
  const hash = createHash('sha256');
  let at = 0;
  const plan = createHash('sha256');
  for (let i = 0; i < bytes; i += chunk.length) plan.update(piece(i, chunk));
  const more = () => {
    while (at < bytes) {
      const data = Buffer.from(piece(at, chunk));
      at += data.length;
      hash.update(data);
      if (!socket.write(data)) return;
    }
    socket.off('drain', more);
    socket.end();
  };
  socket.on('drain', more);
  more();
  return { hash: plan.digest('hex'), written: () => socket.bytesWritten - socket.writableLength };
}

function piece(at: number, chunk: Buffer): Buffer {
  chunk.writeDoubleLE(at);
  return chunk;
}

const pourBytes = 96 * 1024 * 1024;
/** The kernel's socket buffers on the way, four connections of up to 6 MiB, and a few MiB of each process. */
const heldLimitBytes = 48 * 1024 * 1024;

test(
  '[R23][T11] a target that is slow holds its client back, in bounded memory, and the statistics name it',
  limits,
  async (t) => {
    const line = await startLine(t);
    const target = await startTarget(t);
    const client = await line.dial(target.port);
    const poured = pour(client, pourBytes);
    client.resume();
    const slow = await target.accept();
    slow.pause();
    await until(() => line.site.relay.sessions().length === 1, 'the session stands');
    await until(() => statistics(line).throttledUserToDeviceMs > 300, 'the client is held back');
    const { throttledDeviceToUserMs, throttledBy, bufferedBytes } = statistics(line);
    assert.equal(throttledDeviceToUserMs, 0);
    assert.ok(throttledBy.deviceMs > 300 && throttledBy.userMs === 0, JSON.stringify(throttledBy));
    assert.ok(bufferedBytes < 4 * 1024 * 1024, `the relay holds ${bufferedBytes}`);
    assert.ok(poured.written() < heldLimitBytes, `${poured.written()} bytes are under way`);
    const got = createHash('sha256').update(await readAll(slow));
    assert.equal(got.digest('hex'), poured.hash);
    slow.end();
    assert.equal(await outcome(line), 'normal');
    await noneLeft(line);
  },
);

test(
  '[R23][T11] a client that is slow holds its target back, in bounded memory, and the statistics name it',
  limits,
  async (t) => {
    const line = await startLine(t);
    const target = await startTarget(t);
    const client = await line.dial(target.port);
    client.pause();
    const served = await target.accept();
    served.resume();
    const poured = pour(served, pourBytes);
    await until(() => line.site.relay.sessions().length === 1, 'the session stands');
    await until(() => statistics(line).throttledDeviceToUserMs > 300, 'the target is held back');
    const { throttledUserToDeviceMs, throttledBy, bufferedBytes } = statistics(line);
    assert.equal(throttledUserToDeviceMs, 0);
    assert.ok(throttledBy.userMs > 300 && throttledBy.deviceMs === 0, JSON.stringify(throttledBy));
    assert.ok(bufferedBytes < 4 * 1024 * 1024, `the relay holds ${bufferedBytes}`);
    assert.ok(poured.written() < heldLimitBytes, `${poured.written()} bytes are under way`);
    // What goes the other way is not held up by it.
    client.write('still heard');
    assert.equal(String((await once(served, 'data'))[0]), 'still heard');
    const got = createHash('sha256').update(await readAll(client));
    assert.equal(got.digest('hex'), poured.hash);
    client.end();
    assert.equal(await outcome(line), 'normal');
    await noneLeft(line);
  },
);

test(
  '[T7][T8][T11] refused, unknown and forbidden targets and a device that is offline: told at once, nothing is left',
  limits,
  async (t) => {
    const line = await startLine(t);
    const failed = async (port: number, host: string, expected: RegExp) => {
      const startMs = performance.now();
      const before = line.errors.length;
      const client = await line.dial(port, host);
      client.on('error', () => undefined);
      client.resume();
      await new Promise((resolve) => client.on('close', resolve));
      assert.ok(performance.now() - startMs < 3000, `${host} took too long`);
      await until(() => line.errors.length > before, 'the forward tells why');
      assert.match(String(line.errors.at(-1)?.message), expected);
      await noneLeft(line);
    };
    await failed(await freePort(), '127.0.0.1', /^the mate reports error: cannot connect to .* ECONNREFUSED$/);
    await failed(80, 'no-such-host.invalid', /^the mate reports error: cannot resolve no-such-host\.invalid/);
    await failed(
      80,
      '192.0.2.1',
      /close code 4403, refused by the device: 192\.0\.2\.1 port 80 is not among the targets/,
    );
    const codes = line.site.relay.events().map(({ code }) => code);
    assert.deepEqual(
      codes.filter((code) => code === 'CPL-1303W'),
      ['CPL-1303W'],
      'one that the agent refused is told once',
    );
    await line.agent.stop();
    await until(async () => (await line.site.relay.metric('couplet_agents')) === 0, 'it is offline');
    await failed(80, '127.0.0.1', /the device is offline/);
  },
);

async function ask(port: number): Promise<string> {
  const socket = connectTcp({ port, host: '127.0.0.1' });
  socket.end('ping');
  return text(socket);
}

test(
  '[T10][T12] an agent killed and restarted is back within 5 s; a server killed and restarted serves again',
  limits,
  async (t) => {
    const echo = createServer({ allowHalfOpen: true }, (socket) => socket.on('error', () => {}).pipe(socket));
    echo.listen(0, '127.0.0.1');
    await once(echo, 'listening');
    t.after(() => echo.close());
    const target = (echo.address() as AddressInfo).port;
    const ground = await Ground.start(t);
    const { agent, state } = await ground.addAgent('box');
    const forward = await ground.forward(['box', `0:127.0.0.1:${target}`]);
    const port = forward.ports[0]!;
    assert.equal(await ask(port), 'ping');

    const running = connectTcp({ port, host: '127.0.0.1' });
    running.write('x');
    await once(running, 'data');
    const broken = failure(running);
    await agent.end('SIGKILL');
    assert.equal(await broken, 'ECONNRESET', 'who was connected hears of it');
    const killedMs = performance.now();
    const again = await ground.runAgent(state);
    assert.equal(await ask(port), 'ping');
    assert.ok(performance.now() - killedMs < 5000, 'back within 5 s');

    await ground.crash();
    const since = again.said.length;
    await again.line(({ msg }) => msg === 'online', again.count('online') > 1 ? 0 : since);
    assert.equal(await ask(port), 'ping', 'the forward needed no restart');
    assert.equal(forward.count('listening'), 1);
  },
);

test('[T12] clients that leave before their session stands leave nothing behind', limits, async (t) => {
  const line = await startLine(t);
  const target = await startTarget(t);
  const { port } = await line.listen(target.port);
  const client = () => connectTcp({ port, host: '127.0.0.1' });
  const gone = Array.from({ length: 40 }, async (_, i) => {
    const socket = client();
    socket.on('error', () => undefined);
    await once(socket, 'connect');
    // At every stage of a session's coming about.
    for (let turns = 0; turns < 3 * i; turns++) await new Promise((resolve) => setImmediate(resolve));
    socket.resetAndDestroy();
  });
  await Promise.all(gone);
  await until(() => line.errors.length === 40, 'the forward has given all up');
  await noneLeft(line);
});
