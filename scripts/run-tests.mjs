// Runs test/**/*.test.ts, or the files named, by node:test in one run with one summary. (Node.js 20 knows no globs.)
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const named = process.argv.slice(2);
const files =
  named.length > 0
    ? named
    : readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
        .filter((file) => file.endsWith('.test.ts'))
        .sort()
        .map((file) => join('test', file));
if (files.length === 0) throw new Error('no test files found under test/');

// One file at a time: many tests measure time or memory, and two at once on a small machine would disturb each other.
const concurrency = process.env.COUPLET_TEST_CONCURRENCY ?? '1';
// Node.js applies this limit to a whole file; a single test sets a tighter one of its own where it could hang.
const fileLimitMs = Number(process.env.COUPLET_TEST_FILE_LIMIT_MS ?? 600_000);

const child = spawn(
  process.execPath,
  [
    '--import',
    'tsx',
    '--test',
    '--test-reporter=spec',
    `--test-concurrency=${concurrency}`,
    `--test-timeout=${fileLimitMs}`,
    ...files,
  ],
  { cwd: root, stdio: 'inherit' },
);
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
child.on('exit', (code, signal) => {
  process.exitCode = signal === null ? (code ?? 1) : 1;
});
