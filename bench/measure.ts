import type { Affinity } from './affinity.ts';
import type { Peer, RunningPeer } from './peers/peer.ts';
import { maxRecordedBytes } from './peers/recordings.ts';
import { type ProgramOptions, runProgram } from './program.ts';
import type { Load } from './scenarios.ts';

/** One run of the load generator, as it prints it. Times and counts are of the measured interval alone. */
export interface LoadResult {
  readonly seconds: number;
  readonly messages: number;
  /** Payload bytes of these messages. */
  readonly bytes: number;
  /** Messages from the first to the last, before and after the interval too. */
  readonly allMessages: number;
  readonly generatorCpuSeconds: number;
  /** Absent without a relay's pid. */
  readonly relayCpuSeconds?: number;
  /** Absent also where no message came through. */
  readonly relayCpuMicrosPerMessage?: number;
  /** Ping-pong only. */
  readonly roundTripMicros?: { readonly p50: number; readonly p99: number; readonly max: number };
  readonly errors: Readonly<Record<'order' | 'content' | 'protocol' | 'closed' | 'lost', number>>;
}

/** A run of a relay whose CPU time was read. */
export type MeasuredRun = LoadResult & { readonly relayCpuSeconds: number; readonly relayCpuMicrosPerMessage: number };

export interface Interval {
  readonly warmupSeconds: number;
  readonly durationSeconds: number;
}

/** A relay that listens; without `pid` its CPU time is not read. */
type Target = Omit<RunningPeer, 'pid' | 'recordings' | 'stop'> & { readonly pid?: number };

/** What the generator needs beyond set-up and the final draining, with room for a busy machine. */
const overheadMs = 60_000;

/**
 * Runs the load generator against a relay that listens. Resolves with its figures, also where messages went wrong
 * (see `errors`); rejects where it could not connect. `pid`: the process whose CPU time is read. `maxBytes`: of payload,
 * warm-up included, after which the run ends early; the warm-up after a quarter of it.
 */
export function runLoad(
  program: string,
  relay: Target & { readonly maxBytes?: number },
  load: Load,
  interval: Interval,
  cpu?: number,
): Promise<LoadResult> {
  const options = {
    ...relayOptions(relay),
    mode: load.mode,
    pairs: load.pairs,
    'in-flight': load.inFlight,
    'message-bytes': load.messageBytes,
    warmup: interval.warmupSeconds,
    duration: interval.durationSeconds,
    'max-bytes': relay.maxBytes,
  };
  const limitMs = (interval.warmupSeconds + interval.durationSeconds) * 1000 + overheadMs;
  return runProgram(program, options, limitMs, cpu) as Promise<LoadResult>;
}

/** The options by which every program of `load/` finds the relay. */
export function relayOptions(relay: Target): ProgramOptions {
  return {
    port: relay.port,
    'device-port': relay.devicePort,
    'user-path': relay.userPath,
    'device-path': relay.devicePath,
    pid: relay.pid === undefined ? undefined : [relay.pid, ...(relay.otherPids ?? [])].join(','),
    tls: relay.tls === true ? true : undefined,
  };
}

/** Rejects a run in which a message was lost or damaged, or a half was closed: that has no speed. */
export function refuseFaults(peer: string, errors: Readonly<Record<string, number>>): void {
  if (Object.values(errors).every((count) => count === 0)) return;
  throw new Error(`${peer} did not deliver every message as it was sent: ${JSON.stringify(errors)}`);
}

/** Measures one peer once, in a fresh process. Rejects where it lost, damaged or reordered anything: that has no speed. */
export async function measure(
  loadProgram: string,
  peer: Peer,
  load: Load,
  interval: Interval,
  affinity: Affinity,
): Promise<MeasuredRun> {
  const relay = await peer.start(affinity.relayCpu);
  try {
    relay.recordings?.warmMemory();
    const bounded = relay.recordings === undefined ? relay : { ...relay, maxBytes: maxRecordedBytes };
    const result = await runLoad(loadProgram, bounded, load, interval, affinity.generatorCpu);
    refuseFaults(peer.name, peer.reorders ? { ...result.errors, order: 0 } : result.errors);
    const { relayCpuSeconds, relayCpuMicrosPerMessage } = result;
    if (relayCpuSeconds === undefined || relayCpuMicrosPerMessage === undefined) {
      throw new Error(`${peer.name} delivered no message in ${interval.durationSeconds} s`);
    }
    await relay.stop();
    relay.recordings?.check(result.allMessages, load.messageBytes);
    return { ...result, relayCpuSeconds, relayCpuMicrosPerMessage };
  } finally {
    await relay.stop();
    relay.recordings?.remove();
  }
}
