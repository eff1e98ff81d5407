import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { drawCharts, writeCharts } from '../../bench/charts/index.ts';
import { nines } from '../../bench/charts/latency.ts';
import { notMeasured, shortMicros, shortNumber } from '../../bench/charts/style.ts';
import { fullResult, without } from './result-fixture.ts';

const charts = drawCharts(fullResult());

/** Texts of an SVG, entities resolved. Throws where elements do not nest or something else is no XML. */
function textsOf(svg: string): string[] {
  const open: string[] = [];
  const texts: string[] = [];
  const token = /<(\/?)([A-Za-z]+)((?:\s+[\w:.-]+="[^"<]*")*)\s*(\/?)>|([^<]+)/y;
  while (token.lastIndex < svg.length) {
    const at = token.lastIndex;
    const match = token.exec(svg);
    assert.ok(match, `no XML: ${svg.slice(at, at + 80)}`);
    const [, closing, name, attributes = '', empty, text] = match;
    for (const value of [attributes, text ?? '']) assert.doesNotMatch(value, /&(?!(?:amp|lt|gt|quot|#\d+);)/);
    if (text !== undefined) {
      if (text.trim() !== '') texts.push(text.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&'));
    } else if (closing === '/') assert.equal(open.pop(), name);
    else if (empty !== '/') open.push(name!);
  }
  assert.deepEqual(open, []);
  return texts;
}

/** What must stand in each chart of the full result: every peer, titles of axes, and figures. */
const expected: Readonly<Record<string, readonly string[]>> = {
  'throughput.svg': [
    'floor',
    'couplet',
    'ws',
    'incumbent',
    '64 B messages',
    '64 KiB messages',
    'messages/s',
    'GB/s',
    '2.16 M/s (23 ×)',
    '2.75 GB/s (12 ×)',
    '92.4 k/s',
  ],
  'cpu-per-message.svg': [
    'floor',
    'couplet',
    'ws',
    'incumbent',
    '64 B',
    '1 KiB',
    '64 KiB',
    'message size',
    'µs of CPU per message (log scale)',
    '0.45',
    '1.18 ×',
    '8.80',
    '274',
  ],
  'cpu-per-message-recorded.svg': [
    'couplet',
    'couplet-recorded',
    'ws-recorded',
    'incumbent-recorded',
    '0.66',
    '1.47 ×',
    '78 ×',
    '397',
  ],
  'latency.svg': [
    'floor',
    'couplet',
    'ws',
    'incumbent',
    '90 %',
    '99 %',
    '99.9 %',
    '99.99 %',
    'percentile of messages',
    'latency, one way (log scale)',
    '100 µs',
    '1 ms',
  ],
  'scaling.svg': [
    'floor',
    'couplet',
    'ws',
    'incumbent',
    '1',
    '16',
    '200',
    '2,000',
    '1.06 ×',
    'pairs (log scale)',
    'µs of CPU per message (log scale)',
  ],
  'halves.svg': [
    'couplet',
    'ws',
    'incumbent',
    'Set-up of a half',
    '15,000 idle halves',
    'µs of CPU per half',
    'KiB resident per half',
    '118 µs',
    '1,990 µs (17 ×)',
    '2.59 KiB',
    '9.57 KiB (3.7 ×)',
    '% of a core',
    '4.50 % (5.0 ×)',
  ],
};

test('each chart is XML that holds its peers, axes and figures, white by itself, and lacks nothing', () => {
  assert.deepEqual([...charts.keys()], Object.keys(expected));
  for (const [name, svg] of charts) {
    const texts = textsOf(svg);
    for (const text of expected[name]!)
      assert.ok(texts.includes(text), `${name}: no "${text}" in ${texts.join(' | ')}`);
    assert.ok(!texts.some((text) => text.includes('Not measured')), name);
    assert.ok(
      texts.some((text) => text.includes('Example Processor 3000 @ 2.50GHz')),
      name,
    );
    assert.match(svg, /^<svg width="960" height="\d+" [^>]*role="img">\n<title>[^<]+<\/title>/);
    assert.match(svg, /<rect width="960" height="\d+" x="0" y="0"[^>]* fill="#ffffff"/);
    assert.doesNotMatch(svg, /NaN|Infinity|undefined/, name);
  }
});

test('plain charts leave out TLS and recording, the chart of recorded ones does not', () => {
  assert.ok(!textsOf(charts.get('cpu-per-message.svg')!).some((text) => /-(?:tls|recorded)/.test(text)));
  assert.ok(!textsOf(charts.get('throughput.svg')!).some((text) => /-(?:tls|recorded)/.test(text)));
});

test('a TLS scenario of the same size is not taken for the plain one, whatever its peers are called', () => {
  const result = fullResult();
  const [plain] = result.scenarios;
  const peers = plain!.peers.map((peer) => ({ ...peer, figures: {} }));
  const overTls = { ...plain!, name: '64b-tls', load: { ...plain!.load, tls: true }, peers };
  const more = { ...result, scenarios: [overTls, ...result.scenarios] };
  assert.equal(drawCharts(more).get('cpu-per-message.svg'), charts.get('cpu-per-message.svg'));
});

test('scenarios across a link are not drawn', () => {
  const result = fullResult();
  const links = result.scenarios
    .filter(({ kind }) => kind === 'forwarding' || kind === 'setup' || kind === 'latency')
    .map((scenario) => ({ ...scenario, name: `${scenario.name.replace(/-.*/, '')}-link`, title: 'across a link' }));
  assert.deepEqual(new Set(links.map(({ kind }) => kind)), new Set(['forwarding', 'setup', 'latency']));
  const drawn = drawCharts({ ...result, scenarios: [...links, ...result.scenarios] });
  for (const [name, svg] of charts) assert.equal(drawn.get(name), svg, name);
});

test('the same result gives the same bytes, again in this process and in another', () => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-charts-'));
  try {
    const paths = writeCharts(fullResult(), folder);
    assert.deepEqual(
      paths.map((path) => basename(path)),
      [...charts.keys()],
    );
    for (const path of paths) assert.equal(readFileSync(path, 'utf8'), charts.get(basename(path)), path);
    const source = (file: string) => JSON.stringify(fileURLToPath(new URL(file, import.meta.url)));
    const script = `import { drawCharts } from ${source('../../bench/charts/index.ts')};
      import { fullResult } from ${source('./result-fixture.ts')};
      console.log(JSON.stringify([...drawCharts(fullResult())].reverse()));`;
    const child = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
      encoding: 'utf8',
    });
    assert.equal(child.status, 0, child.stderr);
    assert.deepEqual(new Map((JSON.parse(child.stdout) as [string, string][]).reverse()), charts);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('what was not measured is left out and named', () => {
  const result = without(fullResult(), { peer: 'incumbent', scenario: /^(?:1k|pairs-200|idle|rest)$/ });
  const drawn = drawCharts(result);
  const lacks: Readonly<Record<string, readonly string[]>> = {
    'throughput.svg': ['Not measured: incumbent', 'Not measured: 1 KiB'],
    'cpu-per-message.svg': ['Not measured: incumbent', 'Not measured: 1 KiB'],
    'latency.svg': ['Not measured: incumbent'],
    'scaling.svg': ['Not measured: incumbent', 'Not measured: 200 pairs'],
    'halves.svg': ['Not measured: incumbent', 'Not measured: idle halves'],
  };
  for (const [name, lines] of Object.entries(lacks)) {
    const texts = textsOf(drawn.get(name)!);
    for (const line of lines) assert.ok(texts.includes(line), `${name}: no "${line}" in ${texts.join(' | ')}`);
    assert.ok(!texts.includes('incumbent') && !texts.includes('1 KiB'), name);
    assert.ok(texts.includes('couplet'), name);
  }
  assert.ok(!textsOf(drawn.get('scaling.svg')!).includes('200'));
});

test('a peer that only one part of a chart lacks is named with that part', () => {
  const parts = [
    { title: 'A', shown: ['x', 'y'] },
    { title: 'B', shown: ['x'] },
  ];
  assert.equal(notMeasured(['x', 'y', 'z'], parts), 'Not measured: z; y at B');
  assert.equal(notMeasured(['x'], parts), '');
});

test('a result without scenarios still makes every chart, each of which says that it is empty', () => {
  const drawn = drawCharts({ ...fullResult(), scenarios: [] });
  assert.equal(drawn.size, charts.size);
  for (const [name, svg] of drawn) {
    assert.ok(
      textsOf(svg).some((text) => text.startsWith('Not measured: ')),
      name,
    );
    assert.doesNotMatch(svg, /NaN|Infinity|undefined/, name);
  }
});

test('names of processors and scenarios are text, not markup', () => {
  const full = fullResult();
  const result = {
    ...full,
    machine: { ...full.machine, processor: 'A <b> & "C"' },
    scenarios: full.scenarios.map((one) => (one.kind === 'latency' ? { ...one, title: '<1 & 2>' } : one)),
  };
  const texts = textsOf(drawCharts(result).get('latency.svg')!);
  assert.ok(texts.includes('Latency: <1 & 2>'));
  assert.ok(texts.some((text) => text.includes('A <b> & "C"') || text.includes('A <b> & &quot;C&quot;')));
});

test('numbers as the charts write them', () => {
  assert.deepEqual([0.449, 8.8, 10.52, 274.4, 1990, 92_400, 2.16e6].map(shortNumber), [
    '0.45',
    '8.80',
    '10.5',
    '274',
    '1,990',
    '92.4 k',
    '2.16 M',
  ]);
  assert.deepEqual([10, 1000, 25_000, 1e6].map(shortMicros), ['10 µs', '1 ms', '25 ms', '1 s']);
  assert.deepEqual([0, 90, 99, 99.9, 99.99].map(nines), [0, 1, 2, 3, 4]);
});
