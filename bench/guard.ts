import type { Asked, BenchResult, PeerResult, ScenarioResult, Spread } from './results.ts';

/** What a comparison with the committed results found; a line each. */
export interface GuardReport {
  /** Ratios that are worse than the committed ones by more than is allowed. */
  readonly regressions: string[];
  /** Asked limits that are not met in the fresh run. */
  readonly unmet: string[];
  /** What stands in only one of the two results, or cannot be compared. */
  readonly notCompared: string[];
  /** Number of ratios that were compared. */
  readonly compared: number;
}

/** Part by which a ratio may be worse although neither run was noisy. */
export const defaultTolerance = 0.15;
/** However noisy the runs were, no more than this many times the tolerance is allowed. */
const mostTolerances = 5 / 3;
/** Standard errors that noise may make a ratio worse by: about 1 in 40 good ratios is further off. */
const standardErrors = 2;
/** Standard error of a median over that of a mean, for many normal values. */
const medianFactor = 1.25;
/** Expected (max − min) of n normal values, in standard deviations, from n = 2 on. */
const rangeOverDeviation = [1.128, 1.693, 2.059, 2.326, 2.534, 2.704, 2.847, 2.97, 3.078];

/**
 * Compares ratios, never times: in each scenario the cost of every couplet peer over that of each other peer of the
 * same run, and that with the same ratio of the committed run. A ratio may be worse by `tolerance`, or by what the
 * rounds' lowest and highest figures say that noise can do, but by no more than 5/3 of `tolerance` in any case.
 * @param tolerance a part of 1, at least 0; 0.15: a ratio of 1.2 may become 1.38
 * @throws RangeError where `tolerance` is no such number
 */
export function compareResults(
  committed: BenchResult,
  fresh: BenchResult,
  tolerance: number = defaultTolerance,
): GuardReport {
  if (!(tolerance >= 0) || !Number.isFinite(tolerance))
    throw new RangeError(`tolerance ${tolerance}: must be 0 or more`);
  const report = { regressions: [] as string[], unmet: [] as string[], notCompared: [] as string[], compared: 0 };
  const names = new Set([...committed.scenarios, ...fresh.scenarios].map(({ name }) => name));
  for (const name of names) {
    const before = committed.scenarios.find((scenario) => scenario.name === name);
    const now = fresh.scenarios.find((scenario) => scenario.name === name);
    const reason = whyNot(before, now);
    if (reason !== undefined) report.notCompared.push(`${name}: not compared: ${reason}`);
    else compareScenario(before!, now!, tolerance, fresh.missing, report);
    if (now !== undefined) for (const asked of now.asked) checkAsked(now, asked, report);
  }
  return report;
}

function whyNot(before: ScenarioResult | undefined, now: ScenarioResult | undefined): string | undefined {
  if (now === undefined) return 'the scenario was not measured in this run';
  if (before === undefined) return 'the scenario is not in the committed results';
  if (before.cost !== now.cost) return `ratios are of ${now.cost} now, of ${before.cost} in the committed results`;
  if (loadText(before) !== loadText(now)) return `the load is ${loadText(now)} now, was ${loadText(before)}`;
  return undefined;
}

function loadText({ load }: ScenarioResult): string {
  return Object.entries(load)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
}

interface Report {
  readonly regressions: string[];
  readonly unmet: string[];
  readonly notCompared: string[];
  compared: number;
}

/** Every couplet peer with every peer that it is measured against. */
function pairsOf(scenario: ScenarioResult): [peer: string, other: string][] {
  const names = scenario.peers.map(({ peer }) => peer);
  return names
    .filter((peer) => isCouplet(peer))
    .flatMap((peer) =>
      names
        .filter((other) => other !== peer && (!isCouplet(other) || other === 'couplet'))
        .map((other): [string, string] => [peer, other]),
    );
}

function isCouplet(peer: string): boolean {
  return peer === 'couplet' || peer.startsWith('couplet-');
}

