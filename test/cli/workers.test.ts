import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { planReload } from '../../src/config/reload.ts';
import { forWorker, withPort, workerEnvironment, workerNumber, workerPort } from '../../src/config/workers.ts';
import { createRelay } from '../../src/index.ts';
import { temporaryFolder } from '../support/relay.ts';

const redis = 'redis://127.0.0.1:6379';

function load(server: object, cluster: object = {}) {
  return loadConfig({ settings: { server, cluster: { redis, ...cluster } }, env: {} });
}

test('[K8] a worker has its own ports and its own event log, and shares everything else', () => {
  const loaded = load(
    { listen: '[::1]:7000', workers: 3, workerPorts: 'consecutive', dataDir: 'd' },
    { linkListen: '127.0.0.1:7100', advertise: 'ws://[::1]:7200' },
  );
  const third = forWorker(loaded, { number: 3, port: workerPort(loaded.config, 3) });
  assert.equal(third.config.server.listen, '[::1]:7002');
  assert.equal(third.config.cluster.linkListen, '127.0.0.1:7102');
  assert.equal(third.config.cluster.advertise, 'ws://[::1]:7202');
  assert.equal(third.config.audit.dir, join('d', 'events', 'worker-3'));
  const back = structuredClone(third.config);
  back.server.listen = '[::1]:7000';
  back.cluster.linkListen = '127.0.0.1:7100';
  back.cluster.advertise = 'ws://[::1]:7200';
  back.audit.dir = join('d', 'events');
  assert.deepEqual(back, loaded.config);
  assert.equal(loaded.config.audit.dir, join('d', 'events'), 'the configuration given is not changed');
});

test('[K8] any free port stays any free port; a shared one is the same for all', () => {
  const free = load({ listen: '127.0.0.1:0', workers: 2, workerPorts: 'consecutive' }).config;
  assert.deepEqual(
    [1, 2].map((number) => workerPort(free, number)),
    [0, 0],
  );
  const shared = load({ listen: '127.0.0.1:7000', workers: 2 }).config;
  assert.deepEqual(
    [1, 2].map((number) => workerPort(shared, number)),
    [7000, 7000],
  );
  const loaded = load({ listen: '127.0.0.1:0', workers: 2 });
  assert.equal(forWorker(loaded, { number: 2, port: 0 }).config.cluster.linkListen, '127.0.0.1:0');
  assert.equal(withPort('[::1]:0', 5), '[::1]:5');
});

test('[K8] [R40] a reload changes nothing of what is a worker’s own', () => {
  const loaded = load({ listen: '127.0.0.1:0', workers: 2 });
  const place = { number: 2, port: 7000 };
  const plan = planReload(forWorker(loaded, place), forWorker(load({ listen: '127.0.0.1:0', workers: 2 }), place));
  assert.deepEqual([plan.applies, plan.needsRestart], [[], []]);
});

for (const [server, says] of [
  [
    { listen: '127.0.0.1:7000', metricsListen: '127.0.0.1:7002', workers: 3, workerPorts: 'consecutive' },
    /^server\.metricsListen is "127\.0\.0\.1:7002"; it must differ from the 3 ports from server\.listen on$/,
  ],
  [
    { listen: '127.0.0.1:65500', workers: 256, workerPorts: 'consecutive' },
    /^server\.listen is .* at most 65280 for 256/,
  ],
] as const) {
  test(`[K8] [R40] ports of workers that cannot be: ${JSON.stringify(server)}`, () => {
    assert.throws(() => load(server), { code: 'CPL_CONFIG', message: says });
  });
}

test('[K8] [R40] link listeners need ports of their own too, and several workers need Redis', () => {
  assert.throws(() => load({ workers: 2 }, { linkListen: '127.0.0.1:65535' }), {
    message: /^cluster\.linkListen is "127\.0\.0\.1:65535"; its port must be at most 65534 for 2 workers$/,
  });
  assert.throws(() => load({ workers: 2 }, { linkListen: '127.0.0.1:7000', advertise: 'ws://127.0.0.1:65535' }), {
    message: /^cluster\.advertise is "ws:\/\/127\.0\.0\.1:65535"; its port must be at most 65534 for 2 workers$/,
  });
  assert.throws(() => loadConfig({ settings: { server: { workers: 2 } }, env: {} }), {
    message: 'server.workers is 2; it must be 1 where cluster.redis is not set',
  });
});

test('[K8] a library is one server and says so', async (t) => {
  const dataDir = join(temporaryFolder(t), 'data');
  const settings = {
    server: { workers: 2, dataDir, listen: '127.0.0.1:0', metricsListen: '127.0.0.1:0' },
    cluster: { redis },
  };
  await assert.rejects(createRelay({ settings }), {
    code: 'CPL_CONFIG',
    message: /server\.workers is 2; it must be 1/,
  });
});

test('[K8] a worker hears its number from the environment, and nobody else may set it', () => {
  assert.equal(workerNumber({}), undefined);
  assert.equal(workerEnvironment(4, { A: 'b' }).COUPLET_WORKER, '4');
  assert.equal(workerEnvironment(4, { A: 'b' }).A, 'b');
  for (const text of ['0', 'x', '-1', '1000']) {
    assert.throws(() => workerNumber({ COUPLET_WORKER: text }), { code: 'CPL_CONFIG', message: /must not be set/ });
  }
});
