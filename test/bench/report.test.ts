import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseCpuList } from '../../bench/affinity.ts';
import type { MeasuredRun } from '../../bench/measure.ts';
import { listeningPort } from '../../bench/peers/peer.ts';
import { checkRatios, formatScenario, limitOf, median, reportScenario } from '../../bench/report.ts';
import { scenarios, selectScenarios } from '../../bench/scenarios.ts';

const scenario = { ...scenarios[0]!, asked: { peer: 'couplet', ratio: 1.3 } };

function run(microsPerMessage: number): MeasuredRun {
  return {
    seconds: 2,
    messages: 1_000_000,
    allMessages: 1_100_000,
    bytes: 64_000_000,
    generatorCpuSeconds: 1,
    relayCpuSeconds: microsPerMessage,
    relayCpuMicrosPerMessage: microsPerMessage,
    errors: { order: 0, content: 0, protocol: 0, closed: 0, lost: 0 },
  };
}

test('median of odd and even numbers of values, in any order', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([10, 2, 4, 1]), 3);
  assert.throws(() => median([]));
});

test('the ratio is that of the medians; its spread is that of the rounds', () => {
  const report = reportScenario(
    scenario,
    new Map([
      ['floor', [run(1), run(1.2), run(1.1)]],
      ['couplet', [run(1.5), run(1.2), run(1.32)]],
    ]),
  );
  const couplet = report.peers[1]!;
  assert.deepEqual(couplet.cpuMicrosPerMessage, { median: 1.32, min: 1.2, max: 1.5 });
  assert.ok(Math.abs(couplet.ratio.median - 1.2) < 1e-9);
  assert.equal(couplet.ratio.min, 1);
  assert.equal(couplet.ratio.max, 1.5);
  assert.equal(couplet.relayCpuPercent, 66);
  assert.ok(Math.abs(couplet.cpuSecondsPerGigabyte - 1.32e9 / 64e6) < 1e-9);
  assert.match(formatScenario(report), /^couplet +1\.32 +1\.20–1\.50 +20\.6 +1\.20 +1\.00–1\.50 /m);
  assert.throws(() => reportScenario(scenario, new Map([['ws', [run(1)]]])), /floor/);
});

test('the check fails above the asked ratio and where couplet was not measured', () => {
  const report = (micros: number) =>
    reportScenario(
      scenario,
      new Map([
        ['floor', [run(1)]],
        ['couplet', [run(micros)]],
      ]),
    );
  assert.deepEqual(checkRatios([report(1.3)]), []);
  assert.equal(checkRatios([report(1.3), report(1.301)]).length, 1);
  assert.equal(checkRatios([reportScenario(scenario, new Map([['floor', [run(1)]]]))]).length, 1);
  const { asked: _, ...unasked } = scenario;
  assert.deepEqual(checkRatios([reportScenario(unasked, new Map([['floor', [run(1)]]]))]), []);
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
