import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseRelayQuery } from '../../src/protocol/relay-query.ts';
import {
  buildTunnelCommand,
  buildTunnelValue,
  parseTunnelValue,
  tunnelCommandSchema,
} from '../../src/protocol/tunnel-command.ts';

const value = {
  path: '/meshrelay.ashx',
  protocol: 1,
  nodeid: 'node//a@$b',
  id: 'i@$1',
  rauth: 'ab@cd$ef==',
};

test('[T6] the command as existing agents know it', () => {
  const command = buildTunnelCommand(value, {
    target: { transport: 'tcp', port: 22, address: '127.0.0.1' },
    rights: 8,
    consent: 0,
    username: 'alice',
    userid: 'user//alice',
    sessionid: 's',
    desktopviewonly: false,
  });
  assert.deepEqual(command, {
    action: 'msg',
    type: 'tunnel',
    value: '*/meshrelay.ashx?p=1&nodeid=node//a@$b&id=i@$1&rauth=ab@cd$ef==',
    tcpport: 22,
    tcpaddr: '127.0.0.1',
    rights: 8,
    consent: 0,
    username: 'alice',
    userid: 'user//alice',
    sessionid: 's',
    desktopviewonly: false,
    soptions: { usages: [1] },
  });
  assert.deepEqual(tunnelCommandSchema.parse(command), command);
  const udp = buildTunnelCommand(value, { target: { transport: 'udp', port: 53, address: '::1' } });
  assert.deepEqual([udp.udpport, udp.udpaddr, udp.tcpport], [53, '::1', undefined]);
});

const printable = fc.string({
  unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
  minLength: 1,
  maxLength: 60,
});

test('[T6] what is built is read back, by an agent and by the relay', () => {
  fc.assert(
    fc.property(
      printable,
      printable,
      printable,
      fc.constantFrom('/meshrelay.ashx', '/dom/meshrelay.ashx'),
      (id, nodeid, rauth, path) => {
        const all = { path, protocol: 5, nodeid, id, rauth };
        const text = buildTunnelValue(all);
        assert.deepEqual(parseTunnelValue(text), all);
        const query = parseRelayQuery(text.slice(text.indexOf('?') + 1));
        assert.ok(query.ok);
        assert.deepEqual([query.query.id, query.query.rauth, query.query.nodeid], [id, rauth, nodeid]);
      },
    ),
  );
});

test('[T6] a value that leads elsewhere, or nowhere, is none', () => {
  for (const text of [
    'wss://evil/meshrelay.ashx?id=a&rauth=b',
    '*/meshrelay.ashx',
    '*/meshrelay.ashx?rauth=b',
    '*/meshrelay.ashx?id=a',
    '*/other?id=a&rauth=b',
    '*/../x/meshrelay.ashx?id=a&rauth=b',
    '*//evil/meshrelay.ashx?id=a&rauth=b',
    '*@evil/meshrelay.ashx?id=a&rauth=b',
    '',
  ]) {
    assert.equal(parseTunnelValue(text), undefined, text);
  }
  assert.equal(parseTunnelValue('*/relay?x=1&id=a&rauth=b%40&p=zz&rauth=c')?.rauth, 'b@');
});
