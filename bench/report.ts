import type { MeasuredRun } from './measure.ts';
import type { Scenario } from './scenarios.ts';

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Who kept the rate from being higher: the process that used its core (nearly) in full. */
export type Limit = 'relay' | 'generator' | 'both' | 'neither';

export interface PeerReport {
  readonly name: string;
  readonly runs: readonly MeasuredRun[];
  readonly cpuMicrosPerMessage: Spread;
  readonly cpuSecondsPerGigabyte: number;
  readonly messagesPerSecond: number;
  readonly roundTripMicros?: { readonly p50: number; readonly p99: number };
  readonly relayCpuPercent: number;
  readonly generatorCpuPercent: number;
  readonly limit: Limit;
  /** Median CPU per message over the reference's median; min and max are those of the single rounds. */
  readonly ratio: Spread;
}

export interface ScenarioReport {
  readonly name: string;
  readonly title: string;
  readonly load: Scenario['load'];
  readonly reference: string;
  readonly asked?: Scenario['asked'];
  readonly peers: readonly PeerReport[];
}

export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error('no median of nothing');
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function spread(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** Percent of a core from which on a process counts as at its limit. */
const fullCorePercent = 95;

export function limitOf(relayCpuPercent: number, generatorCpuPercent: number): Limit {
  const relay = relayCpuPercent >= fullCorePercent;
  const generator = generatorCpuPercent >= fullCorePercent;
  if (relay) return generator ? 'both' : 'relay';
  return generator ? 'generator' : 'neither';
}

function reportPeer(name: string, runs: readonly MeasuredRun[], reference: readonly MeasuredRun[]): PeerReport {
  const cost = spread(runs.map((run) => run.relayCpuMicrosPerMessage));
  const referenceCost = reference.map((run) => run.relayCpuMicrosPerMessage);
  const rounds = spread(runs.map((run, round) => run.relayCpuMicrosPerMessage / referenceCost[round]!));
  const percent = (cpuSeconds: (run: MeasuredRun) => number): number =>
    median(runs.map((run) => (100 * cpuSeconds(run)) / run.seconds));
  const relayCpuPercent = percent((run) => run.relayCpuSeconds);
  const generatorCpuPercent = percent((run) => run.generatorCpuSeconds);
  const trips = runs.flatMap((run) => run.roundTripMicros ?? []);
  return {
    name,
    runs,
    cpuMicrosPerMessage: cost,
    cpuSecondsPerGigabyte: median(runs.map((run) => (run.relayCpuSeconds * 1e9) / run.bytes)),
    messagesPerSecond: median(runs.map((run) => run.messages / run.seconds)),
    ...(trips.length > 0 && {
      roundTripMicros: { p50: median(trips.map((trip) => trip.p50)), p99: median(trips.map((trip) => trip.p99)) },
    }),
    relayCpuPercent,
    generatorCpuPercent,
    limit: limitOf(relayCpuPercent, generatorCpuPercent),
    ratio: { median: cost.median / median(referenceCost), min: rounds.min, max: rounds.max },
  };
}

/** Medians, spreads and ratios of one scenario. `runs`: per peer, one entry per round; the reference must be among them. */
export function reportScenario(scenario: Scenario, runs: ReadonlyMap<string, readonly MeasuredRun[]>): ScenarioReport {
  const { name, title, load, reference, asked } = scenario;
  const referenceRuns = runs.get(reference);
  if (referenceRuns === undefined) throw new Error(`${name}: ratios need ${reference} in the same call`);
  const peers = [...runs].map(([peer, peerRuns]) => reportPeer(peer, peerRuns, referenceRuns));
  return { name, title, load, reference, ...(asked !== undefined && { asked }), peers };
}

function columnsOf({ reference }: ScenarioReport): string[] {
  const ratio = `× ${reference}`;
  return ['peer', 'µs/msg', 'min–max', 's/GB', ratio, 'min–max', 'msg/s', 'p50 µs', 'p99 µs', 'limit'];
}

function figures(value: number): string {
  return value >= 100
    ? value.toFixed(0)
    : value >= 10
      ? value.toFixed(1)
      : value >= 1
        ? value.toFixed(2)
        : value.toFixed(3);
}

function row(peer: PeerReport): string[] {
  const { cpuMicrosPerMessage: cost, ratio, roundTripMicros: trip } = peer;
  return [
    peer.name,
    figures(cost.median),
    `${figures(cost.min)}–${figures(cost.max)}`,
    figures(peer.cpuSecondsPerGigabyte),
    ratio.median.toFixed(2),
    `${ratio.min.toFixed(2)}–${ratio.max.toFixed(2)}`,
    Math.round(peer.messagesPerSecond).toLocaleString('en'),
    trip === undefined ? '' : figures(trip.p50),
    trip === undefined ? '' : figures(trip.p99),
    `${peer.limit} (relay ${peer.relayCpuPercent.toFixed(0)} %, generator ${peer.generatorCpuPercent.toFixed(0)} %)`,
  ];
}

/** The scenario as lines for a terminal. */
export function formatScenario(report: ScenarioReport): string {
  const columns = columnsOf(report);
  const rows = [columns, ...report.peers.map(row)];
  const widths = columns.map((_, column) => Math.max(...rows.map((cells) => cells[column]!.length)));
  const last = columns.length - 1;
  const lines = rows.map((cells) =>
    cells
      .map((cell, column) =>
        column === 0 || column === last ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!),
      )
      .join('  ')
      .trimEnd(),
  );
  const { name, title, asked, reference } = report;
  const limit = asked === undefined ? 'nothing asked' : `asked of ${asked.peer}: ≤ ${asked.ratio} × ${reference}`;
  return [`${title} (${name}; ${limit})`, ...lines].join('\n');
}

/** What is above the asked ratio, or was not measured: one line each; empty where all is well. */
export function checkRatios(reports: readonly ScenarioReport[]): string[] {
  return reports.flatMap(({ name, reference, asked, peers }) => {
    if (asked === undefined) return [];
    const peer = peers.find((one) => one.name === asked.peer);
    if (peer === undefined) return [`${name}: ${asked.peer} was not measured`];
    const ratio = peer.ratio.median;
    if (ratio <= asked.ratio) return [];
    return [`${name}: ${asked.peer} costs ${ratio.toFixed(3)} × ${reference}, asked is ${asked.ratio}`];
  });
}
