import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LoginKey } from '../../src/auth/keys.ts';
import { sealerOf } from './support.ts';

test('[K2] a sealed value opens in another process with the same key, under its name alone', () => {
  const sealed = sealerOf().seal('claim:a', 'Grüße');
  assert.match(sealed, /^[A-Za-z0-9_-]+$/);
  assert.equal(sealerOf().open('claim:a', sealed), 'Grüße');
  assert.equal(sealerOf().open('claim:b', sealed), undefined);
  assert.equal(sealerOf(LoginKey.generate()).open('claim:a', sealed), undefined);
  assert.equal(sealerOf().open('claim:a', ''), undefined);
});

test('[K2] every changed or missing byte is found', () => {
  const sealer = sealerOf();
  const bytes = Buffer.from(sealer.seal('k', 'text'), 'base64url');
  for (let i = 0; i < bytes.length; i++) {
    const changed = Buffer.from(bytes);
    changed[i]! ^= 1;
    assert.equal(sealer.open('k', changed.toString('base64url')), undefined, `byte ${i}`);
    assert.equal(sealer.open('k', bytes.subarray(0, i).toString('base64url')), undefined, `cut at ${i}`);
  }
});

test('one text is never sealed alike, in one process or two', () => {
  const [a, b] = [sealerOf(), sealerOf()];
  const saltAndNonce = (sealed: string) => Buffer.from(sealed, 'base64url').subarray(0, 28).toString('hex');
  const heads = Array.from({ length: 1000 }, () => [a, b].map((sealer) => saltAndNonce(sealer.seal('k', 'x')))).flat();
  assert.equal(new Set(heads).size, 2000);
});

test('more salts than are remembered still open', () => {
  const sealer = sealerOf();
  for (let i = 0; i < 1100; i++) assert.equal(sealer.open('k', sealerOf().seal('k', `${i}`)), `${i}`);
});

test('digests are those of the key', () => {
  assert.equal(sealerOf().digest('a'), sealerOf().digest('a'));
  assert.notEqual(sealerOf().digest('a'), sealerOf().digest('b'));
  assert.notEqual(sealerOf().digest('a'), sealerOf(LoginKey.generate()).digest('a'));
});
