import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { closeCodes } from '../../src/index.ts';
import { connect, connectPair } from '../support/client.ts';
import { deviceCookie, relayPath, userCookie } from '../support/raw-answer.ts';
import { clientFrame, openRaw, rawHalf, upgradeHead } from '../support/raw-half.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';

const outcome = (relay: TestRelay, word: string) => relay.metric(`couplet_session_outcomes_total{outcome="${word}"}`);

/** A pair works: a text goes through it each way. */
async function works(t: Parameters<typeof connect>[0], relay: TestRelay, id: string): Promise<void> {
  const { user, device } = await connectPair(t, relay, id);
  user.send('to the device');
  assert.equal(await device.nextText(), 'to the device');
  device.send('to the user');
  assert.equal(await user.nextText(), 'to the user');
  user.ws.terminate();
}

const violations: [string, Buffer][] = [
  ['RSV1, as compressed', clientFrame(2, 'x', { rsv: 4 })],
  ['RSV2', clientFrame(2, 'x', { rsv: 2 })],
  ['RSV3 on a ping', clientFrame(9, '', { rsv: 1 })],
  ['no mask', clientFrame(2, 'hello', { masked: false })],
  ['no mask on a close frame', clientFrame(8, Buffer.from([3, 232]), { masked: false })],
  ['opcode 3', clientFrame(3, 'x')],
  ['opcode 7, empty', clientFrame(7, '')],
  ['opcode 11', clientFrame(11, '')],
  ['opcode 15', clientFrame(15, 'x')],
  ['a continuation of nothing', clientFrame(0, 'x')],
  ['a second message inside the first', Buffer.concat([clientFrame(1, 'a', { fin: false }), clientFrame(2, 'b')])],
  ['a ping in fragments', clientFrame(9, 'x', { fin: false })],
  ['a ping of 126 bytes', clientFrame(9, Buffer.alloc(126))],
  ['a close frame of 126 bytes', clientFrame(8, Buffer.alloc(126, 3))],
  ['a close frame of 1 byte', clientFrame(8, 'x')],
  ['a length with the top bit set', clientFrame(2, '', { declared: 1n << 63n })],
];

test('[R27] every way to break the protocol closes that half with 1002 and its mate with 4502 (native)', async (t) => {
  const relay = await startRelay(t);
  for (const [what, bytes] of violations) {
    for (const split of [false, true]) {
      const id = `${what} ${split}`;
      const user = await rawHalf(t, relay.port, relay.path('user', id));
      const device = await connect(t, relay.url('device', id));
      assert.equal(await device.nextText(), 'c');
      user.send(1, 'before');
      assert.equal(await device.nextText(), 'before');
      if (!split) user.socket.write(bytes);
      else {
        for (const byte of bytes) {
          user.socket.write(Buffer.from([byte]));
          await new Promise((resolve) => setImmediate(resolve));
        }
      }
      assert.equal(await user.closeCode(), 1002, what);
      const { code } = await device.closed;
      assert.equal(code, 4502, what);
      assert.equal(device.received.length, 0, `${what}: something was delivered`);
    }
  }
  assert.equal(await outcome(relay, 'peer-error'), violations.length * 2);
  assert.equal(await relay.metric('couplet_half_errors_total{reason="protocol"}'), violations.length * 2);
  await works(t, relay, 'after');
});

test('[R27] on the portable path uWebSockets.js judges: the half is closed, or the frame is one it takes', async (t) => {
  const relay = await startRelay(t, { forwarder: 'portable' });
  // uWebSockets.js does not mind a missing mask (it reads on as if there were one), nor a new opcode in a fragment.
  const taken = new Set(['no mask', 'no mask on a close frame', 'a second message inside the first']);
  const portableCodes: Record<string, number> = {
    'a close frame of 1 byte': 1000, // taken for a goodbye without a code
    'a length with the top bit set': 1009,
  };
  for (const [what, bytes] of violations) {
    const user = await rawHalf(t, relay.port, relay.path('user', what));
    const device = await connect(t, relay.url('device', what));
    assert.equal(await device.nextText(), 'c');
    user.socket.write(bytes);
    if (taken.has(what)) {
      user.socket.end();
      await user.closed;
      continue;
    }
    await until(() => device.isClosed, what);
    assert.equal((await device.closed).code, portableCodes[what] ?? 4502, what);
    assert.equal(device.received.length, 0, `${what}: something was delivered`);
  }
  await works(t, relay, 'after');
});

