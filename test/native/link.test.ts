import assert from 'node:assert/strict';
import { test } from 'node:test';
import { figures } from '../../src/native/binding.ts';
import { clientFrame } from '../support/raw-half.ts';
import { until } from '../support/relay.ts';
import { carry, closePayload, cross, dial, LinkPair, limits, native, rawFarServer, rawHalf, Server } from './links.ts';

const serverFrame = (opcode: number, payload: Buffer | string, fin = true) =>
  clientFrame(opcode, payload, { masked: false, fin });
/** As the addon masks: with zeros. */
const zeroMasked = (opcode: number, payload: Buffer | string) => {
  const plain = serverFrame(opcode, payload);
  const body = Buffer.from(payload);
  plain[1]! |= 0x80;
  return Buffer.concat([plain.subarray(0, plain.length - body.length), Buffer.alloc(4), body]);
};
const noHalves = () => until(() => native().halves() === 0, `no halves left, not ${native().halves()}`);

test('[K3] [R22] messages of all sizes cross a link both ways, text and binary, and the memory is freed', async (t) => {
  const { near, far, carrier, session } = await cross(t);
  assert.equal(await near.nextText(), 'c');
  assert.equal(await far.nextText(), 'c');
  let bytes = 0;
  const sizes = [0, 1, 2, 125, 126, 127, 4096, 65_535, 65_536, 65_537, 524_288, 1_048_576, 1_048_579];
  for (const [from, to] of [
    [near, far],
    [far, near],
  ] as const) {
    for (const size of sizes) {
      const data = Buffer.alloc(size, 'abcdefg');
      from.send(data);
      from.send(data.toString());
      if (from === near) bytes += 2 * size;
    }
    for (const size of sizes) {
      const data = Buffer.alloc(size, 'abcdefg');
      for (const isBinary of [true, false]) {
        const got = await to.next();
        assert.equal(got.isBinary, isBinary);
        assert.ok(got.data.equals(data), `${size} bytes`);
      }
    }
  }
  near.ws.close(1000, 'done');
  assert.deepEqual(await far.closed, { code: 1000, reason: 'peer closed' });
  assert.deepEqual(await session.ended, { outcome: 'normal', closedBy: 'user', error: '' });
  assert.deepEqual(await carrier.ended, { outcome: 'normal', closedBy: 'user', error: '' });
  for (const pair of [carrier, session]) {
    const figure = pair.statistics();
    assert.equal(figure[figures.bytesFromUser], bytes);
    assert.equal(figure[figures.messagesFromUser], 2 * sizes.length);
    assert.equal(figure[figures.messagesFromDevice]! - (pair === carrier ? 1 : 0), 2 * sizes.length);
  }
  await noHalves();
});

test('[K3] fragments cross as they come, with pings between them answered on each server', async (t) => {
  const a = new Server(t);
  const near = await rawHalf(t, a);
  const server = await rawFarServer(t);
  const id = await dial(server.port, '/link');
  const link = await server.link;
  new LinkPair(near.id, id, '', limits);

  near.raw.send(1, 'one ', { fin: false });
  near.raw.send(9, 'near ping');
  near.raw.send(0, 'two ', { fin: false });
  near.raw.send(0, '');
  const expected = Buffer.concat([zeroMasked(1, 'one '), zeroMasked(0, 'two '), zeroMasked(0, '')]);
  expected[0] = 1; // no FIN bit
  expected[zeroMasked(1, 'one ').length] = 0;
  assert.deepEqual(await link.atLeast(expected.length), expected);
  assert.deepEqual(await near.raw.next(({ opcode }) => opcode === 10), {
    fin: true,
    opcode: 10,
    payload: Buffer.from('near ping'),
  });

  link.bytes = Buffer.alloc(0);
  const fragments = [serverFrame(2, 'x', false), serverFrame(9, 'far ping'), serverFrame(0, 'y')];
  for (const byte of Buffer.concat(fragments)) link.socket.write(Buffer.from([byte]));
  const first = await near.raw.next();
  const second = await near.raw.next();
  assert.deepEqual([first.fin, first.opcode, `${first.payload}`], [false, 2, 'x']);
  assert.deepEqual([second.fin, second.opcode, `${second.payload}`], [true, 0, 'y']);
  assert.deepEqual(await link.atLeast(14), zeroMasked(10, 'far ping'));
});

test('[K3] what came behind the handshake comes first, whole frames and a partial one', async (t) => {
  const long = Buffer.alloc(70_000, 'long');
  const stream = Buffer.concat([
    serverFrame(1, 'one'),
    serverFrame(9, 'p'),
    serverFrame(2, long),
    serverFrame(1, 'last'),
  ]);
  for (const cut of [0, 1, 5, 6, 8, 9, 17, 18, 500, 70_018, stream.length]) {
    const { near, link } = await carry(t, {}, stream.subarray(0, cut));
    link.socket.write(stream.subarray(cut));
    assert.equal(await near.nextText(), 'one', `cut at ${cut}`);
    assert.ok((await near.next()).data.equals(long), `cut at ${cut}`);
    assert.equal(await near.nextText(), 'last', `cut at ${cut}`);
    assert.deepEqual(await link.atLeast(7), zeroMasked(10, 'p'));
    near.ws.terminate();
    link.socket.destroy();
  }
  await noHalves();
});

