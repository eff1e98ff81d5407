import { writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { parseArgs } from 'node:util';
import { systemClock } from '../src/core/clock.ts';
import { type Affinity, chooseAffinity } from './affinity.ts';
import { buildTools, cacheFolder, compilerFlags } from './build.ts';
import { type Interval, type MeasuredRun, measure } from './measure.ts';
import { coupletPeer, coupletRecordedPeer } from './peers/couplet.ts';
import { floorPeer } from './peers/floor.ts';
import type { Peer } from './peers/peer.ts';
import { wsPeer, wsRecordedPeer } from './peers/ws.ts';
import { checkPrecision, formatPrecision, measurePrecision, precisionName, precisionTitle } from './precision.ts';
import { checkRatios, formatScenario, reportScenario, type ScenarioReport } from './report.ts';
import { type Scenario, scenarios, selectScenarios } from './scenarios.ts';

const peerNames = [...new Set(scenarios.flatMap(({ peers }) => peers))];

const usage = `usage: npm run bench -- [scenario…] [options]

Scenarios (all where none is named):
${scenarios.map(({ name, title }) => `  ${name.padEnd(24)}${title}`).join('\n')}
Only where it is named, once, and with the machine to itself:
  ${precisionName.padEnd(24)}${precisionTitle}

  --runs N          rounds; each measures every peer once, in a fresh process (3; for a claim take 7)
  --duration S      measured seconds of a run (2; ${precisionName}: 20)
  --warmup S        seconds of load before them (1)
  --peers A,B,…     ${peerNames.join(',')};
                    what a scenario's ratios refer to is always measured
  --json FILE       where the figures go (bench/.cache/last.json)
  --check           exit 1 where couplet is above an asked ratio or was not measured, or its recorded times are off
`;

interface Options {
  readonly scenarios: readonly Scenario[];
  /** Seconds that recorded times are measured for; absent where that was not asked. */
  readonly precisionSeconds: number | undefined;
  readonly runs: number;
  readonly interval: Interval;
  readonly peers: readonly string[];
  readonly json: string;
  readonly check: boolean;
}

function positive(text: string, name: string, whole: boolean): number {
  const value = Number(text);
  if (!(value > 0) || !Number.isFinite(value) || (whole && !Number.isInteger(value))) {
    throw new Error(`--${name} "${text}": must be a ${whole ? 'whole ' : ''}number above 0`);
  }
  return value;
}

function readOptions(args: readonly string[]): Options | undefined {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      runs: { type: 'string', default: '3' },
      duration: { type: 'string' },
      warmup: { type: 'string', default: '1' },
      peers: { type: 'string', default: peerNames.join(',') },
      json: { type: 'string', default: `${cacheFolder}/last.json` },
      check: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const named = positionals.filter((name) => name !== precisionName);
  const precision = named.length < positionals.length;
  return {
    scenarios: precision && named.length === 0 ? [] : selectScenarios(named),
    precisionSeconds: precision ? positive(values.duration ?? '20', 'duration', false) : undefined,
    runs: positive(values.runs, 'runs', true),
    interval: {
      warmupSeconds: positive(values.warmup, 'warmup', false),
      durationSeconds: positive(values.duration ?? '2', 'duration', false),
    },
    peers: values.peers.split(','),
    json: values.json,
    check: values.check,
  };
}

/** Peers that are asked for or that ratios refer to, of those that the scenarios compare. */
function selectPeers(options: Options, known: readonly Peer[]): Peer[] {
  const unknown = options.peers.find((name) => !peerNames.includes(name));
  if (unknown !== undefined) throw new Error(`no peer "${unknown}"; there are ${peerNames.join(', ')}`);
  return known.filter(({ name }) =>
    options.scenarios.some(
      ({ peers, reference }) => name === reference || (peers.includes(name) && options.peers.includes(name)),
    ),
  );
}

/** Every peer once per round; the order turns from round to round, so that none always follows the same other. */
async function runScenario(
  scenario: Scenario,
  peers: readonly Peer[],
  options: Options,
  loadProgram: string,
  affinity: Affinity,
): Promise<ScenarioReport> {
  const runs = new Map<string, MeasuredRun[]>(peers.map((peer) => [peer.name, []]));
  for (let round = 0; round < options.runs; round++) {
    for (let turn = 0; turn < peers.length; turn++) {
      const peer = peers[(round + turn) % peers.length]!;
      const run = await measure(loadProgram, peer, scenario.load, options.interval, affinity);
      runs.get(peer.name)!.push(run);
      const cost = run.relayCpuMicrosPerMessage.toFixed(3);
      process.stderr.write(
        `${scenario.name}, round ${round + 1}/${options.runs}: ${peer.name} ${cost} µs per message\n`,
      );
    }
  }
  return reportScenario(scenario, runs);
}

function describeMachine(affinity: Affinity): Record<string, unknown> {
  const all = cpus();
  return {
    processor: all[0]?.model.trim(),
    cores: all.length,
    kernel: release(),
    node: process.version,
    compilerFlags: compilerFlags.join(' '),
    relayCpu: affinity.relayCpu ?? 'not pinned',
    generatorCpu: affinity.generatorCpu ?? 'not pinned',
  };
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2));
  if (options === undefined) {
    process.stdout.write(usage);
    return 0;
  }
  const tools = buildTools();
  const known = [floorPeer(tools.floor), wsPeer, coupletPeer, wsRecordedPeer, coupletRecordedPeer];
  const selected = selectPeers(options, known);
  const missing = selected.flatMap((peer) => {
    const reason = peer.unavailable();
    return reason === undefined ? [] : [{ peer: peer.name, reason }];
  });
  const peers = selected.filter((peer) => peer.unavailable() === undefined);
  for (const { peer, reason } of missing) process.stdout.write(`NOT MEASURED: ${peer} (${reason})\n`);
  const affinity = chooseAffinity();
  if (affinity.relayCpu === undefined) {
    process.stdout.write('not pinned to cores (no taskset, or one core only): expect a wider spread\n');
  }
  const reports: ScenarioReport[] = [];
  for (const scenario of options.scenarios) {
    const compared = peers.filter(({ name }) => scenario.peers.includes(name));
    if (!compared.some(({ name }) => name === scenario.reference)) continue;
    const report = await runScenario(scenario, compared, options, tools.load, affinity);
    reports.push(report);
    process.stdout.write(`\n${formatScenario(report)}\n`);
  }
  const { runs, interval, precisionSeconds } = options;
  const precision = precisionSeconds === undefined ? undefined : await measurePrecision(tools.stamp, precisionSeconds);
  if (precision !== undefined) process.stdout.write(`\n${formatPrecision(precision)}\n`);
  const at = new Date(systemClock.nowMs()).toISOString();
  const result = { at, machine: describeMachine(affinity), runs, interval, missing, scenarios: reports, precision };
  writeFileSync(options.json, `${JSON.stringify(result, undefined, 2)}\n`);
  process.stdout.write(`\nfigures of every run: ${options.json}\n`);
  if (!options.check) return 0;
  const unmeasured = options.scenarios.filter((scenario) => !reports.some(({ name }) => name === scenario.name));
  const broken = [...checkRatios(reports), ...unmeasured.map(({ name }) => `${name}: was not measured`)];
  if (precision !== undefined) broken.push(...checkPrecision(precision));
  for (const line of broken) process.stderr.write(`bench: ${line}\n`);
  return broken.length === 0 ? 0 : 1;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
