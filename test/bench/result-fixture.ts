import type { Asked, BenchResult, PeerResult, ScenarioResult } from '../../bench/results.ts';

/** A peer whose rounds had these values of one figure. */
export function peerOf(
  peer: string,
  figure: string,
  values: readonly number[],
  more: Record<string, number> = {},
): PeerResult {
  const sorted = values.toSorted((a, b) => a - b);
  const spread = { median: sorted[sorted.length >> 1]!, min: sorted[0]!, max: sorted.at(-1)! };
  const others = Object.entries(more).map(([name, value]) => [name, { median: value, min: value, max: value }]);
  return {
    peer,
    figures: { [figure]: spread, ...Object.fromEntries(others) },
    runs: values.map((value) => ({ [figure]: value, ...more })),
  };
}

const cpu = 'cpuMicrosPerMessage';

function forwarding(
  name: string,
  title: string,
  load: ScenarioResult['load'],
  micros: Readonly<Record<string, number>>,
  asked: Asked[] = [],
): ScenarioResult {
  const peers = Object.entries(micros).map(([peer, value]) =>
    peerOf(peer, cpu, [value * 0.97, value, value * 1.04], { messagesPerSecond: Math.round(0.97e6 / value) }),
  );
  return { name, title, kind: 'forwarding', load: { mode: 'pipeline', ...load }, cost: cpu, peers, asked };
}

function percentiles(median: number, tail: number): { percentile: number; micros: number }[] {
  return [0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100].map((percentile) => ({
    percentile,
    micros: Math.round(median * (0.6 + (percentile / 100) ** 4 + tail * (percentile / 100) ** 400)),
  }));
}

