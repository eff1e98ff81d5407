import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

/**
 * The rules of the relay, R1 to R42, of devices and routing, T1 to T15, of several servers, K1 to K9, and of the recording
 * format, M1 to M11.
 */
const rules = [
  ...Array.from({ length: 42 }, (_, index) => `R${index + 1}`),
  ...Array.from({ length: 15 }, (_, index) => `T${index + 1}`),
  ...Array.from({ length: 9 }, (_, index) => `K${index + 1}`),
  ...Array.from({ length: 11 }, (_, index) => `M${index + 1}`),
];

/** Rules that nothing can hold yet, because their part is not built. Each issue shortens this list. */
const notYet: ReadonlyMap<string, string> = new Map();

/** Names of tests in a text: the first argument of `test(`, `it(`, `suite(` and `overBoth(` (over both directories), but not of `.skip(` and `.todo(`. */
function testNames(text: string): string[] {
  const call = /(?:^|[^\w$])(?:test|it|suite|describe|overBoth)(?:\.only)?\(\s*(['"`])((?:\\.|(?!\1)[\s\S])*)\1/g;
  return Array.from(text.matchAll(call), (match) => match[2]!);
}

function rulesIn(names: readonly string[]): Set<string> {
  return new Set(names.flatMap((name) => Array.from(name.matchAll(/\[([RMTK][0-9]+)\]/g), (match) => match[1]!)));
}

/** What is wrong between the rules, the exceptions and the rules that tests name; a line each. */
function complaints(held: ReadonlySet<string>, exceptions: ReadonlyMap<string, string>): string[] {
  const untested = rules.filter((rule) => !held.has(rule) && !exceptions.has(rule));
  const settled = [...exceptions.keys()].filter((rule) => held.has(rule));
  const unknown = [...held, ...exceptions.keys()].filter((rule) => !rules.includes(rule));
  return [
    ...untested.map((rule) => `[${rule}] stands in no test's name`),
    ...settled.map((rule) => `[${rule}] has a test now: take it off the list of exceptions`),
    ...unknown.map((rule) => `[${rule}] is no rule`),
  ];
}

const folder = fileURLToPath(new URL('.', import.meta.url));

/** Shared suites lie in test/ beside the test files, so every file there is read, save this one. */
function allTestNames(): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && file !== 'rules.test.ts')
    .flatMap((file) => testNames(readFileSync(join(folder, file), 'utf8')));
}

test('every rule stands in the name of a test, save those whose part is not built', () => {
  assert.deepEqual(complaints(rulesIn(allTestNames()), notYet), []);
});

test('a rule without a test, a settled exception and an unknown rule are found', () => {
  const all = new Set(rules);
  assert.deepEqual(complaints(all, new Map()), []);
  const without = new Set(rules.filter((rule) => rule !== 'R7'));
  assert.deepEqual(complaints(without, new Map()), ["[R7] stands in no test's name"]);
  assert.deepEqual(complaints(without, new Map([['R7', 'x']])), []);
  assert.equal(complaints(all, new Map([['R7', 'x']])).length, 1);
  assert.deepEqual(complaints(new Set([...all, 'R43']), new Map()), ['[R43] is no rule']);
});

test('names are read in every form, and skipped tests do not count', () => {
  const marked = (mark: string, rest: string) => `test.${mark}(${rest});`;
  const text = `
    test('[R1] a', () => {});
    ${marked('only', '"[R2] b", () => {}')}
    await t.test(\`[R3] \${kind} c\`, () => {});
    test(
      '[R4] [R5] it\\'s d', () => {});
    ${marked('skip', "'[R6] e', () => {}")}
    ${marked('todo', "'[R7] f'")}
    // [R8] a comment
    contest('[R9] g');
    for (const x of y) it('[R10] h', () => {});
  `;
  assert.deepEqual([...rulesIn(testNames(text))], ['R1', 'R2', 'R3', 'R4', 'R5', 'R10']);
});
