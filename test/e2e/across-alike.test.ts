import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { verifyRecording } from '../../src/recording/verify.ts';
import { claimsIn } from '../support/cluster.ts';
import { relayPath, userCookie } from '../support/raw-answer.ts';
import { clientFrame, type RawHalf, rawHalf } from '../support/raw-half.ts';
import { readRecording, recordingsIn } from '../support/recordings.ts';
import { startRelay, type TestRelay, until } from '../support/relay.ts';
import { requireProgram } from '../support/services.ts';

/** What a half sees of its session's end: code and reason of the close frame, or that there was none. */
async function ending(half: RawHalf): Promise<string> {
  const isClose = ({ opcode }: { opcode: number }) => opcode === 8;
  await until(() => half.ended || half.frames.some(isClose), 'the end', 8000);
  const frame = half.frames.find(isClose);
  if (frame === undefined) return 'cut off';
  // As a proper client answers.
  half.socket.end(clientFrame(8, frame.payload));
  const { payload } = frame;
  return payload.length < 2 ? 'no code' : `${payload.readUInt16BE(0)} ${payload.subarray(2)}`;
}

const texts = (half: RawHalf) => half.frames.filter(({ opcode }) => opcode === 1).map(({ payload }) => String(payload));

interface Pair {
  readonly relay: TestRelay;
  readonly user: RawHalf;
  readonly device: RawHalf;
}

const closeFrame = (code: number, reason = '') => {
  const payload = Buffer.alloc(2 + reason.length, reason);
  payload.writeUInt16BE(code);
  payload.write(reason, 2);
  return clientFrame(8, payload);
};

/** Whether a half has its place: who comes after it comes to it, wherever. */
const isClaimed = async ({ redis }: TestRelay) => (await claimsIn(redis!)).length > 0;

const isWhole = process.env.COUPLET_TEST_ROUNDS !== undefined;

interface Case {
  readonly what: string;
  /** What the mate of whoever acts must be closed with; where nobody acts, both. */
  readonly code: number | 'any';
  /** On the other path it is no end. */
  readonly forwarder?: 'native';
  readonly relaySettings?: Record<string, unknown>;
  readonly settings?: Record<string, Record<string, unknown>>;
  readonly query?: Record<string, string | number>;
  /** Milliseconds from now when the user's cookie ends the session. */
  readonly expireMs?: number;
  readonly act?: (pair: Pair) => unknown;
}

/** Every way for a session to end that one server has. */
const cases: Case[] = [
  { what: 'the user closes', code: 1000, act: ({ user }) => user.socket.write(closeFrame(1000)) },
  {
    what: 'the device closes, with words',
    code: 1000,
    act: ({ device }) => device.socket.write(closeFrame(1000, 'ok')),
  },
  { what: 'the user closes without a code', code: 1000, act: ({ user }) => user.socket.write(clientFrame(8, '')) },
  { what: 'the user goes away', code: 'any', act: ({ user }) => user.socket.write(closeFrame(1001, 'tab closed')) },
  {
    what: 'the device has an error of its own',
    code: 'any',
    act: ({ device }) => device.socket.write(closeFrame(4321, 'x')),
  },
  {
    what: 'the user closes with a code that may not be sent',
    code: 'any',
    act: ({ user }) => user.socket.write(closeFrame(1005)),
  },
  { what: 'the user is reset', code: 4502, act: ({ user }) => user.socket.resetAndDestroy() },
  { what: 'the device is reset', code: 4502, act: ({ device }) => device.socket.resetAndDestroy() },
  { what: 'the user ends its stream', code: 4502, act: ({ user }) => user.socket.end() },
  {
    what: 'a tail and a close frame in one',
    code: 1000,
    act: ({ user }) =>
      user.socket.write(Buffer.concat([clientFrame(1, 'tail'), clientFrame(2, Buffer.alloc(3000)), closeFrame(1000)])),
  },
  {
    what: 'a close frame and the end of the stream',
    code: 1000,
    act: ({ device }) => device.socket.end(closeFrame(1000)),
  },
  { what: 'hd=1', code: 1000, query: { hd: 1 }, act: ({ user }) => user.socket.write(closeFrame(1000)) },
  {
    what: 'a message too big',
    code: 1009,
    relaySettings: { maxMessageBytes: 100_000 },
    act: ({ user }) => user.send(2, 'x', { declared: 100_001n }),
  },
  {
    what: 'a message too big, of the device',
    code: 1009,
    relaySettings: { maxMessageBytes: 100_000 },
    act: ({ device }) => device.send(2, 'x', { declared: 100_001n }),
  },
  {
    what: 'the largest message, and then the end',
    code: 1000,
    relaySettings: { maxMessageBytes: 100_000 },
    act: ({ user }) => {
      user.send(2, Buffer.alloc(100_000));
      user.socket.write(closeFrame(1000));
    },
  },
  // uWebSockets.js takes it on the portable path.
  {
    what: 'a frame without a mask',
    code: 'any',
    forwarder: 'native',
    act: ({ user }) => user.send(2, 'x', { masked: false }),
  },
  { what: 'a reserved opcode', code: 'any', act: ({ device }) => device.send(5, 'x') },
  { what: 'revoked', code: 4410, act: ({ relay }) => assert.ok(relay.revoke('', 'x')) },
  { what: 'the cookie ends', code: 4401, expireMs: 1500 },
  { what: 'idle', code: 4504, relaySettings: { idleMs: 500 } },
  { what: 'too long', code: 4429, relaySettings: { maxSessionMs: 500 } },
];

