import { spawn } from 'node:child_process';
import { type Dirent, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { blockType } from '../src/recording/format.ts';
import { RecordingReader } from '../src/recording/reader.ts';
import { PreciseTimes, SidecarReader } from '../src/recording/sidecar.ts';
import type { LoadResult } from './measure.ts';
import type { RunningPeer } from './peers/peer.ts';

/** What the stamping generator is told to do (load/stamp.c). */
export interface StampLoad {
  readonly pairs: number;
  /** How many of the pairs are probes. */
  readonly probes: number;
  /** Messages a second of each pair, and how many in all. */
  readonly rate: number;
  readonly count: number;
  readonly messageBytes: number;
}

export interface StampResult {
  readonly pairs: number;
  /** From the first message to the last. */
  readonly seconds: number;
  readonly messages: number;
  /** By how much the wall clock was set during the run: unless next to nothing, no stamp says anything. */
  readonly wallStepNanos: number;
  readonly generatorCpuSeconds: number;
  readonly relayCpuSeconds: number;
  /** How far behind the even spread messages left. */
  readonly lateMicros: { readonly p50: number; readonly p99: number; readonly max: number };
  /** By the probe's pair: from each message's stamp to when its mate had it, an upper bound of its arrival. */
  readonly transitNanos: Readonly<Record<string, readonly number[]>>;
  readonly errors: LoadResult['errors'];
}

/** Beside the sending itself: connecting a thousand pairs, and waiting for what is under way. */
const overheadMs = 60_000;
/** Slewing changes both clocks alike, so what is seen without a step is the reading's own fault. */
const maxWallStepNanos = 50_000;

/**
 * Runs the stamping generator. Rejects where a message was lost, damaged or reordered, or the wall clock was set
 * meanwhile.
 */
export function runStamps(
  program: string,
  relay: Pick<RunningPeer, 'port' | 'userPath' | 'devicePath' | 'pid'>,
  load: StampLoad,
): Promise<StampResult> {
  const options: Record<string, string | number> = {
    '--port': relay.port,
    '--user-path': relay.userPath,
    '--device-path': relay.devicePath,
    '--pairs': load.pairs,
    '--probes': load.probes,
    '--rate': load.rate,
    '--count': load.count,
    '--message-bytes': load.messageBytes,
    '--pid': relay.pid,
  };
  const timeout = Math.ceil((load.count / load.rate) * 1000) + overheadMs;
  const child = spawn(program, Object.entries(options).flat().map(String), {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout,
  });
  const output = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      output[stream] += text;
    });
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (output.stdout === '') {
        return reject(new Error(`stamp generator ended with ${code ?? signal}: ${output.stderr.trim()}`));
      }
      const result = JSON.parse(output.stdout) as StampResult;
      if (code !== 0) return reject(new Error(`not every message came through: ${JSON.stringify(result.errors)}`));
      if (Math.abs(result.wallStepNanos) > maxWallStepNanos) {
        return reject(new Error(`the wall clock was set by ${result.wallStepNanos} ns meanwhile: run it again`));
      }
      resolve(result);
    });
  });
}

/** One recorded message of the generator. Whole microseconds since 1970-01-01 UTC, as the sidecar has them. */
export interface RecordedStamp {
  readonly sequence: number;
  /** The sender's clock right before its system call. */
  readonly sentNs: bigint;
  readonly sentUs: number;
  /** The block's TIME, milliseconds. */
  readonly timeMs: number;
  /** From the sidecar; `undefined` where it does not tell. */
  readonly timeUs: number | undefined;
}

/** The messages of a recording that the stamping generator's user half sent, in the file's order. */
export function readStamps(path: string): RecordedStamp[] {
  const reader = RecordingReader.open(path);
  try {
    const sidecar = SidecarReader.open(path);
    try {
      const times = new PreciseTimes(sidecar);
      const stamps: RecordedStamp[] = [];
      for (const block of reader.blocks()) {
        const timeUs = times.of(block);
        if (block.type !== blockType.data) continue;
        const sentNs = block.data.readBigUInt64LE(8);
        const sequence = Number(block.data.readBigUInt64LE(0));
        stamps.push({ sequence, sentNs, sentUs: Number(sentNs / 1000n), timeMs: block.time, timeUs });
      }
      if (reader.end.state !== 'complete') throw new Error(`${path} is ${reader.end.state}`);
      return stamps;
    } finally {
      sidecar?.close();
    }
  } finally {
    reader.close();
  }
}

/** The recordings of a server's data folder by the number of the pair at the end of their session ids; sidecars not. */
export function recordingsByPair(dataDir: string): Map<number, string> {
  const found = new Map<number, string>();
  const entries: Dirent[] = readdirSync(join(dataDir, 'recordings'), { withFileTypes: true });
  for (const { name } of entries) {
    const pair = /-(\d+)\.mcrec$/.exec(name)?.[1];
    if (pair !== undefined) found.set(Number(pair), join(dataDir, 'recordings', name));
  }
  return found;
}

/** Whether a recording has its end block. */
export function isFinished(path: string): boolean {
  const reader = RecordingReader.open(path);
  try {
    return reader.finish() !== undefined;
  } finally {
    reader.close();
  }
}

export interface Distribution {
  readonly min: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** Percentiles are values that occurred: the smallest that so many of all do not exceed. */
export function distribution(values: readonly number[]): Distribution {
  if (values.length === 0) throw new Error('no distribution of nothing');
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part: number): number => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)]!;
  return { min: sorted[0]!, p50: at(0.5), p99: at(0.99), max: sorted.at(-1)! };
}

export interface Errors {
  /** TIME less the sender's clock, microseconds. TIME is cut to whole milliseconds, so this alone makes −999 to 0. */
  readonly blockMicros: Distribution;
  /** The same without its sign. */
  readonly blockDistanceMicros: Distribution;
  /** The sidecar's time less the sender's clock, both cut to whole microseconds. */
  readonly sidecarMicros: Distribution;
}

/** How far recorded times are from the sender's clock. */
export function recordedErrors(stamps: readonly RecordedStamp[]): Errors {
  const block = stamps.map(({ timeMs, sentUs }) => timeMs * 1000 - sentUs);
  const sidecar = stamps.map(({ timeUs, sentUs, sequence }) => {
    if (timeUs === undefined) throw new Error(`the sidecar has no time of message ${sequence}`);
    return timeUs - sentUs;
  });
  return {
    blockMicros: distribution(block),
    blockDistanceMicros: distribution(block.map(Math.abs)),
    sidecarMicros: distribution(sidecar),
  };
}
