import assert from 'node:assert/strict';
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { outcomes } from '../../src/core/outcome.ts';
import { metricsReference, nothingYet } from '../../src/metrics/docs.ts';
import { createRelayMetrics } from '../../src/metrics/relay-metrics.ts';
import type { MetricSources } from '../../src/metrics/sources.ts';
import { requireProgram } from '../support/services.ts';
import { busySources } from './sources.ts';

const build = { version: '0.1.0', nodeVersion: process.version };

async function scrape(sources: MetricSources): Promise<string> {
  const metrics = createRelayMetrics(sources, build);
  metrics.observePairing(0.2);
  metrics.observeSession(70);
  return (await metrics.scrape()).body;
}

/** Names of the contract that exist without a directory and agents, with their types. */
const contract: Readonly<Record<string, string>> = {
  couplet_halves: 'gauge',
  couplet_sessions: 'gauge',
  couplet_sessions_total: 'counter',
  couplet_session_outcomes_total: 'counter',
  couplet_relayed_bytes_total: 'counter',
  couplet_relayed_messages_total: 'counter',
  couplet_refused_total: 'counter',
  couplet_half_errors_total: 'counter',
  couplet_pairing_seconds: 'histogram',
  couplet_session_seconds: 'histogram',
  couplet_flow_pauses_total: 'counter',
  couplet_flow_paused_seconds_total: 'counter',
  couplet_buffered_bytes: 'gauge',
  couplet_recording_bytes_total: 'counter',
  couplet_recording_queue_bytes: 'gauge',
  couplet_recording_write_seconds: 'histogram',
  couplet_recording_failures_total: 'counter',
  couplet_events_total: 'counter',
  couplet_event_sink_failures_total: 'counter',
  couplet_build_info: 'gauge',
  process_cpu_seconds_total: 'counter',
  process_resident_memory_bytes: 'gauge',
  process_open_fds: 'gauge',
};

test('every metric of the contract is there, under its name and type', async () => {
  const text = await scrape(nothingYet);
  for (const [name, type] of Object.entries(contract)) assert.ok(text.includes(`# TYPE ${name} ${type}\n`), name);
});

test('[R28] every outcome is a label value, from the start', async () => {
  const text = await scrape(nothingYet);
  for (const outcome of outcomes) assert.ok(text.includes(`couplet_session_outcomes_total{outcome="${outcome}"} 0\n`));
});

test('every sample is what the plain counters say', async () => {
  const lines = (await scrape(busySources())).split('\n');
  const expected = [
    'couplet_halves{state="waiting"} 3',
    'couplet_halves{state="paired"} 4',
    'couplet_sessions{protocol="1",recorded="false"} 2',
    'couplet_sessions{protocol="1",recorded="true"} 6',
    'couplet_sessions_total{protocol="1"} 7',
    'couplet_sessions_total{protocol="5"} 1',
    'couplet_session_outcomes_total{outcome="normal"} 5',
    'couplet_session_outcomes_total{outcome="slow"} 0',
    'couplet_refused_total{reason="rate"} 9',
    'couplet_half_errors_total{reason="reset"} 2',
    'couplet_relayed_bytes_total{direction="user_to_device"} 110',
    'couplet_relayed_bytes_total{direction="device_to_user"} 220',
    'couplet_relayed_messages_total{direction="user_to_device"} 33',
    'couplet_relayed_messages_total{direction="device_to_user"} 44',
    'couplet_flow_pauses_total 55',
    'couplet_flow_paused_seconds_total 6.5',
    'couplet_buffered_bytes 77',
    'couplet_throttled_seconds_total 8.25',
    'couplet_forwarder_info{kind="native"} 1',
    'couplet_forwarder_info{kind="portable"} 1',
    'couplet_pending_upgrades 12',
    'couplet_listener_resting 1',
    'couplet_listener_rests_total 13',
    'couplet_events_total{code="CPL-1001I"} 14',
    'couplet_event_sink_failures_total{sink="json-lines"} 15',
    'couplet_log_lines_dropped_total 16',
    `couplet_build_info{version="0.1.0",node_version="${process.version}"} 1`,
    'couplet_pairing_seconds_bucket{le="0.1"} 0',
    'couplet_pairing_seconds_bucket{le="0.25"} 1',
    'couplet_session_seconds_sum 70',
    'couplet_recording_bytes_total 1001',
    'couplet_recording_queue_bytes 1002',
    'couplet_recording_assembly_bytes 1003',
    'couplet_recordings_open 1004',
    'couplet_recordings_finished_total 1005',
    'couplet_recordings_salvaged_total 1006',
    'couplet_recording_failures_total{reason="ENOSPC"} 18',
    'couplet_recording_failures_total{reason="ENOBUFS"} 18',
    'couplet_recording_failures_total{reason="start-timeout"} 19',
    'couplet_recordings_deleted_total{reason="age"} 21',
    'couplet_recordings_deleted_total{reason="count"} 22',
    'couplet_recordings_deleted_total{reason="bytes"} 23',
    'couplet_recordings_deleted_total{reason="orphan"} 24',
    'couplet_agents 31',
    'couplet_agents_pending 32',
    'couplet_agents_refused_total{reason="join-code"} 33',
    'couplet_directory_cache_entries 34',
    'couplet_directory_cache_total{result="hit"} 35',
    'couplet_directory_cache_total{result="miss"} 36',
    'couplet_recording_sync_seconds_bucket{le="0.0025"} 0',
    'couplet_recording_sync_seconds_bucket{le="1"} 7',
    'couplet_recording_sync_seconds_sum 0.75',
    'couplet_recording_sync_seconds_count 7',
  ];
  for (const line of expected) assert.ok(lines.includes(line), line);
});

