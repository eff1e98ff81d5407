import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { WebSocket } from 'ws';
import { type ConnectOptions, connectHalf } from '../../src/clients/connect.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { startTestRelay, type TestRelay } from '../support/ws-pair.ts';

const secret = 'SECRET@$cookie==';
const credential = { parameter: 'auth', cookie: secret } as const;

let relay: TestRelay;
before(async () => {
  relay = await startTestRelay({ refuse: (query) => Number(query.get('status')) || undefined });
});
after(() => relay.close());

async function refusal(options: Partial<ConnectOptions>): Promise<CoupletError> {
  try {
    await connectHalf({ url: relay.url, id: 'a', credential, ...options });
  } catch (error) {
    assert.ok(error instanceof CoupletError, String(error));
    // [R8]
    assert.doesNotMatch(error.message, /SECRET|[\r\n]/);
    return error;
  }
  return assert.fail('it connected');
}

test('[R2] id and cookie travel as they are, beside what the URL holds', async () => {
  const id = 'a b+c&d=@$%/\'"#?';
  const half = await connectHalf({ url: `${relay.url}?p=1&noping=1#top`, id, credential });
  const { target, headers } = relay.requests.at(-1)!;
  assert.ok(!target.includes('+'), 'a plus is a plus in a query (R42), so a space is never written as one');
  const query = new Map(
    target
      .slice(target.indexOf('?') + 1)
      .split('&')
      .map((pair) => pair.split('=').map(decodeURIComponent) as [string, string]),
  );
  assert.deepEqual(Object.fromEntries(query), { p: '1', noping: '1', id, auth: secret });
  // [R42] permessage-deflate would be declined anyway.
  assert.equal(headers['sec-websocket-extensions'], undefined);
  half.terminate();
});

test('[R8] refusals are told by status, without the cookie', async () => {
  for (const [status, code] of [
    [400, 'CPL_CLIENT_BAD_REQUEST'],
    [401, 'CPL_CLIENT_UNAUTHORIZED'],
    [403, 'CPL_CLIENT_FORBIDDEN'],
    [404, 'CPL_CLIENT_NOT_FOUND'],
    [429, 'CPL_CLIENT_TOO_MANY'],
    [503, 'CPL_CLIENT_UNAVAILABLE'],
  ] as const) {
    const error = await refusal({ url: `${relay.url}?status=${status}` });
    assert.equal(error.code, code);
    assert.equal(error.httpStatus, status);
  }
});

test('[R8] a wrong URL or id is told without the URL: a cookie may stand in it', async () => {
  for (const url of ['SECRET', 'http://h/SECRET', 'ws://SECRET:SECRET@h/relay?auth=SECRET', 'ws://h/relay?id=SECRET']) {
    assert.equal((await refusal({ url })).code, 'CPL_CLIENT_URL');
  }
  for (const id of ['', 'line\nbreak', 'é', 'x'.repeat(257)]) {
    assert.equal((await refusal({ id })).code, 'CPL_CLIENT_ID');
  }
});

test('a server that is not there, one that never answers, and a signal end the attempt', async () => {
  const silent = createServer();
  const sockets: import('node:net').Socket[] = [];
  silent.on('connection', (socket) => sockets.push(socket.on('error', () => undefined)));
  silent.listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const url = `ws://127.0.0.1:${(silent.address() as AddressInfo).port}/relay`;

  const late = await refusal({ url, handshakeTimeoutMs: 50 });
  assert.match(late.message, /timed out/);
  const stop = new AbortController();
  const stopped = refusal({ url, signal: stop.signal });
  stop.abort(new CoupletError('CPL_CLIENT_STOPPED', 'stop'));
  assert.equal((await stopped).code, 'CPL_CLIENT_STOPPED');
  for (const socket of sockets) socket.destroy();
  silent.close();
  await once(silent, 'close');

  const absent = await refusal({ url });
  assert.equal(absent.code, 'CPL_CLIENT_CONNECT');
  assert.match(absent.message, /ECONNREFUSED/);
});

test('[R20] a greeting in the same segment as the 101 is not missed, however late the client listens', async () => {
  const mate = new WebSocket(`${relay.url}?id=early`);
  await once(mate, 'open');
  const half = await connectHalf({ url: relay.url, id: 'early', credential });
  mate.send(Buffer.from('data'));
  mate.close(1000);
  await new Promise((resolve) => setTimeout(resolve, 100));
  const heard: string[] = [];
  half.start({ onText: (text) => heard.push(text), onBinary: (data) => heard.push(String(data)) });
  const close = await half.closed;
  assert.deepEqual(heard, ['c', 'data']);
  assert.deepEqual([close.code, close.reason], [1000, 'mate left']);
});

test('[R23] send settles when the message has left: who waits has at most one buffered', async () => {
  const half = await connectHalf({ url: relay.url, id: 'stalled', credential }); // waits: its data is not read
  half.start({ onText: () => undefined, onBinary: () => undefined });
  const chunk = Buffer.alloc(64 * 1024);
  let settled = 0;
  let most = 0;
  const sending = (async () => {
    for (;;) {
      const sent = half.sendBinary(chunk);
      most = Math.max(most, half.bufferedBytes);
      if (!(await sent)) return;
      settled++;
    }
  })();
  for (let seen = -1; seen !== settled; ) {
    seen = settled;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(most <= chunk.length + 16, `${most} bytes buffered`);
  assert.ok(settled < 1000, 'the network took more than 64 MB');
  half.terminate();
  await sending; // the message that never left settles too
});

test('over TLS: the default refuses an unknown certificate, --ca and --insecure take it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-tls-'));
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  execFileSync(
    'openssl',
    [
      ...'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=relay'.split(' '),
      ...['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert],
    ],
    { stdio: 'ignore' },
  );
  const tls = { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') };
  rmSync(folder, { recursive: true });
  const secure = await startTestRelay({ tls });
  const refused = await refusal({ url: secure.url });
  assert.match(refused.message, /--ca FILE/);
  for (const trust of [{ ca: tls.cert }, { insecure: true }]) {
    const half = await connectHalf({ url: secure.url, id: 'a', credential, ...trust });
    half.terminate();
    await half.closed;
  }
  await secure.close();
});
