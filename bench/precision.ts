import { setTimeout as sleep } from 'node:timers/promises';
import { coupletPeer, startCouplet } from './peers/couplet.ts';
import { type Errors, isFinished, readStamps, recordedErrors, recordingsByPair, runStamps } from './stamps.ts';

export const precisionName = 'recording-precision';
export const precisionTitle = 'recorded times against the sender, beside 1,000 recorded sessions of 10 messages/s';

/** Asked of the block's TIME at p99 and of the sidecar's median, microseconds from the sender's clock. */
const askedBlockMicros = 1000;
const askedSidecarMicros = 100;

const backgroundPairs = 1000;
const probes = 20;
/** With a period of whole milliseconds every message would leave at the same part of one, which is what TIME cuts off. */
const rate = 10.0123;
const messageBytes = 64;
/** For the recordings' last bytes: they are written `recording.flushMs` after the end at the latest. */
const finishLimitMs = 20_000;

/** An index says nothing of times, and would be made while the recordings are read. */
const settings = { COUPLET_RECORDING_MODE: 'best-effort', COUPLET_RECORDING_INDEX: 'false' };

export interface PrecisionReport extends Errors {
  readonly name: typeof precisionName;
  readonly pairs: number;
  readonly probeMessages: number;
  readonly messagesPerSecond: number;
  readonly relayCpuPercent: number;
  readonly generatorCpuPercent: number;
  /** How far behind the even spread messages left: large where the machine was busy. */
  readonly lateMicros: { readonly p50: number; readonly p99: number; readonly max: number };
}

async function finished(dataDir: string, pairs: number): Promise<Map<number, string>> {
  for (let waitedMs = 0; waitedMs < finishLimitMs; waitedMs += 100) {
    const recordings = recordingsByPair(dataDir);
    if (recordings.size === pairs && [...recordings.values()].every(isFinished)) return recordings;
    await sleep(100);
  }
  throw new Error(`not all of ${pairs} recordings were finished within ${finishLimitMs} ms`);
}

/**
 * Measures recorded times once, in a fresh server that records everything. `seconds`: how long messages are sent.
 * Nothing is pinned: on one core the threads that write would stand in the way of the one that takes the time.
 * Rejects where a session was not recorded or a message is not in its recording.
 */
export async function measurePrecision(stampProgram: string, seconds: number): Promise<PrecisionReport> {
  const reason = coupletPeer.unavailable();
  if (reason !== undefined) throw new Error(reason);
  const relay = await startCouplet(undefined, settings);
  try {
    const load = { pairs: backgroundPairs + probes, probes, rate, count: Math.ceil(seconds * rate), messageBytes };
    const result = await runStamps(stampProgram, relay, load);
    const recordings = await finished(relay.dataDir, load.pairs);
    const stamps = Object.keys(result.transitNanos).flatMap((pair) => {
      const found = readStamps(recordings.get(Number(pair))!);
      if (found.length === load.count) return found;
      throw new Error(`pair ${pair}: ${found.length} of ${load.count} messages are recorded`);
    });
    return {
      name: precisionName,
      pairs: load.pairs,
      probeMessages: stamps.length,
      messagesPerSecond: result.messages / result.seconds,
      ...recordedErrors(stamps),
      relayCpuPercent: (100 * result.relayCpuSeconds) / result.seconds,
      generatorCpuPercent: (100 * result.generatorCpuSeconds) / result.seconds,
      lateMicros: result.lateMicros,
    };
  } finally {
    await relay.stop();
  }
}

/** The report as lines for a terminal. */
export function formatPrecision(report: PrecisionReport): string {
  const { blockMicros: block, blockDistanceMicros: distance, sidecarMicros: sidecar, lateMicros: late } = report;
  return [
    `${precisionTitle} (${precisionName}; asked: block p99 ≤ ${askedBlockMicros} µs, sidecar median ≤ ${askedSidecarMicros} µs)`,
    `block TIME − sent    p50 ${block.p50} µs, p99 ${block.p99} µs, from ${block.min} to ${block.max} µs (TIME is cut to whole ms)`,
    `  without its sign   p50 ${distance.p50} µs, p99 ${distance.p99} µs, max ${distance.max} µs`,
    `sidecar − sent       p50 ${sidecar.p50} µs, p99 ${sidecar.p99} µs, from ${sidecar.min} to ${sidecar.max} µs`,
    `${report.probeMessages} messages measured of ${Math.round(report.messagesPerSecond).toLocaleString('en')} a second; ` +
      `relay ${report.relayCpuPercent.toFixed(1)} %, generator ${report.generatorCpuPercent.toFixed(1)} % of a core; ` +
      `sent late by p50 ${late.p50}, p99 ${late.p99}, max ${late.max} µs`,
  ].join('\n');
}

/** What is further off than asked: one line each; empty where all is well. */
export function checkPrecision(report: PrecisionReport): string[] {
  const broken: string[] = [];
  const block = report.blockDistanceMicros.p99;
  const sidecar = Math.abs(report.sidecarMicros.p50);
  if (block > askedBlockMicros) {
    broken.push(`${precisionName}: block TIME is ${block} µs off at p99, asked is ${askedBlockMicros}`);
  }
  if (sidecar > askedSidecarMicros) {
    broken.push(`${precisionName}: the sidecar is ${sidecar} µs off in the median, asked is ${askedSidecarMicros}`);
  }
  return broken;
}
