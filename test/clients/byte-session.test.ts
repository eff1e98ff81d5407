import assert from 'node:assert/strict';
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { PassThrough, Readable, Writable } from 'node:stream';
import { after, before, test } from 'node:test';
import { WebSocket } from 'ws';
import { runByteSession } from '../../src/clients/byte-session.ts';
import { type ClientHalf, connectHalf } from '../../src/clients/connect.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { mintId } from '../../src/core/ids.ts';
import { startTestRelay, type TestRelay, untilQuiet } from '../support/ws-pair.ts';

const capsText = '{"ctrlChannel":"102938","type":"caps","eof":true}';
const eofText = '{"ctrlChannel":"102938","type":"eof"}';
const MiB = 1024 * 1024;

let relay: TestRelay;
before(async () => {
  relay = await startTestRelay();
});
after(() => relay.close());

function join(id: string): Promise<ClientHalf> {
  return connectHalf({ url: relay.url, id, credential: { parameter: 'auth', cookie: 'x' } });
}

/** One end of a session under test: its streams, and the session's verdict. */
class End {
  readonly input = new PassThrough();
  readonly output = new PassThrough({ highWaterMark: 256 * MiB });
  verdict!: Promise<string>;
  half!: ClientHalf;

  static async join(id: string, options: { capsWaitMs?: number; signal?: AbortSignal } = {}): Promise<End> {
    const end = new End();
    end.half = await join(id);
    end.verdict = verdictOf(runByteSession(end.half, { input: end.input, output: end.output, ...options }));
    return end;
  }

  /** All data until the output ends. */
  async text(): Promise<string> {
    return (await this.output.setEncoding('utf8').toArray()).join('');
  }
}

/** `ok`, or the stable code of the error. */
async function verdictOf(session: Promise<void>): Promise<string> {
  try {
    await session;
    return 'ok';
  } catch (error) {
    assert.ok(error instanceof CoupletError, String(error));
    assert.doesNotMatch(error.message, /[\r\n]/);
    return error.code;
  }
}

/** A mate that is no Couplet client unless it says `caps` itself: what it hears, as `type:text`. */
class RawMate {
  readonly socket: WebSocket;
  readonly heard: string[] = [];
  readonly closed: Promise<number>;

  constructor(id: string) {
    this.socket = new WebSocket(`${relay.url}?id=${id}`);
    this.socket.on('message', (data, binary) => this.heard.push(`${binary ? 'binary' : 'text'}:${data}`));
    this.closed = once(this.socket, 'close').then(([code]) => code);
  }

  async hear(last: string): Promise<void> {
    while (!this.heard.includes(last)) await once(this.socket, 'message');
  }
}

async function withRawMate(options: { capsWaitMs?: number; signal?: AbortSignal } = {}) {
  const id = mintId();
  const end = await End.join(id, options);
  const mate = new RawMate(id);
  await mate.hear('text:c');
  return { end, mate };
}

for (const firstToEnd of ['waiting half', 'newcomer'] as const) {
  test(`[T11] each direction ends on its own; the input of the ${firstToEnd} ends first`, async () => {
    const id = mintId();
    const ends = [await End.join(id), await End.join(id)] as const;
    const [early, late] = firstToEnd === 'waiting half' ? ends : [ends[1], ends[0]];
    early.input.end('request');
    assert.equal(await late.text(), 'request', 'the late one hears the end while its own input is still open');
    late.input.write('answer');
    late.input.end(' in two parts');
    assert.equal(await early.text(), 'answer in two parts');
    assert.deepEqual(await Promise.all([early.verdict, late.verdict]), ['ok', 'ok']);
  });
}

test('[T11] two empty inputs end well', async () => {
  const id = mintId();
  const ends = [await End.join(id), await End.join(id)];
  for (const end of ends) end.input.end();
  for (const end of ends) assert.equal(await end.text(), '');
  assert.deepEqual(await Promise.all(ends.map((end) => end.verdict)), ['ok', 'ok']);
});

test('[T11] caps comes first after the greeting, then data in messages of at most 64 KiB, then eof', async () => {
  const { end, mate } = await withRawMate();
  const data = randomBytes(200_000)
    .toString('latin1')
    .replaceAll(/[^ -~]/g, '.');
  end.input.end(data);
  mate.socket.send(capsText);
  await mate.hear(`text:${eofText}`);
  assert.deepEqual(mate.heard.slice(0, 2), ['text:c', `text:${capsText}`]);
  const messages = mate.heard.slice(2, -1);
  assert.equal(messages.map((text) => text.replace(/^binary:/, '')).join(''), data);
  for (const message of messages) assert.ok(message.length <= 'binary:'.length + 65_536);
  mate.socket.send(eofText);
  assert.equal(await mate.closed, 1000);
  assert.equal(await end.verdict, 'ok');
});

