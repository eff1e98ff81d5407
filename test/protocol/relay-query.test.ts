import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isMessengerId, parseMessengerId, parseRelayQuery, type RelayQuery } from '../../src/protocol/relay-query.ts';

function queryOf(raw: string): RelayQuery {
  const parsed = parseRelayQuery(raw);
  assert.ok(parsed.ok, JSON.stringify(parsed));
  return parsed.query;
}

function faultOf(raw: string): string {
  const parsed = parseRelayQuery(raw);
  return parsed.ok ? 'accepted' : `${parsed.httpStatus} ${parsed.reason}`;
}

test('[R2] all parameters, and none', () => {
  assert.deepEqual(queryOf('id=s1&auth=A&rauth=R&browser=1&p=2&nodeid=node//n1&noping=1&hd=1'), {
    id: 's1',
    auth: 'A',
    rauth: 'R',
    browser: true,
    noping: true,
    hardClose: true,
    protocol: 2,
    nodeid: 'node//n1',
    routing: undefined,
  });
  assert.deepEqual(queryOf('id=s1'), {
    id: 's1',
    auth: '',
    rauth: '',
    browser: false,
    noping: false,
    hardClose: false,
    protocol: 0,
    nodeid: '',
    routing: undefined,
  });
  const others = queryOf('id=s1&browser=0&noping=true&hd=2');
  assert.deepEqual([others.browser, others.noping, others.hardClose], [false, false, false]);
});

test('[R2] unknown parameters are ignored, whatever they hold', () => {
  assert.deepEqual(queryOf('x=%zz&&=&=a&ID=b&id=s1&slowrelay=1&%69d=c&__proto__=d&constructor=e'), queryOf('id=s1'));
});

test('[R2] of a repeated parameter the first counts, even if it is empty', () => {
  assert.equal(queryOf('id=a&id=b').id, 'a');
  assert.equal(queryOf('id=a&auth=&auth=b').auth, '');
  assert.equal(faultOf('id=&id=b'), '400 no-id');
});

test('[R2] neither id nor routing is 400; an auth cookie may hold either', () => {
  for (const raw of [
    '',
    '&',
    'id',
    'id=',
    'p=1',
    'nodeid=node//n1',
    'tcpport=22',
    'browser=1&rauth=R',
    'nodeid=x&p=3',
  ]) {
    assert.equal(faultOf(raw), '400 no-id', raw);
  }
  assert.equal(queryOf('auth=A').id, '');
  assert.equal(queryOf('nodeid=node//n1&tcpport=22').id, '');
});

test('[R3] protocol numbers; anything else is 0', () => {
  for (const p of [1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 100, 101, 200]) {
    assert.equal(queryOf(`id=s&p=${p}`).protocol, p);
  }
  for (const p of [
    '0',
    '3',
    '4',
    '7',
    '15',
    '102',
    '201',
    '-1',
    '1.0',
    '01',
    '1e0',
    '+1',
    ' 1',
    '%20',
    'x',
    '',
    '0x1',
  ]) {
    assert.equal(queryOf(`id=s&p=${p}`).protocol, 0, p);
  }
});

test('[R4] ids and nodeids are at most 256 bytes of printable ASCII, else 400', () => {
  assert.equal(queryOf(`id=${'a'.repeat(256)}`).id.length, 256);
  assert.equal(queryOf('id=%20%7e').id, ' ~');
  for (const id of ['a'.repeat(257), '%00', 'a%0a', '%7f', '%c3%a4', 'ä', '\u{1f600}']) {
    assert.equal(faultOf(`id=${id}`), '400 bad-id', id);
    assert.equal(faultOf(`id=s&nodeid=${id}`), '400 bad-nodeid', id);
  }
});

test('[R42] values are split at the first =, hold raw @ $ = and +, and percent escapes are decoded', () => {
  const query = queryOf('auth=ab@c$d+e/f==&id=a@b$c%3D%2B+%26&rauth==x=');
  assert.equal(query.auth, 'ab@c$d+e/f==');
  assert.equal(query.id, 'a@b$c=+'.concat('+&'));
  assert.equal(query.rauth, '=x=');
  assert.equal(queryOf('id=%61%4d').id, 'aM');
});

test('[R42] a value with a broken escape is taken as it is written', () => {
  for (const value of ['%', '%4', 'a%zz', '%41%', '%ff', '%c3', '%25%']) {
    assert.equal(queryOf(`id=s&auth=${value}`).auth, value);
    assert.equal(queryOf(`id=${value}`).id, value);
  }
});

