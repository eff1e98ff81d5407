import type { BenchResult } from '../results.ts';
import { type Line, lineChartSvg } from './lines.ts';
import { isLinked } from './select.ts';
import { mainPeers, notMeasured, peersOf, shortMicros } from './style.ts';

/** Percentiles as numbers of nines: 90 is 1, 99 is 2, 99.9 is 3. */
export function nines(percentile: number): number {
  // Rounded, as 100 − 99.9 is not quite 0.1.
  return Math.round(Math.log10(100 / (100 - percentile)) * 1e6) / 1e6;
}

const most = 5;

/** One-way latency of messages sent at fixed times; each further nine of the percentile takes the same width. */
export function latencySvg(result: BenchResult): string {
  const scenarios = result.scenarios.filter((scenario) => scenario.kind === 'latency' && !isLinked(scenario));
  const panels = scenarios.map((scenario) => ({
    title: scenario.title,
    lines: peersOf([scenario]).flatMap((peer): Line[] => {
      const percentiles = scenario.peers.find((one) => one.peer === peer)?.percentiles ?? [];
      const points = percentiles
        // The 100th percentile has no place on the axis.
        .map(({ percentile, micros }) => ({ x: nines(percentile), y: micros }))
        .filter(({ x, y }) => x >= 0 && x <= most && y > 0)
        .sort((a, b) => a.x - b.x);
      return points.length === 0 ? [] : [{ peer, points }];
    }),
  }));
  const measured = panels.filter(({ lines }) => lines.length > 0);
  const parts = measured.map(({ title, lines }) => ({ title, shown: lines.map(({ peer }) => peer) }));
  const title = measured.length === 1 ? `Latency: ${measured[0]!.title}` : 'Latency';
  const places = measured.flatMap(({ lines }) => lines.flatMap(({ points }) => points.map(({ x }) => x)));
  const furthest = Math.max(1, ...places);
  const meaning =
    'Messages are due at fixed times, whatever the relay does; the time counts from when one was due. Less is better.';
  return lineChartSvg(result, {
    title,
    notes: [meaning, notMeasured(mainPeers, parts)],
    panels: measured,
    x: {
      name: 'percentile of messages',
      min: 0,
      max: furthest,
      nameGap: 30,
      ticks: new Map(
        ['0 %', '90 %', '99 %', '99.9 %', '99.99 %', '99.999 %']
          .map((text, index): [number, string] => [index, text])
          .filter(([index]) => index <= furthest),
      ),
    },
    y: { name: 'latency, one way (log scale)', format: shortMicros },
    symbols: false,
  });
}
