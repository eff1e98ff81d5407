import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';
import { CoupletError } from '../../src/core/errors.ts';
import { type MetricsServer, serveMetrics } from '../../src/metrics/http.ts';

const scrape = async () => ({ body: 'couplet_x 1\n', contentType: 'text/plain; version=0.0.4' });
const local = { host: '127.0.0.1', port: 0 };
const unexpected = (error: unknown) => assert.fail(String(error));

async function withServer(use: (base: string, server: MetricsServer) => Promise<void>, options = {}) {
  const server = await serveMetrics({ ...local, scrape, onError: unexpected, ...options });
  try {
    await use(`http://127.0.0.1:${server.port}`, server);
  } finally {
    await server.close();
  }
}

test('/metrics answers GET and HEAD, with the content type of the text format', () =>
  withServer(async (base) => {
    const got = await fetch(`${base}/metrics`);
    assert.deepEqual([got.status, await got.text()], [200, 'couplet_x 1\n']);
    assert.equal(got.headers.get('content-type'), 'text/plain; version=0.0.4');
    assert.equal((await fetch(`${base}/metrics?x=1`)).status, 200);
    const head = await fetch(`${base}/metrics`, { method: 'HEAD' });
    assert.deepEqual([head.status, await head.text()], [200, '']);
  }));

test('other paths are 404, other methods 405', () =>
  withServer(async (base) => {
    for (const path of ['/', '/metricsx', '/metrics/', '/relay']) assert.equal((await fetch(base + path)).status, 404);
    assert.equal((await fetch(`${base}/metrics`, { method: 'POST', body: 'x' })).status, 405);
  }));

test('a scrape that fails is 500, reported, and leaves the server standing', async () => {
  const errors: unknown[] = [];
  let broken = true;
  const failing = () => (broken ? Promise.reject(new Error('secret words')) : scrape());
  await withServer(
    async (base) => {
      const answer = await fetch(`${base}/metrics`);
      assert.equal(answer.status, 500);
      assert.ok(!(await answer.text()).includes('secret'));
      assert.equal(errors.length, 1);
      broken = false;
      assert.equal((await fetch(`${base}/metrics`)).status, 200);
    },
    { scrape: failing, onError: (error: unknown) => errors.push(error) },
  );
});

test('an address that is taken is one CoupletError naming it', () =>
  withServer(async (_base, { port }) => {
    await assert.rejects(serveMetrics({ host: '127.0.0.1', port, scrape, onError: unexpected }), (error) => {
      assert.ok(error instanceof CoupletError);
      assert.equal(error.code, 'CPL_METRICS_LISTEN');
      assert.ok(error.message.includes(`127.0.0.1:${port}`) && error.message.includes('EADDRINUSE'));
      return true;
    });
  }));

test('close ends at once although a connection is open', { timeout: 5000 }, async () => {
  const server = await serveMetrics({ ...local, scrape, onError: unexpected });
  const socket = connect(server.port, '127.0.0.1');
  await new Promise((resolve) => socket.once('connect', resolve));
  const ended = new Promise((resolve) => socket.once('close', resolve));
  socket.on('error', () => {});
  socket.write('GET /metrics HTTP/1.1\r\n');
  await server.close();
  await ended;
});
