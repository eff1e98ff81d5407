import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { canonicalAddress } from '../../src/core/canonical-address.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { TrustedProxies } from '../../src/server/address.ts';

const proxies = new TrustedProxies(['10.0.0.0/8', '192.0.2.1', 'fd00::/8', '::1']);

function client(tcp: string, forwardedFor = '', proxied = '', trusted = proxies): string {
  return trusted.clientAddress({ tcp, proxied, forwardedFor });
}

test('[R12] an IPv4-mapped IPv6 address is written as IPv4, IPv6 in its shortest form', () => {
  for (const [text, canonical] of [
    ['192.0.2.7', '192.0.2.7'],
    ['::ffff:192.0.2.7', '192.0.2.7'],
    ['::FFFF:C000:0207', '192.0.2.7'],
    ['0000:0000:0000:0000:0000:ffff:c000:0207', '192.0.2.7'],
    ['2001:0DB8:0000:0000:0000:0000:0000:0001', '2001:db8::1'],
    ['0000:0000:0000:0000:0000:0000:0000:0001', '::1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['::1%10.0.0.2', '::1'],
    ['::ffff:0:1.2.3.4', '::ffff:0:102:304'],
  ] as const) {
    assert.equal(canonicalAddress(text), canonical, text);
    assert.equal(client(text), canonical);
  }
  for (const text of ['', '1.2.3', '010.0.0.1', '1.2.3.4 ', '1.2.3.256', 'localhost', '::ffff:1.2.3', '0x7f.0.0.1']) {
    assert.equal(canonicalAddress(text), undefined, text);
  }
});

test('[R12] X-Forwarded-For is believed only from trusted proxies', () => {
  assert.equal(client('203.0.113.5', '198.51.100.1'), '203.0.113.5');
  assert.equal(client('10.1.2.3', '198.51.100.1'), '198.51.100.1');
  assert.equal(client('::ffff:10.1.2.3', '198.51.100.1'), '198.51.100.1');
  assert.equal(client('0000:0000:0000:0000:0000:0000:0000:0001', '::ffff:198.51.100.1'), '198.51.100.1');
  assert.equal(client('192.0.2.2', '198.51.100.1'), '192.0.2.2', 'beside the one trusted address');
  assert.equal(client('10.1.2.3', '198.51.100.1', '', new TrustedProxies([])), '10.1.2.3');
});

test('[R12] the rightmost untrusted entry counts: what the client wrote before it does not', () => {
  assert.equal(client('10.0.0.1', '1.1.1.1, 198.51.100.1'), '198.51.100.1');
  assert.equal(client('10.0.0.1', '1.1.1.1,198.51.100.1, 10.0.0.2 ,fd00::3'), '198.51.100.1');
  assert.equal(client('10.0.0.1', '10.9.9.9, 198.51.100.1, 10.0.0.2'), '198.51.100.1');
  assert.equal(client('10.0.0.1', '10.0.0.3, 10.0.0.2'), '10.0.0.3', 'all trusted: the farthest');
});

test('[R12] a malformed entry ends the walk at the proxy that passed it on', () => {
  for (const bad of ['unknown', '', '_hidden', '1.2.3', '198.51.100.1.', '<script>', '1.2.3.4:99999999', '[1.2.3.4]']) {
    assert.equal(client('10.0.0.1', bad), '10.0.0.1', bad);
    assert.equal(client('10.0.0.1', `198.51.100.1, ${bad}`), '10.0.0.1', bad);
    assert.equal(client('10.0.0.1', `198.51.100.1, ${bad}, 10.0.0.2`), '10.0.0.2', bad);
    assert.equal(client('10.0.0.1', `${bad}, 198.51.100.1`), '198.51.100.1', bad);
  }
});

test('[R12] entries with a port are read, as some proxies write them', () => {
  assert.equal(client('10.0.0.1', '198.51.100.1:4711'), '198.51.100.1');
  assert.equal(client('10.0.0.1', '[2001:db8::1]:4711'), '2001:db8::1');
  assert.equal(client('10.0.0.1', '[2001:db8::1]'), '2001:db8::1');
});

test('[R12] a PROXY protocol address is believed only from trusted proxies, and goes before the header', () => {
  assert.equal(client('203.0.113.5', '', '198.51.100.1'), '203.0.113.5');
  assert.equal(client('10.0.0.1', '', '0000:0000:0000:0000:0000:ffff:c633:6401'), '198.51.100.1');
  assert.equal(client('10.0.0.1', '1.1.1.1', '198.51.100.1'), '198.51.100.1', 'the client wrote the header itself');
  assert.equal(client('10.0.0.1', '198.51.100.1', '10.0.0.2'), '198.51.100.1', 'a proxy behind a proxy');
  assert.equal(client('10.0.0.1', '198.51.100.1', 'rubbish'), '10.0.0.1');
});

test('[R12] trusted networks: prefixes are exact, families do not mix', () => {
  const one = new TrustedProxies(['192.0.2.128/25', '2001:db8::/33']);
  assert.equal(one.includes('192.0.2.128'), true);
  assert.equal(one.includes('192.0.2.127'), false);
  assert.equal(one.includes('2001:db8:7fff::1'), true);
  assert.equal(one.includes('2001:db8:8000::1'), false);
  const all = new TrustedProxies(['0.0.0.0/0']);
  assert.equal(all.includes('203.0.113.5'), true);
  assert.equal(all.includes('2001:db8::1'), false);
  assert.equal(new TrustedProxies(['::ffff:10.0.0.0/104']).includes('10.255.0.1'), true);
  assert.equal(new TrustedProxies(['::ffff:10.0.0.1']).includes('10.0.0.2'), false);
});

test('[R12][R40] an entry that is no network is a configuration error that names it', () => {
  for (const bad of [
    '',
    'localhost',
    '10.0.0.0/33',
    '10/8',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    '::/129',
    '10.0.0.0/-1',
    '*',
  ]) {
    assert.throws(
      () => new TrustedProxies(['10.0.0.1', bad]),
      (error: unknown) =>
        error instanceof CoupletError &&
        error.code === 'CPL_TRUSTED_PROXY' &&
        error.message.includes(JSON.stringify(bad)),
      bad,
    );
  }
});

test('[R12] no header makes the rule throw, and the answer is always an address', () => {
  const piece = fc.constantFrom('10.0.0.2', '198.51.100.1', '::1', ',', ' ', '[', ']', ':', '%', 'x', '\0', ':80');
  const header = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(piece).map((pieces) => pieces.join('')),
  );
  fc.assert(
    fc.property(header, header, (forwardedFor, proxied) => {
      const address = client('10.0.0.1', forwardedFor, proxied);
      assert.equal(canonicalAddress(address), address);
    }),
    { numRuns: 5000 },
  );
});
