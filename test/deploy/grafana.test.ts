import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryFolder } from '../support/relay.ts';
import { root } from '../support/serve.ts';
import { requireProgram } from '../support/services.ts';
import { knownMetrics, metricsIn, strangeLabels } from './metric-names.ts';

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly datasource?: { readonly uid: string };
  readonly gridPos: { readonly h: number; readonly w: number; readonly x: number; readonly y: number };
  readonly targets?: readonly { readonly refId: string; readonly expr: string; readonly datasource: { uid: string } }[];
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
}
interface Dashboard {
  readonly uid: string;
  readonly panels: readonly Panel[];
  readonly templating: {
    readonly list: readonly { readonly name: string; readonly type: string; readonly multi: boolean }[];
  };
}

/** What Grafana takes for the data source that is chosen. */
const dataSource = `$\{datasource}`;
const dashboard = JSON.parse(readFileSync(join(root, 'deploy/grafana/couplet.json'), 'utf8')) as Dashboard;
const panels = dashboard.panels.filter(({ type }) => type !== 'row');
const expressions = panels.flatMap(({ title, targets }) => targets!.map(({ expr }) => ({ title, expr })));

test('the dashboard: unique panels, each described, with a unit, from the chosen data source, none over another', () => {
  assert.equal(new Set(dashboard.panels.map(({ id }) => id)).size, dashboard.panels.length);
  assert.deepEqual(
    dashboard.templating.list.map(({ name, type, multi }) => [name, type, multi]),
    [
      ['datasource', 'datasource', false],
      ['job', 'query', false],
      ['instance', 'query', true],
    ],
  );
  for (const { title, description, targets, datasource, fieldConfig } of panels) {
    assert.ok((description ?? '').length > 5, title);
    assert.equal(datasource?.uid, dataSource, title);
    assert.ok(targets!.length > 0 && targets!.every((target) => target.datasource.uid === dataSource), title);
    assert.equal(new Set(targets!.map(({ refId }) => refId)).size, targets!.length, title);
    assert.ok(fieldConfig!.defaults.unit, title);
  }
  const taken = new Set<string>();
  for (const { title, gridPos } of dashboard.panels) {
    assert.ok(gridPos.x + gridPos.w <= 24, title);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        assert.ok(!taken.has(`${x},${y}`), `${title} lies over another panel`);
        taken.add(`${x},${y}`);
      }
  }
});

test('every expression of the dashboard is one that Prometheus takes', (t) => {
  const program = requireProgram(t, 'promtool');
  if (program === undefined) return;
  const check = (exprs: readonly string[]) => {
    const rules = exprs.map((expr, i) => ({ record: `dashboard:${i}`, expr: plain(expr) }));
    const file = join(temporaryFolder(t), 'rules.json');
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }));
    return spawnSync(program, ['check', 'rules', file], { encoding: 'utf8' });
  };
  const { status, stdout, stderr } = check(expressions.map(({ expr }) => expr));
  assert.equal(status, 0, stdout + stderr);
  assert.notEqual(check(['sum(couplet_halves']).status, 0);
});

/** An expression as Grafana sends it. */
function plain(expr: string): string {
  const text = expr.replaceAll('$__rate_interval', '1m').replaceAll('$job', 'couplet').replaceAll('$instance', '.*');
  assert.doesNotMatch(text, /\$/, expr);
  return text;
}

test('the dashboard shows every metric there is, of the chosen servers, and none that there is not', () => {
  const known = knownMetrics();
  const shown = new Set(expressions.flatMap(({ expr }) => metricsIn(expr)));
  assert.deepEqual(
    [...known.keys()].filter((name) => !shown.has(name)),
    [],
    'in no panel',
  );
  assert.deepEqual(
    [...shown].filter((name) => !known.has(name)),
    [],
    'unknown',
  );
  for (const { title, expr } of expressions) {
    assert.deepEqual(strangeLabels(expr, known), [], title);
    for (const selector of expr.matchAll(/\b(?:couplet|process|nodejs)_\w+(\{[^}]*\})?/g))
      assert.match(selector[1] ?? '', /^\{job="\$job",instance=~"\$instance"/, `${title}: ${selector[0]}`);
    for (const [, , by] of expr.matchAll(/(sum|max|min) by \(([^)]*)\)/g)) {
      const labels = new Set(metricsIn(expr).flatMap((name) => known.get(name)!));
      for (const label of by!.split(', '))
        assert.ok(label === 'instance' || labels.has(label), `${title}: by ${label}`);
    }
  }
});

test('rates are of counters, and gauges are not rated', () => {
  const text = readFileSync(join(root, 'docs/reference/metrics.md'), 'utf8');
  const gauges = [...text.matchAll(/^\| `(couplet_\w+)` +\| gauge/gm)].map((match) => match[1]!);
  assert.ok(gauges.length > 10);
  for (const { title, expr } of expressions) {
    for (const [, name] of expr.matchAll(/(?:rate|increase)\((\w+)/g))
      assert.ok(!gauges.includes(name!), `${title}: ${name}`);
    const withoutRates = expr.replace(/(?:rate|increase)\(\w+\{[^}]*\}\[\$__rate_interval\]\)/g, '');
    assert.doesNotMatch(withoutRates, /\w+_total\b/, title);
  }
});
