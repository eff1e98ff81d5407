import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { temporaryFolder } from '../support/relay.ts';
import { root } from '../support/serve.ts';
import { requireProgram } from '../support/services.ts';
import { knownMetrics, metricsIn, strangeLabels } from './metric-names.ts';

interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly labels?: { readonly severity: string };
  readonly annotations?: Readonly<Record<string, string>>;
}

const folder = join(root, 'deploy/prometheus');
const rulesFile = join(folder, 'couplet.rules.yml');
const { groups } = parse(readFileSync(rulesFile, 'utf8')) as { groups: { name: string; rules: Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);
const alerts = rules.filter((rule) => rule.alert !== undefined);

/** Series in promtool's notation, a sample each minute: `0+60x120` rises by 60 each minute. */
type Series = Readonly<Record<string, string>>;
const of = (name: string, labels = '') => `${name}{job="couplet",instance="a"${labels === '' ? '' : `,${labels}`}}`;
const other = (name: string) => `${name}{job="couplet",instance="b"}`;
const outcome = (word: string) => of('couplet_session_outcomes_total', `outcome="${word}"`);
const rendezvous = (word: string) => of('couplet_cluster_rendezvous_total', `result="${word}"`);
const flat = (value: number) => `${value}x120`;

/** For each alert: what makes it fire alone by `at` minutes, and what is near it and fires nothing. */
const cases: Readonly<Record<string, { fires: Series; quiet: Series; at?: number }>> = {
  CoupletDown: { fires: { [of('up')]: '1x20 0x100' }, quiet: { [of('up')]: flat(1), 'up{job="haproxy"}': flat(0) } },
  CoupletListenerResting: {
    fires: { [of('couplet_listener_resting')]: flat(1) },
    quiet: { [of('couplet_listener_resting')]: flat(0) },
  },
  CoupletDescriptorsLow: {
    fires: { [of('process_open_fds')]: flat(900), [of('process_max_fds')]: flat(1000) },
    quiet: { [of('process_open_fds')]: flat(800), [of('process_max_fds')]: flat(1000) },
  },
  CoupletEventLoopLag: {
    fires: { [of('nodejs_eventloop_lag_p99_seconds')]: flat(0.4) },
    quiet: { [of('nodejs_eventloop_lag_p99_seconds')]: flat(0.06) },
  },
  CoupletMemory: {
    fires: { [of('process_resident_memory_bytes')]: flat(9e9) },
    quiet: { [of('process_resident_memory_bytes')]: flat(7e9), 'process_resident_memory_bytes{job="x"}': flat(9e9) },
  },
  CoupletBufferedBytes: {
    fires: { [of('couplet_buffered_bytes')]: flat(5e9) },
    quiet: { [of('couplet_buffered_bytes')]: flat(3e9) },
  },
  CoupletWaitingNearCap: {
    fires: { [of('couplet_halves', 'state="waiting"')]: flat(90_000) },
    quiet: {
      [of('couplet_halves', 'state="waiting"')]: flat(70_000),
      [of('couplet_halves', 'state="paired"')]: flat(2e5),
    },
  },
  CoupletRefusing: {
    fires: { [of('couplet_refused_total', 'reason="waiting"')]: '0+120x120' },
    quiet: {
      [of('couplet_refused_total', 'reason="waiting"')]: '0+30x120',
      [of('couplet_refused_total', 'reason="no-id"')]: '0+600x120',
    },
  },
  CoupletPeerErrors: {
    fires: { [outcome('peer-error')]: '0+30x120', [outcome('normal')]: '0+70x120' },
    quiet: { [outcome('peer-error')]: '0+15x120', [outcome('normal')]: '0+85x120' },
  },
  CoupletSlowSessions: {
    fires: { [outcome('slow')]: '0+10x120', [outcome('normal')]: '0+90x120' },
    // One session in four, but only one in some minutes: no ratio of anything.
    quiet: { [outcome('slow')]: '0+1x120', [outcome('normal')]: '0+3x120' },
  },
  CoupletHalvesNotMeeting: {
    fires: { [outcome('no-peer')]: '0+60x120', [outcome('normal')]: '0+40x120' },
    quiet: { [outcome('no-peer')]: '0+40x120', [outcome('normal')]: '0+60x120' },
  },
  CoupletPortableForwarder: {
    fires: { [of('couplet_forwarder_info', 'kind="portable"')]: flat(1) },
    quiet: {
      [of('couplet_forwarder_info', 'kind="native"')]: flat(1),
      [of('couplet_forwarder_info', 'kind="portable"')]: flat(0),
    },
  },
  CoupletWorkerRestarts: {
    fires: { [of('couplet_worker_restarts_total')]: '0x55 1x65' },
    quiet: { [of('couplet_worker_restarts_total')]: '1x120' },
  },
  CoupletWorkersMissing: {
    fires: { [of('couplet_workers')]: '4x50 3x70' },
    quiet: { [of('couplet_workers')]: flat(3), [other('couplet_workers')]: flat(4) },
  },
  CoupletEventSinkFailures: {
    // A new series: its first sample is its first failure.
    fires: { [of('couplet_event_sink_failures_total', 'sink="json-lines"')]: '_x55 1x65' },
    quiet: { [of('couplet_event_sink_failures_total', 'sink="json-lines"')]: flat(7) },
  },
  CoupletLogLinesDropped: {
    fires: { [of('couplet_log_lines_dropped_total')]: '0x55 5x65' },
    quiet: { [of('couplet_log_lines_dropped_total')]: flat(5) },
  },
  CoupletRecordingFailures: {
    fires: { [of('couplet_recording_failures_total', 'reason="disk-full"')]: '_x55 1x65' },
    quiet: { [of('couplet_recording_failures_total', 'reason="disk-full"')]: flat(0) },
  },
  CoupletRecordingQueue: {
    fires: { [of('couplet_recording_queue_bytes')]: flat(2.5e8) },
    quiet: { [of('couplet_recording_queue_bytes')]: flat(1e8) },
  },
  CoupletRedisDown: {
    fires: { [of('couplet_cluster_redis_up')]: '1x59 0x61', [other('couplet_cluster_redis_up')]: flat(1) },
    quiet: { [of('couplet_cluster_redis_up')]: flat(1) },
    at: 61,
  },
  CoupletRedisTroubled: {
    fires: {
      [of('couplet_cluster_redis_commands_total', 'result="ok"')]: '0+950x120',
      [of('couplet_cluster_redis_commands_total', 'result="timeout"')]: '0+20x120',
    },
    quiet: {
      [of('couplet_cluster_redis_commands_total', 'result="ok"')]: '0+995x120',
      [of('couplet_cluster_redis_commands_total', 'result="error"')]: '0+5x120',
    },
  },
  CoupletServersDisagree: {
    fires: { [of('couplet_cluster_servers')]: flat(4), [other('couplet_cluster_servers')]: flat(3) },
    quiet: { [of('couplet_cluster_servers')]: flat(4), [other('couplet_cluster_servers')]: flat(4) },
  },
  CoupletServersMissing: {
    fires: { [of('couplet_cluster_servers')]: '4x50 3x70', [other('couplet_cluster_servers')]: '4x50 3x70' },
    // One more than before.
    quiet: { [of('couplet_cluster_servers')]: '3x30 4x90', [other('couplet_cluster_servers')]: '3x30 4x90' },
  },
  CoupletPeersLost: {
    fires: { [of('couplet_cluster_peers_lost_total')]: '0x58 1x62' },
    quiet: { [of('couplet_cluster_peers_lost_total')]: '0x20 1x100' },
  },
  CoupletLinkFailures: {
    fires: { [of('couplet_link_failures_total', 'reason="unreachable"')]: '0+12x120' },
    quiet: { [of('couplet_link_failures_total', 'reason="unreachable"')]: '0+1x120' },
  },
  CoupletRendezvousFailing: {
    fires: { [rendezvous('failed')]: '0+6x120', [rendezvous('unclaimed')]: '0+6x120' },
    quiet: { [rendezvous('claimed')]: '0+600x120', [rendezvous('failed')]: '0+1x120' },
  },
  CoupletPeerRequestsFailing: {
    fires: {
      [of('couplet_cluster_requests_total', 'method="present",result="ok"')]: '0+90x120',
      [of('couplet_cluster_requests_total', 'method="present",result="timeout"')]: '0+10x120',
    },
    quiet: {
      [of('couplet_cluster_requests_total', 'method="present",result="ok"')]: '0+99x120',
      [of('couplet_cluster_requests_total', 'method="kill",result="timeout"')]: '0+1x120',
    },
  },
  CoupletManyLinks: {
    fires: { [rendezvous('linked')]: '0+20x120', [of('couplet_sessions_total', 'protocol="1"')]: '0+100x120' },
    quiet: { [rendezvous('linked')]: '0+5x120', [of('couplet_sessions_total', 'protocol="1"')]: '0+100x120' },
  },
  CoupletClockOffset: {
    fires: { [of('couplet_cluster_clock_offset_seconds')]: flat(-7) },
    quiet: { [of('couplet_cluster_clock_offset_seconds')]: flat(4) },
  },
};

/** What a test of promtool says about alerts that fire at a minute, given these series and no others. */
function unitTest(series: Series, at: number, firing: readonly string[]): object {
  const expected = firing.map((alertname) => ({ labels: `{alertname="${alertname}"}`, value: 1 }));
  return {
    interval: '1m',
    input_series: Object.entries(series).map(([name, values]) => ({ series: name, values })),
    promql_expr_test: [
      { expr: 'count by (alertname) (ALERTS{alertstate="firing"})', eval_time: `${at}m`, exp_samples: expected },
    ],
  };
}

function promtool(program: string, ...args: string[]): { status: number; output: string } {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  return { status: status ?? -1, output: stdout + stderr };
}

test('the alert rules and the example of a scrape configuration are what promtool takes', (t) => {
  const program = requireProgram(t, 'promtool');
  if (program === undefined) return;
  const checked = promtool(program, 'check', 'rules', '--lint=all', '--lint-fatal', rulesFile);
  assert.equal(checked.status, 0, checked.output);
  const config = join(folder, 'prometheus.yml');
  const { status, output } = promtool(program, 'check', 'config', config);
  assert.equal(status, 0, output);
  assert.match(output, /1 rule files found/);
});

test('each alert fires when it should, alone, and does not when it should not', (t) => {
  const program = requireProgram(t, 'promtool');
  if (program === undefined) return;
  assert.deepEqual(Object.keys(cases).sort(), alerts.map((rule) => rule.alert).sort());
  const tests = Object.entries(cases).flatMap(([alert, { fires, quiet, at = 60 }]) => [
    unitTest(fires, at, [alert]),
    unitTest(quiet, at, []),
  ]);
  const work = temporaryFolder(t);
  copyFileSync(rulesFile, join(work, 'couplet.rules.yml'));
  const file = join(work, 'test.json');
  const evaluate = (all: object[]) => {
    writeFileSync(file, JSON.stringify({ rule_files: ['couplet.rules.yml'], evaluation_interval: '1m', tests: all }));
    return promtool(program, 'test', 'rules', file);
  };
  const { status, output } = evaluate(tests);
  assert.equal(status, 0, output);
  // promtool does look: the same with nothing awaited fails.
  assert.notEqual(evaluate([unitTest(cases.CoupletRedisDown!.fires, 61, [])]).status, 0);
});

test('an alert says what it is about, in words with its values', (t) => {
  const program = requireProgram(t, 'promtool');
  if (program === undefined) return;
  for (const { alert, labels, annotations } of alerts) {
    assert.match(alert!, /^Couplet[A-Z]\w+$/);
    assert.ok(['critical', 'warning', 'info'].includes(labels?.severity ?? ''), alert);
    for (const name of ['summary', 'description', 'runbook'])
      assert.ok((annotations?.[name] ?? '').length > 20, `${alert}: ${name}`);
  }
  const rule = alerts.find(({ alert }) => alert === 'CoupletDescriptorsLow')!;
  const work = temporaryFolder(t);
  copyFileSync(rulesFile, join(work, 'couplet.rules.yml'));
  const expected = {
    exp_labels: { job: 'couplet', instance: 'a', severity: 'warning' },
    exp_annotations: { ...rule.annotations, summary: 'a uses 90% of its file descriptors' },
  };
  const one = {
    interval: '1m',
    input_series: Object.entries(cases.CoupletDescriptorsLow!.fires).map(([series, values]) => ({ series, values })),
    alert_rule_test: [{ alertname: rule.alert, eval_time: '60m', exp_alerts: [expected] }],
  };
  const file = join(work, 'test.json');
  writeFileSync(file, JSON.stringify({ rule_files: ['couplet.rules.yml'], evaluation_interval: '1m', tests: [one] }));
  const { status, output } = promtool(program, 'test', 'rules', file);
  assert.equal(status, 0, output);
});

test('the rules name no metric and no label that there is not, and no record that no rule makes', () => {
  const known = knownMetrics();
  assert.ok(known.size > 45, `${known.size} metrics`);
  const records = new Set(rules.flatMap(({ record }) => (record === undefined ? [] : [record])));
  for (const { alert, record, expr } of rules) {
    assert.deepEqual(
      metricsIn(expr).filter((name) => !known.has(name)),
      [],
      alert ?? record,
    );
    assert.deepEqual(strangeLabels(expr, known), [], alert ?? record);
    const used = expr.match(/\w+:couplet_\w+:\w+/g) ?? [];
    assert.deepEqual(
      used.filter((name) => !records.has(name)),
      [],
      alert ?? record,
    );
  }
  // Both questions can be answered with no.
  assert.deepEqual(metricsIn('rate(couplet_pairing_seconds_bucket[5m]) + job:couplet_halves:sum'), [
    'couplet_pairing_seconds',
  ]);
  assert.deepEqual(strangeLabels('couplet_halves{status="waiting"}', known), ['couplet_halves{status}']);
});
