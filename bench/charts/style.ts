import type { TitleComponentOption } from 'echarts';
import type { BenchResult, PeerResult, ScenarioResult } from '../results.ts';

/** Peers in the order in which charts show them, with their colours; others come after them. */
const colours: ReadonlyMap<string, string> = new Map([
  ['floor', '#8c959f'],
  ['couplet', '#1a7f64'],
  ['couplet-portable', '#7cc4a4'],
  ['ws', '#3b73b9'],
  ['incumbent', '#d9772b'],
]);
const otherColours = ['#8250df', '#bf3989', '#9a6700', '#57606a'];

/** The peers without which a comparison is not whole. */
export const mainPeers = ['floor', 'couplet', 'ws', 'incumbent'] as const;

const variant = /-(?:recorded|tls)$/;

/** `couplet` of `couplet-recorded`. */
export function basePeer(peer: string): string {
  return peer.replace(variant, '');
}

export function isVariant(peer: string): boolean {
  return variant.test(peer);
}

export function colourOf(peer: string, peers: readonly string[]): string {
  const known = colours.get(peer) ?? colours.get(basePeer(peer));
  if (known !== undefined) return known;
  const strange = peers.filter((other) => !colours.has(basePeer(other)));
  return otherColours[strange.indexOf(peer) % otherColours.length]!;
}

/** Names of all peers in the scenarios, each once, in the order in which charts show them. */
export function peersOf(scenarios: readonly ScenarioResult[]): string[] {
  const names = [...new Set(scenarios.flatMap(({ peers }) => peers.map(({ peer }) => peer)))];
  const order = [...colours.keys()];
  const place = (peer: string) => {
    const index = order.indexOf(basePeer(peer));
    return index < 0 ? order.length : index;
  };
  return names.sort((a, b) => place(a) - place(b) || (a < b ? -1 : 1));
}

/** A figure's median; `undefined` where the peer was not measured or the figure is no number above 0. */
export function medianOf(scenario: ScenarioResult, peer: string, figure: string): number | undefined {
  const found = scenario.peers.find((one: PeerResult) => one.peer === peer)?.figures[figure]?.median;
  return found !== undefined && Number.isFinite(found) && found > 0 ? found : undefined;
}

/** Three digits, as people write them: 0.45, 12.3, 274, 1.21 k, 2.05 M. */
export function shortNumber(value: number): string {
  if (value >= 1e6) return `${digits(value / 1e6)} M`;
  if (value >= 1e4) return `${digits(value / 1e3)} k`;
  return digits(value);
}

function digits(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en');
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Microseconds on an axis: 100 µs, 10 ms, 1 s. */
export function shortMicros(micros: number): string {
  if (micros >= 1e6) return `${trimmed(micros / 1e6)} s`;
  if (micros >= 1e3) return `${trimmed(micros / 1e3)} ms`;
  return `${trimmed(micros)} µs`;
}

/** A number on an axis, without zeros that say nothing. */
export function trimmed(value: number): string {
  return Number(value.toPrecision(3)).toLocaleString('en', { maximumFractionDigits: 4 });
}

export function shortBytes(bytes: number): string {
  if (bytes >= 1024 && bytes % 1024 === 0) return `${bytes / 1024} KiB`;
  return `${bytes} B`;
}

/** `1.13 ×`, `21 ×`. */
export function shortRatio(ratio: number): string {
  return `${ratio >= 10 ? ratio.toFixed(0) : ratio >= 3 ? ratio.toFixed(1) : ratio.toFixed(2)} ×`;
}

/**
 * What a chart lacks, in words; empty where it lacks nothing.
 * @param parts what is shown in each part of the chart: a scenario's title and its peers
 */
export function notMeasured(
  expected: readonly string[],
  parts: readonly { readonly title: string; readonly shown: readonly string[] }[],
): string {
  const nowhere = expected.filter((name) => !parts.some(({ shown }) => shown.includes(name)));
  const lacking = parts.flatMap(({ title, shown }) => {
    const here = expected.filter((name) => !shown.includes(name) && !nowhere.includes(name));
    return here.length === 0 ? [] : [`${here.join(', ')} at ${title}`];
  });
  const all = [...nowhere, ...lacking];
  return all.length === 0 ? '' : `Not measured: ${all.join('; ')}`;
}

/** Peers of which the scenario has the figure. */
export function peersWith(scenario: ScenarioResult, figure: string): string[] {
  return peersOf([scenario]).filter((peer) => medianOf(scenario, peer, figure) !== undefined);
}

/** The chart's name, and below it what was measured on and what is missing. */
export function heading(title: string, result: BenchResult, notes: readonly string[]): TitleComponentOption {
  const { machine, rounds, version } = result;
  const source = `couplet ${version}, ${machine.processor}, Linux ${machine.kernel}, Node.js ${machine.node}, medians of up to ${rounds} rounds`;
  return {
    text: title,
    subtext: [...notes.filter((note) => note !== ''), source].join('\n'),
    left: 20,
    top: 14,
    itemGap: 6,
    textStyle: { fontSize: 17, fontWeight: 'bold', color: '#24292f' },
    subtextStyle: { fontSize: 12, lineHeight: 16, color: '#57606a' },
  };
}

/** Height that the heading takes, with as many lines below the title. */
export function headingHeight(notes: readonly string[]): number {
  return 14 + 22 + 16 * (notes.filter((note) => note !== '').length + 1) + 8;
}

export const axisStyle = {
  nameLocation: 'middle' as const,
  nameTextStyle: { fontSize: 12, color: '#57606a' },
  axisLabel: { fontSize: 12, color: '#24292f' },
  axisLine: { show: true, lineStyle: { color: '#8c959f' } },
  splitLine: { show: true, lineStyle: { color: '#eaeef2' } },
};

/** With room between the names for fonts that are wider than the one reckoned with. */
export const legendStyle = { itemGap: 26, textStyle: { fontSize: 12, color: '#24292f' } };
