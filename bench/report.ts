import type { Measured } from './kinds.ts';
import { type LatencyBuckets, mergeLatencies } from './latency.ts';
import type { Asked, Limit, PeerResult, ScenarioResult, Spread } from './results.ts';
import { costs, type Scenario } from './scenarios.ts';

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

/** Who could do no more is told where the load is all that goes: elsewhere it says nothing. */
const drivenToTheLimit = new Set<string>(['forwarding', 'setup']);

function reportPeer(peer: string, kind: Scenario['kind'], measured: readonly Measured[]): PeerResult {
  const runs = measured.map(({ figures }) => figures);
  const figures = Object.fromEntries(
    Object.keys(runs[0]!).map((name) => [name, spread(runs.map((run) => run[name]!))]),
  );
  const limit = limitOf(figures.relayCpuPercent?.median ?? 0, figures.generatorCpuPercent?.median ?? 0);
  const latencies = measured.flatMap((one) => (one.latencies === undefined ? [] : [one.latencies]));
  return {
    peer,
    figures,
    ...(drivenToTheLimit.has(kind) && { limit }),
    runs,
    ...(latencies.length > 0 && { percentiles: percentilesOf(latencies) }),
  };
}

function percentilesOf(runs: readonly LatencyBuckets[]): NonNullable<PeerResult['percentiles']> {
  return mergeLatencies(runs).points.map(({ fraction, micros }) => ({ percentile: fraction * 100, micros }));
}

/** Medians and spreads of one scenario. `measured`: per peer, one entry per round. */
export function reportScenario(scenario: Scenario, measured: ReadonlyMap<string, readonly Measured[]>): ScenarioResult {
  const { name, title, kind, load, asked } = scenario;
  const peers = [...measured].map(([peer, runs]) => reportPeer(peer, kind, runs));
  return { name, title, kind, load: { ...load }, cost: scenario.cost ?? costs[kind], peers, asked };
}

/** A figure of one peer over that of another: of the medians; least and greatest are of single rounds. */
export function ratioOf(peer: PeerResult, reference: PeerResult, figure: string): Spread {
  const rounds = peer.runs.flatMap((run, round) => {
    const of = reference.runs[round]?.[figure];
    return of === undefined ? [] : [run[figure]! / of];
  });
  return { ...spread(rounds), median: peer.figures[figure]!.median / reference.figures[figure]!.median };
}

interface Column {
  readonly figure: string;
  readonly title: string;
  /** The figure in the column's unit is the figure divided by this. */
  readonly per?: number;
  readonly whole?: true;
}

/** The columns beside the cost; those whose figure a scenario does not have are left out. */
const columns: readonly Column[] = [
  { figure: 'cpuSecondsPerGigabyte', title: 's/GB' },
  { figure: 'messagesPerSecond', title: 'msg/s', whole: true },
  { figure: 'halvesPerSecond', title: 'halves/s', whole: true },
  { figure: 'anonymousBytesPerHalf', title: 'anonymous B', whole: true },
  { figure: 'restCpuPercent', title: 'CPU %' },
  { figure: 'aloneP99Micros', title: 'p99 µs alone' },
  { figure: 'besideP99Micros', title: 'p99 µs beside' },
  { figure: 'blasterMessagesPerSecond', title: 'blaster msg/s', whole: true },
  { figure: 'p50Micros', title: 'p50 µs' },
  { figure: 'p99Micros', title: 'p99 µs' },
  { figure: 'p999Micros', title: 'p99.9 µs' },
  { figure: 'outOfOrder', title: 'out of order', whole: true },
  { figure: 'sentLateP99Micros', title: 'sent late p99 µs' },
];

const costTitles: Readonly<Record<string, string>> = {
  cpuMicrosPerMessage: 'µs/msg',
  cpuMicrosPerHalf: 'µs/half',
  residentBytesPerHalf: 'B/half',
  restCpuPercent: 'CPU %',
  p99Micros: 'p99 µs',
  slowdown: 'slowdown',
  residentBytesPerSlowPair: 'B/slow pair',
};

