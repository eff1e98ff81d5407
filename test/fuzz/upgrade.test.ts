import assert from 'node:assert/strict';
import { connect as connectTcp, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { connect, connectPair } from '../support/client.ts';
import { Random } from '../support/random.ts';
import { deviceCookie, relayPath, status, upgradeAnswer, userCookie } from '../support/raw-answer.ts';
import { clientFrame, upgradeHead } from '../support/raw-half.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';

/*
 * The relay runs in this process: a crash of it, or an exception that nobody caught, fails the file. The inputs add up
 * to more than 100,000.
 */
const upgradeInputs = 30_000;
const tlsInputs = 2000;
const framePairs = 2000;
const framesPerPair = 45;

const tokens = [
  ...[
    '\r\n',
    '\n',
    '\r',
    '\0',
    ' ',
    ':',
    ': ',
    '?',
    '&',
    '=',
    '%',
    '%00',
    '%zz',
    '@',
    '$',
    '#',
    ';',
    '/',
    '//',
    '/../',
    '\xff',
  ],
  ...['GET ', 'POST ', 'OPTIONS * HTTP/1.1\r\n', ' HTTP/1.0', ' HTTP/1.1', ' HTTP/2.0', '\r\n\r\n', '\r\n '],
  ...[
    'Content-Length: 0\r\n',
    'Content-Length: -1\r\n',
    'Content-Length: 99999999999999999999\r\n',
    'Content-Length: 5\r\n',
  ],
  ...['Transfer-Encoding: chunked\r\n', 'Upgrade: websocket\r\n', 'Connection: close\r\n', 'Expect: 100-continue\r\n'],
  ...['Sec-WebSocket-Key: x\r\n', 'Sec-WebSocket-Key:\r\n', 'Sec-WebSocket-Version: 99\r\n', 'Host:\r\n'],
  ...[
    'X-Forwarded-For: 1.2.3.4\r\n',
    'X-Forwarded-For: ,,::%eth0,[\r\n',
    'Sec-WebSocket-Extensions: permessage-deflate\r\n',
  ],
  ...[
    'id=',
    'auth=',
    'rauth=',
    'tcpport=70000',
    'nodeid=node//x',
    'p=2',
    '__proto__=1',
    'meshmessenger/',
    '/relay',
    'x'.repeat(5000),
  ],
  '\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c',
  '\r\n\r\n\0\r\nQUIT\n\x21\x21\xff\xff',
];

/** A request with some bytes changed, cut, repeated, or with something put in. */
function mutate(random: Random, base: Buffer): Buffer {
  let bytes = base;
  for (let times = 1 + random.below(4); times > 0; times--) {
    const at = random.below(bytes.length + 1);
    const head = bytes.subarray(0, at);
    const tail = bytes.subarray(at);
    const act = random.below(7);
    if (act === 0 && tail.length > 0) {
      bytes = Buffer.from(bytes);
      bytes[at] = random.below(256);
    } else if (act === 1) bytes = Buffer.concat([head, tail.subarray(random.below(tail.length + 1))]);
    else if (act === 2) bytes = Buffer.concat([head, tail.subarray(0, 40), tail]);
    else if (act === 3) bytes = Buffer.concat([head, random.bytes(random.below(20)), tail]);
    else if (act === 4) bytes = head;
    else bytes = Buffer.concat([head, Buffer.from(random.pick(tokens), 'latin1'), tail]);
  }
  return bytes;
}

/** Sends bytes and takes the answer's first line; hangs up once there is one, or after a moment without. */
function shoot(port: number, bytes: Buffer, n: number, split: number): Promise<string> {
  return new Promise((resolve) => {
    // Addresses of their own, lest the ports of one run out.
    const socket = connectTcp({ host: '127.0.0.1', port, localAddress: `127.0.${1 + (n % 50)}.1`, noDelay: true });
    let answer = '';
    const done = () => {
      clearTimeout(timer);
      socket.resetAndDestroy();
      resolve(answer.slice(0, Math.max(0, answer.indexOf('\r\n'))));
    };
    const timer = setTimeout(done, 250);
    socket.on('connect', () => {
      if (split > 0) {
        socket.write(bytes.subarray(0, split));
        setImmediate(() => setImmediate(() => socket.write(bytes.subarray(split))));
      } else socket.write(bytes);
      timer.refresh();
      // Unfinished requests get no answer: the relay has them in a turn or two.
      setTimeout(() => answer === '' && done(), 25);
    });
    socket.on('data', (chunk) => {
      answer += chunk.toString('latin1');
      if (answer.includes('\r\n')) done();
    });
    socket.on('error', () => {});
    socket.on('close', done);
  });
}

/** Runs `one` for 0 to `count`, `width` at a time. */
async function spread(count: number, width: number, one: (n: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async () => {
    while (next < count) await one(next++);
  };
  await Promise.all(Array.from({ length: width }, lane));
}

/** After all that: alive, nothing left behind, and a pair still works. */
async function unharmed(t: TestContext, relay: TestRelay): Promise<void> {
  if (!relay.tls) assert.equal(await (await fetch(`http://127.0.0.1:${relay.port}/healthz`)).text(), 'ok\n');
  await until(async () => (await relay.metric('couplet_halves{state="paired"}')) === 0, 'no pair is left');
  await until(async () => (await relay.metric('couplet_halves{state="waiting"}')) === 0, 'no half is left');
  assert.equal(await relay.metric('couplet_buffered_bytes'), 0);
  assert.equal(await relay.metric('couplet_pending_upgrades'), 0);
  const { user, device } = await connectPair(t, relay, 'after the storm');
  user.send('still here');
  assert.equal(await device.nextText(), 'still here');
}

test(`${upgradeInputs} mutated upgrade requests: none crashes, hangs or confuses the relay`, async (t) => {
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  const relay = await startRelay(t, {
    settings: {
      server: { trustedProxies: ['127.0.0.0/8'] },
      relay: { upgradesPerAddressPerSecond: 0, maxWaiting: 1000 },
    },
  });
  const bases = [
    upgradeHead(relay.path('user', 'fuzz')),
    upgradeHead(relay.path('device', 'fuzz', { p: 2, nodeid: 'node//x' })),
    upgradeHead(`/acme${relayPath({ auth: userCookie(relay, {}, 'a', 'acme'), id: 'b@c$d' })}`, { Origin: 'null' }),
    upgradeHead(relay.path('user', 'meshmessenger/user//alice/user//bob'), { 'X-Forwarded-For': '1.2.3.4, 5.6.7.8' }),
    'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n',
    upgradeHead('/relay'),
  ].map((text) => Buffer.from(text, 'latin1'));
  const answers = new Map<string, number>();
  await spread(upgradeInputs, 96, async (n) => {
    const bytes = mutate(random, random.pick(bases));
    const line = await shoot(relay.port, bytes, n, random.chance(0.2) ? random.below(bytes.length + 1) : 0);
    answers.set(line, (answers.get(line) ?? 0) + 1);
    assert.ok(
      !/^HTTP\/1\.1 50[03]/.test(line),
      `seed ${random.seed}: ${line} for ${JSON.stringify(bytes.toString('latin1'))}`,
    );
  });
  t.diagnostic(JSON.stringify(Object.fromEntries(answers)));
  for (const code of [101, 200, 400, 401, 404]) {
    assert.ok(
      [...answers.keys()].some((line) => line.startsWith(`HTTP/1.1 ${code} `)),
      `no input was answered ${code}`,
    );
  }
  await unharmed(t, relay);
});

test(`${tlsInputs} garbled TLS hellos and records do no harm`, async (t) => {
  const random = new Random();
  t.diagnostic(`seed ${random.seed}`);
  const relay = await startRelay(t, { tls: true });
  const hello = Buffer.concat([
    Buffer.from('16030100c8010000c40303', 'hex'),
    random.bytes(32),
    Buffer.from('20', 'hex'),
    random.bytes(32),
    Buffer.from('00061301130213030100', 'hex'),
    random.bytes(120),
  ]);
  await spread(tlsInputs, 64, async (n) => {
    const bytes = random.chance(0.2) ? random.bytes(1 + random.below(300)) : mutate(random, hello);
    await shoot(relay.port, bytes, n, random.chance(0.5) ? random.below(bytes.length + 1) : 0);
  });
  await unharmed(t, relay);
});

/** A frame that a client may send, however odd: it keeps the connection. Keeps track of open fragments. */
function oddFrame(random: Random, state: { open: boolean }): Buffer {
  const act = random.below(10);
  if (act === 0) return clientFrame(9, random.bytes(random.below(126)));
  if (act === 1) return clientFrame(10, random.bytes(random.below(126)));
  const fin = random.chance(0.6);
  const opcode = state.open ? 0 : 2;
  state.open = !fin;
  const length = random.pick([0, 0, 1, 2, 125, 126, 127, random.below(300), random.chance(0.02) ? 65_536 : 4]);
  return clientFrame(opcode, Buffer.alloc(length, 7), { fin });
}

/** A frame that is anything: bits, lengths and masks at random, bytes missing or too many. */
function badFrame(random: Random): Buffer {
  const frame = clientFrame(random.below(16), random.bytes(random.below(140)), {
    fin: random.chance(0.5),
    rsv: random.chance(0.3) ? random.below(8) : 0,
    masked: random.chance(0.8),
    ...(random.chance(0.3) ? { declared: BigInt(random.below(1 << 30)) << BigInt(random.below(34)) } : {}),
  });
  const cut = random.chance(0.3) ? frame.subarray(0, random.below(frame.length + 1)) : frame;
  return random.chance(0.5) ? mutate(random, Buffer.concat([cut, random.bytes(20)])) : cut;
}

async function openHalf(relay: TestRelay, path: string): Promise<Socket> {
  const socket = connectTcp({ host: '127.0.0.1', port: relay.port, noDelay: true });
  socket.on('error', () => {});
  socket.write(upgradeHead(path));
  await new Promise<void>((resolve, reject) => {
    socket.once('data', () => resolve());
    socket.once('close', () => reject(new Error('closed before the upgrade')));
  });
  socket.resume();
  return socket;
}

for (const forwarder of ['native', 'portable'] as const) {
  const pairs = forwarder === 'native' ? framePairs : framePairs / 10;
  test(`${pairs * framesPerPair} frames, odd and bad, in any splits, from both halves (${forwarder})`, async (t) => {
    const random = new Random();
    t.diagnostic(`seed ${random.seed}`);
    const relay = await startRelay(t, {
      forwarder,
      settings: {
        // A hold of 2 s: the end of a waiting half that has sent more than the socket takes does not arrive.
        relay: { maxMessageBytes: 70_000, wsPingSeconds: 1, holdMs: 2000, forwarder, upgradesPerAddressPerSecond: 0 },
      },
    });
    await spread(pairs, 16, async (n) => {
      const half = random.chance(0.2) ? 'waits' : 'pairs';
      const first = await openHalf(relay, relay.path('user', `f${n}`));
      const second = half === 'pairs' ? await openHalf(relay, relay.path('device', `f${n}`)) : undefined;
      const states = [{ open: false }, { open: false }];
      const sides = second === undefined ? [first] : [first, second];
      const closed = Promise.all(sides.map((socket) => new Promise((resolve) => socket.once('close', resolve))));
      for (let i = 0; i < framesPerPair - 1; ) {
        const side = random.below(sides.length);
        const frames: Buffer[] = [];
        for (let burst = 1 + random.below(8); burst > 0 && i < framesPerPair - 1; burst--, i++) {
          frames.push(oddFrame(random, states[side]!));
        }
        let bytes: Buffer = Buffer.concat(frames);
        while (bytes.length > 0) {
          const take = random.chance(0.5) ? bytes.length : 1 + random.below(bytes.length);
          sides[side]!.write(bytes.subarray(0, take));
          bytes = bytes.subarray(take);
          if (bytes.length > 0) await new Promise((resolve) => setImmediate(resolve));
        }
      }
      const last = random.pick(sides);
      last.write(badFrame(random));
      if (random.chance(0.5)) last.end();
      setTimeout(() => {
        // Node.js cannot reset a connection whose end it is still sending.
        for (const socket of sides) socket.writableEnded ? socket.destroy() : socket.resetAndDestroy();
      }, random.below(60));
      await closed;
    });
    await unharmed(t, relay);
  });
}

test('[R2] any query at all is answered with 101, 400, 401 or 404', async (t) => {
  const relay = await startRelay(t);
  const auth = userCookie(relay);
  const name = fc.constantFrom(
    'id',
    'auth',
    'rauth',
    'p',
    'nodeid',
    'tcpport',
    'tcpaddr',
    'udpport',
    'browser',
    'hd',
    'x',
    '',
  );
  // What may stand in a request's line: anything but blanks and control characters, in Latin-1.
  const byte = fc.integer({ min: 0x21, max: 0xff }).filter((code) => code !== 0x7f && code !== 0x23);
  const raw = fc.array(byte, { maxLength: 60 }).map((codes) => String.fromCharCode(...codes));
  const value = fc.oneof(raw, fc.constant(auth), fc.string({ unit: 'grapheme' }).map(encodeURIComponent), fc.webUrl());
  const query = fc.array(fc.tuple(name, fc.constantFrom('=', '', '=='), value), { maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(query, async (parts) => {
      const text = parts.map((part) => part.join('')).join('&');
      const code = await status(upgradeAnswer(t, relay, `/relay?${text}`));
      assert.ok([101, 400, 401].includes(code), `${code}`);
    }),
    { numRuns: 300 },
  );
});

test('[R8] any content sealed with the right key is answered with 101, 400 or 401', async (t) => {
  const relay = await startRelay(t, { settings: { auth: { allowNoUser: true } } });
  const odd = fc.oneof(
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom('user//alice', 'node//pc', 'user/', '', 1, 0, -1, 1e300, 80, true, '127.0.0.1', '::%', 'x'),
  );
  const key = fc.constantFrom(
    ...['userid', 'domainid', 'ruserid', 'nouser', 'nid', 'pid', 'p', 'gn', 'vo', 'id', 'ip', 'nodeid'],
    ...['tcpport', 'tcpaddr', 'udpport', 'udpaddr', 'time', 'expire', 'once', '__proto__', 'toString'],
  );
  const base = fc.constantFrom<object>(
    {},
    { userid: 'user//alice', domainid: '' },
    { ruserid: 'user//alice' },
    { nouser: 1, id: 'x' },
    { nid: 'node//pc', pid: 'p', p: 1, gn: 'g', expire: 60, vo: 0 },
  );
  const content = fc.tuple(base, fc.array(fc.tuple(key, odd), { maxLength: 5 }));
  let upgraded = 0;
  await fc.assert(
    fc.asyncProperty(content, fc.boolean(), async ([start, entries], asUser) => {
      const cookie = relay.sealer.seal({ ...start, ...Object.fromEntries(entries) });
      const code = await status(upgradeAnswer(t, relay, relayPath({ [asUser ? 'auth' : 'rauth']: cookie, id: 'x' })));
      assert.ok([101, 400, 401].includes(code), `${code}`);
      if (code === 101) upgraded++;
    }),
    { numRuns: 400 },
  );
  assert.ok(upgraded > 10, `only ${upgraded} got in: the test tests one branch`);
  const check = await connect(
    t,
    `ws://127.0.0.1:${relay.port}${relayPath({ rauth: deviceCookie(relay), id: 'fine' })}`,
  );
  assert.equal(check.isClosed, false);
});