test('a second scrape reads anew and does not add up', async () => {
  const sources = busySources();
  const metrics = createRelayMetrics(sources, build);
  await metrics.scrape();
  sources.counters.sessionsTotal.set(1, 8);
  sources.counters.refused.delete('rate');
  const { body } = await metrics.scrape();
  assert.ok(body.includes('couplet_sessions_total{protocol="1"} 8\n'));
  assert.ok(!body.includes('reason="rate"'), 'a sample that is gone does not linger');
});

test("the recorder's counts become a histogram of the text format", async () => {
  const text = await scrape(busySources());
  const lines = text.split('\n').filter((line) => line.includes('couplet_recording_write_seconds'));
  assert.deepEqual(lines, [
    '# HELP couplet_recording_write_seconds Seconds that a write to a recording took.',
    '# TYPE couplet_recording_write_seconds histogram',
    'couplet_recording_write_seconds_bucket{le="0.00005"} 3',
    'couplet_recording_write_seconds_bucket{le="0.0025"} 7',
    'couplet_recording_write_seconds_bucket{le="1"} 7',
    'couplet_recording_write_seconds_bucket{le="+Inf"} 9',
    'couplet_recording_write_seconds_sum 2.50025',
    'couplet_recording_write_seconds_count 9',
  ]);
});

test('a server that does not record shows its metrics of recording at 0', async () => {
  for (const sources of [nothingYet, { ...nothingYet, recording: () => undefined }]) {
    const text = await scrape(sources);
    const samples = text.split('\n').filter((line) => line.startsWith('couplet_recording'));
    assert.deepEqual(samples, [
      'couplet_recording_bytes_total 0',
      'couplet_recording_queue_bytes 0',
      'couplet_recording_assembly_bytes 0',
      'couplet_recording_write_seconds_bucket{le="+Inf"} 0',
      'couplet_recording_write_seconds_sum 0',
      'couplet_recording_write_seconds_count 0',
      'couplet_recording_sync_seconds_bucket{le="+Inf"} 0',
      'couplet_recording_sync_seconds_sum 0',
      'couplet_recording_sync_seconds_count 0',
      'couplet_recordings_open 0',
      'couplet_recordings_finished_total 0',
      'couplet_recordings_salvaged_total 0',
      'couplet_recordings_deleted_total{reason="age"} 0',
      'couplet_recordings_deleted_total{reason="count"} 0',
      'couplet_recordings_deleted_total{reason="bytes"} 0',
      'couplet_recordings_deleted_total{reason="orphan"} 0',
    ]);
  }
});

test('each source is read once in a scrape', async () => {
  const sources = busySources();
  const reads: string[] = [];
  const counted = <T>(name: string, read: () => T) => {
    return () => {
      reads.push(name);
      return read();
    };
  };
  const metrics = createRelayMetrics(
    {
      relay: counted('relay', sources.relay),
      forwarders: counted('forwarders', sources.forwarders),
      throttledSeconds: counted('throttledSeconds', sources.throttledSeconds),
      server: counted('server', sources.server),
      events: counted('events', sources.events),
      devices: counted('devices', sources.devices),
      droppedLogLines: counted('droppedLogLines', sources.droppedLogLines),
      recording: counted('recording', sources.recording),
      cluster: counted('cluster', sources.cluster),
    } satisfies Required<MetricSources>,
    build,
  );
  for (let scrapes = 1; scrapes <= 2; scrapes++) {
    reads.length = 0;
    await metrics.scrape();
    assert.deepEqual(reads.sort(), [
      'cluster',
      'devices',
      'droppedLogLines',
      'events',
      'forwarders',
      'recording',
      'relay',
      'server',
      'throttledSeconds',
    ]);
  }
});

test('no label carries a user, a device, an address or an id, even where a reason does by mistake', async () => {
  const sources = busySources();
  for (const leak of ['user//alice', 'node//x', '10.1.2.3:99 alice@host', '10.1.2.3', 'two words', 'é', '']) {
    sources.counters.refused.set(leak, 1);
    sources.figures.failures[leak] = 1;
  }
  const text = await scrape(sources);
  assert.ok(text.includes('couplet_recording_failures_total{reason="invalid"} 7\n'));
  assert.ok(text.includes('couplet_refused_total{reason="invalid"} 7\n'));
  assert.ok(!/alice|10\.1\.2\.3|node\/\//.test(text));
});

test('promtool check metrics has nothing to say', async (t) => {
  const promtool = requireProgram(t, 'promtool');
  if (promtool === undefined) return;
  for (const sources of [nothingYet, busySources()]) {
    const input = await scrape(sources);
    const checked: SpawnSyncReturns<string> = spawnSync(promtool, ['check', 'metrics'], { input, encoding: 'utf8' });
    assert.equal(checked.stdout + checked.stderr, '');
    assert.equal(checked.status, 0);
  }
});

test('docs/reference/metrics.md is the registry', async () => {
  const file = new URL('../../docs/reference/metrics.md', import.meta.url);
  const how = 'run: node --import tsx src/metrics/docs.ts > docs/reference/metrics.md';
  assert.ok(readFileSync(file, 'utf8') === (await metricsReference()), how);
});
