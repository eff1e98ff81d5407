import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { connect } from '../support/client.ts';
import { clientFrame, type RawHalf, rawHalf } from '../support/raw-half.ts';
import { startRelay, type TestRelay } from '../support/relay.ts';

const seed = Number(process.env.COUPLET_TEST_SEED ?? Date.now() % 1_000_000);
const rounds = Number(process.env.COUPLET_TEST_ROUNDS ?? 40);

/** mulberry32: small, good enough, and the same from the same seed. */
function random(from: number): () => number {
  let state = from >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

interface Message {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

/** Lengths around every border that a frame header, a chunk or a read has, and some large ones. */
function anyMessage(next: () => number): Message {
  const borders = [0, 1, 125, 126, 127, 65_535, 65_536, 16_384, 524_288];
  const pick = next();
  const length =
    pick < 0.5
      ? Math.floor(next() * 300)
      : pick < 0.8
        ? borders[Math.floor(next() * 9)]!
        : Math.floor(next() * 800_000);
  const isBinary = next() < 0.7;
  // Text has to be UTF-8, which the receiving client checks.
  return { data: Buffer.alloc(length, isBinary ? Math.floor(next() * 256) : 97 + Math.floor(next() * 26)), isBinary };
}

/** A message as client frames: whole or in fragments, with control frames in between. */
function framesOf(message: Message, next: () => number): Buffer[] {
  const opcode = message.isBinary ? 2 : 1;
  if (next() < 0.6) return [clientFrame(opcode, message.data)];
  const frames: Buffer[] = [];
  let at = 0;
  do {
    const take = Math.ceil(next() * (message.data.length - at + 1));
    const part = message.data.subarray(at, at + take);
    const fin = at + take >= message.data.length;
    frames.push(clientFrame(at === 0 ? opcode : 0, part, { fin }));
    if (next() < 0.3) frames.push(clientFrame(next() < 0.5 ? 9 : 10, 'between'));
    at += take;
  } while (at < message.data.length);
  return frames;
}

/** Writes bytes in random pieces, some of them with a turn of the event loop in between, as slow as the socket is. */
async function writeInPieces(half: RawHalf, bytes: Buffer, next: () => number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const take = next() < 0.1 ? 1 + Math.floor(next() * 20) : 1 + Math.floor(next() * 300_000);
    const piece = bytes.subarray(at, at + take);
    at += take;
    if (!half.socket.write(piece)) await new Promise((resolve) => half.socket.once('drain', resolve));
    if (next() < 0.3) await new Promise((resolve) => setImmediate(resolve));
  }
}

async function round(t: Parameters<typeof connect>[0], relay: TestRelay, roundSeed: number): Promise<void> {
  const next = random(roundSeed);
  const id = `diff-${roundSeed}`;
  const senderSide = next() < 0.5 ? 'user' : 'device';
  const readerSide = senderSide === 'user' ? 'device' : 'user';
  const sender = await rawHalf(t, relay.portOf(senderSide), relay.path(senderSide, id), relay.tls);
  const messages = Array.from({ length: 1 + Math.floor(next() * 40) }, () => anyMessage(next));
  const early = Math.floor(next() * 3);
  for (const message of messages.slice(0, early)) {
    for (const frame of framesOf(message, next)) sender.socket.write(frame);
  }
  const reader = await connect(t, relay.url(readerSide, id));
  const back = Array.from({ length: Math.floor(next() * 20) }, () => anyMessage(next));
  const answers = (async () => {
    for (const { data, isBinary } of back) {
      reader.ws.send(data, { binary: isBinary });
      if (next() < 0.2) await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const stalls = setInterval(() => {
    if (reader.ws.isPaused) reader.ws.resume();
    else if (next() < 0.5) reader.ws.pause();
  }, 3);
  for (const message of messages.slice(early)) {
    for (const frame of framesOf(message, next)) await writeInPieces(sender, frame, next);
  }
  await answers;
  const closesAtOnce = next() < 0.5;
  if (!closesAtOnce) {
    const heard: Message[] = [];
    for (let i = 0; i < back.length + 1; ) {
      const frame = await sender.next(({ opcode }) => opcode <= 2 || opcode === 8);
      assert.notEqual(frame.opcode, 8, 'closed before everything was heard');
      if (!frame.fin) throw new Error('the ws client does not fragment');
      heard.push({ data: frame.payload, isBinary: frame.opcode === 2 });
      i++;
    }
    assert.equal(heard.shift()?.data.toString(), 'c');
    assert.deepEqual(heard.map(brief), back.map(brief), `answers of seed ${roundSeed}`);
  }
  sender.send(8, Buffer.from([0x03, 0xe8]));
  clearInterval(stalls);
  reader.ws.resume();
  const { code } = await reader.closed;
  assert.equal(code, 1000);
  const got = reader.received.map(brief);
  assert.deepEqual(
    got,
    [brief({ data: Buffer.from('c'), isBinary: false }), ...messages.map(brief)],
    `seed ${roundSeed}`,
  );
}

/** What is compared: type, length, first and last byte, and whether all bytes are alike as they were sent. */
function brief({ data, isBinary }: Message): string {
  const alike = data.length === 0 || data.every((byte) => byte === data[0]);
  return `${isBinary ? 'binary' : 'text'} ${data.length} ${data[0]} ${alike}`;
}

for (const forwarder of ['native', 'portable'] as const) {
  for (const tls of [false, true]) {
    describe(`${forwarder}, ${tls ? 'TLS 1.3' : 'plain'}, seed ${seed}, ${rounds} rounds`, () => {
      test('[R22] fault 25: what is delivered equals what was sent, for random scripts', {
        timeout: 240_000,
      }, async (t) => {
        const relay = await startRelay(t, { forwarder, tls });
        for (let i = 0; i < rounds; i++) await round(t, relay, seed + i);
        const normal = await relay.metric('couplet_session_outcomes_total{outcome="normal"}');
        assert.equal(normal, rounds);
      });
    });
  }
}
