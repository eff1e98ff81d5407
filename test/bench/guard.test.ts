import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compareResults } from '../../bench/guard.ts';
import type { Asked, BenchResult, ScenarioResult } from '../../bench/results.ts';
import { fullResult, peerOf, without } from './result-fixture.ts';

/** All that a comparison found as lines; empty where everything was compared and is well. */
function checkAgainst(...compared: Parameters<typeof compareResults>): string[] {
  const report = compareResults(...compared);
  const none = report.compared === 0 ? ['no ratio at all'] : [];
  return [...report.regressions, ...report.unmet, ...none, ...report.notCompared];
}

const cost = 'cpuMicrosPerMessage';

/** A result with one scenario; per peer the figures of the rounds. */
function result(peers: Readonly<Record<string, readonly number[]>>, more: Partial<ScenarioResult> = {}): BenchResult {
  const scenario: ScenarioResult = {
    name: '64b',
    title: '64 B',
    kind: 'forwarding',
    load: { pairs: 16, messageBytes: 64 },
    cost,
    peers: Object.entries(peers).map(([peer, values]) => peerOf(peer, cost, values)),
    asked: [],
    ...more,
  };
  return { ...fullResult(), scenarios: [scenario] };
}

const committed = result({ floor: [1, 1, 1], couplet: [1.2, 1.2, 1.2] });

test('the same result compared with itself is well, and every ratio is counted', () => {
  const full = fullResult();
  assert.deepEqual(checkAgainst(full, full), []);
  // Plain: 3 others each. Recorded: 2 of couplet, 3 of couplet-recorded. TLS: 1. Set-up, idle, rest, latency: 2, 2, 2, 3.
  assert.equal(compareResults(full, full).compared, 8 * 3 + 3 * (2 + 3) + 1 + 2 + 2 + 2 + 3);
});