for (const forwarder of ['native', 'portable'] as const) {
  describe(forwarder, () => {
    test('[R26] fault 15: an oversize message is refused on its header, in fragments on the one that passes', async (t) => {
      const relay = await startRelay(t, {
        forwarder,
        settings: { relay: { maxMessageBytes: 100_000, forwarder, upgradesPerAddressPerSecond: 0 } },
      });
      const fragments = [
        clientFrame(2, Buffer.alloc(60_000), { fin: false }),
        clientFrame(0, '', { fin: false }),
        clientFrame(0, Buffer.alloc(40_000), { fin: false }),
      ];
      const cases: [string, Buffer][] = [
        ['one over', clientFrame(2, '', { declared: 100_001n })],
        ['a terabyte', clientFrame(1, '', { declared: 1n << 40n })],
        ['the largest there is', clientFrame(1, '', { declared: (1n << 63n) - 1n })],
        ['in fragments', Buffer.concat([...fragments, clientFrame(0, 'x', { declared: 1n })])],
      ];
      for (const [what, bytes] of cases) {
        const user = await rawHalf(t, relay.port, relay.path('user', what));
        const device = await rawHalf(t, relay.portOf('device'), relay.path('device', what));
        await device.next(({ opcode }) => opcode === 1);
        user.socket.write(bytes);
        // uWebSockets.js ends the connection of such a sender itself, without a close frame.
        if (forwarder === 'native') assert.equal(await user.closeCode(), 1009, what);
        await user.closed;
        // Natively a message in fragments is under way already; a close frame may stand between two of them.
        assert.equal(await device.closeCode(), 1009, what);
        const whole = device.frames.filter(({ opcode, fin }) => opcode <= 2 && fin);
        assert.equal(whole.length, 0, `${what}: a message was completed`);
      }
      assert.equal(await outcome(relay, 'limit'), cases.length);
      await works(t, relay, 'after');
    });

    test('fault 16: floods of empty and tiny fragments cost bounded memory and time; other pairs go on', async (t) => {
      const relay = await startRelay(t, { forwarder });
      const other = await connectPair(t, relay, 'other');
      for (const size of [0, 1]) {
        const user = await rawHalf(t, relay.port, relay.path('user', `flood${size}`));
        const device = await rawHalf(t, relay.portOf('device'), relay.path('device', `flood${size}`));
        await device.next(({ opcode }) => opcode === 1);
        const fragment = clientFrame(0, 'x'.repeat(size), { fin: false });
        const burst = Buffer.concat(Array.from({ length: 20_000 }, () => fragment));
        const rss = process.memoryUsage().rss;
        user.send(2, 'start', { fin: false });
        let slowest = 0;
        for (let i = 0; i < 10; i++) {
          user.socket.write(burst);
          const before = Date.now();
          other.user.send(`ping ${i}`);
          assert.equal(await other.device.nextText(), `ping ${i}`);
          slowest = Math.max(slowest, Date.now() - before);
          device.frames.length = 0;
          assert.ok((await relay.metric('couplet_buffered_bytes')) < 2_000_000);
        }
        assert.ok(slowest < 1000, `the other pair waited ${slowest} ms`);
        user.send(0, 'end');
        await device.next(({ fin, opcode }) => fin && opcode <= 2);
        const grown = process.memoryUsage().rss - rss;
        assert.ok(grown < 150_000_000, `${grown} bytes more`);
        user.socket.destroy();
        device.socket.destroy();
      }
    });

    test('[R42] an agent: the upgrade in two segments with Content-Length: 0, its own pings, no close echo', async (t) => {
      const relay = await startRelay(t, { forwarder });
      const agent = await openRaw(t, relay.port);
      const head = upgradeHead(relay.path('device', 'agent'));
      agent.socket.write(head.slice(0, -2));
      await new Promise((resolve) => setTimeout(resolve, 50));
      agent.socket.write('Content-Length: 0\r\n\r\n');
      await agent.answered();
      assert.match(agent.status, / 101 /);
      const user = await connect(t, relay.url('user', 'agent'));
      assert.equal(await user.nextText(), 'c');
      await agent.next(({ opcode }) => opcode === 1);
      agent.send(9, '');
      assert.equal((await agent.next(({ opcode }) => opcode === 10)).payload.length, 0);
      agent.send(9, 'x'.repeat(125));
      assert.equal((await agent.next(({ opcode }) => opcode === 10)).payload.toString(), 'x'.repeat(125));
      agent.send(10, '');
      agent.send(1, 'hello');
      assert.equal(await user.nextText(), 'hello');
      user.ws.close();
      assert.equal(await agent.closeCode(), 1000);
      await until(() => agent.ended, 'the connection ends without an echo', 2500);
    });

    test('[R42] permessage-deflate is offered and not accepted; rtt text before the mate is there arrives', async (t) => {
      const relay = await startRelay(t, { forwarder });
      const rtt = '{"ctrlChannel":"102938","type":"rtt","time":1}';
      const browser = await connect(t, relay.url('user', 'rtt', { browser: 1 }), { perMessageDeflate: true });
      assert.equal(browser.ws.extensions, '');
      browser.send(rtt);
      const device = await connect(t, relay.url('device', 'rtt'));
      assert.equal(await device.nextText(), 'c');
      assert.equal(await device.nextText(), rtt);
      device.send(rtt);
      assert.equal(await browser.nextText(), 'c');
      assert.equal(await browser.nextText(), rtt);
    });
  });
}

