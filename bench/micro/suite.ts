import Benchmark from 'benchmark';
import { lineOf, type Measured, type MeasuredSuite } from './table.ts';

/** Functions to compare; each call is one operation, which has ended when what it returns has settled. */
export type Cases = Readonly<Record<string, (() => unknown) | { readonly settles: () => Promise<unknown> }>>;

/** Seconds that a case is sampled for. */
const maxTime = 2;

/**
 * Runs the cases one after the other and prints a line each; with `--json` on the command line one
 * {@link MeasuredSuite} for all of them instead. Rejects with what a case throws.
 */
export async function runSuite(title: string, cases: Cases): Promise<void> {
  const asJson = process.argv.includes('--json');
  if (!asJson) process.stdout.write(`${title}\n`);
  const measured: Measured[] = [];
  const suite = new Benchmark.Suite();
  for (const [name, operation] of Object.entries(cases)) {
    if (typeof operation === 'function') {
      suite.add(name, operation, { maxTime });
    } else {
      // A rejection is nobody's to catch: the process ends by it.
      const settle = (turn: Benchmark.Deferred) => void operation.settles().then(() => turn.resolve());
      suite.add(name, settle, { maxTime, defer: true });
    }
  }
  await new Promise<void>((resolve, reject) => {
    suite.on('cycle', (event: Benchmark.Event) => {
      const { name = '', stats, error } = event.target as unknown as Benchmark;
      if (error !== undefined) {
        suite.abort();
        reject(error);
        return;
      }
      const one = {
        name,
        microsPerOperation: stats.mean * 1e6,
        marginPercent: stats.rme,
        samples: stats.sample.length,
      };
      measured.push(one);
      if (!asJson) process.stdout.write(`${lineOf(one)}\n`);
    });
    suite.on('complete', () => resolve());
    suite.run();
  });
  if (asJson) process.stdout.write(`${JSON.stringify({ title, cases: measured } satisfies MeasuredSuite)}\n`);
}

/** Text beside the figures; not on the standard output where that holds JSON. */
export function note(text: string): void {
  (process.argv.includes('--json') ? process.stderr : process.stdout).write(`${text}\n`);
}