test('a ratio that is worse than the tolerance allows is one line with both ratios and the limit', () => {
  const lines = checkAgainst(committed, result({ floor: [1, 1, 1], couplet: [1.4, 1.4, 1.4] }), 0.15);
  assert.equal(lines.length, 1);
  assert.match(lines[0]!, /^64b: couplet \/ floor: .*ratio 1\.4 now, was 1\.2, allowed 1\.38 \(\+15 %/);
  assert.deepEqual(checkAgainst(committed, result({ floor: [1, 1, 1], couplet: [1.37, 1.37, 1.37] }), 0.15), []);
  assert.equal(checkAgainst(committed, result({ floor: [1, 1, 1], couplet: [1.37, 1.37, 1.37] }), 0.1).length, 1);
});

test('ratios count and not times: a machine of half the speed is no regression, a faster floor is one', () => {
  assert.deepEqual(checkAgainst(committed, result({ floor: [2, 2, 2], couplet: [2.4, 2.4, 2.4] })), []);
  assert.equal(checkAgainst(committed, result({ floor: [0.8, 0.8, 0.8], couplet: [1.2, 1.2, 1.2] })).length, 1);
  assert.deepEqual(checkAgainst(committed, result({ floor: [1, 1, 1], couplet: [0.6, 0.6, 0.6] })), []);
});

test('rounds far apart, in either run, allow more than the tolerance, but never more than 5/3 of it', () => {
  const quiet = [1.44, 1.44, 1.44];
  const noisy = [1.1, 1.44, 1.5];
  assert.equal(checkAgainst(committed, result({ floor: [1, 1, 1], couplet: quiet })).length, 1);
  assert.deepEqual(checkAgainst(committed, result({ floor: [1, 1, 1], couplet: noisy })), []);
  assert.deepEqual(checkAgainst(committed, result({ floor: [0.8, 1, 1.1], couplet: quiet })), []);
  const noisyBefore = result({ floor: [1, 1, 1], couplet: [1, 1.2, 1.3] });
  assert.deepEqual(checkAgainst(noisyBefore, result({ floor: [1, 1, 1], couplet: quiet })), []);
  const [line] = checkAgainst(committed, result({ floor: [1, 1, 1], couplet: [0.5, 1.6, 4] }));
  assert.match(line!, /allowed 1\.5 \(\+25 %; rounds of this run 0\.5 to 4\)/);
});

test('a lone round has no spread and allows the tolerance', () => {
  const one = result({ floor: [1], couplet: [1.2] });
  assert.deepEqual(checkAgainst(one, result({ floor: [1], couplet: [1.379] })), []);
  assert.equal(checkAgainst(one, result({ floor: [1], couplet: [1.381] })).length, 1);
});

test('couplet-recorded is compared with couplet too; couplet is not with its own variants', () => {
  const before = result({ couplet: [1, 1], 'couplet-recorded': [1.5, 1.5], 'incumbent-recorded': [35, 35] });
  assert.equal(compareResults(before, before).compared, 3);
  const now = result({ couplet: [1, 1], 'couplet-recorded': [1.9, 1.9], 'incumbent-recorded': [60, 60] });
  const lines = checkAgainst(before, now);
  assert.equal(lines.length, 1);
  assert.match(lines[0]!, /couplet-recorded \/ couplet: /);
});

test('what the fresh run lacks is named with its reason and not taken for well', () => {
  const full = fullResult();
  const fresh = without(full, { peer: 'incumbent', scenario: /^1k$/ });
  const { notCompared, regressions, unmet } = compareResults(full, fresh);
  assert.deepEqual([regressions, unmet], [[], []]);
  assert.ok(notCompared.includes('1k: not compared: the scenario was not measured in this run'));
  const incumbent = '64b: couplet / incumbent: not compared: incumbent was not measured in this run (not installed)';
  assert.ok(notCompared.includes(incumbent));
  const asked = `64b: couplet: asked ${cost} ≤ 0.05 × incumbent: not checked: incumbent was not measured`;
  assert.ok(notCompared.includes(asked));
  assert.deepEqual(
    notCompared.filter((line) => !checkAgainst(full, fresh).includes(line)),
    [],
  );
  assert.ok(
    compareResults(fresh, full).notCompared.includes('1k: not compared: the scenario is not in the committed results'),
  );
  const withoutCouplet = compareResults(full, without(full, { peer: 'couplet' })).notCompared;
  assert.ok(withoutCouplet.some((line) => line.startsWith('64b: couplet / floor: not compared: couplet was not')));
});

test('another load or another figure under the same name is not compared', () => {
  const other = result({ floor: [1], couplet: [9] }, { load: { pairs: 17, messageBytes: 64 } });
  const { notCompared, compared, regressions } = compareResults(committed, other);
  assert.deepEqual([compared, regressions], [0, []]);
  assert.match(notCompared[0]!, /the load is messageBytes=64 pairs=17 now, was messageBytes=64 pairs=16/);
  const reordered = result({ floor: [1], couplet: [1.2] }, { load: { messageBytes: 64, pairs: 16 } });
  assert.equal(compareResults(committed, reordered).compared, 1);
  const figure = result({ floor: [1], couplet: [9] }, { cost: 'p99Micros' });
  assert.match(compareResults(committed, figure).notCompared[0]!, /p99Micros now/);
});

test('no comparison at all is an error, and so is a figure that makes no ratio', () => {
  const nothing = { ...fullResult(), scenarios: [] };
  assert.match(checkAgainst(nothing, nothing)[0]!, /no ratio at all/);
  assert.match(checkAgainst(committed, nothing)[0]!, /no ratio at all/);
  const zero = checkAgainst(committed, result({ floor: [0, 0, 0], couplet: [1, 1, 1] }));
  assert.match(zero[0]!, /no ratio at all/);
  assert.match(zero[1]!, /floor's cpuMicrosPerMessage makes no ratio in this run/);
  for (const tolerance of [-0.1, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.throws(() => checkAgainst(committed, committed, tolerance), RangeError);
  }
});

test('every asked limit is checked in the fresh run: ratios, and plain figures', () => {
  const check = (asked: Asked) =>
    compareResults(committed, result({ floor: [1, 1, 1], couplet: [1.2, 1.2, 1.2] }, { asked: [asked] })).unmet;
  const limit = { peer: 'couplet', figure: cost };
  assert.deepEqual(check({ ...limit, atMost: 1.2, of: 'floor' }), []);
  assert.deepEqual(check({ ...limit, atMost: 1.19, of: 'floor' }), [
    `64b: couplet: ${cost} is 1.2 × floor, asked is at most 1.19 × floor`,
  ]);
  assert.deepEqual(check({ ...limit, atMost: 1.2 }), []);
  assert.deepEqual(check({ ...limit, atMost: 1.1 }), [`64b: couplet: ${cost} is 1.2, asked is at most 1.1`]);
});