test('[R22] both directions at once: 24 MiB each way in random pieces arrive whole', async () => {
  const seed = randomInt(2 ** 31);
  console.log(`seed ${seed}`);
  const id = mintId();
  const ends = [await End.join(id), await End.join(id)] as const;
  const sent = ends.map((end, index) => {
    const data = Buffer.alloc(24 * MiB);
    let state = seed + index;
    const next = () => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
      return state;
    };
    for (let at = 0; at < data.length; at += 4) data.writeInt32LE(next(), at);
    Readable.from(pieces(data, next)).pipe(end.input);
    return createHash('sha256').update(data).digest('hex');
  });
  const received = await Promise.all(
    ends.map(async ({ output }) => {
      const hash = createHash('sha256');
      for await (const chunk of output) hash.update(chunk);
      return hash.digest('hex');
    }),
  );
  assert.deepEqual(received, [sent[1], sent[0]]);
  assert.deepEqual(await Promise.all(ends.map((end) => end.verdict)), ['ok', 'ok']);
});

function* pieces(data: Buffer, next: () => number): Generator<Buffer> {
  for (let at = 0; at < data.length; ) {
    const size = 1 + ((next() >> 4) % 300_000);
    yield data.subarray(at, at + size);
    at += size;
  }
}

test('[T11] a silent mate that is no Couplet client gets everything, then a close', async () => {
  const { end, mate } = await withRawMate({ capsWaitMs: 50 });
  end.input.end('all of it');
  assert.equal(await mate.closed, 1000);
  assert.deepEqual(mate.heard, ['text:c', `text:${capsText}`, 'binary:all of it']);
  assert.equal(await end.verdict, 'ok');
});

test('[T11] a mate that spoke without caps is no Couplet client: an ended input closes without a wait', async () => {
  const { end, mate } = await withRawMate({ capsWaitMs: 1e9 });
  mate.socket.send(Buffer.from('hello'));
  assert.equal(String((await once(end.output, 'data'))[0]), 'hello');
  end.input.end('all of it');
  assert.equal(await mate.closed, 1000);
  assert.equal(mate.heard.at(-1), 'binary:all of it');
  assert.equal(await end.verdict, 'ok');
});

test('[T11] caps without eof: an end of input is a close', async () => {
  const { end, mate } = await withRawMate({ capsWaitMs: 1e9 });
  mate.socket.send('{"ctrlChannel":"102938","type":"caps"}');
  end.input.end('all of it');
  assert.equal(await mate.closed, 1000);
  assert.equal(await end.verdict, 'ok');
});

test('[T11] caps that come after the input has ended are waited for: the answer is not cut off', async () => {
  const { end, mate } = await withRawMate({ capsWaitMs: 1e9 });
  end.input.end('question');
  await mate.hear('binary:question');
  mate.socket.send(capsText);
  await mate.hear(`text:${eofText}`);
  mate.socket.send(Buffer.from('answer'));
  mate.socket.send(eofText);
  assert.equal(await end.text(), 'answer');
  assert.equal(await mate.closed, 1000);
  assert.equal(await end.verdict, 'ok');
});

test('[T11] the close of a mate that is no Couplet client is the end of its data', async () => {
  const { end, mate } = await withRawMate({ capsWaitMs: 1e9 });
  end.input.end('question');
  await mate.hear('binary:question');
  mate.socket.close(1000);
  assert.equal(await end.text(), '');
  assert.equal(await end.verdict, 'ok');
});

test('[R24] a mate that leaves while there is input left: what it sent arrives, the outcome is an error', async () => {
  const { end, mate } = await withRawMate();
  mate.socket.send(Buffer.from('tail'));
  mate.socket.close(1000);
  assert.equal(await end.verdict, 'CPL_CLIENT_INPUT_CUT');
  assert.equal(String(end.output.read()), 'tail');
});

test('[T11] a Couplet mate that leaves without eof has not ended its data', async () => {
  const { end, mate } = await withRawMate();
  mate.socket.send(capsText);
  mate.socket.send(Buffer.from('tail'));
  end.input.end();
  await mate.hear(`text:${eofText}`);
  mate.socket.close(1000);
  assert.equal(await end.verdict, 'CPL_CLIENT_MATE_LEFT');
  assert.equal(String(end.output.read()), 'tail');
});

test('[T11] a Couplet mate that leaves before it was told eof has not taken the input', async () => {
  const { end, mate } = await withRawMate();
  mate.socket.send(capsText);
  mate.socket.send(eofText);
  mate.socket.close(1000);
  assert.equal(await end.verdict, 'CPL_CLIENT_INPUT_CUT');
});

