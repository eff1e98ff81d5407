import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { outcomes } from '../../src/core/outcome.ts';
import { closeCodes } from '../../src/protocol/close-codes.ts';

const page = readFileSync(new URL('../../docs/reference/outcomes.md', import.meta.url), 'utf8');
const firstCells = [...page.matchAll(/^\| `?([^|`]+?)`? \|/gm)].map(([, cell]) => cell!);

test('[R28] the page and the code list the same outcomes', () => {
  const listed = firstCells.filter(
    (cell) => /^[a-z-]+$/.test(cell) && cell !== 'outcome' && cell !== 'code' && !/^-+$/.test(cell),
  );
  assert.deepEqual(listed.sort(), [...outcomes].sort());
});

test('[R27] the page and the code list the same close codes', () => {
  const listed = firstCells.filter((cell) => /^\d{4}$/.test(cell)).map(Number);
  assert.deepEqual(listed.sort(), Object.values(closeCodes).sort());
});
