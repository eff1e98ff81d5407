/** What the load generator is told to do; its options of the same names. */
export interface Load {
  readonly mode: 'pipeline' | 'pingpong';
  readonly pairs: number;
  /** Messages under way per pair. */
  readonly inFlight: number;
  readonly messageBytes: number;
}

export interface Scenario {
  /** What is typed to run it alone. */
  readonly name: string;
  readonly title: string;
  readonly load: Load;
  /** Who is compared. */
  readonly peers: readonly string[];
  /** The peer that all others are given as multiples of; always measured. */
  readonly reference: string;
  /** The peer whose CPU per message may be at most `ratio` times the reference's in the same call; absent: any. */
  readonly asked?: { readonly peer: string; readonly ratio: number };
}

const forwarding = { peers: ['floor', 'ws', 'couplet'], reference: 'floor' };
const recording = { peers: ['couplet', 'ws-recorded', 'couplet-recorded'], reference: 'couplet' };

const loads = {
  '64b': { mode: 'pipeline', pairs: 16, inFlight: 64, messageBytes: 64 },
  '1k': { mode: 'pipeline', pairs: 16, inFlight: 32, messageBytes: 1024 },
  '64k': { mode: 'pipeline', pairs: 16, inFlight: 8, messageBytes: 65536 },
  'pingpong-16': { mode: 'pingpong', pairs: 16, inFlight: 1, messageBytes: 64 },
  'pingpong-200': { mode: 'pingpong', pairs: 200, inFlight: 1, messageBytes: 64 },
} as const satisfies Record<string, Load>;

const titles: Readonly<Record<keyof typeof loads, string>> = {
  '64b': '64 B, 16 pairs, 64 in flight',
  '1k': '1 KiB, 16 pairs, 32 in flight',
  '64k': '64 KiB, 16 pairs, 8 in flight',
  'pingpong-16': '64 B ping-pong, 16 pairs',
  'pingpong-200': '64 B ping-pong, 200 pairs',
};

function forwarded(name: keyof typeof loads, ratio: number): Scenario {
  return { name, title: titles[name], load: loads[name], ...forwarding, asked: { peer: 'couplet', ratio } };
}

function recorded(name: keyof typeof loads, ratio?: number): Scenario {
  return {
    name: `${name}-recorded`,
    title: `${titles[name]}, recorded`,
    load: loads[name],
    ...recording,
    ...(ratio !== undefined && { asked: { peer: 'couplet-recorded', ratio } }),
  };
}

export const scenarios: readonly Scenario[] = [
  forwarded('64b', 1.3),
  forwarded('1k', 1.3),
  forwarded('64k', 1.3),
  forwarded('pingpong-16', 1.25),
  forwarded('pingpong-200', 1.25),
  recorded('64b', 1.6),
  recorded('1k'),
  recorded('64k', 1.8),
  recorded('pingpong-16', 1.6),
  recorded('pingpong-200', 1.6),
];

/** The scenarios with these names, in the order of the list above; all where no name is given. */
export function selectScenarios(names: readonly string[]): readonly Scenario[] {
  const unknown = names.filter((name) => !scenarios.some((scenario) => scenario.name === name));
  if (unknown.length > 0) {
    throw new Error(`no scenario "${unknown[0]}"; there are ${scenarios.map((scenario) => scenario.name).join(', ')}`);
  }
  return names.length === 0 ? scenarios : scenarios.filter((scenario) => names.includes(scenario.name));
}
