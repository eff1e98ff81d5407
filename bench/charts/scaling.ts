import type { BenchResult, ScenarioResult } from '../results.ts';
import { type Line, lineChartSvg } from './lines.ts';
import { byPairs, pairsOf } from './select.ts';
import { isVariant, mainPeers, medianOf, notMeasured, peersOf, peersWith, shortRatio, trimmed } from './style.ts';

const figure = 'cpuMicrosPerMessage';
const expectedPairs = [1, 16, 200, 2000] as const;

/** CPU time per message against the number of pairs, from the scenarios `pairs-N`. */
export function scalingSvg(result: BenchResult): string {
  const scenarios = byPairs(result.scenarios);
  const lines = peersOf(scenarios)
    .filter((peer) => !isVariant(peer))
    .flatMap((peer): Line[] => {
      const points = scenarios.flatMap((scenario) => {
        const cost = medianOf(scenario, peer, figure);
        if (cost === undefined) return [];
        return [{ x: Math.log10(pairsOf(scenario)!), y: cost }];
      });
      return points.length === 0 ? [] : [{ peer, points }];
    });
  const shown = scenarios.filter((scenario) => peersWith(scenario, figure).length > 0);
  const places = shown.map((scenario) => Math.log10(pairsOf(scenario)!));
  const parts = shown.map((scenario) => ({ title: pairsText(pairsOf(scenario)!), shown: peersWith(scenario, figure) }));
  const load = shown[0]?.title.replace(/,? *[0-9,]+ pairs?\b/, '');
  return lineChartSvg(result, {
    title: 'CPU time per message by number of pairs',
    notes: [
      `${load === undefined ? '' : `${load}. `}Below the number of pairs: couplet's, times the floor's. Less is better.`,
      notMeasured(mainPeers, parts),
      notMeasured(expectedPairs.map(pairsText), [{ title: '', shown: parts.map(({ title }) => title) }]),
    ],
    panels: lines.length === 0 ? [] : [{ title: '', lines }],
    x: {
      name: 'pairs (log scale)',
      min: Math.min(...places) - 0.15,
      max: Math.max(...places) + 0.15,
      nameGap: 48,
      ticks: new Map(shown.map((scenario) => [Math.log10(pairsOf(scenario)!), tickOf(scenario)])),
    },
    y: { name: 'µs of CPU per message (log scale)', format: trimmed },
    symbols: true,
  });
}

function tickOf(scenario: ScenarioResult): string {
  const floor = medianOf(scenario, 'floor', figure);
  const couplet = medianOf(scenario, 'couplet', figure);
  const ratio = floor === undefined || couplet === undefined ? '' : shortRatio(couplet / floor);
  return `${pairsOf(scenario)!.toLocaleString('en')}\n${ratio}`;
}

function pairsText(count: number): string {
  return `${count.toLocaleString('en')} ${count === 1 ? 'pair' : 'pairs'}`;
}
