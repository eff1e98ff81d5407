import type { Affinity } from './affinity.ts';
import type { Tools } from './build.ts';
import type { LatencyBuckets } from './latency.ts';
import { type Interval, measure, refuseFaults, relayOptions } from './measure.ts';
import type { Peer, RunningPeer } from './peers/peer.ts';
import { type ProgramOptions, runProgram } from './program.ts';
import type { BlasterLoad, IdleLoad, PacedLoad, Scenario, SetupLoad, SlowLoad } from './scenarios.ts';

/** One run of one peer, in a fresh process. */
export interface Measured {
  /** By name, the unit in it. */
  readonly figures: Readonly<Record<string, number>>;
  /** Of latency scenarios. */
  readonly latencies?: LatencyBuckets;
}

interface Surroundings {
  readonly tools: Tools;
  readonly interval: Interval;
  readonly affinity: Affinity;
}

/** What every program of `load/` prints beside its own figures. */
interface ProgramResult {
  readonly errors: Readonly<Record<string, number>>;
  readonly generatorCpuSeconds: number;
  readonly relayCpuSeconds: number;
  readonly seconds: number;
}

/** What connecting, settling and draining may take, beside the interval. */
const overheadMs = 150_000;

async function run<Result extends ProgramResult>(
  peer: Peer,
  relay: RunningPeer,
  { affinity, interval }: Surroundings,
  program: string,
  options: ProgramOptions,
  seconds = interval.warmupSeconds + interval.durationSeconds,
): Promise<Result> {
  const all = { ...relayOptions(relay), ...options };
  const result = (await runProgram(program, all, seconds * 1000 + overheadMs, affinity.generatorCpu)) as Result;
  refuseFaults(peer.name, result.errors);
  return result;
}

function shares({ relayCpuSeconds, generatorCpuSeconds, seconds }: ProgramResult): Record<string, number> {
  return {
    relayCpuPercent: (100 * relayCpuSeconds) / seconds,
    generatorCpuPercent: (100 * generatorCpuSeconds) / seconds,
  };
}

const lasting = ({ warmupSeconds, durationSeconds }: Interval): ProgramOptions => ({
  warmup: warmupSeconds,
  duration: durationSeconds,
});

async function setUp(peer: Peer, relay: RunningPeer, load: SetupLoad, around: Surroundings): Promise<Measured> {
  const options = { concurrency: load.pairs, ...lasting(around.interval) };
  const result = await run<ProgramResult & { halves: number }>(peer, relay, around, around.tools.setup, options);
  return {
    figures: {
      cpuMicrosPerHalf: (result.relayCpuSeconds * 1e6) / result.halves,
      halvesPerSecond: result.halves / result.seconds,
      ...shares(result),
    },
  };
}

interface IdleResult extends ProgramResult {
  readonly residentBytesPerHalf: number;
  readonly anonymousBytesPerHalf: number;
}

async function idle(peer: Peer, relay: RunningPeer, load: IdleLoad, around: Surroundings): Promise<Measured> {
  const options = { pairs: load.pairs, settle: load.settleSeconds, duration: load.restSeconds };
  const result = await run<IdleResult>(peer, relay, around, around.tools.idle, options, load.restSeconds);
  return {
    figures: {
      residentBytesPerHalf: result.residentBytesPerHalf,
      anonymousBytesPerHalf: result.anonymousBytesPerHalf,
      restCpuPercent: (100 * result.relayCpuSeconds) / result.seconds,
    },
  };
}

interface PacedResult extends ProgramResult {
  readonly messages: number;
  readonly behind: boolean;
  readonly latencyMicros: Readonly<Record<'p50' | 'p99' | 'p999' | 'max', number>>;
  readonly sentLateMicros: Readonly<Record<'p50' | 'p99' | 'max', number>>;
  readonly latencyNanos: LatencyBuckets;
}

async function latency(peer: Peer, relay: RunningPeer, load: PacedLoad, around: Surroundings): Promise<Measured> {
  const options = {
    pairs: load.pairs,
    rate: load.rate,
    'message-bytes': load.messageBytes,
    ...lasting(around.interval),
  };
  const result = await run<PacedResult>(peer, relay, around, around.tools.paced, options);
  if (result.behind) throw new Error(`${peer.name}: ${load.rate} messages/s were not sent in time`);
  const { latencyMicros: by, latencyNanos: latencies } = result;
  return {
    figures: {
      p50Micros: by.p50,
      p99Micros: by.p99,
      p999Micros: by.p999,
      maxMicros: by.max,
      sentLateP99Micros: result.sentLateMicros.p99,
      cpuMicrosPerMessage: (result.relayCpuSeconds * 1e6) / result.messages,
      ...shares(result),
    },
    latencies,
  };
}

