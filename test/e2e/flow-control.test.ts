import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Client, connectPair } from '../support/client.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';

const mebibyte = 1_048_576;
const count = 400;
const seed = Number(process.env.COUPLET_TEST_SEED ?? Date.now() % 1_000_000);
/** The bound of R23 per direction: high-water mark, one message (with its header), one socket read. */
const boundPerDirection = mebibyte + mebibyte + 16 + 524_288;

/** A small generator with a printed seed, so that a failing schedule can be run again. */
function random(from: number): () => number {
  let state = from | 1;
  return () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    return state / 0x7fffffff;
  };
}

/** Sends numbered messages with the back-pressure a proper client has. */
async function blast(from: Client): Promise<void> {
  for (let i = 0; i < count; i++) {
    const message = Buffer.alloc(mebibyte, i & 0xff);
    message.writeUInt32BE(i, 0);
    while (from.ws.bufferedAmount > 4 * mebibyte) await new Promise((resolve) => setTimeout(resolve, 1));
    from.send(message);
  }
}

/** Checks number, length and content of every message; resolves when all have come. */
function receive(to: Client): Promise<void> {
  let next = 0;
  return new Promise((resolve, reject) => {
    to.ws.removeAllListeners('message');
    to.ws.on('message', (data: Buffer) => {
      const right = data.length === mebibyte && data.readUInt32BE(0) === next && data[mebibyte - 1] === (next & 0xff);
      if (!right) reject(new Error(`message ${next}: length ${data.length}, number ${data.readUInt32BE(0)}`));
      if (++next === count) resolve();
    });
    to.ws.on('close', (code, reason) => reject(new Error(`closed after ${next} messages: ${code} ${reason}`)));
  });
}

/**
 * Samples what the relay buffers as often as the event loop turns; returns the most it saw when stopped. What a second
 * server buffers for the link is read from its metrics.
 */
function watchBuffered(relay: TestRelay): () => number {
  let most = 0;
  let running = true;
  const lookAtLink = async () => {
    while (running) {
      most = Math.max(most, await relay.metric('couplet_link_buffered_bytes'));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  if (relay.other !== undefined) {
    lookAtLink().catch((error) => {
      if (running) throw error;
    });
  }
  const look = () => {
    for (const session of relay.sessions()) most = Math.max(most, session.pair.statistics().bufferedBytes);
    if (running) setImmediate(look);
  };
  look();
  return () => {
    running = false;
    return most;
  };
}

/** Pauses and resumes a reader at random until told to stop. */
function stallAtRandom(reader: Client, next: () => number): () => void {
  let timer: NodeJS.Timeout;
  const step = () => {
    if (reader.ws.isPaused) reader.ws.resume();
    else reader.ws.pause();
    timer = setTimeout(step, reader.ws.isPaused ? next() * 60 : next() * 120);
  };
  step();
  return () => {
    clearTimeout(timer);
    reader.ws.resume();
  };
}

for (const forwarder of ['native', 'portable'] as const) {
  for (const tls of [false, true]) {
    describe(`${forwarder}, ${tls ? 'TLS 1.3' : 'plain'}, seed ${seed}`, () => {
      test('[R23] 400 x 1 MiB to a stalled reader: bounded, nothing lost, in order', { timeout: 60_000 }, async (t) => {
        const relay = await startRelay(t, { forwarder, tls });
        const { user, device } = await connectPair(t, relay, 'stalled');
        device.ws.pause();
        const stop = watchBuffered(relay);
        const all = receive(device);
        const sent = blast(user);
        await until(async () => (await relay.metric('couplet_flow_pauses_total')) > 0, 'the sender is held back');
        // The reader stands still until the relay has taken what it will take.
        let before = -1;
        await until(() => {
          const now = user.ws.bufferedAmount;
          const settled = now === before && now > 0;
          before = now;
          return settled;
        }, 'the sender is stuck');
        device.ws.resume();
        await Promise.all([all, sent]);
        const most = stop();
        t.diagnostic(`most buffered: ${most} bytes, bound ${boundPerDirection}`);
        assert.ok(most > 0, 'the sampling saw nothing');
        assert.ok(most <= boundPerDirection, `${most} bytes were buffered`);
        assert.equal(await relay.metric('couplet_buffered_bytes'), 0);
      });

      for (const stalled of ['device', 'user'] as const) {
        test(`[R23] [R29] a stalled ${stalled} throttles its mate, and statistics say so`, async (t) => {
          const relay = await startRelay(t, { forwarder, tls });
          const pair = await connectPair(t, relay, 'who');
          const [sender, reader] = stalled === 'device' ? [pair.user, pair.device] : [pair.device, pair.user];
          const [session] = relay.sessions();
          const look = () => {
            const { throttledUserToDeviceMs, throttledDeviceToUserMs, throttledBy } = session!.pair.statistics();
            const ms = stalled === 'device' ? throttledUserToDeviceMs : throttledDeviceToUserMs;
            return { ms, sum: throttledUserToDeviceMs + throttledDeviceToUserMs, throttledBy };
          };
          const nobody = { userMs: 0, deviceMs: 0, relayMs: 0 };
          assert.deepEqual(look(), { ms: 0, sum: 0, throttledBy: nobody });
          reader.ws.pause();
          for (let i = 0; i < 32; i++) sender.send(Buffer.alloc(mebibyte, i));
          // It does not end before the reader goes on: what grows is a pause that lasts.
          await until(() => look().ms > 0, 'a pause');
          const first = look();
          await until(() => look().ms > first.ms + 50, 'it counts up to now');
          const second = look();
          assert.deepEqual(second, {
            ms: second.ms,
            sum: second.ms,
            throttledBy: { ...nobody, [`${stalled}Ms`]: second.ms },
          });
          reader.ws.resume();
          for (let i = 0; i < 32; i++) assert.equal((await reader.next()).data[0], i);
          let last = second;
          await until(() => {
            const before = last;
            last = look();
            return last.sum === before.sum;
          }, 'it does not grow any more');
          assert.ok(last.ms >= second.ms);
          assert.deepEqual(last.throttledBy, { ...nobody, [`${stalled}Ms`]: last.sum });
          assert.equal(last.ms, last.sum);
          sender.ws.close(1000);
          await until(() => relay.events().some(({ msgid }) => msgid === 9), 'the end event');
          assert.equal(relay.events().find(({ msgid }) => msgid === 9)?.throttledms, last.sum);
        });
      }

      test('[R23] both directions at once, both readers stalling at random', { timeout: 60_000 }, async (t) => {
        const relay = await startRelay(t, { forwarder, tls });
        const { user, device } = await connectPair(t, relay, 'both');
        const next = random(seed);
        const stop = watchBuffered(relay);
        const all = [receive(device), receive(user)];
        const calm = [stallAtRandom(user, next), stallAtRandom(device, next)];
        const sent = [blast(user), blast(device)];
        await Promise.all([...all, ...sent]);
        for (const end of calm) end();
        const most = stop();
        t.diagnostic(`most buffered: ${most} bytes, bound ${2 * boundPerDirection}`);
        assert.ok(most <= 2 * boundPerDirection, `${most} bytes were buffered`);
      });
    });
  }
}
