import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import type { Channel, ChannelWire } from '../../src/cluster/channel.ts';
import { IncomingChannel } from '../../src/cluster/incoming-channel.ts';

/** A channel that waits for the proof, and what became of it. */
function incoming() {
  const told: string[] = [];
  const wire = { close: (code: number) => told.push(`closed ${code}`) } as unknown as ChannelWire;
  const channel = new IncomingChannel({
    wire,
    isProof: (text) => text === 'proof',
    proven: () => {
      told.push('proven');
      return {} as Channel;
    },
    settled: () => told.push('settled'),
    closed: () => told.push('gone'),
  });
  return { channel, told };
}

test('[K3] a proof that came while the event loop stood still is no late one; without one the channel closes', async (t) => {
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const stalled = incoming();
  const silent = incoming();
  mock.timers.tick(4999);
  assert.deepEqual(silent.told, []);
  // The timers of a loop that stood still are due before what has come meanwhile is read.
  mock.timers.tick(1);
  stalled.channel.heard('proof');
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(stalled.told, ['settled', 'proven']);
  assert.deepEqual(silent.told, ['settled', 'closed 4403']);
});
