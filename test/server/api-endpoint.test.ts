import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import {
  ApiEndpoint,
  type ApiEndpointParts,
  type HttpApiAnswer,
  type HttpApiRequest,
} from '../../src/server/api-endpoint.ts';
import { Listener } from '../../src/server/app.ts';

const json = (body: unknown, headers: Record<string, string> = {}): HttpApiAnswer => ({
  kind: 'json',
  status: 200,
  headers,
  body,
});

interface Started {
  readonly endpoint: ApiEndpoint;
  readonly port: number;
  readonly failures: unknown[];
}

function start(t: TestContext, dispatch: ApiEndpointParts['dispatch'], more: Partial<ApiEndpointParts> = {}): Started {
  const failures: unknown[] = [];
  const endpoint = new ApiEndpoint({
    dispatch,
    clientAddress: ({ tcp, forwardedFor }) => `${tcp} ${forwardedFor}`,
    admit: () => true,
    accepting: () => true,
    failed: (error) => failures.push(error),
    ...more,
  });
  const register = (app: Parameters<ApiEndpoint['register']>[0]) => {
    endpoint.register(app, false);
    app.any('/*', (res) => {
      res.end('other');
    });
  };
  const listener = new Listener({ host: '127.0.0.1', port: 0, tls: undefined, register });
  listener.listen();
  t.after(() => listener.close());
  return { endpoint, port: listener.port, failures };
}

/** Sends raw bytes; gathers what comes until the server closes. */
async function raw(port: number, ...parts: readonly string[]): Promise<string> {
  const socket = await open(port);
  for (const part of parts) socket.write(part, 'latin1');
  let text = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => {
    text += chunk;
  });
  socket.on('error', () => {});
  await once(socket, 'close');
  return text;
}

async function open(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  return socket;
}

async function get(port: number, path = '/api/v1/x', method = 'GET', body = ''): Promise<IncomingMessage> {
  const request = httpRequest({ port, host: '127.0.0.1', path, method, agent: false });
  request.end(body);
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return response;
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

/** Polls, since nothing tells; rejects after 5 s. */
async function until(what: string, holds: () => boolean): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail(what);
}

const head = (method: string, ...lines: string[]) =>
  `${[`${method} /api/v1/x HTTP/1.1`, 'Host: h', ...lines].join('\r\n')}\r\n\r\n`;

test('a request arrives as it was sent, and connections are kept', async (t) => {
  const seen: HttpApiRequest[] = [];
  const { port } = start(t, async (request) => {
    seen.push(request);
    return json({ n: seen.length });
  });
  const first = head(
    'PATCH',
    'Content-Length: 4',
    'Content-Type: text/x',
    'Origin: o',
    'Cookie: a=1',
    'Cookie: b=2',
    'X-Forwarded-For: 1.1.1.1',
    'X-Forwarded-For: 2.2.2.2',
  );
  const socket = await open(port);
  socket.setEncoding('latin1');
  socket.write(`${first}Gü`);
  socket.write('!', 'latin1');
  const [answer] = (await once(socket, 'data')) as [string];
  assert.match(answer, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\n\{"n":1\}$/);
  assert.match(answer, /cache-control: no-store\r\n/i);
  assert.match(answer, /x-content-type-options: nosniff\r\n/i);
  socket.write('DELETE /api/v1/a%2Fb?q=%20&r HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n');
  await once(socket, 'close');
  assert.deepEqual(seen[0], {
    method: 'PATCH',
    path: '/api/v1/x',
    query: '',
    headers: {
      authorization: '',
      cookie: 'a=1;b=2',
      origin: 'o',
      contentType: 'text/x',
      range: '',
      ifRange: '',
      lastEventId: '',
    },
    body: 'Gü!',
    address: '127.0.0.1 1.1.1.1,2.2.2.2',
    scheme: 'http',
    host: 'h',
  });
  assert.deepEqual(
    [seen[1]!.method, seen[1]!.path, seen[1]!.query, seen[1]!.body],
    ['DELETE', '/api/v1/a%2Fb', 'q=%20&r', ''],
  );
});

