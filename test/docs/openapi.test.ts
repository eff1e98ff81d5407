import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { openApiReference } from '../../src/api/document.ts';
import { openApiDocument } from '../../src/api/openapi.ts';
import { allRoutes } from '../../src/api/routes/index.ts';
import { scopeWords } from '../../src/api/scopes.ts';

const file = readFileSync(new URL('../../docs/reference/openapi.json', import.meta.url), 'utf8');

test('docs/reference/openapi.json equals the code', () => {
  assert.equal(file, openApiReference(), 'node --import tsx src/api/document.ts > docs/reference/openapi.json');
});

interface Operation {
  readonly summary: string;
  readonly parameters?: readonly { name: string; in: string; required: boolean }[];
  readonly responses: Readonly<Record<string, unknown>>;
}

test('the document has every route once, with the parameters of its path, and refers to nothing that is not there', () => {
  const document = openApiDocument(allRoutes) as {
    paths: Record<string, Record<string, Operation>>;
    components: object;
  };
  const operations = Object.values(document.paths).flatMap((path) => Object.values(path));
  assert.equal(operations.length, allRoutes.length, 'no two routes of one method and path');
  for (const [path, methods] of Object.entries(document.paths)) {
    const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    for (const [method, { summary, parameters = [], responses }] of Object.entries(methods)) {
      const inPath = parameters.filter((parameter) => parameter.in === 'path');
      assert.deepEqual(inPath.map(({ name }) => name).sort(), named.sort(), `${method} ${path}`);
      assert.ok(inPath.every(({ required }) => required));
      assert.match(summary, /^[A-Z].*[^.]$/);
      assert.ok(Object.keys(responses).some((status) => status.startsWith('2')));
    }
  }
  for (const [, name, of] of file.matchAll(/"#\/components\/(\w+)\/(\w+)"/g)) {
    const group = (document.components as Record<string, Record<string, unknown>>)[name!];
    assert.ok(group?.[of!] !== undefined, `${name}/${of}`);
  }
});

test('every route has a known scope, and reading asks for no more than reading', () => {
  for (const { method, path, scope, caller } of allRoutes) {
    assert.ok(scopeWords.includes(scope), `${path}: ${scope}`);
    if (caller === 'public') continue;
    assert.match(scope, method === 'GET' ? /:read$/ : /:write$/, `${method} ${path}`);
  }
});
