import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseCpuList } from '../../bench/affinity.ts';
import type { Measured } from '../../bench/kinds.ts';
import { readOptions } from '../../bench/options.ts';
import { listeningPort } from '../../bench/peers/peer.ts';
import { checkAsked, formatScenario, limitOf, median, ratioOf, reportScenario } from '../../bench/report.ts';
import { readResult, type ScenarioResult } from '../../bench/results.ts';
import { type Scenario, scenarios, selectScenarios } from '../../bench/scenarios.ts';

const scenario: Scenario = {
  ...scenarios[0]!,
  asked: [{ peer: 'couplet', figure: 'cpuMicrosPerMessage', atMost: 1.3, of: 'floor' }],
};

function run(cpuMicrosPerMessage: number): Measured {
  return { figures: { cpuMicrosPerMessage, relayCpuPercent: cpuMicrosPerMessage * 50, generatorCpuPercent: 50 } };
}

function report(runs: Record<string, number[]>, of: Scenario = scenario): ScenarioResult {
  return reportScenario(of, new Map(Object.entries(runs).map(([peer, costs]) => [peer, costs.map(run)])));
}

test('median of odd and even numbers of values, in any order', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([10, 2, 4, 1]), 3);
  assert.throws(() => median([]));
});

test('the ratio is that of the medians; its spread is that of the rounds', () => {
  const result = report({ floor: [1, 1.2, 1.1], incumbent: [30, 30, 30], couplet: [1.5, 1.2, 1.32] });
  const [floor, , couplet] = result.peers;
  assert.deepEqual(couplet!.figures.cpuMicrosPerMessage, { median: 1.32, min: 1.2, max: 1.5 });
  const ratio = ratioOf(couplet!, floor!, 'cpuMicrosPerMessage');
  assert.ok(Math.abs(ratio.median - 1.2) < 1e-9);
  assert.equal(ratio.min, 1);
  assert.equal(ratio.max, 1.5);
  const text = formatScenario(result, ['floor', 'incumbent']);
  assert.match(
    text,
    /^couplet +1\.32 +1\.20–1\.50 +1\.20 +1\.00–1\.50 +0\.0440 +0\.0400–0\.0500 +neither \(relay 66 %/m,
  );
  assert.match(text, /asked couplet cpuMicrosPerMessage ≤ 1\.3 × floor: 1\.20 reached/);
});

test('a reference that was not measured has no column', () => {
  const text = formatScenario(report({ floor: [1], couplet: [2] }), ['floor', 'incumbent']);
  assert.doesNotMatch(text, /× incumbent/);
  assert.match(text, /1\.3 × floor: 2\.00 NOT REACHED/);
});

test('the check fails above what is asked, and where a peer was not measured', () => {
  assert.deepEqual(checkAsked([report({ floor: [1], couplet: [1.3] })]), []);
  assert.equal(
    checkAsked([report({ floor: [1], couplet: [1.3] }), report({ floor: [1], couplet: [1.301] })]).length,
    1,
  );
  assert.match(checkAsked([report({ floor: [1] })])[0]!, /couplet was not measured/);
  assert.match(checkAsked([report({ couplet: [1] })])[0]!, /floor was not measured/);
  assert.deepEqual(checkAsked([report({ floor: [1] }, { ...scenario, asked: [] })]), []);
  const absolute = { ...scenario, asked: [{ peer: 'couplet', figure: 'cpuMicrosPerMessage', atMost: 2 }] };
  assert.deepEqual(checkAsked([report({ couplet: [2] }, absolute)]), []);
  assert.equal(checkAsked([report({ couplet: [2.1] }, absolute)]).length, 1);
});

test("ratios are of the scenario's own figure where it has one: CPU at rest", () => {
  const rest = selectScenarios(['rest'])[0]!;
  const of = (restCpuPercent: number): Measured[] => [{ figures: { residentBytesPerHalf: 2000, restCpuPercent } }];
  const result = reportScenario(
    rest,
    new Map([
      ['ws', of(4)],
      ['couplet', of(0.5)],
    ]),
  );
  assert.equal(result.cost, 'restCpuPercent');
  assert.match(formatScenario(result, rest.references), /^couplet +0\.500 +0\.500–0\.500 +0\.13 +0\.13–0\.13/m);
});

test('results that cannot be compared with are refused, by name, before anything is measured', () => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-results-'));
  const file = join(folder, 'results.json');
  try {
    for (const text of [undefined, '', '{', 'null', '{}', '{"scenarios":{},"missing":[]}']) {
      if (text !== undefined) writeFileSync(file, text);
      assert.throws(
        () => readResult(file),
        ({ message }: Error) => message.startsWith(file),
        text,
      );
    }
    writeFileSync(file, '{"scenarios":[],"missing":[]}');
    assert.deepEqual(readResult(file).scenarios, []);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('every peer that is asked of or referred to is among those compared', () => {
  for (const { name, peers, references, asked } of scenarios) {
    for (const peer of [...references, ...asked.flatMap(({ peer, of }) => (of === undefined ? [peer] : [peer, of]))]) {
      assert.ok(peers.includes(peer), `${name}: ${peer}`);
    }
  }
});

test('options that make no sense are refused by name', () => {
  assert.equal(readOptions(['--help']), undefined);
  assert.throws(() => readOptions(['--runs', '0']), /--runs "0": must be a whole number above 0/);
  assert.throws(() => readOptions(['--duration', 'x']), /--duration "x"/);
  assert.throws(() => readOptions(['--peers', 'floor,nginx']), /no peer "nginx"; there are floor/);
  assert.equal(readOptions(['64b', '--runs', '7'])?.runs, 7);
});

test('who was at its limit', () => {
  assert.equal(limitOf(99, 60), 'relay');
  assert.equal(limitOf(70, 99), 'generator');
  assert.equal(limitOf(96, 99), 'both');
  assert.equal(limitOf(80, 80), 'neither');
});

test('scenarios are chosen by name, and an unknown one is an error that lists them', () => {
  assert.equal(selectScenarios([]).length, scenarios.length);
  assert.deepEqual(
    selectScenarios(['pingpong-16', '64b']).map(({ name }) => name),
    ['64b', 'pingpong-16'],
  );
  assert.throws(() => selectScenarios(['64b', '2g']), /no scenario "2g"; there are 64b, 1k/);
});

test('lists of processors and listening lines are read', () => {
  assert.deepEqual(parseCpuList('0-2,5'), [0, 1, 2, 5]);
  assert.throws(() => parseCpuList('all'));
  assert.equal(listeningPort('{"level":30,"msg":"listening","address":"127.0.0.1:4711"}'), 4711);
  assert.equal(listeningPort('{"msg":"listening","address":"[::1]:4712"}'), 4712);
  assert.equal(listeningPort('{"msg":"started","address":"127.0.0.1:4711"}'), undefined);
  assert.equal(listeningPort('{ not JSON'), undefined);
  assert.equal(listeningPort('listening on 127.0.0.1:4711'), undefined);
});
