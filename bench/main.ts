import { mkdirSync, writeFileSync } from 'node:fs';
import { systemClock } from '../src/core/clock.ts';
import { packageVersion } from '../src/core/version.ts';
import { type Affinity, chooseAffinity } from './affinity.ts';
import { buildTools, type Tools } from './build.ts';
import { writeCharts } from './charts/index.ts';
import { compareResults } from './guard.ts';
import { type Measured, measureScenario } from './kinds.ts';
import { describeCommit, describeMachine } from './machine.ts';
import { type Options, readOptions, usage } from './options.ts';
import { allPeers } from './peers/all.ts';
import type { Peer } from './peers/peer.ts';
import { recordingMemory } from './peers/recordings.ts';
import { checkPrecision, formatPrecision, measurePrecision } from './precision.ts';
import { checkAsked, formatScenario, reportScenario } from './report.ts';
import { type BenchResult, readResult, type ScenarioResult } from './results.ts';
import type { Scenario } from './scenarios.ts';

interface Missing {
  readonly peer: string;
  readonly reason: string;
}

function isWanted(peer: string, scenario: Scenario, options: Options): boolean {
  if (!scenario.peers.includes(peer)) return false;
  return options.peers.includes(peer) || scenario.references.includes(peer);
}

/** The peers that the chosen scenarios compare, those that cannot be started here apart. */
function selectPeers(options: Options, tools: Tools): { peers: Peer[]; missing: Missing[] } {
  const peers: Peer[] = [];
  const missing: Missing[] = [];
  for (const peer of allPeers(tools)) {
    if (!options.scenarios.some((scenario) => isWanted(peer.name, scenario, options))) continue;
    const reason = peer.unavailable();
    if (reason === undefined) peers.push(peer);
    else missing.push({ peer: peer.name, reason });
  }
  return { peers, missing };
}

/**
 * Every peer once per round; the order turns from round to round, so that none always follows the same other. One that
 * fails is not measured in this scenario, and `missing` tells why.
 */
async function runScenario(
  scenario: Scenario,
  peers: readonly Peer[],
  options: Options,
  tools: Tools,
  affinity: Affinity,
  missing: Missing[],
): Promise<ScenarioResult> {
  const rounds = Math.min(options.runs, scenario.maxRounds ?? options.runs);
  const { warmupSeconds, durationSeconds } = options.interval;
  const interval = { durationSeconds, warmupSeconds: Math.max(warmupSeconds, scenario.warmupSeconds ?? 0) };
  const measured = new Map<string, Measured[]>(peers.map((peer) => [peer.name, []]));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < peers.length; turn++) {
      const peer = peers[(round + turn) % peers.length]!;
      const runs = measured.get(peer.name);
      if (runs === undefined) continue;
      const where = `${scenario.name}, round ${round + 1}/${rounds}: ${peer.name}`;
      try {
        const run = await measureScenario(scenario, peer, { tools, interval, affinity });
        runs.push(run);
        const [name, value] = Object.entries(run.figures)[0]!;
        process.stderr.write(`${where} ${name} ${value.toFixed(3)}\n`);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        process.stderr.write(`${where} FAILED: ${reason}\n`);
        missing.push({ peer: peer.name, reason: `${scenario.name}: ${reason}` });
        measured.delete(peer.name);
      }
    }
  }
  return reportScenario(scenario, measured);
}

function save(result: BenchResult, folder: string): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${folder}/results.json`, `${JSON.stringify(result, undefined, 1)}\n`);
  writeCharts(result, folder);
}

/**
 * Couplet's own peers that failed, which is a fault of couplet's; of those that cannot be started here (for want of a
 * library, say) only couplet itself, unless all are asked for. `missing` begins with those.
 */
function faults(missing: readonly Missing[], unavailable: number, all: boolean): Missing[] {
  return missing.filter(
    ({ peer }, index) => peer.startsWith('couplet') && (all || peer === 'couplet' || index >= unavailable),
  );
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2));
  if (options === undefined) {
    process.stdout.write(usage);
    return 0;
  }
  const committed = options.against === undefined ? undefined : readResult(options.against);
  const tools = buildTools();
  const { peers, missing } = selectPeers(options, tools);
  const unavailable = missing.length;
  const affinity = chooseAffinity();
  if (affinity.relayCpu === undefined) {
    process.stdout.write('not pinned to cores (no taskset, or one core only): expect a wider spread\n');
  }
  const scenarios: ScenarioResult[] = [];
  const result: BenchResult = {
    at: new Date(systemClock.nowMs()).toISOString(),
    version: packageVersion(),
    commit: describeCommit(),
    machine: describeMachine(affinity),
    rounds: options.runs,
    interval: options.interval,
    recordings: recordingMemory() === '/dev/shm' ? '/dev/shm' : 'own tmpfs',
    missing,
    scenarios,
  };
  for (const scenario of options.scenarios) {
    const compared = peers.filter(({ name }) => isWanted(name, scenario, options));
    const report = await runScenario(scenario, compared, options, tools, affinity, missing);
    scenarios.push(report);
    save(result, options.results); // after each, so that a call that is cut short leaves what it has
    process.stdout.write(`\n${formatScenario(report, scenario.references)}\n`);
  }
  for (const { peer, reason } of missing) process.stdout.write(`NOT MEASURED: ${peer} (${reason})\n`);
  const broken = faults(missing, unavailable, options.check).map(
    ({ peer, reason }) => `${peer} was not measured: ${reason}`,
  );
  if (options.precisionSeconds !== undefined) {
    const precision = await measurePrecision(tools.stamp, options.precisionSeconds);
    process.stdout.write(`\n${formatPrecision(precision)}\n`);
    mkdirSync(options.results, { recursive: true });
    writeFileSync(`${options.results}/${precision.name}.json`, `${JSON.stringify(precision, undefined, 1)}\n`);
    if (options.check) broken.push(...checkPrecision(precision));
  }
  if (options.scenarios.length > 0) process.stdout.write(`\nfigures of every run, and charts: ${options.results}\n`);
  if (options.check) broken.push(...checkAsked(scenarios));
  if (committed !== undefined) {
    const { regressions, unmet, notCompared, compared } = compareResults(committed, result);
    process.stdout.write(`\n${compared} ratios compared with ${options.against}\n`);
    for (const line of notCompared) process.stdout.write(`${line}\n`);
    broken.push(...regressions, ...(options.check ? [] : unmet));
    if (compared === 0) broken.push(`no ratio could be compared with ${options.against}`);
  }
  for (const line of broken) process.stderr.write(`bench: ${line}\n`);
  return broken.length === 0 ? 0 : 1;
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130));
try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