test('a body that is too large is 413, declared or not; one that is no UTF-8 is 400', async (t) => {
  let dispatched = 0;
  const { port, endpoint } = start(t, async () => json(++dispatched), { limits: { maxBodyBytes: 1_000 } });
  assert.match(await raw(port, head('POST', 'Content-Length: 1001')), /^HTTP\/1\.1 413 .*CPL_API_BODY_SIZE/s);
  const chunk = `${(600).toString(16)}\r\n${'x'.repeat(600)}\r\n`;
  const chunked = await raw(port, head('POST', 'Transfer-Encoding: chunked'), chunk, chunk);
  assert.match(chunked, /^HTTP\/1\.1 413 /);
  assert.match(await raw(port, head('POST', 'Content-Length: 2'), '\xff\xfe'), /^HTTP\/1\.1 400 .*CPL_API_VALUE/s);
  assert.equal(dispatched, 0);
  const fits = await get(port, '/api/v1/x', 'POST', 'x'.repeat(1_000));
  assert.equal(fits.statusCode, 200);
  await until('all are over', () => endpoint.pending === 0);
});

test('a body that does not come in time is 408; one that is broken off leaves nothing behind', async (t) => {
  let dispatched = 0;
  const { port, endpoint } = start(t, async () => json(++dispatched), { limits: { bodyMs: 200 } });
  assert.match(await raw(port, head('POST', 'Content-Length: 10'), 'abc'), /^HTTP\/1\.1 408 .*CPL_API_BODY_TIME/s);
  const socket = await open(port);
  socket.write(`${head('POST', 'Content-Length: 10')}abc`);
  await until('it is under way', () => endpoint.pending === 1);
  socket.destroy();
  await until('it is over', () => endpoint.pending === 0);
  assert.equal(dispatched, 0);
});

test('a peer that goes before its answer is left alone', async (t) => {
  let answer: (value: HttpApiAnswer) => void = () => {};
  const { port, endpoint, failures } = start(t, () => new Promise((resolve) => (answer = resolve)));
  const socket = await open(port);
  socket.write(head('GET'));
  await until('it is under way', () => endpoint.pending === 1);
  socket.destroy();
  await until('it is over', () => endpoint.pending === 0);
  answer(json('too late'));
  await new Promise(setImmediate);
  // Pipelined requests are none of uWebSockets.js's; whatever it does, nothing breaks.
  const pipelined = await open(port);
  pipelined.on('error', () => {});
  pipelined.write(head('GET') + head('GET'));
  await until('one is under way or all are over', () => endpoint.pending <= 1);
  pipelined.destroy();
  await until('it is over', () => endpoint.pending === 0);
  assert.deepEqual(failures, []);
});

test('requests at once are bounded: 503; by address: 429; a server that goes away: 503', async (t) => {
  const waiting: ((value: HttpApiAnswer) => void)[] = [];
  let accepting = true;
  let admitted = true;
  const { port, endpoint } = start(t, () => new Promise((resolve) => waiting.push(resolve)), {
    limits: { maxPending: 2 },
    accepting: () => accepting,
    admit: () => admitted,
  });
  const held = [get(port), get(port)];
  await until('both are under way', () => waiting.length === 2);
  const third = await get(port);
  assert.deepEqual([third.statusCode, third.headers['retry-after']], [503, '1']);
  for (const answer of waiting) answer(json('ok'));
  for (const response of await Promise.all(held)) assert.equal(response.statusCode, 200);
  assert.equal(endpoint.pending, 0);
  admitted = false;
  assert.equal((await get(port)).statusCode, 429);
  accepting = false;
  assert.equal((await get(port)).statusCode, 503);
});

test('a dispatcher that fails is 500; a header that breaks lines is not written (fault 34)', async (t) => {
  const { port, failures } = start(t, async ({ path }) => {
    if (path.endsWith('fails')) throw new Error('secret');
    return json('ok', { 'x-good': 'yes', 'x-bad': 'a\r\nset-cookie: x=1' });
  });
  const failed = await get(port, '/api/v1/fails');
  assert.equal(failed.statusCode, 500);
  assert.doesNotMatch(await textOf(failed), /secret/);
  const { headers } = await get(port);
  assert.deepEqual([headers['x-good'], headers['x-bad'], headers['set-cookie']], ['yes', undefined, undefined]);
  assert.equal(failures.length, 2);
});

test('text in an answer that would break lines is escaped, and is the same to who reads it', async (t) => {
  const body = { name: '\u2028\u202e\u0000\u001b[0m\u009b', key: '\n' };
  const { port } = start(t, async () => json(body));
  const text = await textOf(await get(port));
  assert.match(text, /^[\x20-\x7e]+$/);
  assert.deepEqual(JSON.parse(text), body);
});

const chunkBytes = 64 * 1024;

/** Counts how far a source was read, and whether it was left. */
function source(chunks: number) {
  const state = { pulled: 0, left: false };
  async function* make() {
    try {
      for (let i = 0; i < chunks; i++) {
        state.pulled++;
        yield Buffer.alloc(chunkBytes, i % 251);
      }
    } finally {
      state.left = true;
    }
  }
  return { state, make };
}

