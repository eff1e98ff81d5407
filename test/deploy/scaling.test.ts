import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { scenarios } from '../../bench/scenarios.ts';
import { root } from '../support/serve.ts';

const page = readFileSync(join(root, 'docs/guide/scaling.md'), 'utf8');

/** The cell beside the one that begins with these words. */
function beside(words: string): string {
  const line = page.split('\n').find((text) => text.startsWith(`| ${words}`));
  assert.notEqual(line, undefined, words);
  return line!.split(' | ')[1]!;
}

/** The first number in a text, without its thousands' commas. */
function firstNumber(text: string): number {
  return Number(/[\d,]*\.?\d+/.exec(text)![0].replaceAll(',', ''));
}

interface Results {
  readonly scenarios: readonly {
    readonly name: string;
    readonly peers: readonly {
      readonly peer: string;
      readonly figures: Readonly<Record<string, { readonly median: number }>>;
    }[];
  }[];
}

const results = JSON.parse(readFileSync(join(root, 'bench/results/results.json'), 'utf8')) as Results;

function measured(scenario: string, figure: string): number {
  const peers = results.scenarios.find(({ name }) => name === scenario)!.peers;
  return peers.find(({ peer }) => peer === 'couplet')!.figures[figure]!.median;
}

const idleHalvesOfRest = 15_000;
const figures = {
  idleBytes: firstNumber(beside('h, resident')),
  idleCpuMicros: firstNumber(beside('i, CPU')),
  setupMicros: firstNumber(beside('o, CPU')),
  messageMicros: firstNumber(beside('c, CPU')),
  secondsPerGigabyte: firstNumber(beside('d, CPU')),
  slowMegabytes: firstNumber(beside('memory of a session whose')),
  socketBytes: firstNumber(beside('k, kernel')),
  processMegabytes: firstNumber(beside('P, resident')),
  claimBytes: firstNumber(beside('r, Redis')),
};

test('the measured figures of docs/guide/scaling.md are those of the committed results', () => {
  const wanted: [keyof typeof figures, number][] = [
    ['idleBytes', measured('idle', 'residentBytesPerHalf')],
    ['idleCpuMicros', (measured('rest', 'restCpuPercent') / 100 / idleHalvesOfRest) * 1e6],
    ['setupMicros', measured('setup', 'cpuMicrosPerHalf')],
    ['messageMicros', measured('pingpong-200', 'cpuMicrosPerMessage')],
    ['secondsPerGigabyte', measured('64k', 'cpuSecondsPerGigabyte')],
    ['slowMegabytes', measured('slow-readers', 'residentBytesPerSlowPair') / 1e6],
  ];
  // Results are measured anew now and then: what would change a plan is a fault, a percent is not.
  for (const [name, value] of wanted)
    assert.ok(
      Math.abs(figures[name] / value - 1) < 0.15,
      `${name}: the page has ${figures[name]}, measured was ${value}`,
    );
});

