import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { serveMetrics } from '../../src/metrics/http.ts';
import { createRelayMetrics } from '../../src/metrics/relay-metrics.ts';
import { requireProgram } from '../support/services.ts';
import { busySources } from './sources.ts';

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  await ended;
}

interface Answer {
  readonly data: { readonly result: readonly { readonly value: readonly [number, string] }[] };
}

/** Asks until there is a sample; Prometheus scrapes when it likes, so the answer is polled for. */
async function query(base: string, expression: string, child: ChildProcess): Promise<string> {
  const url = `${base}/api/v1/query?query=${encodeURIComponent(expression)}`;
  for (;;) {
    assert.equal(child.exitCode, null, 'prometheus has ended');
    const answer = await fetch(url).catch(() => undefined);
    if (answer?.ok === true) {
      const { data } = (await answer.json()) as Answer;
      const value = data.result[0]?.value[1];
      if (value !== undefined) return value;
    }
    await delay(100);
  }
}

test('a real Prometheus scrapes the relay and answers queries', { timeout: 60_000 }, async (t) => {
  const prometheus = requireProgram(t, 'prometheus');
  if (prometheus === undefined) return;
  const folder = mkdtempSync(join(tmpdir(), 'couplet-prometheus-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));

  const sources = busySources();
  const metrics = createRelayMetrics(sources, { version: '0.1.0', nodeVersion: process.version });
  metrics.observeSession(70);
  const relay = await serveMetrics({
    host: '127.0.0.1',
    port: 0,
    scrape: metrics.scrape,
    onError: (error) => assert.fail(String(error)),
  });
  t.after(() => relay.close());

  const config = join(folder, 'prometheus.yml');
  writeFileSync(
    config,
    JSON.stringify({
      global: { scrape_interval: '500ms', scrape_timeout: '400ms' },
      scrape_configs: [{ job_name: 'couplet', static_configs: [{ targets: [`127.0.0.1:${relay.port}`] }] }],
    }),
  );
  const port = await freePort();
  const flags = [
    `--config.file=${config}`,
    `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
    '--log.level=error',
  ];
  const child = spawn(prometheus, flags, { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
  t.after(() => stop(child));
  const base = `http://127.0.0.1:${port}`;

  assert.equal(await query(base, 'up{job="couplet"} == 1', child), '1');
  assert.equal(await query(base, 'sum(couplet_relayed_bytes_total)', child), '330');
  assert.equal(await query(base, 'couplet_session_outcomes_total{outcome="normal"}', child), '5');
  assert.equal(await query(base, 'histogram_quantile(1, couplet_session_seconds_bucket)', child), '300');
  const median = 'histogram_quantile(0.5, couplet_recording_sync_seconds_bucket)';
  assert.equal(await query(base, median, child), '0.50125', 'half way from 2.5 ms to 1 s');

  sources.counters.halvesWaiting = 1234;
  assert.equal(await query(base, 'couplet_halves{state="waiting"} == 1234', child), '1234', 'later scrapes read anew');
});
