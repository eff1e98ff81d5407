import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isSameNetwork } from '../../src/auth/same-network.ts';

test('[R7] ip: the same /24, or /64 for IPv6, an IPv4-mapped address counting as IPv4', () => {
  for (const [a, b, same] of [
    ['192.0.2.1', '192.0.2.1', true],
    ['192.0.2.1', '192.0.2.255', true],
    ['192.0.2.255', '192.0.3.0', false],
    ['192.0.2.1', '192.1.2.1', false],
    ['::ffff:192.0.2.7', '192.0.2.9', true],
    ['::ffff:192.0.2.7', '192.0.3.7', false],
    ['::ffff:c000:0207', '192.0.2.9', true],
    ['2001:db8:1:2::1', '2001:db8:1:2:ffff::1', true],
    ['2001:db8:1:2::1', '2001:db8:1:3::1', false],
    ['2001:0db8:0001:0002:0000:0000:0000:0001', '2001:DB8:1:2::5', true],
    ['192.0.2.1', '2001:db8::1', false],
    ['::1', '127.0.0.1', false],
  ] as const) {
    assert.equal(isSameNetwork(a, b), same, `${a} ${b}`);
    assert.equal(isSameNetwork(b, a), same, `${b} ${a}`);
  }
});

test('[R7] ip: what is no address in strict notation matches nothing, not even itself', () => {
  for (const text of [
    '',
    'localhost',
    '192.0.2',
    '0300.0.2.1',
    '0xc0000201',
    '192.0.2.1/24',
    ' 192.0.2.1',
    '[::1]',
    '::1%10.0.0.2',
  ]) {
    assert.equal(isSameNetwork(text, text), false, text);
    assert.equal(isSameNetwork(text, '192.0.2.1'), false, text);
  }
});
