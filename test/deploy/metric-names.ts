import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../support/serve.ts';

/** Couplet's own metrics that there are, histograms by their bare names, each with its labels. */
export function knownMetrics(): Map<string, readonly string[]> {
  const known = new Map<string, readonly string[]>();
  const text = readFileSync(join(root, 'docs/reference/metrics.md'), 'utf8');
  for (const [, name, type, labels] of text.matchAll(/^\| `(couplet_\w+)` +\| (\w+) +\| ([^|]*)\|/gm)) {
    const names = [...labels!.matchAll(/`(\w+)`/g)].map((match) => match[1]!);
    known.set(name!, type === 'histogram' ? [...names, 'le'] : names);
  }
  return known;
}

/** Names of Couplet's metrics in an expression, histograms by their bare names; names of recording rules have colons. */
export function metricsIn(expression: string): string[] {
  const names = expression.match(/(?<![\w:])couplet_\w+(?![\w:])/g) ?? [];
  return [...new Set(names.map((name) => name.replace(/(_seconds)_(bucket|sum|count)$/, '$1')))];
}

/** `metric{label…` pairs in an expression that name a label which the metric does not have. */
export function strangeLabels(expression: string, known: ReadonlyMap<string, readonly string[]>): string[] {
  const strange: string[] = [];
  for (const [, name, inside] of expression.matchAll(/(?<![\w:])(couplet_\w+)\{([^}]*)\}/g)) {
    const labels = known.get(name!.replace(/(_seconds)_(bucket|sum|count)$/, '$1')) ?? [];
    for (const [, label] of inside!.matchAll(/(\w+)\s*(?:=~|!~|!=|=)\s*"/g))
      if (!['job', 'instance', ...labels].includes(label!)) strange.push(`${name}{${label}}`);
  }
  return strange;
}
