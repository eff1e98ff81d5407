import Benchmark from 'benchmark';

/** Functions to compare; each call is one operation. */
export type Cases = Readonly<Record<string, () => unknown>>;

/** Runs the cases one after the other and prints µs per operation with the relative margin of error. */
export function runSuite(title: string, cases: Cases): void {
  process.stdout.write(`${title}\n`);
  const suite = new Benchmark.Suite();
  for (const [name, operation] of Object.entries(cases)) suite.add(name, operation);
  suite.on('cycle', (event: Benchmark.Event) => {
    const { name, stats, error } = event.target as unknown as Benchmark;
    if (error !== undefined) throw error;
    const micros = (stats.mean * 1e6).toFixed(3).padStart(10);
    process.stdout.write(`  ${(name ?? '').padEnd(40)}${micros} µs ±${stats.rme.toFixed(1)} %\n`);
  });
  suite.run();
}
