import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { headingLine, lineOf, type MeasuredSuite, parseSuite } from './table.ts';

const folder = fileURLToPath(new URL('.', import.meta.url));
const support = new Set(['main.ts', 'suite.ts', 'table.ts']);
const names = readdirSync(folder)
  .filter((file) => file.endsWith('.ts') && !support.has(file))
  .map((file) => file.slice(0, -3))
  .sort();

const usage = `usage: npm run bench:micro -- [suite…] [--json]

Hot functions by themselves, each suite in a fresh process. Suites (all where none is named): ${names.join(', ')}
  --json   the figures as JSON on the standard output instead of a table
`;

/** A suite in a process of its own, so that none runs code that another one has trained the compiler with. */
async function run(name: string): Promise<MeasuredSuite> {
  const args = ['--import', 'tsx', `${folder}${name}.ts`, '--json'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const stop = () => child.kill();
  process.once('exit', stop);
  const [output, [code, signal]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  process.off('exit', stop);
  if (code !== 0) throw new Error(`${name} ended with ${signal ?? code}`);
  return parseSuite(output);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { json: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } },
  });
  if (values.help) {
    process.stdout.write(usage);
    return;
  }
  const unknown = positionals.find((name) => !names.includes(name));
  if (unknown !== undefined) throw new Error(`no suite "${unknown}"; there are ${names.join(', ')}`);
  if (!values.json) process.stdout.write(`${headingLine}\n`);
  const suites: MeasuredSuite[] = [];
  for (const name of positionals.length === 0 ? names : positionals) {
    const suite = await run(name);
    suites.push(suite);
    if (!values.json) process.stdout.write(`${[suite.title, ...suite.cases.map(lineOf)].join('\n')}\n`);
  }
  if (values.json) process.stdout.write(`${JSON.stringify(suites, undefined, 2)}\n`);
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
try {
  await main();
} catch (error) {
  process.stderr.write(`bench:micro: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