test('[R27] a connection that breaks is an error on both ends', async () => {
  const { end, mate } = await withRawMate();
  mate.socket.send(capsText);
  mate.socket.terminate();
  assert.equal(await end.verdict, 'CPL_CLIENT_PEER_ERROR');
  const { end: other } = await withRawMate();
  relay.halves.at(-2)?.terminate();
  assert.equal(await other.verdict, 'CPL_CLIENT_BROKEN');
});

test('[R21] keepalive texts, rtt and unknown control texts are neither answered nor data', async () => {
  const { end, mate } = await withRawMate({ capsWaitMs: 1e9 });
  for (const type of ['ping', 'pong', 'rtt', 'later']) mate.socket.send(`{"ctrlChannel":"102938","type":"${type}"}`);
  mate.socket.send('{"ctrlChannel":102938,"type":"ping"}');
  mate.socket.send(capsText);
  mate.socket.send(eofText);
  end.input.end();
  assert.equal(await end.text(), '');
  assert.equal(await mate.closed, 1000);
  assert.deepEqual(mate.heard, ['text:c', `text:${capsText}`, `text:${eofText}`]);
  assert.equal(await end.verdict, 'ok');
});

for (const [what, messages, code] of [
  ['another text', ['what is this'], 'CPL_CLIENT_PROTOCOL'],
  ['error: of an agent (T11)', ['error: cannot reach\n127.0.0.1:22'], 'CPL_CLIENT_MATE_ERROR'],
  ['data after eof', [capsText, eofText, Buffer.from('more')], 'CPL_CLIENT_PROTOCOL'],
  ['a second eof', [capsText, eofText, eofText], 'CPL_CLIENT_PROTOCOL'],
] as const) {
  test(`[T11] ${what} ends the session with an error, and the half is closed`, async () => {
    const { end, mate } = await withRawMate();
    for (const message of messages) mate.socket.send(message);
    assert.equal(await end.verdict, code);
    assert.equal(await mate.closed, 1000);
  });
}

test('[R20] a relay that does not begin with c or cr is not trusted with data', async () => {
  const odd = await startTestRelay({ greeting: 'hello' });
  const credential = { parameter: 'auth', cookie: 'x' } as const;
  const session = connectHalf({ url: odd.url, id: 'a', credential }).then((half) =>
    runByteSession(half, { input: new PassThrough(), output: new PassThrough() }),
  );
  const mate = new WebSocket(`${odd.url}?id=a`);
  assert.equal(await verdictOf(session), 'CPL_CLIENT_PROTOCOL');
  mate.terminate();
  await odd.close();
});

test('[R20] nothing is read from the input before c; cr is as good', async () => {
  const recorded = await startTestRelay({ greeting: 'cr' });
  const credential = { parameter: 'auth', cookie: 'x' } as const;
  const options = { url: recorded.url, id: 'a', credential };
  let reads = 0;
  const input = new Readable({
    highWaterMark: 1,
    read() {
      this.push(reads++ === 0 ? 'data' : null);
    },
  });
  const output = new PassThrough();
  const first = runByteSession(await connectHalf(options), { input, output: new PassThrough().resume() });
  assert.equal(reads, 0);
  const second = runByteSession(await connectHalf(options), { input: Readable.from([]), output });
  assert.equal(String(await output.toArray()), 'data');
  assert.deepEqual(await Promise.all([verdictOf(first), verdictOf(second)]), ['ok', 'ok']);
  await recorded.close();
});

test('[R23] a stalled output stops the sender: bounded here and there, and nothing is lost', async () => {
  const id = mintId();
  const total = 256 * MiB;
  const piece = randomBytes(64 * 1024);
  let read = 0;
  let mostBuffered = 0;
  const input = new Readable({
    highWaterMark: piece.length,
    read() {
      mostBuffered = Math.max(mostBuffered, sender.bufferedBytes);
      if (read === total) return void this.push(null);
      read += piece.length;
      this.push(piece);
    },
  });
  let release: (() => void) | undefined;
  let written = 0;
  let mostWaiting = 0;
  const output = new Writable({
    write(chunk: Buffer, _encoding, done) {
      written += chunk.length;
      mostWaiting = Math.max(mostWaiting, this.writableLength);
      if (read >= total || released) done();
      else release = done;
    },
  });
  let released = false;
  const sender = await join(id);
  const receiver = await join(id);
  const sessions = [
    verdictOf(runByteSession(sender, { input, output: new PassThrough().resume() })),
    verdictOf(runByteSession(receiver, { input: Readable.from([]), output })),
  ];
  await untilQuiet(() => read);
  mostWaiting = Math.max(mostWaiting, output.writableLength);
  assert.ok(read < total / 2, `the sender read on: ${read} bytes`);
  // One message, plus what one socket read (64 KiB) may complete.
  assert.ok(mostWaiting <= 64 * 1024 + 2 * 65_536, `waiting for the output: ${mostWaiting} bytes`);
  assert.ok(mostBuffered <= 64 * 1024 + 16, `waiting for the network: ${mostBuffered} bytes`);
  released = true;
  release?.();
  assert.deepEqual(await Promise.all(sessions), ['ok', 'ok']);
  assert.equal(written, total);
});

