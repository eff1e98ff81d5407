import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { lineOf, parseSuite } from '../../bench/micro/table.ts';

const main = fileURLToPath(new URL('../../bench/micro/main.ts', import.meta.url));

function runMain(...args: readonly string[]) {
  return spawnSync(process.execPath, ['--import', 'tsx', main, ...args], { encoding: 'utf8' });
}

test('a line has operations per second, µs per operation and the margin', () => {
  const figures = { marginPercent: 1.26, samples: 80 };
  assert.match(
    lineOf({ name: 'append', microsPerOperation: 0.25, ...figures }),
    /^ {2}append +4,000,000 +0\.250 {2}±1\.3 %$/,
  );
  assert.match(lineOf({ name: 'scrape', microsPerOperation: 32_000, ...figures }), / 31\.3 +32000\.0 /);
});

test('what a suite printed is read, and anything else is an error', () => {
  const suite = { title: 'cookie', cases: [{ name: 'open', microsPerOperation: 1, marginPercent: 1, samples: 9 }] };
  assert.deepEqual(parseSuite(`${JSON.stringify(suite)}\n`), suite);
  for (const bad of ['', 'cookie\n', '{"title":"cookie","cases":[]}', `${JSON.stringify(suite)}\n{}`]) {
    assert.throws(() => parseSuite(bad), bad);
  }
});

test('the hot functions have suites, and an unknown one is an error that lists them', () => {
  const help = runMain('--help');
  assert.equal(help.status, 0, help.stderr);
  for (const name of ['recorder', 'cookie', 'pairing', 'blocks'])
    assert.match(help.stdout, new RegExp(`\\b${name}\\b`));
  assert.doesNotMatch(help.stdout, /\b(?:main|table|suite),/);
  const unknown = runMain('cookies');
  assert.equal(unknown.status, 1);
  assert.match(unknown.stderr, /no suite "cookies"; there are blocks, cookie, /);
});
