import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { TargetList } from '../../../src/clients/agent/targets.ts';
import { type ForwardConnection, forwardTcp, type Listener } from '../../../src/clients/forward.ts';
import type { CoupletError } from '../../../src/core/errors.ts';
import { type ControlServer, startAgent, startControl, type TestAgent } from '../../support/control-server.ts';
import { Random } from '../../support/random.ts';
import { until } from '../../support/relay.ts';

const MiB = 1024 * 1024;

/** A TCP server of the test's own; `serve` gets each connection (half-open allowed). */
async function target(t: TestContext, serve: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>();
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => undefined);
    serve(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

interface Path {
  readonly control: ControlServer;
  readonly agent: TestAgent;
  readonly listener: Listener;
  readonly closed: { connection: ForwardConnection; error: CoupletError | undefined }[];
  connect(): Promise<Socket>;
}

/** Local port → relay → agent → target. */
async function pathTo(t: TestContext, port: number, agentOptions = {}, host = '127.0.0.1'): Promise<Path> {
  const control = await startControl(t);
  const agent = await startAgent(t, control, agentOptions);
  const closed: Path['closed'] = [];
  const listener = await forwardTcp(
    { bindAddress: '127.0.0.1', localPort: 0 },
    { host, port },
    {
      device: agent.nodeid,
      open: control.open,
      security: {},
      events: { opened: () => undefined, closed: (connection, error) => closed.push({ connection, error }) },
    },
  );
  t.after(() => listener.close());
  return {
    control,
    agent,
    listener,
    closed,
    connect: async () => {
      const socket = connect({ port: listener.port, host: '127.0.0.1', allowHalfOpen: true });
      t.after(() => socket.destroy());
      socket.on('error', () => undefined);
      await once(socket, 'connect');
      return socket;
    },
  };
}

/** All data until the end. Not an iterator: that would destroy the socket, and its other direction with it. */
async function buffer(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

/** How a connection ends for its local side: `end`, or the error's code. */
function endOf(socket: Socket): Promise<string> {
  socket.resume();
  return new Promise((resolve) => {
    socket.on('end', () => resolve('end'));
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
  });
}

function sha(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

test('[T11] random bytes both ways arrive whole, and each direction ends on its own', async (t) => {
  const random = new Random();
  console.log(`seed ${random.seed}`);
  const up = random.bytes(8 * MiB);
  const down = random.bytes(8 * MiB);
  const received: Promise<Buffer>[] = [];
  const port = await target(t, (socket) => {
    received.push(buffer(socket));
    socket.end(down);
  });
  const path = await pathTo(t, port);
  const socket = await path.connect();
  const answer = buffer(socket);
  socket.end(up);
  assert.equal(sha(await answer), sha(down));
  assert.equal(sha(await received[0]!), sha(up));
  await until(() => path.closed.length === 1 && path.agent.errors.length === 1, 'both ends say that it is closed');
  const { connection, error } = path.closed[0]!;
  assert.equal(error, undefined);
  assert.deepEqual([connection.bytesUp, connection.bytesDown], [up.length, down.length]);
  assert.deepEqual(path.agent.errors, [undefined]);
});

test('[T11] half-close: the target answers after the client has ended', async (t) => {
  const port = await target(t, async (socket) => {
    const request = await buffer(socket);
    socket.end(`got ${request}`);
  });
  const path = await pathTo(t, port);
  const socket = await path.connect();
  socket.end('the request');
  assert.equal(String(await buffer(socket)), 'got the request');
});

test('[T11] half-close: the client goes on after the target has ended', async (t) => {
  const received: Promise<Buffer>[] = [];
  const port = await target(t, (socket) => {
    received.push(buffer(socket));
    socket.end('bye');
  });
  const path = await pathTo(t, port);
  const socket = await path.connect();
  assert.equal(String(await buffer(socket)), 'bye');
  socket.write('still ');
  socket.end('here');
  await until(() => received.length === 1, 'the target was reached');
  assert.equal(String(await received[0]), 'still here');
});

test('[T11] a reset by the target is a reset for the client, not an end', async (t) => {
  const port = await target(t, (socket) => {
    socket.once('data', () => socket.resetAndDestroy());
  });
  const path = await pathTo(t, port);
  const socket = await path.connect();
  const end = endOf(socket);
  socket.write('x');
  assert.equal(await end, 'ECONNRESET');
  await until(() => path.closed.length === 1, 'the forward says so');
  assert.match(path.closed[0]!.error!.message, /the connection to 127\.0\.0\.1 port \d+ broke/);
});

test('[T11] a reset by the client is a reset for the target, not an end', async (t) => {
  const ends: Promise<string>[] = [];
  const port = await target(t, (socket) => {
    ends.push(endOf(socket));
    socket.write('hello');
  });
  const path = await pathTo(t, port);
  const socket = await path.connect();
  await once(socket, 'data');
  socket.resetAndDestroy();
  assert.equal(await ends[0], 'ECONNRESET');
  await until(() => path.agent.agent.tunnels === 0, 'the tunnel is gone');
});

test('[T11] a refused port: the user half is told, the local side reset, the server told why', async (t) => {
  const port = await target(t, () => undefined);
  const path = await pathTo(t, port);
  // Nobody listens on the relay's metrics port's neighbour: a port that was just free.
  const free = createServer().listen(0, '127.0.0.1');
  await once(free, 'listening');
  const freePort = (free.address() as AddressInfo).port;
  free.close();
  await once(free, 'close');
  const closed: (CoupletError | undefined)[] = [];
  const listener = await forwardTcp(
    { bindAddress: '127.0.0.1', localPort: 0 },
    { host: 'localhost', port: freePort },
    {
      device: path.agent.nodeid,
      open: path.control.open,
      security: {},
      events: { opened: () => undefined, closed: (_connection, error) => closed.push(error) },
    },
  );
  t.after(() => listener.close());
  const socket = connect(listener.port, '127.0.0.1');
  assert.equal(await endOf(socket), 'ECONNRESET');
  await until(() => closed.length === 1, 'the forward says so');
  assert.match(closed[0]!.message, /the mate reports error: cannot connect to .* port \d+: ECONNREFUSED/);
  await until(() => path.control.reports.length === 1, 'the agent reports');
  const report = path.control.reports[0]!;
  assert.equal(report.type, 'tunnel-failed');
  assert.equal(report.reason, 'dial');
});

test('[T11] a target that does not answer is given up after the dial time-out', async (t) => {
  // A full backlog: further connections get no answer. (TEST-NET would be traffic off loopback.)
  const { port, fill } = await stalledListener(t);
  const path = await pathTo(t, port, { dialTimeoutMs: 300 });
  await fill();
  const socket = await path.connect();
  assert.equal(await endOf(socket), 'ECONNRESET');
  await until(() => path.closed.length === 1, 'the forward says so');
  assert.match(path.closed[0]!.error!.message, /cannot connect to 127\.0\.0\.1 port \d+: ETIMEDOUT/);
});

/** A listening socket whose queue of connections is full: Node.js accepts at once, so a stopped child holds it. */
async function stalledListener(t: TestContext): Promise<{ port: number; fill(): Promise<void> }> {
  const { spawn } = await import('node:child_process');
  const code = `const s=require('net').createServer();s.listen({port:0,host:'127.0.0.1',backlog:1},()=>console.log(s.address().port))`;
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const [line] = await once(child.stdout, 'data');
  const port = Number(line);
  child.kill('SIGSTOP');
  return {
    port,
    fill: async () => {
      let open = 0;
      const sockets = Array.from({ length: 4 }, () => connect(port, '127.0.0.1').on('connect', () => open++));
      t.after(() => {
        for (const socket of sockets) socket.destroy();
      });
      for (const socket of sockets) socket.on('error', () => undefined);
      await until(() => open >= 2, 'the queue is full');
    },
  };
}

test('[T8] targets: what the agent does not allow is not dialled, and the user half is told', async (t) => {
  let reached = 0;
  const port = await target(t, () => {
    reached++;
  });
  const path = await pathTo(t, port, { targets: new TargetList([`127.0.0.1:${port + 1 > 65_535 ? 1 : port + 1}`]) });
  const socket = await path.connect();
  assert.equal(await endOf(socket), 'ECONNRESET');
  await until(() => path.closed.length === 1 && path.control.reports.length === 1, 'it is told');
  assert.match(path.closed[0]!.error!.message, /not among the targets that this agent allows/);
  assert.deepEqual([path.control.reports[0]!.type, path.control.reports[0]!.reason], ['tunnel-refused', 'target']);
  assert.equal(reached, 0);
});

test('[T8] a protocol outside its usages is refused even with a good target', async (t) => {
  let reached = 0;
  const port = await target(t, () => {
    reached++;
  });
  const { control, agent } = await pathTo(t, port);
  control.tunnel(agent.nodeid, 14, { target: { transport: 'tcp', port, address: '127.0.0.1' }, usages: [2] });
  await until(() => control.reports.length === 1, 'it is refused');
  assert.equal(control.reports[0]!.reason, 'protocol');
  assert.equal(reached, 0);
});

test('[T11] flow control: a target that does not read stops the client, and nothing is lost', async (t) => {
  const stalled: Socket[] = [];
  const port = await target(t, (socket) => {
    socket.pause();
    stalled.push(socket);
  });
  const path = await pathTo(t, port);
  const socket = await path.connect();
  const data = new Random(1).bytes(MiB);
  let written = 0;
  const hash = createHash('sha256');
  const pump = () => {
    while (written < 160) {
      written++;
      hash.update(data);
      if (!socket.write(data)) return;
    }
    socket.end();
  };
  socket.on('drain', pump);
  pump();
  let seen = -1;
  for (let looks = 0; looks < 10; looks = seen === written ? looks + 1 : 0) {
    seen = written;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  // Five hops over loopback, each with a few MiB in the system's own buffers.
  assert.ok(written < 90, `${written} MiB were taken for a target that reads nothing`);
  const received = createHash('sha256');
  let bytes = 0;
  for await (const chunk of stalled[0]!) {
    received.update(chunk);
    bytes += chunk.length;
  }
  assert.equal(bytes, 160 * MiB);
  assert.equal(received.digest('hex'), hash.digest('hex'));
});

test('[T11] more tunnels than the agent serves are refused; one that ends makes room', async (t) => {
  const port = await target(t, (socket) => socket.pipe(socket));
  const path = await pathTo(t, port, { maxTunnels: 2 });
  const held = [await path.connect(), await path.connect()];
  for (const socket of held) {
    socket.write('a');
    await once(socket, 'data');
  }
  await path.connect();
  await until(() => path.control.reports.length === 1, 'the third is refused');
  assert.equal(path.control.reports[0]!.reason, 'busy');
  held[0]!.end();
  await until(() => path.agent.agent.tunnels === 1, 'one has ended');
  const socket = await path.connect();
  socket.write('b');
  assert.equal(String((await once(socket, 'data'))[0]), 'b');
});

test('[T11] an agent that is stopped ends its tunnels and leaves nothing running', async (t) => {
  const ends: Promise<string>[] = [];
  const port = await target(t, (socket) => {
    ends.push(endOf(socket));
    socket.write('hello');
  });
  const path = await pathTo(t, port);
  const socket = await path.connect();
  await once(socket, 'data');
  await path.agent.stop();
  assert.equal(await ends[0], 'ECONNRESET');
  assert.equal(await endOf(socket), 'ECONNRESET');
});
