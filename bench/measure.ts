import { spawn } from 'node:child_process';
import { type Affinity, pinned } from './affinity.ts';
import type { Peer, RunningPeer } from './peers/peer.ts';
import { maxRecordedBytes } from './peers/recordings.ts';
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

/** What the generator needs beyond set-up and the final draining, with room for a busy machine. */
const overheadMs = 40_000;

/**
 * Runs the load generator against a relay that listens. Resolves with its figures, also where messages went wrong
 * (see `errors`); rejects where it could not connect. `pid`: the process whose CPU time is read. `maxBytes`: of payload,
 * warm-up included, after which the run ends early; the warm-up after a quarter of it.
 */
export function runLoad(
  program: string,
  relay: Pick<RunningPeer, 'port' | 'userPath' | 'devicePath'> & { readonly pid?: number; readonly maxBytes?: number },
  load: Load,
  interval: Interval,
  cpu?: number,
): Promise<LoadResult> {
  const options: Record<string, string | number> = {
    '--port': relay.port,
    '--user-path': relay.userPath,
    '--device-path': relay.devicePath,
    '--mode': load.mode,
    '--pairs': load.pairs,
    '--in-flight': load.inFlight,
    '--message-bytes': load.messageBytes,
    '--warmup': interval.warmupSeconds,
    '--duration': interval.durationSeconds,
    ...(relay.pid === undefined ? {} : { '--pid': relay.pid }),
    ...(relay.maxBytes === undefined ? {} : { '--max-bytes': relay.maxBytes }),
  };
  const [command, ...parameters] = pinned(cpu, [program, ...Object.entries(options).flat().map(String)]);
  const timeout = (interval.warmupSeconds + interval.durationSeconds) * 1000 + overheadMs;
  const child = spawn(command!, parameters, { stdio: ['ignore', 'pipe', 'pipe'], timeout });
  const output = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      output[stream] += text;
    });
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (output.stdout !== '') resolve(JSON.parse(output.stdout) as LoadResult);
      else reject(new Error(`load generator ended with ${code ?? signal}: ${output.stderr.trim()}`));
    });
  });
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
    if (Object.values(result.errors).some((count) => count > 0)) {
      throw new Error(`${peer.name} did not deliver every message as it was sent: ${JSON.stringify(result.errors)}`);
    }
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
