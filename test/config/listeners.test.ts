import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';

const redis = 'redis://127.0.0.1:6379';

function load(server: object, cluster: object = {}) {
  return loadConfig({ settings: { server, cluster }, env: {} });
}

const taken: readonly (readonly [string, object, object, string])[] = [
  [
    'one port of two listeners',
    { listen: '127.0.0.1:9464' },
    {},
    'server.metricsListen is "127.0.0.1:9464"; it must differ from server.listen',
  ],
  [
    'a wildcard address takes the port of all',
    { listen: '0.0.0.0:9464' },
    {},
    'server.metricsListen is "127.0.0.1:9464"; it must differ from server.listen',
  ],
  [
    'the wildcard of IPv6 takes that of IPv4 too',
    { metricsListen: '[::]:8080' },
    {},
    'server.metricsListen is "[::]:8080"; it must differ from server.listen',
  ],
  [
    'a wildcard however it is spelled',
    { listen: '[0:0::0]:9464' },
    {},
    'server.metricsListen is "127.0.0.1:9464"; it must differ from server.listen',
  ],
  [
    'an address however it is spelled',
    { listen: '[fd00::1]:7000', metricsListen: '[FD00:0:0::1]:7000' },
    {},
    'server.metricsListen is "[FD00:0:0::1]:7000"; it must differ from server.listen',
  ],
  [
    'a wildcard as some write it',
    { listen: '0:9464' },
    {},
    'server.metricsListen is "127.0.0.1:9464"; it must differ from server.listen',
  ],
  [
    'an IPv4 address in IPv6',
    { listen: '[::ffff:127.0.0.1]:9464' },
    {},
    'server.metricsListen is "127.0.0.1:9464"; it must differ from server.listen',
  ],
  [
    'localhost is a loopback address',
    { listen: 'localhost:9464' },
    {},
    'server.metricsListen is "127.0.0.1:9464"; it must differ from server.listen',
  ],
  [
    'the metrics among the ports of workers',
    { listen: '127.0.0.1:9462', workers: 3, workerPorts: 'consecutive' },
    { redis },
    'server.metricsListen is "127.0.0.1:9464"; it must differ from the 3 ports from server.listen on',
  ],
  [
    'links where the relay listens',
    {},
    { redis, linkListen: '127.0.0.1:8080' },
    'cluster.linkListen is "127.0.0.1:8080"; it must differ from server.listen',
  ],
  [
    'links of workers that reach the port of the metrics',
    { workers: 4 },
    { redis, linkListen: '127.0.0.1:9461' },
    'cluster.linkListen is "127.0.0.1:9461"; the 4 ports from there on must differ from server.metricsListen',
  ],
  [
    'ports of workers that run into those of their links',
    { listen: '127.0.0.1:7000', workers: 8, workerPorts: 'consecutive' },
    { redis, linkListen: '127.0.0.1:7007' },
    'cluster.linkListen is "127.0.0.1:7007"; the 8 ports from there on must differ from the 8 ports from server.listen on',
  ],
];
for (const [what, server, cluster, message] of taken) {
  test(`[K8] [R40] no two listeners take one port: ${what}`, () => {
    assert.throws(() => load(server, cluster), { code: 'CPL_CONFIG', message });
  });
}

test('[K8] [R40] listeners that do not meet: other addresses, neighbours, any free port, links that are not used', () => {
  load({ listen: '127.0.0.2:9464' });
  load({ listen: '0.0.0.0:9464', metricsListen: '[::1]:9464' });
  load({ listen: 'localhost:9464', metricsListen: '127.0.0.2:9464' });
  load({ listen: '256.0.0.1:9464', metricsListen: '127.0.0.1:9464' });
  load({ listen: 'one.example:9464', metricsListen: 'two.example:9464' });
  load({ listen: '127.0.0.1:9461', workers: 3, workerPorts: 'consecutive' }, { redis, linkListen: '127.0.0.1:9465' });
  load({ listen: '127.0.0.1:0', metricsListen: '127.0.0.1:0', workers: 2 }, { redis, linkListen: '127.0.0.1:0' });
  load({}, { linkListen: '127.0.0.1:8080' });
});