/** A result with every kind of scenario and every peer. */
export function fullResult(): BenchResult {
  const perHalf = (figure: string, values: Readonly<Record<string, number>>): PeerResult[] =>
    Object.entries(values).map(([peer, value]) => peerOf(peer, figure, [value * 0.98, value, value * 1.01]));
  const asked = [
    { peer: 'couplet', figure: cpu, atMost: 0.05, of: 'incumbent' },
    { peer: 'couplet', figure: cpu, atMost: 1.25, of: 'floor' },
  ];
  return {
    at: '2026-01-02T03:04:05.000Z',
    version: '0.1.0',
    commit: '0123456789abcdef0123456789abcdef01234567',
    machine: {
      processor: 'Example Processor 3000 @ 2.50GHz',
      cores: 2,
      memoryBytes: 8 * 2 ** 30,
      kernel: '6.1.0-example',
      node: 'v22.1.0',
      congestionControl: 'cubic',
      compilerFlags: '-O2',
      relayCpu: 0,
      generatorCpu: 1,
    },
    rounds: 3,
    interval: { warmupSeconds: 1, durationSeconds: 2 },
    recordings: 'own tmpfs',
    missing: [],
    scenarios: [
      forwarding(
        '64b',
        '64 B, 16 pairs, 64 in flight',
        { pairs: 16, messageBytes: 64 },
        { floor: 0.38, ws: 8.8, incumbent: 10.5, couplet: 0.45 },
        asked,
      ),
      forwarding(
        '1k',
        '1 KiB, 16 pairs, 32 in flight',
        { pairs: 16, messageBytes: 1024 },
        { floor: 1.08, ws: 12.3, incumbent: 12.9, couplet: 1.19 },
      ),
      forwarding(
        '64k',
        '64 KiB, 16 pairs, 8 in flight',
        { pairs: 16, messageBytes: 65536 },
        { floor: 22, ws: 183, incumbent: 274, couplet: 23.1 },
      ),
      forwarding(
        'pingpong-16',
        '64 B ping-pong, 16 pairs',
        { mode: 'pingpong', pairs: 16, messageBytes: 64 },
        { floor: 7, ws: 10.7, incumbent: 15.2, couplet: 7.7 },
      ),
      forwarding(
        '64b-recorded',
        '64 B, recorded',
        { pairs: 16, messageBytes: 64 },
        { couplet: 0.45, 'couplet-recorded': 0.66, 'ws-recorded': 17, 'incumbent-recorded': 35.3 },
      ),
      forwarding(
        '1k-recorded',
        '1 KiB, recorded',
        { pairs: 16, messageBytes: 1024 },
        { couplet: 1.19, 'couplet-recorded': 1.7, 'ws-recorded': 21, 'incumbent-recorded': 31 },
      ),
      forwarding(
        '64k-recorded',
        '64 KiB, recorded',
        { pairs: 16, messageBytes: 65536 },
        { couplet: 23.1, 'couplet-recorded': 40, 'ws-recorded': 231, 'incumbent-recorded': 397 },
      ),
      forwarding(
        '64b-tls',
        '64 B, TLS',
        { pairs: 16, messageBytes: 64, tls: true },
        { 'ws-tls': 10.8, 'couplet-tls': 1.4 },
      ),
      forwarding(
        'pairs-1',
        '64 B ping-pong, 1 pair',
        { mode: 'pingpong', pairs: 1, messageBytes: 64 },
        { floor: 9.9, ws: 21, incumbent: 33, couplet: 10.9 },
      ),
      forwarding(
        'pairs-16',
        '64 B ping-pong, 16 pairs',
        { mode: 'pingpong', pairs: 16, messageBytes: 64 },
        { floor: 7, ws: 10.7, incumbent: 15.2, couplet: 7.7 },
      ),
      forwarding(
        'pairs-200',
        '64 B ping-pong, 200 pairs',
        { mode: 'pingpong', pairs: 200, messageBytes: 64 },
        { floor: 8.1, ws: 11.4, incumbent: 17.5, couplet: 8.6 },
      ),
      forwarding(
        'pairs-2000',
        '64 B ping-pong, 2000 pairs',
        { mode: 'pingpong', pairs: 2000, messageBytes: 64 },
        { floor: 9.2, ws: 16.6, incumbent: 29, couplet: 10.1 },
      ),
      {
        name: 'setup',
        title: 'Set-up of a half',
        kind: 'setup',
        load: { tls: false },
        cost: 'cpuMicrosPerHalf',
        peers: perHalf('cpuMicrosPerHalf', { ws: 380, incumbent: 1990, couplet: 118 }),
        asked: [{ peer: 'couplet', figure: 'cpuMicrosPerHalf', atMost: 0.1, of: 'incumbent' }],
      },
      {
        name: 'idle',
        title: '15,000 idle halves',
        kind: 'idle',
        load: { halves: 15000 },
        cost: 'residentBytesPerHalf',
        peers: perHalf('residentBytesPerHalf', { ws: 9800, incumbent: 41000, couplet: 2650 }),
        asked: [{ peer: 'couplet', figure: 'residentBytesPerHalf', atMost: 3072 }],
      },
      {
        name: 'rest',
        title: '15,000 idle halves at rest',
        kind: 'idle',
        load: { halves: 15000 },
        cost: 'restCpuPercent',
        peers: perHalf('restCpuPercent', { ws: 4.5, incumbent: 12, couplet: 0.9 }),
        asked: [{ peer: 'couplet', figure: 'restCpuPercent', atMost: 1 }],
      },
      {
        name: 'latency',
        title: '64 B, 16 pairs, 10,000 messages a second',
        kind: 'latency',
        load: { pairs: 16, messageBytes: 64, perSecond: 10000 },
        cost: 'p99Micros',
        peers: [
          { ...peerOf('floor', 'p99Micros', [70, 72, 75]), percentiles: percentiles(50, 9) },
          { ...peerOf('ws', 'p99Micros', [170, 190, 220]), percentiles: percentiles(90, 40) },
          { ...peerOf('incumbent', 'p99Micros', [400, 450, 470]), percentiles: percentiles(140, 90) },
          { ...peerOf('couplet', 'p99Micros', [76, 80, 81]), percentiles: percentiles(55, 10) },
        ],
        asked: [],
      },
    ],
  };
}

/** A copy without a peer, or without scenarios whose name matches. */
export function without(result: BenchResult, { peer, scenario }: { peer?: string; scenario?: RegExp }): BenchResult {
  return {
    ...result,
    missing: peer === undefined ? result.missing : [...result.missing, { peer, reason: 'not installed' }],
    scenarios: result.scenarios
      .filter(({ name }) => scenario === undefined || !scenario.test(name))
      .map((one) => ({ ...one, peers: one.peers.filter((other) => other.peer !== peer) })),
  };
}
