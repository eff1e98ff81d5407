import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MergedMetrics } from '../../src/metrics/merge.ts';
import { createRelayMetrics } from '../../src/metrics/relay-metrics.ts';
import { createSupervisorMetrics } from '../../src/metrics/supervisor-metrics.ts';
import { busySources } from './sources.ts';

const build = { version: '0.1.0', nodeVersion: 'v20.0.0' };
const figures = { workers: 2, restarts: 3, silentWorkers: 1, droppedLogLines: 5, startedSeconds: 1000 };

/** What stands in a scrape, by name and labels. */
function samples(text: string): Map<string, number> {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  );
}

async function world() {
  const own = createSupervisorMetrics(() => figures);
  const relay = createRelayMetrics(busySources(), build);
  relay.observePairing(0.2);
  relay.observeSession(70);
  const one = await relay.snapshot();
  const merged = new MergedMetrics();
  const scrape = async (...answered: number[]) =>
    samples((await merged.merge(await own.snapshot(), new Set(answered))).body);
  return { merged, one, alone: samples((await relay.scrape()).body), scrape };
}

test('[K8] sums of all workers, and for what cannot be added up one value', async () => {
  const { merged, one, alone, scrape } = await world();
  merged.heard(1, one);
  merged.heard(2, one);
  const both = await scrape(1, 2);
  const notSums =
    /^couplet_(build_info|forwarder_info|listener_resting|cluster_(servers|redis_up|clock_offset_seconds))/;
  for (const [name, value] of alone) {
    if (name === 'couplet_log_lines_dropped_total') assert.equal(both.get(name), 2 * value + 5, name);
    else if (name === 'process_start_time_seconds')
      assert.equal(both.get(name), 1000, 'the supervisor has counted since');
    // Those change from one reading to the next.
    else if (/^(process|nodejs)_/.test(name)) assert.ok(both.has(name), name);
    else
      assert.ok(
        Object.is(both.get(name), notSums.test(name) ? value : 2 * value),
        `${name} ${both.get(name)} ${value}`,
      );
  }
  const memory = one.find(({ name }) => name === 'process_resident_memory_bytes')!.values[0]!.value;
  assert.equal(both.get('process_resident_memory_bytes'), 2 * memory);
  assert.equal(both.get(`couplet_build_info{version="0.1.0",node_version="v20.0.0"}`), 1);
  assert.equal(both.get('couplet_workers'), 2);
  assert.equal(both.get('couplet_worker_restarts_total'), 3);
  assert.equal(both.get('couplet_session_seconds_count'), 2);
  assert.equal(both.get('couplet_session_seconds_bucket{le="60"}'), 0);
  assert.equal(both.get('couplet_session_seconds_bucket{le="300"}'), 2);
});

test('[K8] of several values of the loop and of states the worst is told', async () => {
  const { merged, one, scrape } = await world();
  const put = (name: string, value: number) =>
    one.map((metric) => (metric.name === name ? { ...metric, values: [{ value, labels: {} }] } : metric));
  for (const [name, a, b, told] of [
    ['nodejs_eventloop_lag_p99_seconds', 0.05, 4, 4],
    ['nodejs_eventloop_lag_min_seconds', 0.05, 0.01, 0.01],
    ['couplet_listener_resting', 1, 0, 1],
  ] as const) {
    merged.heard(1, put(name, a));
    merged.heard(2, put(name, b));
    assert.equal((await scrape(1, 2)).get(name), told, name);
  }
});

test('[K8] a silent worker keeps its counters and loses its gauges; a replaced one keeps what it had counted', async () => {
  const { merged, one, alone, scrape } = await world();
  const outcome = 'couplet_session_outcomes_total{outcome="normal"}';
  const count = alone.get(outcome)!;
  assert.ok(count > 0);
  merged.heard(1, one);
  merged.heard(2, one);
  const silent = await scrape(1);
  assert.equal(silent.get(outcome), 2 * count);
  assert.equal(silent.get('couplet_agents'), alone.get('couplet_agents'));
  assert.equal(silent.get('couplet_session_seconds_count'), 2);
  for (let deaths = 1; deaths <= 4; deaths++) {
    merged.ended(2);
    assert.equal((await scrape(1)).get(outcome), (1 + deaths) * count, 'dead');
    merged.heard(2, one);
    const replaced = await scrape(1, 2);
    assert.equal(replaced.get(outcome), (2 + deaths) * count, 'replaced');
    assert.equal(replaced.get('couplet_agents'), 2 * alone.get('couplet_agents')!);
    assert.equal(replaced.get('couplet_session_seconds_count'), 2 + deaths);
  }
});

test('[K8] scrapes and deaths at one moment count nothing twice', async () => {
  const { merged, one, alone, scrape } = await world();
  const outcome = 'couplet_session_outcomes_total{outcome="normal"}';
  for (let id = 1; id <= 5; id++) merged.heard(id, one);
  const scrapes: Promise<Map<string, number>>[] = [];
  for (let id = 1; id <= 5; id++) {
    merged.ended(id);
    scrapes.push(scrape());
  }
  for (const told of await Promise.all(scrapes)) assert.equal(told.get(outcome), 5 * alone.get(outcome)!);
  assert.equal((await scrape()).get(outcome), 5 * alone.get(outcome)!);
});
