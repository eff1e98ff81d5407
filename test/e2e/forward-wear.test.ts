import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { startLine } from '../support/line.ts';
import { descriptorsOf, Ground, residentBytesOf } from '../support/processes.ts';
import { until } from '../support/relay.ts';

/** `npm run torture` takes all 10,000. */
const connections = Number(process.env.COUPLET_TEST_CONNECTIONS ?? 1000);
/** Heaps grow to their working size in these. */
const warmUps = 300;
/** What a process may grow by whatever the number of connections: a leak of 5 kB each shows in 10,000. */
const growthLimitBytes = 48 * 1024 * 1024;

async function startEcho(t: TestContext): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, (socket) => socket.on('error', () => {}).pipe(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

/** One connection with a request and an answer; every tenth breaks off. */
async function ask(port: number, index: number): Promise<void> {
  const socket = connect({ port, host: '127.0.0.1' });
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
    if (index % 10 === 9) socket.resetAndDestroy();
  });
  const closed = new Promise<void>((resolve, reject) => {
    socket.on('close', () => resolve());
    socket.on('error', reject);
  });
  if (index % 10 === 9) socket.write(`request ${index}`);
  else socket.end(`request ${index}`);
  await closed;
  assert.equal(answer, `request ${index}`);
}

test(`[T12] ${connections} forwarded connections in a row leave no descriptor and no memory behind`, {
  timeout: 900_000,
}, async (t) => {
  const target = await startEcho(t);
  const ground = await Ground.start(t);
  const { agent } = await ground.addAgent('box');
  const forward = await ground.forward(['box', `0:127.0.0.1:${target}`]);
  const pids = { server: ground.serve.pid, agent: agent.pid, forward: forward.pid };
  const asked = async (count: number) => {
    for (let i = 0; i < count; i++) await ask(forward.ports[0]!, i);
    await until(() => forward.count('closed') === forward.count('opened'), 'the forward has closed all');
    await until(async () => (await ground.serve.metric('couplet_halves{state="paired"}')) === 0, 'no half is left');
  };
  const measure = (of: (pid: number) => number) =>
    Object.fromEntries(Object.entries(pids).map(([name, pid]) => [name, of(pid)]));
  await asked(warmUps);
  const before = { descriptors: measure(descriptorsOf), bytes: measure(residentBytesOf) };
  const startMs = performance.now();
  await asked(connections);
  t.diagnostic(`${(connections / ((performance.now() - startMs) / 1000)).toFixed(0)} connections per second`);
  const more = () =>
    Object.entries(measure(descriptorsOf)).filter(([name, count]) => count > before.descriptors[name]!);
  await until(() => more().length === 0, 'descriptors as before').catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify({ before: before.descriptors, more: more() })}`);
  });
  for (const [name, bytes] of Object.entries(measure(residentBytesOf))) {
    const grown = bytes - before.bytes[name]!;
    t.diagnostic(
      `${name}: ${(grown / 1048576).toFixed(1)} MiB more than ${(before.bytes[name]! / 1048576).toFixed(0)}`,
    );
    assert.ok(grown < growthLimitBytes, `${name} has grown by ${grown} bytes`);
  }
});

test('[T12] forwarded connections leave no timer, socket or other resource behind', async (t) => {
  const target = await startEcho(t);
  const line = await startLine(t);
  const resources = () => {
    const counts: Record<string, number> = {};
    for (const name of process.getActiveResourcesInfo()) counts[name] = (counts[name] ?? 0) + 1;
    return counts;
  };
  const { port } = await line.listen(target);
  const asked = async (count: number) => {
    for (let i = 0; i < count; i++) await ask(port, i);
    const idle = () => line.agent.tunnels() === 0 && line.site.relay.server.sessions().length === 0;
    await until(idle, 'nothing runs');
  };
  await asked(20);
  const before = resources();
  await asked(200);
  // A connection that lingers for a moment is none that stays.
  const more = () => Object.entries(resources()).filter(([name, count]) => count > (before[name] ?? 0));
  await until(() => more().length === 0, `resources as before: ${JSON.stringify(before)}`, 5000).catch((error) => {
    throw new Error(`${error.message}, now ${JSON.stringify(resources())}`);
  });
});
