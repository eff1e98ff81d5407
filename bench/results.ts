import { readFileSync } from 'node:fs';

// What a run of the benchmark leaves behind: the shape of its JSON, read by the charts and by the guard.

export interface Machine {
  readonly processor: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  readonly congestionControl: string;
  readonly compilerFlags: string;
  readonly relayCpu: number | 'not pinned';
  readonly generatorCpu: number | 'not pinned';
}

/** One figure over all rounds. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Who kept the rate from being higher: the process that used its core (nearly) in full. */
export type Limit = 'relay' | 'generator' | 'both' | 'neither';

export interface PeerResult {
  readonly peer: string;
  /** By name, the unit in it: `cpuMicrosPerMessage`, `halvesPerSecond`, `residentBytesPerHalf`, … */
  readonly figures: Readonly<Record<string, Spread>>;
  /** Absent where nothing is driven to its limit. */
  readonly limit?: Limit;
  /** Every round's figures. */
  readonly runs: readonly Readonly<Record<string, number>>[];
  /** Of latency scenarios, merged over the rounds. */
  readonly percentiles?: readonly { readonly percentile: number; readonly micros: number }[];
}

/** What is asked: a figure of `peer` at most `atMost`, or where `of` is given `atMost` times that peer's figure. */
export interface Asked {
  readonly peer: string;
  readonly figure: string;
  readonly atMost: number;
  readonly of?: string;
}

export type ScenarioKind = 'forwarding' | 'setup' | 'idle' | 'latency' | 'blaster' | 'slow-readers';

export interface ScenarioResult {
  readonly name: string;
  readonly title: string;
  readonly kind: ScenarioKind;
  readonly load: Readonly<Record<string, string | number | boolean>>;
  /** The figure that ratios are made of; less is better. */
  readonly cost: string;
  readonly peers: readonly PeerResult[];
  readonly asked: readonly Asked[];
}

export interface BenchResult {
  /** ISO 8601. */
  readonly at: string;
  readonly version: string;
  readonly commit: string;
  readonly machine: Machine;
  readonly rounds: number;
  /** Of each run, where its scenario has no times of its own. */
  readonly interval: { readonly warmupSeconds: number; readonly durationSeconds: number };
  /** Where recordings went: a tmpfs of huge pages, or one that was there. */
  readonly recordings: 'own tmpfs' | '/dev/shm';
  readonly missing: readonly { readonly peer: string; readonly reason: string }[];
  readonly scenarios: readonly ScenarioResult[];
}

/** Reads what a run left behind. @throws Error that names the file where it is not to be read or is something else */
export function readResult(file: string): BenchResult {
  let result: Partial<BenchResult> | undefined;
  try {
    result = JSON.parse(readFileSync(file, 'utf8')) as Partial<BenchResult> | undefined;
  } catch (error) {
    throw new Error(`${file} cannot be read: ${(error as Error).message}`);
  }
  if (!Array.isArray(result?.scenarios) || !Array.isArray(result.missing)) {
    throw new Error(`${file} is no results.json of the bench`);
  }
  return result as BenchResult;
}