test('[R42] cookies and ids come with raw @ $ = in the query, and with percent escapes', async (t) => {
  const relay = await startRelay(t);
  const base = `ws://127.0.0.1:${relay.port}/relay`;
  // Each length of padding gives another end; each sealing other characters.
  const cookies = Array.from({ length: 2000 }, (_, n) => userCookie(relay, { pad: 'x'.repeat(n % 3) }));
  const auth = cookies.find((cookie) => cookie.includes('@') && cookie.includes('$') && cookie.endsWith('='));
  assert.ok(auth !== undefined);
  const id = 'a@b$c=d';
  const user = await connect(t, `${base}?auth=${auth}&id=${id}&browser=1`);
  const device = await connect(t, base + relayPath({ rauth: deviceCookie(relay), id }, ''));
  assert.equal(await user.nextText(), 'c');
  assert.equal(await device.nextText(), 'c');
  const plus = await connect(t, `${base}?auth=${auth}&id=one+two`);
  await connect(t, `${base}?rauth=${deviceCookie(relay)}&id=one%2Btwo`);
  assert.equal(await plus.nextText(), 'c', 'a + is a plus');
});

test('[R27] the close codes are those of the table', () => {
  assert.deepEqual(
    Object.values(closeCodes).sort((a, b) => a - b),
    [1000, 1001, 1002, 1009, 4401, 4403, 4404, 4408, 4409, 4410, 4429, 4500, 4502, 4503, 4504],
  );
  assert.deepEqual(
    [closeCodes.goingAway, closeCodes.protocolError, closeCodes.tooBig, closeCodes.peerError, closeCodes.slow],
    [1001, 1002, 1009, 4502, 4503],
  );
  assert.deepEqual(
    [closeCodes.duplicate, closeCodes.denied, closeCodes.noPeer, closeCodes.limit],
    [4409, 4403, 4408, 4429],
  );
});