/** One session over this relay, from its first half to its end event, as far as it must not matter where the halves are. */
async function run(
  t: TestContext,
  across: boolean,
  forwarder: 'native' | 'portable',
  first: 'user' | 'device',
  it: Case,
) {
  const relay = await startRelay(t, {
    across,
    settings: { relay: { forwarder, upgradesPerAddressPerSecond: 0, ...it.relaySettings }, ...it.settings },
  });
  const auth = it.expireMs === undefined ? undefined : userCookie(relay, { expire: Date.now() + it.expireMs });
  const join = (side: 'user' | 'device') =>
    rawHalf(
      t,
      relay.portOf(side),
      side === 'user' && auth ? relayPath({ auth, id: 'x' }) : relay.path(side, 'x', it.query),
    );
  const halves = { [first]: await join(first) } as Record<'user' | 'device', RawHalf>;
  const second = first === 'user' ? 'device' : 'user';
  halves[second] = await join(second);
  const { user, device } = halves;
  await until(() => texts(user).length > 0 && texts(device).length > 0, 'the greetings');
  user.send(1, 'question');
  await until(() => texts(device).includes('question'), 'the question');
  device.send(2, Buffer.alloc(70_000));
  await until(() => user.frames.some(({ payload }) => payload.length === 70_000), 'the answer');
  await it.act?.({ relay, user, device });
  const [userEnd, deviceEnd] = await Promise.all([ending(user), ending(device)]);
  const ofKind = (code: string) => relay.events().filter((event) => event.code === code);
  await until(() => ofKind('CPL-1002I').length > 0, 'the end event');
  await until(async () => (await relay.metric('couplet_halves{state="paired"}')) === 0, 'nothing is left');
  const pick = (event: Record<string, unknown> | undefined, names: readonly string[]) =>
    Object.fromEntries(names.map((name) => [name, event?.[name]]));
  const same = ['action', 'etype', 'domain', 'userid', 'username', 'msgid', 'protocol', 'nodeid'] as const;
  const counted = ['bytesin', 'bytesout', 'messagesin', 'messagesout', 'outcome', 'closedby'] as const;
  return {
    user: {
      end: userEnd,
      texts: texts(user),
      lengths: user.frames.filter(({ opcode }) => opcode < 8).map(({ payload }) => payload.length),
    },
    device: {
      end: deviceEnd,
      texts: texts(device),
      lengths: device.frames.filter(({ opcode }) => opcode < 8).map(({ payload }) => payload.length),
    },
    start: ofKind('CPL-1001I').map((event) => pick(event, same)),
    end: ofKind('CPL-1002I').map((event) => pick(event, [...same, ...counted])),
    codes: relay
      .events()
      .map(({ code }) => String(code))
      .filter((code) => /^CPL-1[0-2]/.test(code))
      .sort(),
    outcomes: await relay.metric(`couplet_session_outcomes_total{outcome="${ofKind('CPL-1002I')[0]?.outcome}"}`),
    bytes: await relay.metric('couplet_relayed_bytes_total{direction="user_to_device"}'),
  };
}