function figure(value: number): string {
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString('en');
  return size >= 100
    ? value.toFixed(0)
    : size >= 10
      ? value.toFixed(1)
      : size >= 1
        ? value.toFixed(2)
        : value.toFixed(3);
}

function ratio(value: number): string {
  if (!Number.isFinite(value)) return '–'; // the reference's figure was 0
  return value >= 0.1 ? value.toFixed(2) : value.toFixed(4);
}

function limitText({ limit, figures }: PeerResult): string {
  const percent = (name: string) => `${(figures[name]?.median ?? 0).toFixed(0)} %`;
  return `${limit} (relay ${percent('relayCpuPercent')}, generator ${percent('generatorCpuPercent')})`;
}

/** The scenario as lines for a terminal. */
export function formatScenario(result: ScenarioResult, references: readonly string[]): string {
  const { cost, peers } = result;
  const measured = references.flatMap((name) => peers.filter(({ peer }) => peer === name));
  const shown = columns.filter(
    (column) => column.figure !== cost && peers.some((peer) => column.figure in peer.figures),
  );
  const limits = peers.some((peer) => peer.limit !== undefined);
  const head = [
    'peer',
    costTitles[cost] ?? cost,
    'min–max',
    ...measured.flatMap(({ peer }) => [`× ${peer}`, 'min–max']),
    ...shown.map(({ title }) => title),
    ...(limits ? ['limit'] : []),
  ];
  const rows = peers.map((peer) => {
    const own = peer.figures[cost]!;
    const ratios = measured.flatMap((reference) => {
      const { median: middle, min, max } = ratioOf(peer, reference, cost);
      return [ratio(middle), `${ratio(min)}–${ratio(max)}`];
    });
    const others = shown.map((column) => {
      const value = peer.figures[column.figure]?.median;
      return value === undefined ? '' : column.whole ? Math.round(value).toLocaleString('en') : figure(value);
    });
    const range = `${figure(own.min)}–${figure(own.max)}`;
    return [peer.peer, figure(own.median), range, ...ratios, ...others, ...(limits ? [limitText(peer)] : [])];
  });
  const table = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...table.map((cells) => cells[column]!.length)));
  const left = (column: number) => column === 0 || (limits && column === head.length - 1);
  const lines = table.map((cells) =>
    cells
      .map((cell, column) => (left(column) ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  );
  return [`${result.title} (${result.name})`, ...lines, ...result.asked.map((one) => askedLine(result, one))].join(
    '\n',
  );
}

function askedText({ peer, figure: name, atMost, of }: Asked): string {
  const limit = atMost < 1 && of !== undefined ? `1/${figure(1 / atMost).replace(/\.?0+$/, '')}` : String(atMost);
  return `${peer} ${name} ≤ ${limit}${of === undefined ? '' : ` × ${of}`}`;
}

function askedLine(result: ScenarioResult, asked: Asked): string {
  const value = askedValue(result, asked);
  if (typeof value === 'string') return `  asked ${askedText(asked)}: not measured (${value})`;
  return `  asked ${askedText(asked)}: ${ratio(value)} ${value <= asked.atMost ? 'reached' : 'NOT REACHED'}`;
}

/** What an asked figure has become; the name of the peer that was not measured where there is none. */
function askedValue(result: ScenarioResult, { peer, figure: name, of }: Asked): number | string {
  const own = result.peers.find((one) => one.peer === peer);
  if (own === undefined) return peer;
  if (of === undefined) return own.figures[name]!.median;
  const reference = result.peers.find((one) => one.peer === of);
  return reference === undefined ? of : own.figures[name]!.median / reference.figures[name]!.median;
}

/** What is above what is asked, or was not measured: one line each; empty where all is well. */
export function checkAsked(results: readonly ScenarioResult[]): string[] {
  return results.flatMap((result) =>
    result.asked.flatMap((asked) => {
      const value = askedValue(result, asked);
      if (typeof value === 'string') return [`${result.name}: ${askedText(asked)}: ${value} was not measured`];
      return value <= asked.atMost ? [] : [`${result.name}: ${askedText(asked)}: it is ${value.toFixed(4)}`];
    }),
  );
}
