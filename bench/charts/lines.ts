import type { EChartsOption, LineSeriesOption } from 'echarts';
import type { BenchResult } from '../results.ts';
import { renderSvg } from './render.ts';
import { axisStyle, colourOf, heading, headingHeight, legendStyle } from './style.ts';

export interface Line {
  readonly peer: string;
  readonly points: readonly { readonly x: number; readonly y: number }[];
}

export interface LinePanel {
  readonly title: string;
  readonly lines: readonly Line[];
}

export interface LineChart {
  readonly title: string;
  /** Lines of text below the title. */
  readonly notes: readonly string[];
  readonly panels: readonly LinePanel[];
  readonly x: {
    readonly name: string;
    /** Where the ticks are and what stands there. */
    readonly ticks: ReadonlyMap<number, string>;
    readonly min: number;
    readonly max: number;
    /** Pixels from the axis to its name. */
    readonly nameGap: number;
  };
  /** Logarithmic. */
  readonly y: { readonly name: string; readonly format: (value: number) => string };
  readonly symbols: boolean;
}

const width = 960;
const plotHeight = 280;
const margin = { left: 84, right: 36 };

/** Lines over a logarithmic y axis, a panel beside the other; all panels have the same scales. */
export function lineChartSvg(result: BenchResult, { title, notes, panels, x, y, symbols }: LineChart): string {
  const peers = [...new Set(panels.flatMap(({ lines }) => lines.map(({ peer }) => peer)))];
  const top = headingHeight(notes) + (panels.length > 1 ? 56 : 32);
  const values = panels.flatMap(({ lines }) => lines.flatMap(({ points }) => points.map((point) => point.y)));
  if (values.length === 0) return renderSvg(title, { width, height: top }, { title: heading(title, result, notes) });
  const columnWidth = width / panels.length;
  const lowest = Math.min(...values);
  const highest = Math.max(...values);
  // Within less than two decades the powers of ten alone would leave the axis nearly without ticks.
  const logBase = highest / lowest < 64 ? 2 : 10;
  const option: EChartsOption = {
    title: [
      heading(title, result, notes),
      ...(panels.length === 1 ? [] : panels).map((panel, column) => ({
        text: panel.title,
        left: column * columnWidth + margin.left,
        top: top - 26,
        textStyle: { fontSize: 13, fontWeight: 'bold' as const, color: '#24292f' },
      })),
    ],
    legend: { ...legendStyle, top: headingHeight(notes), left: margin.left - 6, itemWidth: 22, data: peers },
    grid: panels.map((_, column) => ({
      left: column * columnWidth + margin.left,
      top,
      width: columnWidth - margin.left - margin.right,
      height: plotHeight,
    })),
    xAxis: panels.map((_, gridIndex) => ({
      ...axisStyle,
      gridIndex,
      type: 'value' as const,
      name: x.name,
      nameGap: x.nameGap,
      min: x.min,
      max: x.max,
      axisLine: { ...axisStyle.axisLine, onZero: false },
      axisTick: { customValues: [...x.ticks.keys()] },
      splitLine: { show: false },
      axisLabel: {
        ...axisStyle.axisLabel,
        customValues: [...x.ticks.keys()],
        lineHeight: 16,
        formatter: (value: number) => x.ticks.get(value) ?? '',
      },
    })),
    yAxis: panels.map((_, gridIndex) => ({
      ...axisStyle,
      gridIndex,
      type: 'log' as const,
      name: y.name,
      nameGap: 58,
      logBase,
      min: below(lowest, logBase),
      max: above(highest, logBase),
      axisLine: { ...axisStyle.axisLine, onZero: false },
      axisLabel: { ...axisStyle.axisLabel, formatter: y.format },
    })),
    series: panels.flatMap(({ lines }, index) =>
      lines.map(
        ({ peer, points }): LineSeriesOption => ({
          type: 'line',
          name: peer,
          xAxisIndex: index,
          yAxisIndex: index,
          showSymbol: symbols,
          symbol: 'circle',
          symbolSize: 8,
          lineStyle: { width: 2.5, color: colourOf(peer, peers) },
          itemStyle: { color: colourOf(peer, peers) },
          data: points.map((point) => [point.x, point.y]),
        }),
      ),
    ),
  };
  return renderSvg(title, { width, height: top + plotHeight + 40 + x.nameGap }, option);
}

/** The power of the base that is not above the value; a logarithmic axis has its ticks at powers. */
function below(value: number, base: number): number {
  return base ** Math.floor(Math.log(value / 1.1) / Math.log(base));
}

function above(value: number, base: number): number {
  return base ** Math.ceil(Math.log(value * 1.1) / Math.log(base));
}
