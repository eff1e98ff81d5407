import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { rangeHolds, readRange } from '../../src/api/range.ts';

test('a single range is read as RFC 9110 says, and what is none leaves all to be sent', () => {
  const cases: [string, number, [number, number] | 'unsatisfiable' | undefined][] = [
    ['', 10, undefined],
    ['bytes=0-0', 10, [0, 0]],
    ['bytes=0-9', 10, [0, 9]],
    ['bytes=0-10', 10, [0, 9]],
    ['bytes=5-', 10, [5, 9]],
    ['bytes=-3', 10, [7, 9]],
    ['bytes=-30', 10, [0, 9]],
    ['Bytes= 2-3 ', 10, [2, 3]],
    ['bytes=10-', 10, 'unsatisfiable'],
    ['bytes=10-12', 10, 'unsatisfiable'],
    ['bytes=-0', 10, 'unsatisfiable'],
    ['bytes=0-', 0, 'unsatisfiable'],
    ['bytes=-1', 0, 'unsatisfiable'],
    [`bytes=${'9'.repeat(400)}-`, 10, 'unsatisfiable'],
    [`bytes=0-${'9'.repeat(400)}`, 10, [0, 9]],
    ['bytes=-', 10, undefined],
    ['bytes=3-2', 10, undefined],
    ['bytes=0-1,3-4', 10, undefined],
    ['items=0-1', 10, undefined],
    ['bytes=a-b', 10, undefined],
    ['bytes=-1-2', 10, undefined],
    ['bytes=1.5-2', 10, undefined],
    ['bytes=0x1-', 10, undefined],
  ];
  for (const [header, size, expected] of cases) {
    const range = readRange(header, size);
    const shown = typeof range === 'object' ? [range.first, range.last] : range;
    assert.deepEqual(shown, expected, `${header.slice(0, 40)} of ${size}`);
  }
});

test('whatever a Range header holds, the part lies within what is there', () => {
  const header = fc.oneof(
    fc.string(),
    fc
      .tuple(fc.constantFrom('', '0', '5', '99'), fc.constantFrom('', '0', '5', '99'))
      .map((ends) => `bytes=${ends.join('-')}`),
    fc.tuple(fc.bigInt({ min: 0n }), fc.bigInt({ min: 0n })).map((ends) => `bytes=${ends.join('-')}`),
  );
  fc.assert(
    fc.property(header, fc.nat({ max: 120 }), (text, size) => {
      const range = readRange(text, size);
      if (typeof range !== 'object') return;
      assert.ok(range.first >= 0 && range.first <= range.last && range.last < size);
      assert.ok(Number.isInteger(range.first) && Number.isInteger(range.last));
    }),
  );
});

test('If-Range holds for the very validators that were given out', () => {
  const date = new Date(0).toUTCString();
  assert.ok(rangeHolds('', '"a"', date));
  assert.ok(rangeHolds('"a"', '"a"', date));
  assert.ok(rangeHolds(date, '"a"', date));
  for (const other of ['"b"', 'W/"a"', 'a', '*', new Date(1_000).toUTCString()]) {
    assert.ok(!rangeHolds(other, '"a"', date), other);
  }
});
