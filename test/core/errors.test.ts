import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import BetterSqlite from 'better-sqlite3';
import { CoupletError, systemFailure } from '../../src/core/errors.ts';

function thrownBy(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}

test("a failure of the system is one line, and a bug's error is none of the system's", () => {
  const missing = `${tmpdir()}/couplet-no-such-file`;
  assert.equal(
    systemFailure(thrownBy(() => readFileSync(missing))),
    `ENOENT: no such file or directory, open '${missing}'`,
  );
  const database = new BetterSqlite(':memory:');
  database.pragma('query_only = on');
  const readOnly = systemFailure(thrownBy(() => database.exec('create table t (a)')));
  assert.equal(readOnly, 'SQLITE_READONLY: attempt to write a readonly database');
  database.close();
  for (const bug of [
    new TypeError('a bug'),
    new CoupletError('CPL_CONFIG', 'x'),
    thrownBy(() => new URL('x')),
    'text',
  ]) {
    assert.equal(systemFailure(bug), undefined);
  }
});
