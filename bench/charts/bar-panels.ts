import type { EChartsOption } from 'echarts';
import type { BenchResult } from '../results.ts';
import { renderSvg } from './render.ts';
import { axisStyle, colourOf, heading, headingHeight, trimmed } from './style.ts';

/** Bars side by side on a scale of their own. */
export interface Panel {
  readonly title: string;
  /** With its unit. */
  readonly axis: string;
  readonly bars: readonly { readonly peer: string; readonly value: number; readonly label: string }[];
}

const width = 960;
const barHeight = 26;
const margin = { left: 128, right: 24 };
/** Of a panel's own title above its bars, and of its axis below. */
const titleHeight = 30;
const axisHeight = 54;
/** Room for the figures at the bars' ends. */
const labelWidth = 150;

/** A panel for each quantity, a bar for each peer, its figure written at its end. Panels without bars are left out. */
export function barPanelsSvg(
  title: string,
  result: BenchResult,
  notes: readonly string[],
  all: readonly Panel[],
  columns: number,
): string {
  const panels = all.filter(({ bars }) => bars.length > 0);
  const peers = [...new Set(panels.flatMap(({ bars }) => bars.map(({ peer }) => peer)))];
  const columnWidth = width / columns;
  const plotWidth = columnWidth - margin.left - margin.right;
  const rowHeight = titleHeight + Math.max(0, ...panels.map(({ bars }) => bars.length)) * barHeight + axisHeight;
  const top = headingHeight(notes) + 8;
  const places = panels.map((panel, index) => ({
    panel,
    left: (index % columns) * columnWidth + margin.left,
    top: top + Math.floor(index / columns) * rowHeight,
  }));
  const option: EChartsOption = {
    title: [
      heading(title, result, notes),
      ...places.map(({ panel, left, top }) => ({
        text: panel.title,
        left: left - 5,
        top,
        textStyle: { fontSize: 13, fontWeight: 'bold' as const, color: '#24292f' },
      })),
    ],
    grid: places.map(({ panel, left, top }) => ({
      left,
      top: top + titleHeight,
      width: plotWidth,
      height: panel.bars.length * barHeight,
    })),
    xAxis: panels.map(({ axis, bars }, gridIndex) => ({
      ...axisStyle,
      gridIndex,
      type: 'value' as const,
      name: axis,
      nameGap: 26,
      min: 0,
      max: Math.max(...bars.map(({ value }) => value)) * (plotWidth / (plotWidth - labelWidth)),
      splitNumber: 4,
      axisLabel: { ...axisStyle.axisLabel, showMaxLabel: false, formatter: axisNumber },
    })),
    yAxis: panels.map(({ bars }, gridIndex) => ({
      gridIndex,
      type: 'category' as const,
      inverse: true,
      data: bars.map(({ peer }) => peer),
      axisTick: { show: false },
      axisLine: axisStyle.axisLine,
      axisLabel: axisStyle.axisLabel,
    })),
    series: panels.map(({ bars }, index) => ({
      type: 'bar' as const,
      xAxisIndex: index,
      yAxisIndex: index,
      barWidth: barHeight * 0.65,
      data: bars.map(({ peer, value, label }) => ({
        value,
        itemStyle: { color: colourOf(peer, peers) },
        label: { show: true, position: 'right' as const, formatter: () => label, fontSize: 12, color: '#24292f' },
      })),
    })),
  };
  return renderSvg(title, { width, height: top + Math.ceil(panels.length / columns) * rowHeight }, option);
}

function axisNumber(value: number): string {
  if (value >= 1e6) return `${trimmed(value / 1e6)} M`;
  return value >= 1e4 ? `${trimmed(value / 1e3)} k` : trimmed(value);
}
