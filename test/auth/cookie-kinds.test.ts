import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readKind } from '../../src/auth/cookie-kinds.ts';

const user = { userid: 'user//alice', domainid: '' };
const device = { ruserid: 'user//alice' };
const noUser = { nouser: 1, id: 'abc' };
const share = { nid: 'node//n1', pid: 'share1', p: 3, gn: 'Guest', expire: 60, vo: false };
const kinds = { user, device, noUser, share };

test('[R7] each kind is told by its keys, and further keys are ignored', () => {
  const further = { a: 3, x: 'y', r: 8, cf: null, constructor: 1, port: 'none' };
  assert.deepEqual(readKind({ ...user, ...further }), {
    kind: 'user',
    userid: 'user//alice',
    domainid: '',
    ip: undefined,
    routing: undefined,
    protocol: undefined,
    id: undefined,
  });
  assert.deepEqual(readKind({ ...device, ...further, nodeid: 'node//n1', id: 's' }), {
    kind: 'device',
    userid: 'user//alice',
    domainid: undefined,
    nodeid: 'node//n1',
    id: 's',
  });
  assert.deepEqual(readKind({ ...noUser, ...further }), {
    kind: 'nouser',
    domainid: undefined,
    nodeid: undefined,
    id: 'abc',
  });
  assert.deepEqual(readKind({ ...share, ...further }), {
    kind: 'share',
    domainid: undefined,
    nodeid: 'node//n1',
    publicId: 'share1',
    protocolBits: 3,
    guestname: 'Guest',
    viewOnly: false,
  });
});

test('[R7] a cookie of no kind is refused', () => {
  for (const content of [{}, { domainid: '' }, { nodeid: 'node//n1', tcpport: 22 }, { p: 3, gn: 'x', vo: 1 }]) {
    assert.equal(readKind(content), 'cookie-kind', JSON.stringify(content));
  }
});

test('[R7] a cookie of two kinds is refused, also where the second is incomplete', () => {
  for (const [a, first] of Object.entries(kinds)) {
    for (const [b, second] of Object.entries(kinds)) {
      if (a !== b) assert.equal(readKind({ ...first, ...second }), 'cookie-kind', `${a} and ${b}`);
    }
  }
  for (const extra of [{ ruserid: null }, { nouser: 0 }, { nid: 'node//n1' }, { pid: 'p' }]) {
    assert.equal(readKind({ ...user, ...extra }), 'cookie-kind', JSON.stringify(extra));
  }
  assert.equal(readKind({ ...device, userid: 'user//alice' }), 'cookie-kind');
});

test('[R7] fault 9: a missing or wrongly typed key of any kind is refused', () => {
  const needed: Record<string, readonly string[]> = {
    user: ['userid', 'domainid'],
    device: ['ruserid'],
    noUser: ['nouser', 'id'],
    share: ['nid', 'pid', 'p', 'gn', 'expire'],
  };
  const wrong = [null, true, [], {}, ['user//alice'], 1.5, '\u0000', 'ü', 'x'.repeat(300)];
  for (const [name, keys] of Object.entries(needed)) {
    const complete = kinds[name as keyof typeof kinds] as Record<string, unknown>;
    for (const key of keys) {
      assert.equal(typeof readKind({ ...complete, [key]: undefined }), 'string', `${name} without ${key}`);
      for (const value of wrong) {
        const harmless =
          (key === 'gn' && typeof value === 'string' && value.length < 256) ||
          (key === 'expire' && typeof value === 'number') ||
          (key === 'domainid' && typeof value === 'string');
        if (!harmless) assert.equal(typeof readKind({ ...complete, [key]: value }), 'string', `${key}: ${value}`);
      }
    }
  }
});

test('[R7] fault 9: wrong optional values are refused, not ignored', () => {
  const bad: [object, object][] = [
    [user, { ip: 5 }],
    [user, { ip: null }],
    [user, { id: 7 }],
    [user, { id: '' }],
    [user, { nodeid: 'user//alice' }],
    [user, { nodeid: 'n1' }],
    [user, { nodeid: 'node//n1', tcpport: '22' }],
    [user, { nodeid: 'node//n1', tcpport: 0 }],
    [user, { nodeid: 'node//n1', tcpport: 65_536 }],
    [user, { nodeid: 'node//n1', tcpport: 22.5 }],
    [user, { nodeid: 'node//n1', tcpport: 22, udpport: -1 }],
    [user, { nodeid: 'node//n1', tcpport: 22, tcpaddr: 'a\nb' }],
    [user, { domainid: 5 }],
    [device, { domainid: 5 }],
    [device, { nodeid: 'n1' }],
    [device, { nodeid: null }],
    [device, { id: 5 }],
    [device, { ruserid: 'node//n1' }],
    [noUser, { nouser: true }],
    [noUser, { nouser: '1' }],
    [share, { vo: 'yes' }],
    [share, { p: -1 }],
  ];
  for (const [content, change] of bad) {
    assert.equal(readKind({ ...content, ...change }), 'cookie-content', JSON.stringify(change));
  }
});

test('[R2][R7] routing in a user cookie: tcp goes before udp, the address defaults to loopback', () => {
  const routingOf = (keys: object) => {
    const cookie = readKind({ ...user, nodeid: 'node//n1', ...keys });
    assert.ok(typeof cookie === 'object' && cookie.kind === 'user');
    return cookie.routing;
  };
  const nodeid = 'node//n1';
  assert.deepEqual(routingOf({ tcpport: 22, udpport: 53, udpaddr: '10.0.0.1' }), {
    nodeid,
    transport: 'tcp',
    port: 22,
    address: '127.0.0.1',
  });
  assert.deepEqual(routingOf({ udpport: 53, udpaddr: '10.0.0.1' }), {
    nodeid,
    transport: 'udp',
    port: 53,
    address: '10.0.0.1',
  });
  assert.deepEqual(routingOf({ tcpport: 65_535, tcpaddr: 'db.local' }), {
    nodeid,
    transport: 'tcp',
    port: 65_535,
    address: 'db.local',
  });
  assert.deepEqual(routingOf({}), { nodeid, transport: 'none', port: 0, address: '' });
});

test('[R7] part of a target without its device does not make a cookie for any target', () => {
  for (const part of [{ tcpport: 22 }, { udpport: 53 }, { tcpaddr: '10.0.0.1' }, { udpaddr: '10.0.0.1' }]) {
    assert.equal(readKind({ ...user, ...part }), 'cookie-content', JSON.stringify(part));
  }
});

test('[R7][T5] a user cookie with a target that is no port may fix its protocol', () => {
  const protocolOf = (keys: object) => {
    const cookie = readKind({ ...user, ...keys });
    assert.ok(typeof cookie === 'object' && cookie.kind === 'user', JSON.stringify(keys));
    return cookie.protocol;
  };
  assert.equal(protocolOf({ nodeid: 'node//n1', p: 1 }), 1);
  assert.equal(protocolOf({ nodeid: 'node//n1' }), undefined);
  assert.equal(protocolOf({ nodeid: 'node//n1', tcpport: 22, p: 'x' }), undefined, 'of a port it is a further key');
  assert.equal(protocolOf({ p: 'x' }), undefined, 'and so without a target');
  for (const p of [0, 3, 1.5, '1', null, -1, 1e9]) {
    assert.equal(readKind({ ...user, nodeid: 'node//n1', p }), 'cookie-content', String(p));
  }
});
