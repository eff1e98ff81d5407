/** One function's figures. */
export interface Measured {
  readonly name: string;
  readonly microsPerOperation: number;
  /** Relative margin of error of the mean, at 95 %. */
  readonly marginPercent: number;
  readonly samples: number;
}

export interface MeasuredSuite {
  readonly title: string;
  readonly cases: readonly Measured[];
}

const nameWidth = 46;

export const headingLine: string = `  ${''.padEnd(nameWidth)}${'ops/s'.padStart(14)}${'µs/op'.padStart(12)}`;

/** Operations per second, µs per operation and the margin of both. */
export function lineOf({ name, microsPerOperation, marginPercent }: Measured): string {
  const rate = 1e6 / microsPerOperation;
  const rateText = rate.toLocaleString('en', { maximumFractionDigits: rate >= 100 ? 0 : 1 }).padStart(14);
  const microsText = microsPerOperation.toFixed(microsPerOperation >= 100 ? 1 : 3).padStart(12);
  return `  ${name.padEnd(nameWidth)}${rateText}${microsText}  ±${marginPercent.toFixed(1)} %`;
}

/**
 * What a suite's program printed with `--json`.
 * @throws Error where that is not exactly one suite with at least one case
 */
export function parseSuite(output: string): MeasuredSuite {
  const suite = JSON.parse(output) as Partial<MeasuredSuite>;
  if (typeof suite.title !== 'string' || !Array.isArray(suite.cases) || suite.cases.length === 0) {
    throw new Error(`no suite: ${output.slice(0, 200)}`);
  }
  return suite as MeasuredSuite;
}
