import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { checkOrigins, isOriginAllowed, ownOrigin } from '../../src/auth/origin.ts';
import { CoupletError } from '../../src/core/errors.ts';

const configured = ['https://console.example.org', 'http://localhost:3000'];

test('[R10] the own origin, from scheme and Host, and those configured are allowed', () => {
  for (const [origin, scheme, host] of [
    ['https://relay.example', 'https', 'relay.example'],
    ['https://relay.example', 'https', 'Relay.Example:443'],
    ['https://relay.example:8443', 'https', 'relay.example:8443'],
    ['http://relay.example', 'http', 'relay.example:80'],
    ['http://[::1]:8080', 'http', '[::1]:8080'],
    ['http://127.0.0.1:8080', 'http', '127.0.0.1:8080'],
    ['https://console.example.org', 'https', 'relay.example'],
    ['http://localhost:3000', 'https', 'relay.example'],
  ] as const) {
    assert.equal(isOriginAllowed(origin, scheme, host, configured), true, `${origin} at ${host}`);
  }
});

test('[R10] fault 13: foreign, null, suffix, port and scheme Origins are refused', () => {
  for (const origin of [
    '',
    'null',
    'NULL',
    'https://evil.example',
    'https://relay.example.evil.example',
    'https://evilrelay.example',
    'https://relay.exampl',
    'https://sub.relay.example',
    'http://relay.example',
    'wss://relay.example',
    'https://relay.example:8443',
    'https://relay.example:443',
    'https://relay.example:',
    'https://relay.example/',
    'https://relay.example.',
    'https://relay.example#https://evil.example',
    'https://relay.example@evil.example',
    'https://evil.example@relay.example',
    'HTTPS://relay.example',
    'https://RELAY.example',
    'relay.example',
    '//relay.example',
    'https://relay.example https://evil.example',
    ' https://relay.example',
    'https://console.example.org:8443',
    'http://console.example.org',
    'https://console.example.org.evil.example',
    'http://localhost',
    'http://localhost:30001',
  ]) {
    assert.equal(isOriginAllowed(origin, 'https', 'relay.example', configured), false, origin);
  }
});

test('[R10] fault 13: a Host that holds more than host and port makes no origin', () => {
  for (const host of [
    '',
    'null',
    'a@relay.example',
    'relay.example/x',
    'relay.example?x',
    'relay.example#x',
    'relay.example\\x',
    'relay.example:99999',
    'relay.example:8o',
    'a b',
  ]) {
    const own = ownOrigin('https', host);
    assert.ok(own === undefined || own === 'https://null', host);
    assert.equal(isOriginAllowed('null', 'https', host, []), false);
    assert.equal(isOriginAllowed('https://relay.example', 'https', host, []), false, host);
  }
});

test('[R10] no Host and no Origin makes the rule throw, and only equal text is allowed', () => {
  const text = fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.webUrl(), fc.domain());
  fc.assert(
    fc.property(text, text, (origin, host) => {
      const allowed = isOriginAllowed(origin, 'https', host, configured);
      assert.ok(!allowed || origin === ownOrigin('https', host) || configured.includes(origin));
    }),
  );
});

test('[R10] a configured origin that no browser sends is a configuration error', () => {
  assert.deepEqual(checkOrigins(configured), configured);
  for (const bad of [
    '*',
    'null',
    '',
    'https://x.example/',
    'https://X.example',
    'x.example',
    'https://x.example:443',
  ]) {
    assert.throws(
      () => checkOrigins(['https://fine.example', bad]),
      (error: unknown) => error instanceof CoupletError && error.message.includes(JSON.stringify(bad)),
    );
  }
});
