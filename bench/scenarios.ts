import type { Asked, ScenarioKind } from './results.ts';

/** Messages as fast as they go: `load/load.c`'s options of the same names. */
export interface Load {
  readonly mode: 'pipeline' | 'pingpong';
  readonly pairs: number;
  /** Messages under way per pair. */
  readonly inFlight: number;
  readonly messageBytes: number;
}

/** Pairs that come, are greeted and go (`load/setup.c`); `pairs` of them at any time. */
export interface SetupLoad {
  readonly pairs: number;
}

/** Pairs that only answer pings (`load/idle.c`). */
export interface IdleLoad {
  readonly pairs: number;
  /** From the last greeting to the reading of memory. */
  readonly settleSeconds: number;
  /** For how long the relay's CPU at rest is measured. */
  readonly restSeconds: number;
}

/** Messages on an even schedule, whatever the relay does (`load/paced.c`); `rate` a second over all pairs. */
export interface PacedLoad {
  readonly pairs: number;
  readonly rate: number;
  readonly messageBytes: number;
}

/** Ping-pong pairs alone and then beside pairs that send all they can. */
export interface BlasterLoad {
  readonly pairs: number;
  readonly messageBytes: number;
  readonly blasters: number;
  readonly blasterBytes: number;
}

/** Ping-pong pairs beside pairs whose receivers hardly read (`load/slow.c`). */
export interface SlowLoad {
  readonly pairs: number;
  readonly messageBytes: number;
  readonly slowPairs: number;
  /** Bytes a second of each slow receiver. */
  readonly readRate: number;
}

type Loads =
  | { readonly kind: 'forwarding'; readonly load: Load }
  | { readonly kind: 'setup'; readonly load: SetupLoad }
  | { readonly kind: 'idle'; readonly load: IdleLoad }
  | { readonly kind: 'latency'; readonly load: PacedLoad }
  | { readonly kind: 'blaster'; readonly load: BlasterLoad }
  | { readonly kind: 'slow-readers'; readonly load: SlowLoad };

export type Scenario = Loads & {
  /** What is typed to run it alone. */
  readonly name: string;
  readonly title: string;
  /** Who is compared. */
  readonly peers: readonly string[];
  /** The peers that all others are given as multiples of, as far as they are measured. */
  readonly references: readonly string[];
  /** What is asked, with everything on that is on by default. */
  readonly asked: readonly Asked[];
  /** The figure that ratios are made of, where it is not that of its kind. */
  readonly cost?: string;
  /** Rounds at most, where one takes long. */
  readonly maxRounds?: number;
  /** Seconds of load before the interval at least, where more has to be compiled than the usual ones suffice for. */
  readonly warmupSeconds?: number;
};

/** The figure that ratios are made of, by kind; less is better. */
export const costs: Readonly<Record<ScenarioKind, string>> = {
  forwarding: 'cpuMicrosPerMessage',
  setup: 'cpuMicrosPerHalf',
  idle: 'residentBytesPerHalf',
  latency: 'p99Micros',
  blaster: 'slowdown',
  'slow-readers': 'residentBytesPerSlowPair',
};

/** Where nothing is asked: charts do not need seven. */
const fewRounds = 3;

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

type Ratios = Readonly<Record<string, number>>;

function askedOf(peer: string, ratios: Ratios): Asked[] {
  const figure = costs.forwarding;
  return Object.entries(ratios).map(([of, atMost]) => ({ peer, figure, atMost, of }));
}

function forwarded(name: keyof typeof loads, ratios: Ratios, ...others: readonly string[]): Scenario {
  return {
    name,
    title: titles[name],
    kind: 'forwarding',
    load: loads[name],
    peers: ['floor', 'ws', 'incumbent', ...others, 'couplet'],
    references: ['floor', 'incumbent'],
    asked: askedOf('couplet', ratios),
  };
}

function recorded(name: keyof typeof loads, ratios: Ratios, ...others: readonly string[]): Scenario {
  return {
    name: `${name}-recorded`,
    title: `${titles[name]}, recorded`,
    kind: 'forwarding',
    load: loads[name],
    peers: ['couplet', 'ws-recorded', ...others, 'couplet-recorded'],
    references: ['couplet', ...others],
    asked: askedOf('couplet-recorded', ratios),
    ...(Object.keys(ratios).length === 0 && { maxRounds: fewRounds }),
  };
}

function overTls(name: keyof typeof loads): Scenario {
  return {
    name: `${name}-tls`,
    title: `${titles[name]}, TLS`,
    kind: 'forwarding',
    load: loads[name],
    peers: ['couplet', 'ws-tls', 'couplet-tls'],
    references: ['couplet', 'ws-tls'],
    asked: [],
    maxRounds: fewRounds,
  };
}

/** Both halves on one server, and on two of a cluster. */
function linked(name: keyof typeof loads, asked: readonly Asked[] = []): Scenario {
  return {
    name: `${name}-link`,
    title: `${titles[name]}, across a link`,
    kind: 'forwarding',
    load: loads[name],
    peers: ['couplet', 'couplet-link', 'couplet-link-portable'],
    references: ['couplet'],
    asked,
  };
}

function byPairs(pairs: number): Scenario {
  return {
    name: `pairs-${pairs}`,
    title: `64 B, ${pairs} pair${pairs === 1 ? '' : 's'}, 8 in flight`,
    kind: 'forwarding',
    load: { mode: 'pipeline', pairs, inFlight: 8, messageBytes: 64 },
    peers: ['floor', 'ws', 'incumbent', 'couplet'],
    references: ['floor', 'incumbent'],
    asked: [],
    maxRounds: fewRounds,
  };
}