test('[K3] a close frame behind the handshake is told to the half, with what came before it', async (t) => {
  const head = Buffer.concat([serverFrame(1, 'tail'), serverFrame(8, closePayload(4502, 'far reason'))]);
  const { near, carrier } = await carry(t, {}, head);
  assert.equal(await near.nextText(), 'tail');
  assert.deepEqual(await near.closed, { code: 4502, reason: 'far reason' });
  assert.deepEqual(await carrier.ended, { outcome: 'peer-error', closedBy: 'device', error: 'broken' });
  await noHalves();
});

test('[K3] pings, texts and close frames of the relay are masked on a link', async (t) => {
  const { near, link, carrier } = await carry(t, { pingMs: 250 });
  assert.deepEqual((await link.atLeast(6)).subarray(0, 6), zeroMasked(9, ''));
  link.bytes = Buffer.alloc(0);
  link.socket.write(serverFrame(10, ''));
  native().sendText(carrier.id, false, 'of the relay');
  native().end(carrier.id, 11, 1001, 'going', true);
  const expected = Buffer.concat([zeroMasked(1, 'of the relay'), zeroMasked(8, closePayload(1001, 'going'))]);
  await until(() => link.bytes.includes(expected), 'text and close frame');
  assert.deepEqual(await near.closed, { code: 1001, reason: 'going' });
});

test('[K3] a masked frame of a server breaks the protocol', async (t) => {
  const { near, link, carrier } = await carry(t);
  link.socket.write(Buffer.concat([serverFrame(1, 'good'), clientFrame(1, 'bad')]));
  assert.deepEqual(await near.closed, { code: 4502, reason: 'peer broke the protocol' });
  assert.deepEqual(await link.atLeast(4), zeroMasked(8, closePayload(1002, 'protocol error')));
  assert.deepEqual(await carrier.ended, { outcome: 'peer-error', closedBy: 'device', error: 'protocol' });
});

test('[R23] [K3] a reader that stalls behind a link pauses its sender; memory is bounded and nothing is lost', async (t) => {
  for (const back of [false, true]) {
    const { near, far, carrier, session } = await cross(t);
    await Promise.all([near.next(), far.next()]);
    const [from, to] = back ? [far, near] : [near, far];
    to.ws.pause();
    const count = 64;
    for (let i = 0; i < count; i++) from.send(Buffer.alloc(1_048_576, i));
    const first = back ? session : carrier;
    const paused = back ? figures.flowPausedFromDevice : figures.flowPausedFromUser;
    let most = 0;
    await until(() => {
      most = Math.max(most, carrier.bufferedBytes, session.bufferedBytes);
      return first.statistics()[paused]! > 500;
    }, 'the sender to be paused for half a second');
    to.ws.resume();
    for (let i = 0; i < count; i++) {
      const { data } = await to.next();
      assert.ok(data.length === 1_048_576 && data[0] === i && data[1_048_575] === i, `message ${i}`);
      most = Math.max(most, carrier.bufferedBytes, session.bufferedBytes);
    }
    assert.ok(most <= limits.highWaterBytes + 524_288 + 14, `${most} bytes were buffered`);
    near.ws.terminate();
    await session.ended;
  }
  await noHalves();
});

test('[K3] a link whose reading waits for a slow half is not taken for dead, nor for stalled', async (t) => {
  const { near, far, carrier, session } = await cross(t, {
    pingMs: 500,
    highWaterBytes: 65_536,
    lowWaterBytes: 32_768,
  });
  await Promise.all([near.next(), far.next()]);
  far.ws.pause();
  // Little by little, until the owner reads the link no more while the carrier has all of it written; where the
  // kernel's buffers are short the last of it may stay with the carrier.
  let sent = 0;
  const reading = () => session.bufferedBytes <= 65_536;
  for (; reading(); sent++) {
    near.send(Buffer.alloc(16_384));
    await until(
      () => !reading() || (near.ws.bufferedAmount === 0 && carrier.bufferedBytes === 0),
      'what was sent to be on its way',
    );
  }
  const start = Date.now();
  let over = false;
  void Promise.race([carrier.ended, session.ended]).then(() => {
    over = true;
  });
  // Six times what an unanswered ping may take.
  await until(() => over || Date.now() - start > 6000, 'six seconds');
  assert.equal(over, false);
  far.ws.resume();
  for (let i = 0; i < sent; i++) await far.next();
});

test('[K3] what is no connection is not adopted, and two links are not paired', async (t) => {
  const server = await rawFarServer(t);
  const other = await rawFarServer(t);
  assert.equal(native().adoptLink(0x7fff, Buffer.alloc(0)), 0);
  const one = await dial(server.port, '/');
  const two = await dial(other.port, '/');
  assert.throws(() => new LinkPair(one, two, '', limits), /could not be paired/);
  native().adopt(one);
  assert.equal(native().isGone(one), false);
  native().close(one, 4403, 'not today');
  assert.deepEqual(await (await server.link).atLeast(17), zeroMasked(8, closePayload(4403, 'not today')));
  (await other.link).socket.resetAndDestroy();
  await until(() => native().isGone(two), 'the other one to be gone');
  await noHalves();
});