test('[R2] routing in the URL: tcp goes before udp, the address defaults to loopback', () => {
  const nodeid = 'node//n1';
  const routingOf = (raw: string) => queryOf(`nodeid=node//n1&${raw}`).routing;
  assert.deepEqual(routingOf('tcpport=22&udpport=53'), { nodeid, transport: 'tcp', port: 22, address: '127.0.0.1' });
  assert.deepEqual(routingOf('udpport=53&udpaddr=10.0.0.1&tcpaddr=10.0.0.2'), {
    nodeid,
    transport: 'udp',
    port: 53,
    address: '10.0.0.1',
  });
  assert.deepEqual(routingOf('tcpport=65535&tcpaddr=&id=s'), {
    nodeid,
    transport: 'tcp',
    port: 65_535,
    address: '127.0.0.1',
  });
  assert.deepEqual(routingOf('tcpport=&udpport=1'), { nodeid, transport: 'udp', port: 1, address: '127.0.0.1' });
  assert.deepEqual(routingOf('p=1'), { nodeid, transport: 'none', port: 0, address: '' });
  assert.equal(routingOf('p=1&id=s'), undefined, 'with an id, nodeid and p only describe the session (R3)');
  assert.equal(queryOf('id=s&tcpport=22').routing, undefined, 'a port of no device');
});

test('[R2] a port that is none, or a target that is no device, is 400', () => {
  for (const port of ['0', '65536', '-1', '22x', 'ssh', '1.5', '1e3', '000022', '%00']) {
    assert.equal(faultOf(`nodeid=node//n1&tcpport=${port}`), '400 bad-routing', port);
    assert.equal(faultOf(`id=s&nodeid=node//n1&udpport=${port}`), '400 bad-routing', port);
  }
  assert.equal(faultOf('nodeid=node//n1&tcpport=22&tcpaddr=%0a'), '400 bad-routing');
  for (const nodeid of ['n1', 'user//alice', 'node//', 'node/n1']) {
    assert.equal(faultOf(`nodeid=${nodeid}&tcpport=22`), '400 bad-routing', nodeid);
    assert.equal(faultOf(`nodeid=${nodeid}&p=1`), '400 bad-routing', nodeid);
  }
});

test('[R2][R42] every value survives a round trip, and no query makes the parser throw', () => {
  const text = fc.string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 80 });
  fc.assert(
    fc.property(text, text, text, (id, auth, rauth) => {
      const encoded = Object.entries({ auth, id, rauth }).map(
        ([name, value]) => `${name}=${encodeURIComponent(value)}`,
      );
      const query = queryOf(encoded.join('&'));
      assert.deepEqual([query.id, query.auth, query.rauth], [id, auth, rauth]);
    }),
  );
  const raw = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(fc.constantFrom('id', 'p', 'auth', 'nodeid', 'tcpport', 'node//n', '=', '&', '%', '%4', '1', 'é', '\0')),
  );
  fc.assert(
    fc.property(raw, (input) => {
      const parsed = parseRelayQuery(typeof input === 'string' ? input : input.join(''));
      if (parsed.ok) assert.ok(parsed.query.id !== '' || parsed.query.auth !== '' || parsed.query.routing);
      else assert.equal(parsed.httpStatus, 400);
    }),
    { numRuns: 3000 },
  );
});

test('[R13] a messenger id names two different parties of one domain, at least one a user', () => {
  assert.deepEqual(parseMessengerId('meshmessenger/user//a/user//b'), {
    domain: '',
    userids: ['user//a', 'user//b'],
    nodeid: '',
  });
  const both = { domain: 'acme', userids: ['user/acme/a'], nodeid: 'node/acme/n$@1' };
  assert.deepEqual(parseMessengerId('meshmessenger/user/acme/a/node/acme/n$@1'), both);
  assert.deepEqual(parseMessengerId('meshmessenger/node/acme/n$@1/user/acme/a'), both);
  for (const id of [
    'meshmessenger/user//a',
    'meshmessenger/user//a/user//a',
    'meshmessenger/node//a/node//b',
    'meshmessenger/user//a/user/acme/b',
    'meshmessenger/user//a/mesh//b',
    'meshmessenger/user//a/user//',
    'meshmessenger/user//a/user//b/c',
    'meshmessenger/user//a/user//b/',
    'meshmessenger/user//a/user//b\n',
    'meshmessenger//user//a/user//b',
  ]) {
    assert.equal(parseMessengerId(id), undefined, id);
    assert.equal(isMessengerId(id), true, id);
  }
  assert.equal(isMessengerId('xmeshmessenger/user//a/user//b'), false);
  assert.equal(parseMessengerId('user//a/user//b'), undefined);
});