test('[R29] start and end events of a real session hold exactly what they must', async (t) => {
  const relay = await startRelay(t, { settings: { server: { trustedProxies: ['127.0.0.1'] } } });
  const headers = { headers: { 'X-Forwarded-For': '192.0.2.7' } };
  const device = await connect(t, relay.url('device', 's"1', { nodeid: 'node//pc', p: 2 }), headers);
  const user = await connect(t, relay.url('user', 's"1', { p: 2 }));
  assert.equal(await user.nextText(), 'c');
  assert.equal(await device.nextText(), 'c');
  user.send('12345');
  assert.equal(await device.nextText(), '12345');
  device.send(Buffer.alloc(70_000));
  device.send('');
  await user.next();
  await user.next();
  await new Promise((resolve) => setTimeout(resolve, 1100));
  device.ws.close();
  await user.closed;
  await until(() => relay.events().some(({ msgid }) => msgid === 11), 'the end event');
  const common = {
    etype: 'relay',
    action: 'relaylog',
    domain: '',
    userid: 'user//alice',
    username: 'alice',
    protocol: 2,
    nodeid: 'node//pc',
  };
  const [started, ended] = relay
    .events()
    .filter(({ action }) => action === 'relaylog')
    .map((event) => Object.fromEntries(Object.entries(event).filter(([key]) => key in end || key in start)));
  assert.deepEqual(started, {
    ...common,
    code: 'CPL-1001I',
    msgid: 15,
    msgArgs: ['s"1', '192.0.2.7', '127.0.0.1'],
    msg: 'Started desktop session "s"1" from 192.0.2.7 to 127.0.0.1',
  });
  const { throttledms, ...rest } = ended!;
  assert.equal(typeof throttledms, 'number');
  assert.deepEqual(rest, {
    ...common,
    code: 'CPL-1002I',
    msgid: 11,
    msgArgs: ['s"1', '192.0.2.7', '127.0.0.1', 1],
    msg: 'Ended desktop session "s"1" from 192.0.2.7 to 127.0.0.1, 1 second(s)',
    seconds: 1,
    bytesin: 5,
    bytesout: 70_000,
    messagesin: 1,
    messagesout: 2,
    outcome: 'normal',
    closedby: 'device',
  });
});

/** Names of the fields that R29 lists; the event log adds time and its chain's own. */
const start = Object.fromEntries(
  'code etype action domain userid username guestname msgid msgArgs msg protocol nodeid'
    .split(' ')
    .map((key) => [key, 1]),
);
const end = Object.fromEntries(
  'seconds bytesin bytesout messagesin messagesout outcome closedby throttledms recording'
    .split(' ')
    .map((key) => [key, 1]),
);

test('[R29] each protocol has its word and its numbers; closedby tells who ended the session', async (t) => {
  const relay = await startRelay(t);
  const words: [number, number, number, number, string][] = [
    [0, 0, 13, 9, 'relay'],
    [3, 0, 13, 9, 'relay'],
    [10, 10, 13, 9, 'relay'],
    [100, 100, 13, 9, 'relay'],
    [1, 1, 14, 10, 'terminal'],
    [6, 6, 14, 10, 'terminal'],
    [8, 8, 14, 10, 'terminal'],
    [9, 9, 14, 10, 'terminal'],
    [2, 2, 15, 11, 'desktop'],
    [5, 5, 16, 12, 'file management'],
    [200, 200, 162, 112, 'messenger'],
  ];
  let n = 0;
  for (const [p, protocol, startId, endId, word] of words) {
    const id = `p${p}`;
    const { user, device } = await connectPair(t, relay, id, n % 2 === 0 ? { user: { p } } : { device: { p } });
    const by = (['user', 'device', 'relay'] as const)[n++ % 3]!;
    if (by === 'relay') relay.revoke('', id);
    else (by === 'user' ? user : device).ws.close();
    await Promise.all([user.closed, device.closed]);
    const of = () => relay.events().filter(({ msgArgs }) => Array.isArray(msgArgs) && msgArgs[0] === id);
    await until(() => of().length === 2, `both events of ${id}`);
    const [first, last] = of();
    assert.deepEqual([first?.msgid, last?.msgid, first?.protocol], [startId, endId, protocol], id);
    assert.ok(String(first?.msg).startsWith(`Started ${word} session "${id}" from `), String(first?.msg));
    assert.ok(String(last?.msg).startsWith(`Ended ${word} session "${id}" from `));
    assert.equal(last?.closedby, by);
    assert.equal(last?.outcome, by === 'relay' ? 'revoked' : 'normal');
  }
});
