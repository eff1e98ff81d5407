import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { connect, connectPair } from '../support/client.ts';
import { startRelay } from '../support/relay.ts';

/** No close frame may be cut off because it was the last thing the server had to do. */
for (const forwarder of ['native', 'portable'] as const) {
  for (const tls of [false, true]) {
    describe(`${forwarder}, ${tls ? 'TLS' : 'plain'}`, () => {
      test('[R39] with waiting halves alone, they get 1001', async (t) => {
        const relay = await startRelay(t, { forwarder, tls });
        const waiting = await connect(t, relay.url('user', 'alone'));
        const closing = relay.server.close();
        assert.equal((await waiting.closed).code, 1001);
        await closing;
      });

      test('[R39] the last session gets 1001 on both sides, also in a hurry', async (t) => {
        const relay = await startRelay(t, { forwarder, tls, settings: { server: { drainMs: 60_000 } } });
        const { user, device } = await connectPair(t, relay, 'last');
        const closing = Promise.all([relay.server.close(), relay.server.close()]);
        assert.equal((await user.closed).code, 1001);
        assert.equal((await device.closed).code, 1001);
        await closing;
      });

      test('[R24] a session that ends by itself while draining: its tail arrives, then 1000', async (t) => {
        const relay = await startRelay(t, { forwarder, tls, settings: { server: { drainMs: 60_000 } } });
        const { user, device } = await connectPair(t, relay, 'itself');
        device.ws.pause();
        for (let i = 0; i < 24; i++) user.send(Buffer.alloc(262_144, i));
        const closing = relay.server.close();
        user.ws.close(1000);
        device.ws.resume();
        for (let i = 0; i < 24; i++) assert.equal((await device.next()).data[262_143], i);
        assert.equal((await device.closed).code, 1000);
        await closing;
      });
    });
  }
}
