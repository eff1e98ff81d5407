import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, connect as dial, type Socket } from 'node:net';
import { after, before, type TestContext, test } from 'node:test';
import { connect, Refused } from '../support/client.ts';
import { ClusterSite } from '../support/cluster-site.ts';
import { Postgres } from '../support/postgres.ts';
import { freePort } from '../support/processes.ts';
import { until } from '../support/relay.ts';

let postgres: Postgres;
before(async () => {
  postgres = await Postgres.start();
});
after(() => postgres.stop());

/** Somebody between two servers who sees all that the one says to the other. */
async function listenIn(t: TestContext, toPort: number): Promise<{ port: number; heard: Buffer[] }> {
  const heard: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((from) => {
    const index = heard.push(Buffer.alloc(0)) - 1;
    const to = dial(toPort, '127.0.0.1');
    for (const socket of [from, to]) sockets.add(socket.on('error', () => {}));
    from.on('data', (data) => {
      heard[index] = Buffer.concat([heard[index]!, data]);
    });
    from.pipe(to).pipe(from);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { port: (server.address() as { port: number }).port, heard };
}

/** What a server answers to these bytes until it closes the connection. */
async function replay(bytes: Buffer, port: number): Promise<string> {
  const socket = dial(port, '127.0.0.1');
  const parts: Buffer[] = [];
  socket.on('data', (data) => parts.push(data));
  socket.on('error', () => {});
  const head = bytes.indexOf('\r\n\r\n') + 4;
  socket.write(bytes.subarray(0, head));
  // As its dialler did: what follows comes after the answer.
  socket.once('data', () => socket.write(bytes.subarray(head)));
  const late = setTimeout(() => socket.destroy(new Error('late')), 15_000);
  await once(socket, 'close');
  clearTimeout(late);
  return Buffer.concat(parts).toString('latin1');
}

test('[K3] fault 43: tickets and proofs that were listened to or forged open nothing', async (t) => {
  const site = await ClusterSite.start(t, postgres);
  if (site === undefined) return;
  const linkPort = await freePort();
  const between = await listenIn(t, linkPort);
  const cluster = { linkListen: `127.0.0.1:${linkPort}`, advertise: `ws://127.0.0.1:${between.port}` };
  const b = await site.add({ cluster });
  const a = await site.add();
  // The user half makes B the owner; the device half at A is carried to it.
  const { user, device } = await site.pair(b, a, 'listened');
  assert.deepEqual([a.sessions().length, b.sessions().length], [0, 1]);
  const links = between.heard.filter((bytes) => bytes.toString('latin1').startsWith('GET /link?'));
  const channels = between.heard.filter((bytes) => bytes.toString('latin1').startsWith('GET /channel?'));
  assert.deepEqual([links.length, channels.length], [1, 1]);
  const [link, channel] = [Buffer.from(links[0]!), Buffer.from(channels[0]!)];

  // While the session runs, and after it; the whole stream, and the ticket by itself.
  const url = /^GET (\S+) /.exec(link.toString('latin1'))![1]!;
  const failures = async () => {
    const text = await (await fetch(`http://${b.metricsAddress}/metrics`)).text();
    const lines = text.split('\n').filter((line) => line.startsWith('couplet_link_failures_total{'));
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
  };
  const before = await failures();
  const flip = (at: number) => `${url.slice(0, at)}${url[at] === 'A' ? 'B' : 'A'}${url.slice(at + 1)}`;
  const forged = [
    url,
    flip(20),
    flip(url.length - 20),
    url.slice(0, -4),
    '/link?ticket=',
    '/link',
    '/link?ticket=AAAA',
  ];
  for (const path of forged) {
    await assert.rejects(connect(t, `ws://127.0.0.1:${linkPort}${path}`), (error) => {
      assert.ok(error instanceof Refused && error.status === 401, `${path}: ${error}`);
      assert.equal(error.body.trim(), 'Unauthorized', 'not why');
      return true;
    });
  }
  assert.match(await replay(link, linkPort), /^HTTP\/1\.1 401 /);
  assert.equal((await failures()) - before, forged.length + 1);

  // Everything that A ever said on its channel: B's challenge is another one now.
  const answer = await replay(channel, linkPort);
  assert.match(answer, /^HTTP\/1\.1 101 /);
  assert.match(answer, /no proof of a server$/, 'the close frame, and nothing more');
  // Its own server's channel and sessions go on.
  user.send('still');
  assert.equal(await device.nextText(), 'still');
  assert.equal(await site.metric(b, 'couplet_cluster_peers_lost_total'), 0);
  device.ws.close(1000);
  await user.closed;
  assert.match(await replay(link, linkPort), /^HTTP\/1\.1 401 /);
  await until(() => b.sessions().length === 0, 'the session is over');
  assert.equal(await site.metric(b, 'couplet_halves{state="waiting"}'), 0);
  await site.pair(b, a, 'another');
});
