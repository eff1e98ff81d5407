import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import { connect, connectPair } from '../support/client.ts';
import { clientFrame, rawHalf } from '../support/raw-half.ts';
import { startRelay, until } from '../support/relay.ts';

/** What differs between the two implementations is named where it is tested; everything else holds for both. */
for (const forwarder of ['native', 'portable'] as const) {
  for (const tls of [false, true]) {
    const options = { forwarder, tls };
    describe(`${forwarder}, ${tls ? 'TLS 1.3' : 'plain'}`, () => {
      test('[R20] both halves get the text c before anything else', async (t) => {
        const relay = await startRelay(t, options);
        const first = await connect(t, relay.url('user', 'greet'));
        first.send('early');
        const second = await connect(t, relay.url('device', 'greet'));
        assert.deepEqual(await first.next(), { data: Buffer.from('c'), isBinary: false });
        assert.deepEqual(await second.next(), { data: Buffer.from('c'), isBinary: false });
        assert.equal(await second.nextText(), 'early');
        assert.equal(relay.server.forwarder, forwarder);
        assert.equal(await relay.metric('couplet_relayed_messages_total{direction="user_to_device"}'), 1);
      });

      test('[R22] messages arrive whole, in order, with type and length', async (t) => {
        const relay = await startRelay(t, options);
        const { user, device } = await connectPair(t, relay, 'order');
        const lengths = [0, 1, 2, 125, 126, 127, 128, 65535, 65536, 65537, 200_000, 1_000_003];
        for (const [from, to] of [
          [user, device],
          [device, user],
        ] as const) {
          for (const length of lengths) {
            const bytes = randomBytes(length);
            from.send(bytes);
            assert.ok((await to.next()).data.equals(bytes), `binary of ${length}`);
            const text = 'ä'.repeat(length >> 1);
            from.send(text);
            const got = await to.next();
            assert.equal(got.isBinary, false);
            assert.equal(got.data.toString(), text, `text of ${length}`);
          }
        }
      });

      test('[R22] fragments, their control frames between them, and odd splits of the bytes', async (t) => {
        const relay = await startRelay(t, options);
        const user = await rawHalf(t, relay.port, relay.path('user', 'split'), tls);
        const device = await connect(t, relay.url('device', 'split'));
        await user.next(({ opcode }) => opcode === 1);
        assert.equal(await device.nextText(), 'c');
        const bytes = Buffer.concat([
          clientFrame(2, 'one ', { fin: false }),
          clientFrame(9, 'are you there'),
          clientFrame(0, '', { fin: false }),
          clientFrame(0, 'message', { fin: true }),
          clientFrame(1, 'x'.repeat(300)),
          clientFrame(2, ''),
          clientFrame(10, 'unasked pong'),
          clientFrame(2, 'last'),
        ]);
        for (let at = 0; at < bytes.length; at += 7) {
          user.socket.write(bytes.subarray(at, at + 7));
          await new Promise((resolve) => setImmediate(resolve));
        }
        assert.equal((await user.next(({ opcode }) => opcode === 10)).payload.toString(), 'are you there');
        assert.deepEqual(await device.next(), { data: Buffer.from('one message'), isBinary: true });
        assert.deepEqual(await device.next(), { data: Buffer.from('x'.repeat(300)), isBinary: false });
        assert.deepEqual(await device.next(), { data: Buffer.alloc(0), isBinary: true });
        assert.deepEqual(await device.next(), { data: Buffer.from('last'), isBinary: true });
      });

      test('[R15] what a waiting half sends is not read, kept, and delivered first', async (t) => {
        const relay = await startRelay(t, options);
        const first = await connect(t, relay.url('device', 'held'));
        const hash = createHash('sha256');
        const count = 320;
        for (let i = 0; i < count; i++) {
          const bytes = randomBytes(65536);
          hash.update(bytes);
          first.send(bytes);
        }
        // 20 MiB do not fit into the kernel's buffers: unsent bytes stay with the sender because nobody reads.
        await until(() => first.ws.bufferedAmount > 0, 'the sender has handed over what the kernel takes');
        const second = await connect(t, relay.url('user', 'held'));
        assert.ok(first.ws.bufferedAmount > 1_000_000, 'the waiting half was read');
        assert.equal(await second.nextText(), 'c');
        const got = createHash('sha256');
        for (let i = 0; i < count; i++) got.update((await second.next()).data);
        assert.equal(got.digest('hex'), hash.digest('hex'));
      });

      test('[R24] fault 24: a half that closes cleanly: its tail arrives, then 1000', async (t) => {
        const relay = await startRelay(t, options);
        const { user, device } = await connectPair(t, relay, 'tail');
        device.ws.pause();
        const count = 64 * relay.depth;
        for (let i = 0; i < count; i++) user.send(Buffer.alloc(262_144, i));
        user.ws.close(1000, 'done');
        await until(async () => (await relay.metric('couplet_flow_pauses_total')) > 0, 'the sender is held back');
        device.ws.resume();
        for (let i = 0; i < count; i++) {
          const { data } = await device.next();
          assert.equal(data.length, 262_144);
          assert.equal(data[0], i);
        }
        assert.equal((await device.closed).code, 1000);
        assert.equal((await user.closed).code, 1000);
        await until(
          () => relay.events().some(({ action, msgid }) => action === 'relaylog' && msgid === 9),
          'the end event',
        );
        const end = relay.events().find(({ msgid }) => msgid === 9);
        assert.equal(end?.outcome, 'normal');
        assert.equal(end?.closedby, 'user');
        assert.equal(end?.bytesin, count * 262_144);
        assert.equal(end?.messagesin, count);
        assert.equal(end?.bytesout, 0);
      });

      // Node.js cannot reset the connection below a TLS socket; to the relay it is the same event.
      test('[R27] fault 19: a reset in the middle of a message closes the mate', { skip: tls }, async (t) => {
        const relay = await startRelay(t, options);
        const user = await rawHalf(t, relay.port, relay.path('user', 'reset'), tls);
        const device = await connect(t, relay.url('device', 'reset'));
        assert.equal(await device.nextText(), 'c');
        user.send(2, Buffer.alloc(1000), { declared: 5000n });
        user.send(2, Buffer.alloc(1000));
        await until(() => user.socket.writableLength === 0, 'the part is sent');
        user.socket.resetAndDestroy();
        const { code } = await device.closed;
        // Natively the part is on its way (cut-through), so no close frame may follow it.
        assert.ok(code === 4502 || code === 1006, String(code));
        await until(() => relay.events().some(({ outcome }) => outcome === 'peer-error'), 'the outcome');
      });

      test('[R27] a connection that breaks between messages closes the mate with 4502', async (t) => {
        const relay = await startRelay(t, options);
        const { user, device } = await connectPair(t, relay, 'broken');
        user.send('last words');
        assert.equal(await device.nextText(), 'last words');
        user.ws.terminate();
        assert.equal((await device.closed).code, 4502);
        await until(() => relay.events().some(({ outcome }) => outcome === 'peer-error'), 'the outcome');
      });

      test('[R26] fault 15: a message past relay.maxMessageBytes is refused on its header', async (t) => {
        const relay = await startRelay(t, { ...options, settings: { relay: { maxMessageBytes: 1000, forwarder } } });
        const user = await rawHalf(t, relay.port, relay.path('user', 'big'), tls);
        const device = await connect(t, relay.url('device', 'big'));
        assert.equal(await device.nextText(), 'c');
        user.send(2, Buffer.alloc(1000, 7));
        assert.equal((await device.next()).data.length, 1000);
        user.send(2, 'x', { declared: 1001n });
        // uWebSockets.js ends the connection of such a sender itself, without a close frame.
        if (forwarder === 'native') assert.equal(await user.closeCode(), 1009);
        assert.equal((await device.closed).code, 1009);
        await user.closed;
        await until(() => relay.events().some(({ outcome }) => outcome === 'limit'), 'the outcome');
        assert.equal(await relay.metric('couplet_refused_total{reason="message-size"}'), 1);
      });

      test('[R24] hd=1: TCP ends at once after tail and close frame', async (t) => {
        const relay = await startRelay(t, options);
        const user = await connect(t, relay.url('user', 'hard', { hd: 1 }));
        const device = await rawHalf(t, relay.portOf('device'), relay.path('device', 'hard'), tls);
        assert.equal(await user.nextText(), 'c');
        user.send('tail');
        user.ws.close(1000);
        assert.equal((await device.next(({ opcode }) => opcode === 1)).payload.toString(), 'c');
        assert.equal((await device.next(({ opcode }) => opcode === 1)).payload.toString(), 'tail');
        assert.equal(await device.closeCode(), 1000);
        await until(() => device.ended, 'the end of the stream', 1000);
      });

      test('[R42] a peer that does not echo a close frame is closed within 2 s', async (t) => {
        const relay = await startRelay(t, options);
        const user = await connect(t, relay.url('user', 'mute'));
        const device = await rawHalf(t, relay.portOf('device'), relay.path('device', 'mute'), tls);
        device.socket.allowHalfOpen = true;
        assert.equal(await user.nextText(), 'c');
        user.ws.close(1000);
        assert.equal(await device.closeCode(), 1000);
        await until(() => device.ended, 'the end of the stream', 2500);
      });

      test('[R21] keepalive texts at their interval, to both halves, unless noping=1', async (t) => {
        const relay = await startRelay(t, {
          ...options,
          settings: { relay: { pingSeconds: 1, pongSeconds: 2, forwarder } },
        });
        const { user, device } = await connectPair(t, relay, 'alive');
        const quiet = await connectPair(t, relay, 'quiet', { device: { noping: 1 } });
        const seen = new Set<string>();
        while (seen.size < 2) seen.add(await user.nextText());
        assert.deepEqual([...seen].sort(), [
          '{"ctrlChannel":"102938","type":"ping"}',
          '{"ctrlChannel":"102938","type":"pong"}',
        ]);
        assert.match(await device.nextText(), /"type":"p[io]ng"/);
        assert.equal(quiet.user.received.length, 0);
        assert.equal(quiet.device.received.length, 0);
        assert.equal(await relay.metric('couplet_relayed_messages_total{direction="user_to_device"}'), 0);
      });

      test('[R26] idle: no message either way ends the session with 4504', async (t) => {
        const relay = await startRelay(t, { ...options, settings: { relay: { idleMs: 1000, forwarder } } });
        const { user, device } = await connectPair(t, relay, 'idle');
        user.ws.ping();
        assert.equal((await user.closed).code, 4504);
        assert.equal((await device.closed).code, 4504);
        await until(() => relay.events().some(({ outcome }) => outcome === 'idle'), 'the outcome');
      });

      test('[R26] pacing: bytes are held back, none is dropped, the time is counted', async (t) => {
        const relay = await startRelay(t, {
          ...options,
          settings: { relay: { sessionBytesPerSecond: 1_000_000, userBytesPerSecond: 2_000_000, forwarder } },
        });
        const { user, device } = await connectPair(t, relay, 'paced');
        for (let i = 0; i < 24; i++) user.send(Buffer.alloc(65_536, i));
        for (let i = 0; i < 24; i++) assert.equal((await device.next()).data[100], i);
        const { throttledUserToDeviceMs, throttledDeviceToUserMs, throttledBy } = relay
          .sessions()[0]!
          .pair.statistics();
        assert.ok(throttledUserToDeviceMs > 100 && throttledDeviceToUserMs === 0);
        assert.deepEqual(throttledBy, { userMs: 0, deviceMs: 0, relayMs: throttledUserToDeviceMs }, 'by the relay');
        user.ws.close();
        await device.closed;
        await until(() => relay.events().some(({ msgid }) => msgid === 9), 'the end event');
        assert.ok(Number(relay.events().find(({ msgid }) => msgid === 9)?.throttledms) > 100);
      });
    });
  }
}
