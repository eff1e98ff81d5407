import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { loadNative } from '../../src/native/binding.ts';
import { Random } from '../support/random.ts';
import { clientFrame, openRaw, type RawHalf, upgradeHead } from '../support/raw-half.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';
import { requireProgram } from '../support/services.ts';

const rounds = Number(process.env.COUPLET_TEST_ROUNDS ?? 10) * 20;
const leavings = ['reset', 'fin', 'close frame'] as const;

function leave(half: RawHalf, how: (typeof leavings)[number]): void {
  if (how === 'reset') half.socket.resetAndDestroy();
  else if (how === 'fin') half.socket.end();
  else half.socket.write(clientFrame(8, Buffer.from([3, 232])));
}

/** Nothing of any half is left: no claim, no link, no session, no socket. */
async function nothingLeft(relay: TestRelay, what: string): Promise<void> {
  const names = [
    'couplet_links{direction="out"}',
    'couplet_links{direction="in"}',
    'couplet_halves{state="waiting"}',
    'couplet_halves{state="paired"}',
    'couplet_cluster_claims',
  ];
  for (const name of names) await until(async () => (await relay.metric(name)) === 0, `${what}: ${name} is 0`);
  await until(async () => (await relay.redis!.cli('KEYS', '*claim*')) === '', `${what}: no claim in Redis`);
  assert.deepEqual(relay.sessions(), []);
  const { addon } = loadNative();
  await until(() => (addon?.halves() ?? 0) === 0, `${what}: no half's socket is open`);
}

for (const forwarder of ['native', 'portable'] as const) {
  test(`[K2] [K3] [R19] halves that leave at any moment on two servers leave nothing behind (${forwarder})`, async (t) => {
    if (requireProgram(t, 'redis-server') === undefined) return;
    const random = new Random();
    t.diagnostic(`seed ${random.seed}, ${rounds} rounds`);
    const relay = await startRelay(t, { across: true, forwarder });
    let met = 0;
    const one = async (n: number) => {
      const id = `coming-${n}`;
      const what = `seed ${random.seed}, ${id}`;
      const [first, second] = random.chance(0.5) ? (['user', 'device'] as const) : (['device', 'user'] as const);
      const how = random.pick(leavings);
      const waits = [random.below(12), random.below(12)];
      const early = random.chance(0.5);
      const stays = random.chance(0.25);
      const come = async (side: 'user' | 'device') => {
        const half = await openRaw(t, relay.portOf(side));
        half.socket.on('error', () => {});
        half.socket.write(upgradeHead(relay.path(side, id)));
        const sendEarly = () => early && half.send(2, Buffer.alloc(10_000, 1));
        void half.answered().then(sendEarly, () => {});
        return half;
      };
      const [leaver, mate] = await Promise.all([come(first), delay(waits[0]!).then(() => come(second))]);
      if (!stays) {
        await delay(waits[1]!);
        leave(leaver, how);
      }
      // Either they met, or whoever stayed waits.
      const greeted = (half: RawHalf) =>
        half.frames.some(({ opcode, payload }) => opcode === 1 && `${payload}` === 'c');
      if (stays) {
        await until(() => greeted(leaver) && greeted(mate), `${what}: both are greeted`);
        leaver.send(1, 'word');
        await until(() => mate.frames.some(({ payload }) => `${payload}` === 'word'), `${what}: a word`);
        met++;
        if (early) {
          const tail = (half: RawHalf) => half.frames.filter(({ payload }) => payload.length === 10_000).length;
          assert.deepEqual([tail(leaver) + tail(mate)], [2], `${what}: what was early`);
        }
      } else await delay(waits[0]! + 5);
      for (const half of [leaver, mate]) {
        if (random.chance(0.5)) half.socket.destroy();
        else leave(half, random.pick(leavings));
      }
      // Who leaves by a close frame waits for the relay to end the connection.
      await Promise.all([leaver.closed, mate.closed]);
    };
    for (let n = 0; n < rounds; n += 10) await Promise.all(Array.from({ length: 10 }, (_, i) => one(n + i)));
    await nothingLeft(relay, `seed ${random.seed}`);
    assert.ok(met > 0);
    const [starts, ends] = ['CPL-1001I', 'CPL-1002I'].map(
      (code) => relay.events().filter((event) => event.code === code).length,
    );
    assert.equal(starts, ends);
    const linked = await relay.metric('couplet_cluster_rendezvous_total{result="linked"}');
    assert.ok(linked >= met, `${linked} links`);
    t.diagnostic(`${met} stayed, ${starts} met, ${linked} links`);
  });
}