test("the worked example follows from the page's own figures and formulas", () => {
  const [sessions, seconds, messagesPerSecond, bytesPerSecond, waitSeconds, agents] = [
    100_000, 600, 2, 5000, 1, 20_000,
  ];
  for (const words of [
    'T = 600 s',
    'm = 2 a second',
    'B = 5,000 bytes',
    'w = 1 s',
    '20,000 agents',
    '1 % of the receivers',
  ])
    assert.ok(page.includes(words), words);
  const near = (words: string, value: number, text = beside(words)) =>
    assert.ok(Math.abs(firstNumber(text) / value - 1) < 0.03, `${words}: ${text}, but it is ${value}`);
  const starts = sessions / seconds;
  near('sessions started |', starts);
  near('sessions started |', 2 * starts, beside('sessions started |').split(': ')[1]);
  const cores = [
    (sessions * messagesPerSecond * figures.messageMicros) / 1e6,
    (sessions * bytesPerSecond * figures.secondsPerGigabyte) / 1e9,
    (2 * starts * figures.setupMicros) / 1e6,
    (2 * sessions * figures.idleCpuMicros) / 1e6,
  ];
  const stated = /CPU: messages ([\d.]+) \+ bytes ([\d.]+) \+ opening ([\d.]+) \+ idling ([\d.]+)/.exec(page)!.slice(1);
  for (const [i, value] of cores.entries())
    assert.ok(Math.abs(Number(stated[i]) - value) < 0.011, `${stated[i]}: ${value}`);
  const total = cores.reduce((sum, value) => sum + value);
  near('CPU: messages', total);
  assert.equal(firstNumber(beside('at 40 % load')), Math.ceil(total / 0.4));
  const servers = 8;
  near('halves of a worker', (2 * sessions) / servers);
  near('ports from HAProxy', (2 * sessions) / (servers / 2));
  const idle = (2 * sessions * (figures.idleBytes + figures.socketBytes)) / 1e9;
  const slow = (0.01 * sessions * figures.slowMegabytes) / 1e3;
  const own = (5 * figures.processMegabytes) / 1e3;
  const memory = beside('memory of a machine')
    .match(/[\d.]+ GB/g)!
    .map(firstNumber);
  for (const [i, value] of [idle, slow, own, idle + slow + own].entries())
    assert.ok(Math.abs(memory[i]! / value - 1) < 0.03, `${memory[i]} GB: ${value}`);
  near('payload |', (sessions * bytesPerSecond) / 1e6);
  near('of it between servers', (sessions * bytesPerSecond * 0.01) / 1e6);
  near(
    'of it between servers',
    ((sessions * bytesPerSecond) / 1e6) * ((servers - 1) / servers),
    beside('of it between').split('random ')[1],
  );
  const redis = [
    2.01 * starts,
    (starts * waitSeconds) / 2,
    starts,
    sessions / 200,
    (4 * servers) / 2.5,
    agents / 1200,
    2 * starts,
  ];
  const [all, terms] = beside('Redis |').split(' operations a second (') as [string, string];
  for (const [i, term] of terms.split(')')[0]!.split(' + ').entries())
    assert.equal(Number(term), Math.round(redis[i]!));
  near(
    'Redis |',
    redis.reduce((sum, value) => sum + value),
    all,
  );
  near('Redis |', (sessions * figures.claimBytes) / 1e6, terms.split('), ')[1]);
  const gigabytes = (sessions * bytesPerSecond * 2.63e6) / 1e9;
  near('traffic', gigabytes, /Traffic is ([\d,]+) GB/.exec(page)![1]);
  assert.equal(2 * 60 + 2 * 60 + 3 * 15 + 30, firstNumber(/make\n([\d,]+) a month/.exec(page)![1]!));
});

test('the page names no file, setting, alert or metric that there is not', () => {
  for (const [, target] of page.matchAll(/\]\(([^)#]+)\)/g))
    assert.ok(existsSync(join(root, 'docs/guide', target!)), target);
  for (const [, file] of page.matchAll(/node (scripts\/[\w.-]+)/g)) assert.ok(existsSync(join(root, file!)), file);
  const rules = readFileSync(join(root, 'deploy/prometheus/couplet.rules.yml'), 'utf8');
  for (const [, alert] of page.matchAll(/`(Couplet[A-Z]\w+)`/g)) assert.ok(rules.includes(`alert: ${alert}\n`), alert);
  for (const [, scenario] of page.matchAll(/npm run bench -- ([\w-]+)/g))
    assert.ok(
      scenarios.some(({ name }) => name === scenario),
      scenario,
    );
  const config = readFileSync(join(root, 'docs/reference/config.md'), 'utf8');
  for (const [, setting] of page.matchAll(/`((?:server|relay|auth|agents|cluster|recording|audit)\.[a-z]\w+)`/g))
    assert.ok(config.includes(`### \`${setting}\``), setting);
});