test('[R23] both outputs stall at once, then one goes on: it ends although the other still stalls', async () => {
  const id = mintId();
  const ends = [await End.join(id), await join(id)] as const;
  const stalled: (() => void)[] = [];
  let open = false;
  const output = new Writable({
    write(_chunk, _encoding, done) {
      if (open) done();
      else stalled.push(done);
    },
  });
  const input = Readable.from(pieces(Buffer.alloc(32 * MiB), () => 2 ** 22));
  const verdict = verdictOf(runByteSession(ends[1], { input, output }));
  Readable.from(pieces(Buffer.alloc(32 * MiB), () => 2 ** 22)).pipe(ends[0].input);
  let received = 0;
  for await (const chunk of ends[0].output) received += chunk.length;
  assert.equal(received, 32 * MiB, 'the direction whose output is read ends');
  open = true;
  for (const done of stalled) done();
  assert.deepEqual([await ends[0].verdict, await verdict], ['ok', 'ok']);
});

test('[T11] eof right behind data that fills the output: the end is still heard', { timeout: 10_000 }, async () => {
  const id = mintId();
  let release: (() => void) | undefined;
  const output = new Writable({
    highWaterMark: 1,
    write(_chunk, _encoding, done) {
      release = done;
    },
  });
  const verdict = verdictOf(runByteSession(await join(id), { input: Readable.from([]), output }));
  const mate = new RawMate(id);
  await mate.hear('text:c');
  mate.socket.send(capsText);
  await mate.hear(`text:${eofText}`);
  // In one segment, so that eof is read together with the data that pauses the half.
  const relaySide = relay.halves.at(-2) as WebSocket & { _socket: Socket };
  relaySide._socket.cork();
  relaySide.send(Buffer.from('data'));
  relaySide.send(eofText);
  relaySide._socket.uncork();
  while (release === undefined) await new Promise((resolve) => setImmediate(resolve));
  release();
  assert.equal(await verdict, 'ok');
  assert.equal(await mate.closed, 1000);
});

test('[T11] an output whose reader leaves (EPIPE) ends both ends, each with an error of its own', async () => {
  const id = mintId();
  const output = new Writable({
    write: (_chunk, _encoding, done) => done(Object.assign(new Error('broken pipe'), { code: 'EPIPE' })),
  });
  const broken = verdictOf(runByteSession(await join(id), { input: new PassThrough(), output }));
  const mate = await End.join(id);
  mate.input.write('data');
  assert.equal(await broken, 'CPL_CLIENT_OUTPUT_CLOSED');
  assert.equal(await mate.verdict, 'CPL_CLIENT_MATE_LEFT');
});

test('[T11] an input or output that fails is named, and both ends hear of it', async () => {
  for (const [which, code] of [
    ['input', 'CPL_CLIENT_INPUT'],
    ['output', 'CPL_CLIENT_OUTPUT'],
  ] as const) {
    const id = mintId();
    const end = await End.join(id);
    const mate = await End.join(id);
    end.input.write('x');
    await once(mate.output, 'readable');
    end[which].destroy(Object.assign(new Error('disk'), { code: 'EIO' }));
    assert.equal(await end.verdict, code);
    assert.equal(await mate.verdict, 'CPL_CLIENT_MATE_LEFT');
  }
});

test('[T11] a signal ends a session that waits for its mate, and one that runs against a stalled output', async () => {
  const reason = new CoupletError('CPL_CLIENT_STOPPED', 'stop');
  const waiting = new AbortController();
  const end = await End.join(mintId(), { signal: waiting.signal });
  waiting.abort(reason);
  assert.equal(await end.verdict, 'CPL_CLIENT_STOPPED');

  const running = new AbortController();
  const id = mintId();
  const half = await join(id);
  const output = new Writable({ write: () => undefined });
  const verdict = verdictOf(runByteSession(half, { input: new PassThrough(), output, signal: running.signal }));
  const mate = new RawMate(id);
  await mate.hear(`text:${capsText}`);
  for (let index = 0; index < 16; index++) mate.socket.send(randomBytes(MiB));
  await untilQuiet(() => mate.socket.bufferedAmount);
  running.abort(reason);
  assert.equal(await verdict, 'CPL_CLIENT_STOPPED');
  assert.equal((await half.closed).code, 1000, 'the answer to our close frame was read, behind 16 MiB of data');
  assert.equal(await mate.closed, 1000);
});