test('a stream arrives whole, and a reader that rests holds its source', { timeout: 30_000 }, async (t) => {
  const chunks = 512;
  const { state, make } = source(chunks);
  const bytes = chunks * chunkBytes;
  const headers = { 'content-range': `bytes 0-${bytes - 1}/${bytes + 1}` };
  const { port, endpoint } = start(t, async () => ({
    kind: 'stream',
    status: 206,
    headers,
    contentType: 'application/x',
    bytes,
    chunks: make(),
  }));
  const response = await get(port);
  assert.equal(response.statusCode, 206);
  assert.deepEqual(
    [response.headers['content-length'], response.headers['content-type'], response.headers['content-range']],
    [String(bytes), 'application/x', headers['content-range']],
  );
  let before = -1;
  await until('the source rests', () => {
    const rests = state.pulled === before;
    before = state.pulled;
    return rests;
  });
  assert.ok(state.pulled < chunks / 2, `${state.pulled} chunks of ${chunks} were read ahead`);
  let at = 0;
  for await (const chunk of response) {
    for (const byte of chunk as Buffer) {
      if (byte !== Math.floor(at / chunkBytes) % 251) assert.fail(`byte ${at} is ${byte}`);
      at++;
    }
  }
  assert.equal(at, bytes);
  await until('it is over', () => endpoint.streams === 0 && state.left);
  assert.equal((await get(port, '/api/v1/x', 'HEAD')).headers['content-length'], String(bytes));
});

test('a stream whose reader goes is left; one that breaks, or ends too early, breaks the connection', {
  timeout: 30_000,
}, async (t) => {
  const { state, make } = source(512);
  async function* broken() {
    yield Buffer.alloc(10);
    await new Promise(setImmediate);
    throw new Error('the disk is gone');
  }
  async function* short() {
    yield Buffer.alloc(10);
    await new Promise(setImmediate);
  }
  const { port, endpoint, failures } = start(t, async ({ path }) => {
    const chunks = path.endsWith('broken') ? broken() : path.endsWith('short') ? short() : make();
    return { kind: 'stream', status: 200, headers: {}, contentType: 'x/y', bytes: 512 * chunkBytes, chunks };
  });
  const response = await get(port);
  response.destroy();
  await until('the source is left', () => state.left && endpoint.streams === 0);
  assert.ok(state.pulled < 512);
  assert.deepEqual(failures, []);
  for (const path of ['broken', 'short']) {
    await assert.rejects(textOf(await get(port, `/api/v1/${path}`)), /aborted/);
  }
  assert.equal(failures.length, 2);
  assert.equal(endpoint.streams, 0);
});

test('server-sent events come one by one until the reader goes', { timeout: 30_000 }, async (t) => {
  let gone = false;
  const { port, endpoint, failures } = start(t, async () => ({
    kind: 'events',
    status: 200,
    headers: {},
    open: async function* (signal) {
      yield 'data: 1\n\n';
      yield 'data: 2\n\n';
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      gone = true;
    },
  }));
  const response = await get(port);
  assert.equal(response.headers['content-type'], 'text/event-stream');
  response.setEncoding('latin1');
  let text = '';
  response.on('data', (chunk: string) => (text += chunk));
  response.on('error', () => {});
  await until('both came', () => text.includes('data: 2\n\n'));
  assert.equal(text, ':\n\ndata: 1\n\ndata: 2\n\n');
  assert.deepEqual([endpoint.streams, endpoint.pending], [1, 0], 'a stream is no pending request');
  response.destroy();
  await until('the source heard of it', () => gone && endpoint.streams === 0);
  const second = await get(port);
  second.on('error', () => {});
  second.resume();
  await until('another one', () => endpoint.streams === 1);
  endpoint.close();
  await new Promise((resolve) => second.on('close', resolve));
  await until('ended by the server', () => endpoint.streams === 0);
  assert.deepEqual(failures, []);
});

test('a reader of events that rests holds their source', { timeout: 30_000 }, async (t) => {
  let made = 0;
  const { port, endpoint } = start(t, async () => ({
    kind: 'events',
    status: 200,
    headers: {},
    open: async function* (signal) {
      for (; made < 100_000 && !signal.aborted; made++) yield `data: ${'x'.repeat(1_000)}\n\n`;
    },
  }));
  const socket = await open(port);
  socket.pause();
  socket.write(head('GET'));
  let before = -1;
  await until('the source rests', () => {
    const rests = made > 0 && made === before;
    before = made;
    return rests;
  });
  assert.ok(made < 50_000, `${made} were made ahead`);
  socket.destroy();
  await until('it is over', () => endpoint.streams === 0);
});
