import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connect } from '../support/client.ts';
import { diskShim } from '../support/disk-shim.ts';
import { clientFrame, rawHalf } from '../support/raw-half.ts';
import { eventsOf, serveRecording } from '../support/recorded-pairs.ts';
import { until } from '../support/relay.ts';

const big = Buffer.alloc(20_000, 'b');
const small = Buffer.concat(Array.from({ length: 500 }, (_, i) => clientFrame(1, `behind ${i}`)));

/** How the message arrives that cannot be recorded any more, and what of it the mate gets before the end. */
const arrivals = {
  'a whole message': { frames: [clientFrame(2, big)], native: [big.toString()] },
  fragments: {
    frames: [clientFrame(2, big.subarray(0, 10_000), { fin: false }), clientFrame(0, big.subarray(10_000))],
    native: [],
  },
};

for (const forwarder of ['native', 'portable'] as const) {
  for (const [what, { frames, native }] of Object.entries(arrivals)) {
    test(`[R35] strict, ${forwarder}: nothing is forwarded behind ${what} at which the recording fails`, async (t) => {
      const shim = diskShim(t);
      if (shim === undefined) return;
      const serve = await serveRecording(t, { mode: 'strict' }, { settings: { relay: { forwarder } }, env: shim.env });
      const user = await rawHalf(t, serve.port, serve.path('user', 'x', { p: 1 }));
      const device = await connect(t, serve.url('device', 'x'));
      assert.equal(await device.nextText(), 'cr');
      const fault = { of: ['mcrec'], hang: true, failWrites: { code: 'EIO' } } as const;
      shim.break(fault);
      user.send(1, 'recorded');
      assert.equal(await device.nextText(), 'recorded');
      await until(() => shim.count('writes') === 1, 'its write is about to fail');

      // The event loop stops before its next read, and goes on when the recording has failed: that comes before the
      // writer tries to end it in the file, which is the second failure. So the failure cannot be told before the read.
      shim.break({ ...fault, holdReads: 2 });
      user.socket.write(Buffer.concat([...frames, small]));
      await until(() => shim.count('heldReads') === 1, 'the burst is there');
      assert.equal(shim.count('failed'), 0);
      shim.goOn();

      assert.equal((await device.closed).code, 4500);
      const got = device.received.map(({ data }) => data.toString());
      assert.deepEqual(got, forwarder === 'native' ? native : [], `${got.length} messages`);
      await until(() => eventsOf(serve, 'CPL-1002I').length === 1, 'the end of the session');
      const [ended] = eventsOf(serve, 'CPL-1002I');
      assert.equal(ended?.outcome, 'recording-failed');
      // The native path counts what one read brings, the portable one stops there.
      assert.equal(ended?.messagesin, forwarder === 'native' ? 502 : 2, 'all was read in one go');
    });
  }
}
