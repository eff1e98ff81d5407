import { parseArgs } from 'node:util';
import { cacheFolder } from './build.ts';
import type { Interval } from './measure.ts';
import { precisionName, precisionTitle } from './precision.ts';
import { type Scenario, scenarios, selectScenarios } from './scenarios.ts';

export const peerNames = [...new Set(scenarios.flatMap(({ peers }) => peers))];

export const usage = `usage: npm run bench -- [scenario…] [options]

Scenarios (all where none is named):
${scenarios.map(({ name, title }) => `  ${name.padEnd(24)}${title}`).join('\n')}
Only where it is named, once, and with the machine to itself:
  ${precisionName.padEnd(24)}${precisionTitle}

  --runs N          rounds; each measures every peer once, in a fresh process (3; for a claim take 7)
  --duration S      measured seconds of a run (2; ${precisionName}: 20)
  --warmup S        seconds of load before them (1)
  --peers A,B,…     ${peerNames.join(',')};
                    what a scenario's ratios refer to is always measured
  --results FOLDER  where results.json and the charts go (bench/.cache/last)
  --check           exit 1 where couplet is above what is asked or was not measured, or its recorded times are off
  --against FILE    exit 1 where a ratio is worse than that of this results.json, by more than the rounds
                    differ, or above what is asked
`;

export interface Options {
  readonly scenarios: readonly Scenario[];
  /** Seconds that recorded times are measured for; absent where that was not asked. */
  readonly precisionSeconds: number | undefined;
  readonly runs: number;
  readonly interval: Interval;
  readonly peers: readonly string[];
  readonly results: string;
  readonly check: boolean;
  readonly against: string | undefined;
}

function positive(text: string, name: string, whole: boolean): number {
  const value = Number(text);
  if (!(value > 0) || !Number.isFinite(value) || (whole && !Number.isInteger(value))) {
    throw new Error(`--${name} "${text}": must be a ${whole ? 'whole ' : ''}number above 0`);
  }
  return value;
}

/** The command line; `undefined` where only help was asked for. @throws Error one line that names what is wrong */
export function readOptions(args: readonly string[]): Options | undefined {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      runs: { type: 'string', default: '3' },
      duration: { type: 'string' },
      warmup: { type: 'string', default: '1' },
      peers: { type: 'string', default: peerNames.join(',') },
      results: { type: 'string', default: `${cacheFolder}/last` },
      check: { type: 'boolean', default: false },
      against: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const peers = values.peers.split(',');
  const unknown = peers.find((name) => !peerNames.includes(name));
  if (unknown !== undefined) throw new Error(`no peer "${unknown}"; there are ${peerNames.join(', ')}`);
  const named = positionals.filter((name) => name !== precisionName);
  const precision = named.length < positionals.length;
  return {
    scenarios: precision && named.length === 0 ? [] : selectScenarios(named),
    precisionSeconds: precision ? positive(values.duration ?? '20', 'duration', false) : undefined,
    runs: positive(values.runs, 'runs', true),
    interval: {
      warmupSeconds: positive(values.warmup, 'warmup', false),
      durationSeconds: positive(values.duration ?? '2', 'duration', false),
    },
    peers,
    results: values.results,
    check: values.check,
    against: values.against,
  };
}
