import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { type TestContext, test } from 'node:test';
import { connectPeer, PeerNetworks } from '../../src/cluster/peer-address.ts';
import type { ServerEntry } from '../../src/cluster/servers.ts';
import { newSeal, Site } from './link-site.ts';

const loopback = new PeerNetworks(['127.0.0.0/8', '::1']);

function entry(linkUrl: string, fingerprint = ''): ServerEntry {
  return { boot: 'b', linkUrl, fingerprint, directory: '', startedMs: 0, version: '' };
}

/** A server that counts who comes and what they say. */
async function listening(
  t: TestContext,
): Promise<{ server: Server; port: number; seen: { connections: number; bytes: number } }> {
  const seen = { connections: 0, bytes: 0 };
  const server = createServer((socket) => {
    seen.connections++;
    socket.on('error', () => undefined);
    socket.on('data', (data) => {
      seen.bytes += data.length;
    });
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port, seen };
}

test('[K3] peer networks take addresses and networks of both families, IPv4 in IPv6 clothes too', () => {
  const networks = new PeerNetworks(['10.0.0.0/8', '192.168.7.9', 'fd00::/8', '::1']);
  for (const inside of ['10.1.2.3', '192.168.7.9', 'fd12::1', '::1', '::ffff:10.0.0.1']) {
    assert.equal(networks.includes(inside), true, inside);
  }
  for (const outside of ['11.0.0.1', '192.168.7.10', 'fe80::1', '127.0.0.1', '::ffff:8.8.8.8', 'name', '']) {
    assert.equal(networks.includes(outside), false, outside);
  }
  assert.equal(new PeerNetworks([]).includes('127.0.0.1'), false);
  for (const wrong of [
    '10.0.0.0/33',
    '10.0.0/8',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    'fd00::/129',
    'localhost',
    '',
    'fe80::1%lo',
    '1.2.3.4/-1',
  ]) {
    assert.throws(() => new PeerNetworks([wrong]), { code: 'CPL_PEER_NETWORK' }, wrong);
  }
});

test('[K3] an address outside the peer networks is not dialled, named or looked up', async (t) => {
  const { port, seen } = await listening(t);
  const strict = new PeerNetworks(['10.0.0.0/8']);
  for (const host of ['127.0.0.1', 'localhost', '[::1]', '[::ffff:127.0.0.1]']) {
    await assert.rejects(connectPeer(entry(`ws://${host}:${port}`), strict, 1000), /not in cluster.peerNetworks/, host);
  }
  await assert.rejects(connectPeer(entry('http://127.0.0.1'), loopback, 1000), { code: 'CPL_PEER' });
  await assert.rejects(connectPeer(entry('nonsense'), loopback, 1000), { code: 'CPL_PEER' });
  assert.equal(seen.connections, 0);
  const socket = await connectPeer(entry(`ws://localhost:${port}`), loopback, 1000);
  assert.equal(socket.remotePort, port);
  socket.destroy();
});

test('[K3] with TLS only the holder of the pinned certificate is told anything', async (t) => {
  const seal = newSeal();
  const site = new Site(t, { seal, tls: true });
  const other = new Site(t, { seal, tls: true });
  const socket = await connectPeer(site.entry, loopback, 2000);
  socket.destroy();
  const lower = { ...site.entry, fingerprint: site.entry.fingerprint.replaceAll(':', '').toLowerCase() };
  (await connectPeer(lower, loopback, 2000)).destroy();
  for (const fingerprint of [other.entry.fingerprint, '', site.entry.fingerprint.slice(0, -3)]) {
    await assert.rejects(
      connectPeer({ ...site.entry, fingerprint }, loopback, 2000),
      /another certificate/,
      `pinned: ${fingerprint}`,
    );
  }
});

test('[K3] a server that says nothing is given up at the deadline, one that is not there at once', async (t) => {
  const { server, port, seen } = await listening(t);
  await assert.rejects(
    connectPeer(entry(`wss://127.0.0.1:${port}`, 'aa'), loopback, 100),
    /did not answer within 100 ms/,
  );
  assert.equal(seen.connections, 1);
  server.close();
  await assert.rejects(connectPeer(entry(`ws://127.0.0.1:${port}`), loopback, 5000), /ECONNREFUSED/);
});
