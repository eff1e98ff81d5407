import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BenchResult } from '../results.ts';
import { cpuBySizeSvg, throughputSvg } from './by-size.ts';
import { halvesSvg } from './halves.ts';
import { latencySvg } from './latency.ts';
import { scalingSvg } from './scaling.ts';

/** The charts of a result by file name. What was not measured is left out, and the chart says so. */
export function drawCharts(result: BenchResult): ReadonlyMap<string, string> {
  return new Map([
    ['throughput.svg', throughputSvg(result)],
    ['cpu-per-message.svg', cpuBySizeSvg(result, false)],
    ['cpu-per-message-recorded.svg', cpuBySizeSvg(result, true)],
    ['latency.svg', latencySvg(result)],
    ['scaling.svg', scalingSvg(result)],
    ['halves.svg', halvesSvg(result)],
  ]);
}

/** Writes every chart into the folder, which is made where it is not there. @returns the files' paths */
export function writeCharts(result: BenchResult, folder: string): string[] {
  mkdirSync(folder, { recursive: true });
  return Array.from(drawCharts(result), ([name, svg]) => {
    const path = join(folder, name);
    writeFileSync(path, svg);
    return path;
  });
}
