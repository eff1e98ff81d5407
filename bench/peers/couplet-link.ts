import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { LoginKey } from '../../src/auth/keys.ts';
import { coupletUnavailable, startCouplet } from './couplet.ts';
import { type Peer, type RelayProcess, type RunningPeer, startRelay } from './peer.ts';

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** A Redis of the run's own that keeps nothing. It is not pinned, and its CPU time is not the relay's. */
async function startRedis(): Promise<RelayProcess> {
  const port = await freePort();
  const options = ['--bind', '127.0.0.1', '--port', String(port), '--save', '', '--appendonly', 'no'];
  return startRelay(
    undefined,
    ['redis-server', ...options],
    {},
    {
      readPort: (line) => (line.includes('Ready to accept connections') ? port : undefined),
    },
  );
}

const unavailable = (): string | undefined => {
  const { error } = spawnSync('redis-server', ['--version']);
  return error === undefined ? coupletUnavailable() : 'redis-server is missing';
};

/** Two servers of one cluster, on one core; their CPU time together counts. `across`: device halves go to the second. */
async function startTwo(
  cpu: number | undefined,
  across: boolean,
  settings: Readonly<Record<string, string>> = {},
): Promise<RunningPeer> {
  const started: { stop(): Promise<void> }[] = [];
  const stop = async (): Promise<void> => {
    for (const one of started.splice(0).reverse()) await one.stop();
  };
  try {
    const redis = await startRedis();
    started.push(redis);
    const all = { COUPLET_CLUSTER_REDIS: `redis://127.0.0.1:${redis.port}`, ...settings };
    const key = LoginKey.generate();
    const first = await startCouplet(cpu, all, key);
    started.push(first);
    const second = await startCouplet(cpu, all, key);
    started.push(second);
    return { ...first, otherPids: [second.pid], ...(across && { devicePort: second.port }), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The two halves of each pair are on different servers of a cluster: one of them is carried by a link. */
export const coupletLinkPeer: Peer = {
  name: 'couplet-link',
  unavailable,
  start: (cpu) => startTwo(cpu, true),
};

/** The same on the path it takes where the addon does not load. */
export const coupletLinkPortablePeer: Peer = {
  name: 'couplet-link-portable',
  unavailable,
  start: (cpu) => startTwo(cpu, true, { COUPLET_RELAY_FORWARDER: 'portable' }),
};

/** The same cluster, and all halves on one of its servers: what being one of several costs a local session. */
export const coupletClusterPeer: Peer = {
  name: 'couplet-cluster',
  unavailable,
  start: (cpu) => startTwo(cpu, false),
};