function setUp(name: string, title: string, peers: readonly string[], asked: readonly Asked[]): Scenario {
  const references = peers.filter((peer) => peer === 'incumbent' || peer === 'ws-tls');
  const rounds = asked.length === 0 && { maxRounds: fewRounds };
  return { name, title, kind: 'setup', load: { pairs: 16 }, peers, references, asked, ...rounds };
}

const idlePairs = 7500;

function beside(name: string, title: string, blasterBytes: number): Scenario {
  return {
    name,
    title,
    kind: 'blaster',
    load: { pairs: 50, messageBytes: 64, blasters: 1, blasterBytes },
    peers: ['floor', 'ws', 'couplet'],
    references: ['floor'],
    asked: [{ peer: 'couplet', figure: costs.blaster, atMost: 3 }],
    ...(blasterBytes < 1024 && { maxRounds: fewRounds }),
  };
}

export const scenarios: readonly Scenario[] = [
  forwarded('64b', { incumbent: 1 / 20, floor: 1.25 }, 'couplet-portable'),
  forwarded('1k', { incumbent: 1 / 9, floor: 1.15 }),
  forwarded('64k', { incumbent: 1 / 10, floor: 1.1 }),
  forwarded('pingpong-16', { incumbent: 1 / 1.5, floor: 1.25 }, 'couplet-portable'),
  forwarded('pingpong-200', { incumbent: 1 / 1.5, floor: 1.25 }),
  recorded('64b', { 'incumbent-recorded': 1 / 30, couplet: 1.6 }, 'incumbent-recorded'),
  recorded('1k', {}),
  recorded('64k', { 'incumbent-recorded': 1 / 9, couplet: 1.8 }, 'incumbent-recorded'),
  recorded('pingpong-16', { couplet: 1.6 }),
  recorded('pingpong-200', {}),
  overTls('64b'),
  overTls('64k'),
  overTls('pingpong-16'),
  linked('64b'),
  linked('64k', askedOf('couplet-link', { couplet: 2.5 })),
  linked('pingpong-16'),
  ...[1, 16, 200, 2000].map(byPairs),
  setUp(
    'setup',
    'halves set up and closed, 16 pairs at a time',
    ['floor', 'ws', 'incumbent', 'couplet', 'couplet-directory'],
    [{ peer: 'couplet', figure: costs.setup, atMost: 1 / 10, of: 'incumbent' }],
  ),
  setUp('setup-tls', 'halves set up and closed over TLS, 16 pairs at a time', ['ws-tls', 'couplet-tls'], []),
  {
    name: 'setup-link',
    title: 'halves set up and closed: alone, in a cluster, across a link; 16 pairs at a time',
    kind: 'setup',
    load: { pairs: 16 },
    peers: ['couplet', 'couplet-cluster', 'couplet-link'],
    references: ['couplet'],
    asked: [],
    warmupSeconds: 4,
  },
  {
    name: 'idle',
    title: `memory of ${2 * idlePairs} idle halves`,
    kind: 'idle',
    load: { pairs: idlePairs, settleSeconds: 3, restSeconds: 3 },
    peers: ['ws', 'couplet'],
    references: ['ws'],
    asked: [
      { peer: 'couplet', figure: costs.idle, atMost: 3072 },
      { peer: 'couplet', figure: costs.idle, atMost: 1, of: 'ws' },
    ],
  },
  {
    name: 'rest',
    title: `CPU at rest of ${2 * idlePairs} idle halves, over a whole interval of pings`,
    kind: 'idle',
    // Settled: V8 has collected what setting the halves up left.
    load: { pairs: idlePairs, settleSeconds: 30, restSeconds: 65 },
    peers: ['ws', 'couplet'],
    references: ['ws'],
    cost: 'restCpuPercent',
    asked: [{ peer: 'couplet', figure: 'restCpuPercent', atMost: 1 }],
    maxRounds: 1,
  },
  {
    name: 'latency',
    title: 'one-way latency at 20,000 messages/s of 64 B, 200 pairs',
    kind: 'latency',
    load: { pairs: 200, rate: 20_000, messageBytes: 64 },
    peers: ['floor', 'ws', 'incumbent', 'couplet'],
    references: ['floor', 'incumbent'],
    asked: [],
    maxRounds: fewRounds,
  },
  {
    name: 'latency-link',
    title: 'one-way latency across a link at 20,000 messages/s of 64 B, 200 pairs',
    kind: 'latency',
    load: { pairs: 200, rate: 20_000, messageBytes: 64 },
    peers: ['couplet', 'couplet-link'],
    references: ['couplet'],
    asked: [],
  },
  beside('blaster', '64 B ping-pong, 50 pairs, beside one that sends 64 KiB messages', 65536),
  beside('blaster-64b', '64 B ping-pong, 50 pairs, beside one that sends 64 B messages', 64),
  {
    name: 'slow-readers',
    title: '64 B ping-pong, 50 pairs, beside 100 whose receivers read 64 KiB/s',
    kind: 'slow-readers',
    load: { pairs: 50, messageBytes: 64, slowPairs: 100, readRate: 65536 },
    peers: ['ws', 'couplet'],
    references: ['ws'],
    asked: [],
    maxRounds: fewRounds,
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