for (const forwarder of ['native', 'portable'] as const) {
  describe(forwarder, { concurrency: 2 }, () => {
    for (const it of cases) {
      if (it.forwarder !== undefined && it.forwarder !== forwarder) continue;
      // What differs between the paths is told by the first of the cases; the others are for `npm run torture`.
      if (forwarder === 'portable' && !isWhole && cases.indexOf(it) % 3 !== 0) continue;
      test(`[K3] [R24] [R27] [R28] [R29] across as here: ${it.what}`, async (t) => {
        if (requireProgram(t, 'redis-server') === undefined) return;
        for (const first of ['user', 'device'] as const) {
          const here = await run(t, false, forwarder, first, it);
          const there = await run(t, true, forwarder, first, it);
          assert.deepEqual(there, here, `${first} first`);
          const ends = [here.user.end, here.device.end]
            .filter((end) => end !== 'cut off')
            .map((end) => end.split(' ')[0]);
          if (it.code !== 'any') assert.ok(ends.includes(String(it.code)), `${ends}`);
        }
      });
    }

    test('[K3] [R27] [R39] across: either server going away ends the session with 1001 on both sides', async (t) => {
      if (requireProgram(t, 'redis-server') === undefined) return;
      for (const leaving of ['server', 'other'] as const) {
        const relay = await startRelay(t, { across: true, forwarder });
        const user = await rawHalf(t, relay.portOf('user'), relay.path('user', 'x'));
        const device = await rawHalf(t, relay.portOf('device'), relay.path('device', 'x'));
        await until(() => texts(user).length > 0 && texts(device).length > 0, 'the greetings');
        const closed = relay[leaving]!.close();
        const ends = await Promise.all([ending(user), ending(device)]);
        assert.deepEqual(
          ends.map((end) => end.split(' ')[0]),
          ['1001', '1001'],
          leaving,
        );
        await closed;
        await until(() => relay.events().some(({ code }) => code === 'CPL-1002I'), 'the end event');
        assert.equal(relay.events().find(({ code }) => code === 'CPL-1002I')?.outcome, 'shutdown', leaving);
      }
    });

    for (const [what, code, other] of [
      ['[R16] another user', 4403, ['device', 'mallory']],
      ['[R17] a second device half', 4403, ['device', 'alice']],
    ] as const) {
      test(`[K3] ${what} is turned away over the link with ${code}, and who waits keeps its place`, async (t) => {
        if (requireProgram(t, 'redis-server') === undefined) return;
        const relay = await startRelay(t, { across: true, forwarder });
        // Who waits is here, and what comes arrives at the other server.
        const side = other[1] === 'alice' ? 'device' : 'user';
        const waiting = await rawHalf(t, relay.server.port, relay.path(side, 'x'));
        await until(() => isClaimed(relay), 'it has its place');
        const newcomer = await rawHalf(t, relay.other!.port, relay.path(other[0], 'x', {}, other[1]));
        assert.match(await ending(newcomer), new RegExp(`^${code} .`));
        assert.equal(waiting.ended, false);
        const mate = await rawHalf(t, relay.other!.port, relay.path(side === 'user' ? 'device' : 'user', 'x'));
        await until(() => texts(waiting).length > 0 && texts(mate).length > 0, 'the greetings');
        assert.deepEqual([texts(waiting), texts(mate)], [['c'], ['c']]);
        const third = await rawHalf(t, relay.other!.port, relay.path('user', 'x'));
        assert.match(await ending(third), /^4409 ./, '[R18]');
        mate.send(1, 'still here');
        await until(() => texts(waiting).includes('still here'), 'the pair is untouched');
      });
    }

    test('[K3] [R15] what a half sends before its link is up comes first, whole and in order, its goodbye last', async (t) => {
      if (requireProgram(t, 'redis-server') === undefined) return;
      const relay = await startRelay(t, { across: true, forwarder });
      for (const [first, second] of [
        ['user', 'device'],
        ['device', 'user'],
      ] as const) {
        for (const count of [1, 40]) {
          const id = `${first}${count}`;
          const waiting = await rawHalf(t, relay.portOf(first), relay.path(first, id));
          const early = Array.from({ length: count }, (_, i) => clientFrame(2, Buffer.alloc(1 + i * 700, i)));
          const coming = await rawHalf(t, relay.portOf(second), relay.path(second, id));
          coming.socket.write(Buffer.concat([...early, closeFrame(1000)]));
          assert.equal(await ending(waiting), '1000 peer closed', id);
          const got = waiting.frames.filter(({ opcode }) => opcode < 8);
          assert.deepEqual([got[0]?.opcode, String(got[0]?.payload)], [1, 'c'], '[R20] the greeting first');
          const lengths = got.slice(1).map(({ payload }) => payload.length);
          assert.deepEqual(
            lengths,
            Array.from({ length: count }, (_, i) => 1 + i * 700),
          );
          await until(() => texts(coming).length > 0, '[R20] who comes is greeted too');
        }
      }
    });
  });
}