interface BlasterResult extends ProgramResult {
  readonly roundTripMicros: Readonly<Record<'p50' | 'p99', number>>;
  readonly blasters?: { readonly messages: number };
}

async function blaster(peer: Peer, relay: RunningPeer, load: BlasterLoad, around: Surroundings): Promise<Measured> {
  const alone: ProgramOptions = {
    mode: 'pingpong',
    pairs: load.pairs,
    'in-flight': 1,
    'message-bytes': load.messageBytes,
    ...lasting(around.interval),
  };
  const blasting = { ...alone, blasters: load.blasters, 'blaster-bytes': load.blasterBytes };
  const { load: program } = around.tools;
  const before = await run<BlasterResult>(peer, relay, around, program, alone);
  const beside = await run<BlasterResult>(peer, relay, around, program, blasting);
  return {
    figures: {
      slowdown: beside.roundTripMicros.p99 / before.roundTripMicros.p99,
      aloneP99Micros: before.roundTripMicros.p99,
      besideP50Micros: beside.roundTripMicros.p50,
      besideP99Micros: beside.roundTripMicros.p99,
      blasterMessagesPerSecond: beside.blasters!.messages / beside.seconds,
      ...shares(beside),
    },
  };
}

interface SlowResult extends ProgramResult {
  readonly roundTripMicros: Readonly<Record<'p50' | 'p99', number>>;
  readonly aloneRoundTripMicros: SlowResult['roundTripMicros'];
  readonly relayResidentBytes: { readonly before: number; readonly after: number };
}

async function slowReaders(peer: Peer, relay: RunningPeer, load: SlowLoad, around: Surroundings): Promise<Measured> {
  const options = {
    pairs: load.pairs,
    'message-bytes': load.messageBytes,
    'slow-pairs': load.slowPairs,
    'read-rate': load.readRate,
    ...lasting(around.interval),
  };
  const result = await run<SlowResult>(peer, relay, around, around.tools.slow, options);
  const { before, after } = result.relayResidentBytes;
  return {
    figures: {
      residentBytesPerSlowPair: Math.max(after - before, 0) / load.slowPairs,
      aloneP99Micros: result.aloneRoundTripMicros.p99,
      p50Micros: result.roundTripMicros.p50,
      p99Micros: result.roundTripMicros.p99,
      ...shares(result),
    },
  };
}

async function forward(
  scenario: Scenario & { kind: 'forwarding' },
  peer: Peer,
  around: Surroundings,
): Promise<Measured> {
  const result = await measure(around.tools.load, peer, scenario.load, around.interval, around.affinity);
  return {
    figures: {
      cpuMicrosPerMessage: result.relayCpuMicrosPerMessage,
      cpuSecondsPerGigabyte: (result.relayCpuSeconds * 1e9) / result.bytes,
      messagesPerSecond: result.messages / result.seconds,
      ...(peer.reorders && { outOfOrder: result.errors.order }),
      ...(result.roundTripMicros && { p50Micros: result.roundTripMicros.p50, p99Micros: result.roundTripMicros.p99 }),
      ...shares(result),
    },
  };
}

/** Measures one peer once, in a fresh process. Rejects where it lost, damaged or reordered anything. */
export async function measureScenario(scenario: Scenario, peer: Peer, around: Surroundings): Promise<Measured> {
  if (scenario.kind === 'forwarding') return forward(scenario, peer, around);
  const relay = await peer.start(around.affinity.relayCpu);
  try {
    switch (scenario.kind) {
      case 'setup':
        return await setUp(peer, relay, scenario.load, around);
      case 'idle':
        return await idle(peer, relay, scenario.load, around);
      case 'latency':
        return await latency(peer, relay, scenario.load, around);
      case 'blaster':
        return await blaster(peer, relay, scenario.load, around);
      case 'slow-readers':
        return await slowReaders(peer, relay, scenario.load, around);
    }
  } finally {
    await relay.stop();
  }
}
