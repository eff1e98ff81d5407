import type { BenchResult, ScenarioResult } from '../results.ts';
import { barPanelsSvg, type Panel } from './bar-panels.ts';
import { isLinked } from './select.ts';
import { medianOf, notMeasured, peersOf, shortNumber, shortRatio } from './style.ts';

/** What a half costs: CPU time to set it up, resident memory and CPU time while it is idle. */
export function halvesSvg(result: BenchResult): string {
  const setups = result.scenarios.filter((scenario) => scenario.kind === 'setup' && !isLinked(scenario));
  const idle = result.scenarios.filter(({ kind }) => kind === 'idle');
  const panels = [
    ...setups.map((scenario) => panelOf(scenario, 'cpuMicrosPerHalf', 'µs of CPU per half', 1, 'µs')),
    ...idle.map((scenario) =>
      scenario.cost === 'restCpuPercent'
        ? panelOf(scenario, 'restCpuPercent', '% of a core', 1, '%')
        : panelOf(scenario, 'residentBytesPerHalf', 'KiB resident per half', 1024, 'KiB'),
    ),
  ];
  const parts = panels.map(({ title, bars }) => ({ title, shown: bars.map(({ peer }) => peer.replace(/-tls$/, '')) }));
  const kinds = [...(setups.length === 0 ? [] : ['set-up']), ...(idle.length === 0 ? [] : ['idle halves'])];
  const notes = [
    'Of the relay process; in brackets: times couplet. Less is better.',
    notMeasured(['couplet', 'ws', 'incumbent'], parts),
    notMeasured(['set-up', 'idle halves'], [{ title: '', shown: kinds }]),
  ];
  return barPanelsSvg('Cost of a half: set-up and rest', result, notes, panels, 2);
}

function panelOf(scenario: ScenarioResult, figure: string, axis: string, unitSize: number, unit: string): Panel {
  const couplet = medianOf(scenario, 'couplet', figure);
  return {
    title: scenario.title,
    axis,
    bars: peersOf([scenario]).flatMap((peer) => {
      const value = medianOf(scenario, peer, figure);
      if (value === undefined) return [];
      const ratio = couplet === undefined || peer === 'couplet' ? '' : ` (${shortRatio(value / couplet)})`;
      return [{ peer, value: value / unitSize, label: `${shortNumber(value / unitSize)} ${unit}${ratio}` }];
    }),
  };
}
