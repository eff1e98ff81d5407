import type { EChartsOption } from 'echarts';
import type { BenchResult, ScenarioResult } from '../results.ts';
import { barPanelsSvg, type Panel } from './bar-panels.ts';
import { renderSvg } from './render.ts';
import { pipelined, sizes } from './select.ts';
import {
  axisStyle,
  colourOf,
  heading,
  headingHeight,
  isVariant,
  legendStyle,
  mainPeers,
  medianOf,
  notMeasured,
  peersOf,
  peersWith,
  shortBytes,
  shortNumber,
  shortRatio,
  trimmed,
} from './style.ts';

interface Sized {
  readonly bytes: number;
  readonly scenario: ScenarioResult;
}

/** The scenarios by size that were measured, their peers, and what a reader must be told is missing. */
function gather(result: BenchResult, recorded: boolean, figure: string) {
  const found = sizes.flatMap((bytes): Sized[] => {
    const scenario = pipelined(result.scenarios, bytes, recorded);
    return scenario === undefined ? [] : [{ bytes, scenario }];
  });
  const all = peersOf(found.map(({ scenario }) => scenario)).filter((peer) => recorded || !isVariant(peer));
  const peers = all.filter((peer) => found.some(({ scenario }) => medianOf(scenario, peer, figure) !== undefined));
  const expected = recorded ? ['couplet', 'couplet-recorded', 'incumbent-recorded'] : mainPeers;
  const parts = found.map(({ bytes, scenario }) => ({ title: shortBytes(bytes), shown: peersWith(scenario, figure) }));
  const notes = [
    notMeasured(expected, parts),
    notMeasured(sizes.map(shortBytes), [{ title: '', shown: parts.map(({ title }) => title) }]),
  ];
  return { found, peers, notes };
}

/** Messages and bytes per second; a panel for each message size. */
export function throughputSvg(result: BenchResult): string {
  const figure = 'messagesPerSecond';
  const { found, peers, notes } = gather(result, false, figure);
  const panels = found.map(({ bytes, scenario }): Panel => {
    const inBytes = bytes >= 65_536;
    return {
      title: `${shortBytes(bytes)} messages`,
      axis: inBytes ? 'GB/s' : 'messages/s',
      bars: peers.flatMap((peer) => {
        const rate = medianOf(scenario, peer, figure);
        if (rate === undefined) return [];
        const gigabytes = (rate * bytes) / 1e9;
        const text = inBytes ? `${shortNumber(gigabytes)} GB/s` : `${shortNumber(rate)}/s`;
        const ofIncumbent = rate / (medianOf(scenario, 'incumbent', figure) ?? Number.NaN);
        const ratio = peer === 'incumbent' || Number.isNaN(ofIncumbent) ? '' : ` (${shortRatio(ofIncumbent)})`;
        return [{ peer, value: inBytes ? gigabytes : rate, label: text + ratio }];
      }),
    };
  });
  const meaning = 'Delivered by one relay process on one core; in brackets: times the incumbent. More is better.';
  return barPanelsSvg('Throughput by message size', result, [meaning, ...notes], panels, 1);
}

const width = 960;
const plotHeight = 300;
const unrecordedColour = '#a8d5c2';

/** CPU time per message on a logarithmic scale; a bar for each peer at each message size. */
export function cpuBySizeSvg(result: BenchResult, recorded: boolean): string {
  const figure = 'cpuMicrosPerMessage';
  const { found, peers, notes } = gather(result, recorded, figure);
  const unit = recorded ? 'couplet' : 'floor';
  const title = recorded ? 'CPU time per message, recorded' : 'CPU time per message';
  const meaning = `Of the relay process, all threads; below each figure: times ${recorded ? "couplet's without recording" : "the floor's"}. Less is better.`;
  const lines = [meaning, ...notes];
  const values = found.flatMap(({ scenario }) => peers.map((peer) => medianOf(scenario, peer, figure) ?? Number.NaN));
  const known = values.filter((value) => !Number.isNaN(value));
  const top = headingHeight(lines) + 30;
  if (known.length === 0) return renderSvg(title, { width, height: top }, { title: heading(title, result, lines) });
  const lowest = 10 ** Math.floor(Math.log10(Math.min(...known) / 1.5));
  const labelOf = (scenario: ScenarioResult, peer: string, value: number): string => {
    const reference = medianOf(scenario, unit, figure);
    if (reference === undefined || peer === unit) return `${shortNumber(value)}\n `;
    return `${shortNumber(value)}\n${shortRatio(value / reference)}`;
  };
  const option: EChartsOption = {
    title: heading(title, result, lines),
    legend: { ...legendStyle, top: top - 22, left: 66, itemWidth: 14, itemHeight: 12, data: peers },
    grid: { left: 72, right: 24, top: top + 24, height: plotHeight },
    xAxis: {
      ...axisStyle,
      type: 'category',
      name: 'message size',
      nameGap: 30,
      splitLine: { show: false },
      axisLine: { ...axisStyle.axisLine, onZero: false },
      axisTick: { show: false },
      data: found.map(({ bytes }) => shortBytes(bytes)),
    },
    yAxis: {
      ...axisStyle,
      type: 'log',
      name: 'µs of CPU per message (log scale)',
      nameGap: 48,
      min: lowest,
      startValue: lowest,
      // Room for two lines above the highest bar.
      max: 10 ** (Math.log10(lowest) + (Math.log10(Math.max(...known)) - Math.log10(lowest)) * 1.14),
      axisLabel: { ...axisStyle.axisLabel, showMaxLabel: false, formatter: (value: number) => trimmed(value) },
    },
    series: peers.map((peer) => ({
      type: 'bar' as const,
      name: peer,
      barGap: '8%',
      barCategoryGap: '16%',
      itemStyle: { color: recorded && !isVariant(peer) ? unrecordedColour : colourOf(peer, peers) },
      data: found.map(({ scenario }) => {
        const value = medianOf(scenario, peer, figure);
        if (value === undefined) return { value: '-' as const };
        const formatter = () => labelOf(scenario, peer, value);
        return {
          value,
          label: { show: true, position: 'top' as const, formatter, fontSize: 11, lineHeight: 13, color: '#24292f' },
        };
      }),
    })),
  };
  return renderSvg(title, { width, height: top + 24 + plotHeight + 60 }, option);
}
