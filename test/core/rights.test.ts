import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  adminRights,
  adminSiteRights,
  effectiveRights,
  hasRights,
  hasSiteRights,
  parseRights,
  parseSiteRights,
  printRights,
  printSiteRights,
  protocolAllowed,
  rightBits,
  siteRightBits,
  tunnelAllowed,
  type Verdict,
} from '../../src/core/rights.ts';
import { parseShareProtocols, printShareProtocols, shareAllows } from '../../src/core/share-protocols.ts';

/** As the specification lists them, not as the code does. */
const specified = [
  [1, 'edit-group'],
  [2, 'manage-users'],
  [4, 'manage-devices'],
  [8, 'remote-control'],
  [16, 'agent-console'],
  [32, 'server-files'],
  [64, 'wake'],
  [128, 'set-notes'],
  [256, 'view-only'],
  [512, 'no-terminal'],
  [1024, 'no-files'],
  [2048, 'no-amt'],
  [4096, 'limited-input'],
  [8192, 'limit-events'],
  [16384, 'chat-notify'],
  [32768, 'uninstall'],
  [65536, 'no-desktop'],
  [131072, 'remote-command'],
  [262144, 'reset-off'],
  [524288, 'guest-sharing'],
  [1048576, 'device-details'],
  [2097152, 'relay'],
] as const;
const protocols = [0, 1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 100, 101, 200];
const taken: Record<number, readonly number[]> = {
  512: [1, 6, 8, 9, 11],
  1024: [5, 13],
  2048: [100, 101],
  65536: [2, 10, 12],
  256: protocols.filter((protocol) => ![2, 10, 12].includes(protocol)),
};
const seed = Number(process.env.COUPLET_TEST_SEED ?? Math.floor(Math.random() * 0x7fffffff));
const check = <T>(property: fc.IProperty<T>) => fc.assert(property, { seed, numRuns: 2_000 });

test('[T2] every bit has its name, and all of them are admin', () => {
  assert.deepEqual(
    Object.entries(rightBits).map(([name, bit]) => [bit, name]),
    specified.map((pair) => [...pair]),
  );
  assert.equal(
    specified.reduce((all, [bit]) => all + bit, 0),
    adminRights,
  );
  assert.deepEqual(siteRightBits, {
    backup: 1,
    'manage-users': 2,
    restore: 4,
    'file-access': 8,
    update: 16,
    locked: 32,
    recordings: 512,
  });
  assert.equal(adminSiteRights, 1 + 2 + 4 + 8 + 16 + 512);
});

test('[T2] a table of every bit and every protocol: which get through', () => {
  for (const [bit, name] of specified) {
    for (const protocol of protocols) {
      const what = `${name} with remote control, protocol ${protocol}`;
      const lost = taken[bit]?.includes(protocol) === true;
      const expected: Verdict = lost ? { allowed: false, by: name } : { allowed: true, viewOnly: bit === 256 };
      assert.deepEqual(protocolAllowed(8 | bit, protocol), expected, what);
      const alone = protocolAllowed(bit, protocol);
      assert.equal(alone.allowed, bit === 8, `${name} alone, protocol ${protocol}`);
    }
  }
  for (const protocol of protocols) {
    assert.deepEqual(protocolAllowed(0, protocol), { allowed: false, by: 'remote-control' });
    assert.deepEqual(protocolAllowed(adminRights, protocol), { allowed: true, viewOnly: false });
  }
});

test('[T1][T2] any set of links gives the union of their bits, and what a model allows', () => {
  const link = fc.integer({ min: 0, max: adminRights });
  check(
    fc.property(fc.array(link, { maxLength: 6 }), fc.constantFrom(...protocols), (links, protocol) => {
      const names = new Set(
        links.flatMap((rights) => specified.filter(([bit]) => (rights & bit) !== 0).map(([, name]) => name)),
      );
      const rights = effectiveRights(links);
      assert.equal(printRights(rights) === 'admin' ? 22 : printRights(rights).split(',').length, names.size || 1);
      const admin = names.size === specified.length;
      const takers = specified.filter(([bit, name]) => names.has(name) && taken[bit]?.includes(protocol));
      const allowed = admin || (names.has('remote-control') && takers.length === 0);
      const verdict = protocolAllowed(rights, protocol);
      assert.equal(verdict.allowed, allowed);
      if (verdict.allowed) assert.equal(verdict.viewOnly, !admin && names.has('view-only'));
      else assert.equal(hasRights(rights, verdict.by), verdict.by !== 'remote-control');
      assert.equal(effectiveRights([...links].reverse()), rights);
      assert.equal(effectiveRights([...links, ...links]), rights);
    }),
  );
});