test('[K3] [R20] [R33] a recorded session across: cr on both sides, the file whole, at the server that has the session', async (t) => {
  if (requireProgram(t, 'redis-server') === undefined) return;
  const settings = { recording: { mode: 'strict', index: false } };
  for (const first of ['user', 'device'] as const) {
    const relay = await startRelay(t, { across: true, settings });
    const halves = { [first]: await rawHalf(t, relay.portOf(first), relay.path(first, 'rec', { p: 1 })) };
    await until(() => isClaimed(relay), 'its server has the session');
    const second = first === 'user' ? 'device' : 'user';
    halves[second] = await rawHalf(t, relay.portOf(second), relay.path(second, 'rec', { p: 1 }));
    const { user, device } = halves as unknown as Pair;
    await until(() => texts(user).length > 0 && texts(device).length > 0, 'the greetings');
    assert.deepEqual([texts(user), texts(device)], [['cr'], ['cr']]);
    user.send(2, Buffer.alloc(300_000, 1));
    await until(() => device.frames.some(({ payload }) => payload.length === 300_000), 'it came');
    device.send(1, 'answer');
    await until(() => texts(user).includes('answer'), 'the answer');
    user.socket.write(closeFrame(1000));
    await Promise.all([ending(user), ending(device)]);
    await until(() => relay.events().some(({ code }) => code === 'CPL-1203I'), 'the recording is complete');
    const [path, ...more] = recordingsIn(relay.folder);
    assert.deepEqual(more, []);
    assert.equal(dirname(path!), join(relay.folder, first === 'user' ? 'data' : 'other', 'recordings'));
    assert.deepEqual(verifyRecording(path!).problems, []);
    const { messages, state } = readRecording(path!);
    assert.equal(state, 'complete');
    assert.deepEqual(
      messages.map(({ from, data }) => [from, data.length]),
      [
        ['user', 300_000],
        ['device', 6],
      ],
    );
  }
});

test('[K3] [R35] strict: a recording that cannot begin closes both sides of the link with 4500, and not a byte has passed', async (t) => {
  if (requireProgram(t, 'redis-server') === undefined) return;
  for (const forwarder of ['native', 'portable'] as const) {
    const relay = await startRelay(t, { across: true, forwarder, settings: { recording: { mode: 'strict' } } });
    for (const data of ['data', 'other']) rmSync(join(relay.folder, data, 'recordings'), { recursive: true });
    for (const [first, second] of [
      ['user', 'device'],
      ['device', 'user'],
    ] as const) {
      const waiting = await rawHalf(t, relay.portOf(first), relay.path(first, first, { p: 1 }));
      waiting.send(1, 'early');
      const coming = await rawHalf(t, relay.portOf(second), relay.path(second, first, { p: 1 }));
      coming.send(1, 'early');
      const ends = await Promise.all([ending(waiting), ending(coming)]);
      assert.deepEqual(
        ends.map((end) => end.split(' ')[0]),
        ['4500', '4500'],
        first,
      );
      assert.deepEqual([texts(waiting), texts(coming)], [[], []]);
    }
    assert.equal(await relay.metric('couplet_session_outcomes_total{outcome="recording-failed"}'), 2);
  }
});
