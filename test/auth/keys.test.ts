import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { keyLabels, LoginKey } from '../../src/auth/keys.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { keyHex, loginKey } from './fixtures.ts';

test('[R5] the cookie key is the first 32 of 80 bytes', () => {
  assert.equal(loginKey.cookieKey().export().toString('hex'), keyHex.slice(0, 64));
  assert.equal(LoginKey.parse(keyHex.toUpperCase()).toHex(), keyHex);
});

test('[R5] every label has a key of its own, none of which is part of the login key', () => {
  const derived = keyLabels.map((label) => loginKey.derive(label).export().toString('hex'));
  assert.equal(new Set(derived).size, keyLabels.length);
  for (const key of derived) {
    assert.equal(key.length, 64);
    assert.ok(!keyHex.includes(key));
  }
  assert.deepEqual(loginKey.derive('signed-ids').export(), LoginKey.parse(keyHex).derive('signed-ids').export());
});

test('[R5] derivation is HKDF-SHA256 over the whole key, as RFC 5869 has it', () => {
  const extracted = createHmac('sha256', Buffer.alloc(32)).update(Buffer.from(keyHex, 'hex')).digest();
  const expanded = createHmac('sha256', extracted)
    .update('couplet audit-chain')
    .update(Buffer.from([1]))
    .digest();
  assert.deepEqual(loginKey.derive('audit-chain').export(), expanded);
});

test('[R5] a key of another length or with other characters is refused, and the error does not show it', () => {
  for (const bad of ['', keyHex.slice(1), `${keyHex}0`, `${keyHex.slice(2)}zz`, ` ${keyHex.slice(1)}`]) {
    assert.throws(
      () => LoginKey.parse(bad, '--login-key'),
      (error: unknown) => {
        assert.ok(error instanceof CoupletError);
        assert.equal(error.code, 'CPL_LOGIN_KEY');
        assert.match(error.message, /^--login-key .*160 hex digits$/);
        assert.ok(bad.length < 10 || !error.message.includes(bad.slice(2, 12)));
        return true;
      },
    );
  }
});

test('a key file is read with white space around the digits; one that is missing is named', () => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-keys-'));
  try {
    const path = join(folder, 'login.key');
    const generated = LoginKey.generate();
    writeFileSync(path, `${generated.toHex()}\n`);
    assert.equal(LoginKey.readFile(path).toHex(), generated.toHex());
    assert.notEqual(LoginKey.generate().toHex(), generated.toHex());
    assert.throws(() => LoginKey.readFile(join(folder, 'none')), /login key file ".*none": ENOENT/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('fault 14: a login key shows in neither inspection nor JSON', () => {
  const shown = `${inspect(loginKey, { showHidden: true, depth: 9 })} ${JSON.stringify({ loginKey })} ${String(loginKey)}`;
  assert.ok(!shown.includes(keyHex.slice(0, 8)), shown);
  assert.ok(!/Buffer|Uint8Array/.test(shown), shown);
});
