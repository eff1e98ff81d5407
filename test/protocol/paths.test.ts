import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { relayPathDomain, relayPathOf } from '../../src/protocol/paths.ts';

test('[R1] both names of the relay path, with an optional domain in front', () => {
  for (const [path, domain] of [
    ['/meshrelay.ashx', ''],
    ['/relay', ''],
    ['/acme/meshrelay.ashx', 'acme'],
    ['/acme/relay', 'acme'],
    ['/A-b_c.9/relay', 'A-b_c.9'],
    ['/relay/relay', 'relay'],
    [`/${'d'.repeat(64)}/relay`, 'd'.repeat(64)],
  ] as const) {
    assert.equal(relayPathDomain(path), domain, path);
    assert.equal(relayPathDomain(relayPathOf(domain)), domain);
  }
});

test('[R1] every other path is no relay path', () => {
  for (const path of [
    '',
    '/',
    'relay',
    '/relay/',
    '//relay',
    '//meshrelay.ashx',
    '/a/b/relay',
    '/./relay',
    '/../relay',
    '/a%20b/relay',
    '/ä/relay',
    '/a b/relay',
    '/Relay',
    '/meshrelay.ashx/',
    '/meshrelayXashx',
    '/xrelay',
    '/relay\n',
    `/${'d'.repeat(65)}/relay`,
  ]) {
    assert.equal(relayPathDomain(path), undefined, path);
  }
});

test('[R1] no path makes the rule throw, and a domain is never empty by accident', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const domain = relayPathDomain(`/${text}/relay`);
      assert.ok(domain === undefined || domain === text);
    }),
  );
});
