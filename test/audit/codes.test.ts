import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { commonFields, eventKinds, levelOf } from '../../src/audit/codes.ts';

const docs = readFileSync(new URL('../../docs/reference/events.md', import.meta.url), 'utf8');

function documented(): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  const section = /^### (\S+) (\S+)\n\n(.+)\n\nFields: (.+)\n/gm;
  for (const [, code, name, description, fields] of docs.matchAll(section)) {
    found[name as string] = { code, description, fields: (fields as string).replaceAll('`', '').split(', ') };
  }
  return found;
}

test('[R30] the documented events equal the code, both ways', () => {
  assert.deepEqual(documented(), JSON.parse(JSON.stringify(eventKinds)));
  assert.equal([...docs.matchAll(/^### /gm)].length, Object.keys(eventKinds).length + 1, 'and Rotation');
});

test('[R30] every field is documented and every documented field exists', () => {
  const table = docs.slice(docs.indexOf('## Fields'), docs.indexOf('## Codes'));
  const rows = [...table.matchAll(/^\| `(\w+)` \| \S/gm)].map((match) => match[1]);
  const used = new Set(
    Object.values(eventKinds).flatMap(({ fields }) => fields.map((field) => field.replace('?', ''))),
  );
  assert.deepEqual(rows.slice(0, 5).sort(), [...commonFields].sort());
  assert.deepEqual(rows.slice(5).sort(), [...used].sort());
});

test('[R30] codes are unique and well-formed, and no field clashes with those of the log', () => {
  const codes = Object.values(eventKinds).map(({ code }) => code);
  assert.equal(new Set(codes).size, codes.length);
  for (const code of codes) assert.match(code, /^CPL-[1-9]\d{3}[IWE]$/);
  for (const { fields } of Object.values(eventKinds)) {
    for (const field of fields) assert.ok(!['line', 'mac', 'record', 'time', 'code'].includes(field), field);
  }
  assert.deepEqual(['CPL-1001I', 'CPL-1101W', 'CPL-2004E'].map(levelOf), ['info', 'warn', 'error']);
});
