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
  /** Couplet's CPU per message may be at most this many times the floor's in the same call. */
  readonly askedRatioToFloor: number;
}

export const scenarios: readonly Scenario[] = [
  {
    name: '64b',
    title: '64 B, 16 pairs, 64 in flight',
    load: { mode: 'pipeline', pairs: 16, inFlight: 64, messageBytes: 64 },
    askedRatioToFloor: 1.3,
  },
  {
    name: '1k',
    title: '1 KiB, 16 pairs, 32 in flight',
    load: { mode: 'pipeline', pairs: 16, inFlight: 32, messageBytes: 1024 },
    askedRatioToFloor: 1.3,
  },
  {
    name: '64k',
    title: '64 KiB, 16 pairs, 8 in flight',
    load: { mode: 'pipeline', pairs: 16, inFlight: 8, messageBytes: 65536 },
    askedRatioToFloor: 1.3,
  },
  {
    name: 'pingpong-16',
    title: '64 B ping-pong, 16 pairs',
    load: { mode: 'pingpong', pairs: 16, inFlight: 1, messageBytes: 64 },
    askedRatioToFloor: 1.25,
  },
  {
    name: 'pingpong-200',
    title: '64 B ping-pong, 200 pairs',
    load: { mode: 'pingpong', pairs: 200, inFlight: 1, messageBytes: 64 },
    askedRatioToFloor: 1.25,
  },
];

/** The scenarios with these names, in the order of the list above; all where no name is given. */
export function selectScenarios(names: readonly string[]): readonly Scenario[] {
  const unknown = names.filter((name) => !scenarios.some((scenario) => scenario.name === name));
  if (unknown.length > 0) {
    throw new Error(`no scenario "${unknown[0]}"; there are ${scenarios.map((scenario) => scenario.name).join(', ')}`);
  }
  return names.length === 0 ? scenarios : scenarios.filter((scenario) => names.includes(scenario.name));
}