function compareScenario(
  before: ScenarioResult,
  now: ScenarioResult,
  tolerance: number,
  missing: BenchResult['missing'],
  report: Report,
): void {
  const { name, cost } = now;
  const key = ([peer, other]: [string, string]) => `${peer} / ${other}`;
  const pairs = new Map([...pairsOf(before), ...pairsOf(now)].map((pair) => [key(pair), pair]));
  for (const [text, pair] of pairs) {
    const then = ratioOf(before, pair, cost);
    const here = ratioOf(now, pair, cost);
    if (typeof then === 'string' || typeof here === 'string') {
      const reason = typeof here === 'string' ? `${here} in this run` : `${then} in the committed results`;
      const named = missing.filter(({ peer }) => typeof here === 'string' && pair.includes(peer));
      const why = (named.find(({ reason }) => reason.startsWith(`${now.name}: `)) ?? named[0])?.reason;
      report.notCompared.push(`${name}: ${text}: not compared: ${reason}${why === undefined ? '' : ` (${why})`}`);
      continue;
    }
    report.compared++;
    const noise = standardErrors * Math.hypot(then.error, here.error);
    const part = Math.min(Math.max(tolerance, noise), tolerance * mostTolerances);
    const allowed = then.value * (1 + part);
    if (here.value <= allowed) continue;
    const worse = `${digits(here.value)} now, was ${digits(then.value)}`;
    report.regressions.push(
      `${name}: ${text}: ${cost} ratio ${worse}, allowed ${digits(allowed)} (+${(100 * part).toFixed(0)} %; rounds of this run ${digits(here.min)} to ${digits(here.max)})`,
    );
  }
}

/** The ratio of two peers' medians. `min` and `max`: of the rounds' most different figures; `error`: relative. */
interface Ratio {
  readonly value: number;
  readonly min: number;
  readonly max: number;
  readonly error: number;
}

/** In words where there is none. */
function ratioOf(scenario: ScenarioResult, [peer, other]: [string, string], figure: string): Ratio | string {
  const above = usable(scenario, peer, figure);
  if (typeof above === 'string') return above;
  const below = usable(scenario, other, figure);
  if (typeof below === 'string') return below;
  return {
    value: above.spread.median / below.spread.median,
    min: above.spread.min / below.spread.max,
    max: above.spread.max / below.spread.min,
    error: Math.hypot(medianError(above), medianError(below)),
  };
}

interface Measured {
  readonly spread: Spread;
  readonly rounds: number;
}

function usable(scenario: ScenarioResult, name: string, figure: string): Measured | string {
  const peer = scenario.peers.find((one) => one.peer === name);
  const spread = peer?.figures[figure];
  if (peer === undefined || spread === undefined) return `${name} was not measured`;
  if (!(spread.min > 0) || !Number.isFinite(spread.max)) return `${name}'s ${figure} makes no ratio`;
  return { spread, rounds: peer.runs.length };
}

/** Relative standard error of a median of rounds, from their range; 0 of a single round, which tells nothing. */
function medianError({ spread, rounds }: Measured): number {
  if (rounds < 2) return 0;
  const perDeviation = rangeOverDeviation[Math.min(rounds, rangeOverDeviation.length + 1) - 2]!;
  const deviation = (spread.max - spread.min) / perDeviation;
  return (medianFactor * deviation) / Math.sqrt(rounds) / spread.median;
}

function checkAsked(scenario: ScenarioResult, { peer, figure, atMost, of }: Asked, report: Report): void {
  const { name } = scenario;
  const value = medianOf(scenario.peers, peer, figure);
  const unit = of === undefined ? 1 : medianOf(scenario.peers, of, figure);
  const limit = of === undefined ? `${digits(atMost)}` : `${digits(atMost)} × ${of}`;
  if (value === undefined || unit === undefined || (of !== undefined && unit === 0)) {
    const lacking = value === undefined ? peer : of!;
    report.notCompared.push(`${name}: ${peer}: asked ${figure} ≤ ${limit}: not checked: ${lacking} was not measured`);
    return;
  }
  if (value <= atMost * unit) return;
  const is = of === undefined ? digits(value) : `${digits(value / unit)} × ${of}`;
  report.unmet.push(`${name}: ${peer}: ${figure} is ${is}, asked is at most ${limit}`);
}

function medianOf(peers: readonly PeerResult[], peer: string, figure: string): number | undefined {
  const median = peers.find((one) => one.peer === peer)?.figures[figure]?.median;
  return median !== undefined && Number.isFinite(median) ? median : undefined;
}

function digits(value: number): string {
  return value >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4)));
}