test('[T2][T5] a port needs the relay right where that is asked for, and is never for viewing only', () => {
  const relay = rightBits.relay;
  for (const transport of ['tcp', 'udp'] as const) {
    for (const protocol of protocols) {
      const tunnel = { protocol, transport };
      assert.equal(tunnelAllowed(8, tunnel, false).allowed, true);
      assert.deepEqual(tunnelAllowed(8, tunnel, true), { allowed: false, by: 'relay' });
      assert.equal(tunnelAllowed(8 | relay, tunnel, true).allowed, true);
      assert.deepEqual(tunnelAllowed(8 | 256 | relay, tunnel, false), { allowed: false, by: 'view-only' });
      assert.equal(tunnelAllowed(adminRights, tunnel, true).allowed, true);
    }
    assert.deepEqual(tunnelAllowed(8 | 512, { protocol: 1, transport }, false), { allowed: false, by: 'no-terminal' });
  }
  assert.equal(tunnelAllowed(8, { protocol: 1, transport: 'none' }, true).allowed, true);
  assert.deepEqual(tunnelAllowed(8 | 256, { protocol: 2, transport: 'none' }, true), { allowed: true, viewOnly: true });
});

test('[T2] rights are read as numbers or names, and written as they are read', () => {
  assert.equal(parseRights('8'), 8);
  assert.equal(parseRights(' Remote-Control , no-files'), 8 | 1024);
  assert.equal(parseRights('admin'), adminRights);
  assert.equal(parseRights('4294967295'), adminRights);
  assert.equal(parseRights('none'), 0);
  assert.equal(printRights(8 | 1024), 'remote-control,no-files');
  assert.equal(parseSiteRights('admin'), adminSiteRights);
  assert.equal(parseSiteRights('recordings,2'), 514);
  assert.equal(printSiteRights(514), 'manage-users,recordings');
  check(
    fc.property(fc.integer({ min: 0, max: adminRights }), (rights) => {
      assert.equal(parseRights(printRights(rights)), rights);
      assert.equal(parseRights(String(rights)), rights);
    }),
  );
  for (let rights = 0; rights < 1024; rights++) {
    if ((rights & ~575) === 0) assert.equal(parseSiteRights(printSiteRights(rights)), rights);
    else assert.throws(() => parseSiteRights(String(rights)), { code: 'CPL_RIGHTS' });
  }
});

test('fault 34: what is no right is refused in one line', () => {
  const hostile = [
    '',
    ',',
    '8,',
    '-1',
    '1.5',
    '4194304',
    '9999999999',
    'constructor',
    '__proto__',
    'x\u001b[2J\n\u202e',
    '0x8',
  ];
  for (const text of [...hostile, 'y'.repeat(100_000)]) {
    for (const parse of [parseRights, parseSiteRights]) {
      assert.throws(
        () => parse(text),
        (error: { code?: string; message: string }) =>
          error.code === 'CPL_RIGHTS' && /^[\x20-\x7e]{1,1000}$/.test(error.message),
        JSON.stringify(text),
      );
    }
  }
});

test('[T2] a locked user holds no site right', () => {
  assert.equal(hasSiteRights(514, 'recordings'), true);
  assert.equal(hasSiteRights(514, 'recordings', 'backup'), false);
  assert.equal(hasSiteRights(514 | 32, 'recordings'), false);
});

test('[T15] a share opens what it names', () => {
  const share = parseShareProtocols('terminal, tcp:22,tcp:443,tcp:22');
  assert.deepEqual(share, { bits: 1, tcpPorts: [22, 443] });
  assert.equal(printShareProtocols(share), 'terminal,tcp:22,tcp:443');
  const opens = (protocol: number, transport: 'tcp' | 'udp' | 'none', port = 0, address = '127.0.0.1') =>
    shareAllows(share, { protocol, transport, port, address });
  for (const protocol of protocols) {
    assert.equal(opens(protocol, 'none'), [1, 6, 8, 9].includes(protocol), String(protocol));
    assert.equal(opens(protocol, 'tcp', 22), true);
    assert.equal(opens(protocol, 'tcp', 23), false);
    assert.equal(opens(protocol, 'tcp', 22, '10.0.0.5'), false, 'of the device, not of its neighbours');
    assert.equal(opens(protocol, 'udp', 22), false);
  }
  for (const text of ['', 'udp:53', 'tcp:0', 'tcp:65536', 'tcp:', 'shell', 'terminal,', '__proto__']) {
    assert.throws(() => parseShareProtocols(text), { code: 'CPL_SHARE_PROTOCOLS' }, text);
  }
});
