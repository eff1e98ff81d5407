import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Client } from '../support/client.ts';
import { clientFrame } from '../support/raw-half.ts';
import { until } from '../support/relay.ts';
import {
  carry,
  clientHalf,
  closePayload,
  cross,
  dial,
  type End,
  LinkPair,
  limits,
  native,
  own,
  rawHalf,
  Server,
} from './links.ts';

/** What a link's close code makes of the pair; `SIDE` stands for the side of the link half. */
const codes: readonly [code: number, outcome: string, closedBy: string, error: string, keepsTail: boolean][] = [
  [1000, 'normal', 'SIDE', '', true],
  [1001, 'shutdown', 'relay', '', true],
  [1002, 'peer-error', 'SIDE', '', false],
  [1009, 'limit', 'relay', 'too-big', false],
  [1011, 'peer-error', 'relay', '', false],
  [4401, 'expired', 'relay', '', false],
  [4403, 'denied', 'relay', '', false],
  [4404, 'no-peer', 'relay', '', false],
  [4408, 'no-peer', 'relay', '', false],
  [4409, 'duplicate', 'relay', '', false],
  [4410, 'revoked', 'relay', '', false],
  [4429, 'limit', 'relay', '', false],
  [4500, 'recording-failed', 'relay', '', false],
  [4502, 'peer-error', 'SIDE', 'broken', true],
  [4503, 'slow', 'relay', 'stalled', false],
  [4504, 'idle', 'relay', '', false],
];

/** More than the kernel's buffers hold, so that a part of it is the relay's backlog. */
const tailMessages = 32;
const tailBytes = 1_048_576;
const roomy = { highWaterBytes: 1 << 28, lowWaterBytes: 1 << 27 };
const noHalves = () => until(() => native().halves() === 0, `no halves left, not ${native().halves()}`);

/** Reads on to the end; the number of messages that came. */
async function readTail(client: Client): Promise<number> {
  client.ws.resume();
  await client.closed;
  assert.ok(client.received.every(({ data }, i) => data.length === tailBytes && data[0] === i));
  return client.received.length;
}

const expectedEnd = ([, outcome, closedBy, error]: (typeof codes)[number], side: string): End => ({
  outcome,
  closedBy: closedBy === 'SIDE' ? side : closedBy,
  error,
});

describe('[K3] close codes travel', () => {
  for (const row of codes) {
    const [code, , , , keepsTail] = row;
    const reason = `why it was ${code}`;

    test(`from the carrier to the owner: ${code}`, async (t) => {
      const { link, far, session } = await own(t, roomy);
      assert.equal(await far.nextText(), 'c');
      far.ws.pause();
      for (let i = 0; i < tailMessages; i++) link.send(2, Buffer.alloc(tailBytes, i));
      await until(() => session.bufferedBytes > tailBytes && session.statistics()[2] === tailMessages, 'a backlog');
      link.send(8, closePayload(code, reason));
      assert.equal(await link.closeCode(), code);
      const came = await readTail(far);
      assert.equal(came === tailMessages, keepsTail, `${came} messages`);
      assert.deepEqual(await far.closed, { code, reason: code === 1000 ? 'peer closed' : reason });
      assert.deepEqual(await session.ended, expectedEnd(row, 'user'));
      await link.closed;
      await noHalves();
    });

    test(`from the owner to the carrier: ${code}`, async (t) => {
      const { link, near, carrier } = await carry(t, roomy);
      near.ws.pause();
      for (let i = 0; i < tailMessages; i++)
        link.socket.write(clientFrame(2, Buffer.alloc(tailBytes, i), { masked: false }));
      await until(() => carrier.bufferedBytes > tailBytes && carrier.statistics()[3] === tailMessages, 'a backlog');
      link.socket.write(clientFrame(8, closePayload(code, reason), { masked: false }));
      const answer = (await link.atLeast(8)).subarray(0, 8);
      assert.deepEqual(answer, Buffer.from([0x88, 0x82, 0, 0, 0, 0, code >> 8, code & 0xff]));
      const came = await readTail(near);
      assert.equal(came === tailMessages, keepsTail, `${came} messages`);
      assert.deepEqual(await near.closed, { code, reason });
      assert.deepEqual(await carrier.ended, expectedEnd(row, 'device'));
      await noHalves();
    });
  }

  test('an empty close frame of a link is a clean close, and a code that may not be sent is not', async (t) => {
    const empty = await own(t);
    empty.link.send(8, '');
    assert.deepEqual(await empty.far.closed, { code: 1000, reason: 'peer closed' });
    const wrong = await own(t);
    wrong.link.send(8, closePayload(1006, 'x'));
    assert.deepEqual(await wrong.far.closed, { code: 4502, reason: 'x' });
    assert.deepEqual(await wrong.session.ended, { outcome: 'peer-error', closedBy: 'relay', error: '' });
  });
});

/** How the carrier's half ends, and what both servers and the far half are to say. */
const ends: readonly {
  readonly name: string;
  readonly code: number;
  readonly owner: End;
  readonly keepsTail?: boolean;
  readonly limits?: Partial<typeof limits>;
  readonly end: (half: Awaited<ReturnType<typeof rawHalf>>['raw'], far: Client) => void;
}[] = [
  {
    name: 'closes cleanly, with a code of its own',
    code: 1000,
    keepsTail: true,
    owner: { outcome: 'normal', closedBy: 'user', error: '' },
    end: (half) => half.send(8, closePayload(3333, 'mine')),
  },
  {
    name: 'ends its stream',
    code: 4502,
    keepsTail: true,
    owner: { outcome: 'peer-error', closedBy: 'user', error: 'broken' },
    end: (half) => half.socket.end(),
  },
  {
    name: 'ends its stream inside a frame',
    code: 1006, // nothing may follow the frame's beginning, on either server
    owner: { outcome: 'peer-error', closedBy: 'user', error: 'broken' },
    end: (half) => {
      half.socket.end(clientFrame(2, 'x', { declared: 10n }));
    },
  },
  {
    name: 'is reset',
    code: 4502,
    owner: { outcome: 'peer-error', closedBy: 'user', error: 'broken' },
    end: (half) => half.socket.resetAndDestroy(),
  },
  {
    name: 'breaks the protocol',
    code: 4502,
    owner: { outcome: 'peer-error', closedBy: 'user', error: 'broken' },
    end: (half) => half.send(2, 'x', { masked: false }),
  },
  {
    name: 'sends too much',
    code: 1009,
    owner: { outcome: 'limit', closedBy: 'relay', error: 'too-big' },
    end: (half) => half.send(2, 'x', { declared: BigInt(limits.maxMessageBytes + 1) }),
  },
  {
    name: 'answers no ping',
    code: 4502,
    limits: { pingMs: 250 },
    owner: { outcome: 'peer-error', closedBy: 'user', error: 'broken' },
    end: () => undefined, // a RawHalf never answers
  },
  {
    name: 'does not read',
    code: 4503,
    limits: { stallMs: 500 },
    owner: { outcome: 'slow', closedBy: 'relay', error: 'stalled' },
    end: (half, far) => {
      half.socket.pause();
      for (let i = 0; i < tailMessages; i++) far.send(Buffer.alloc(tailBytes));
    },
  },
];

describe('[K3] how the half at the carrier ends shows at the owner', () => {
  for (const { name, code, owner, keepsTail = false, limits: own = {}, end } of ends) {
    test(`it ${name}`, async (t) => {
      const a = new Server(t);
      const b = new Server(t);
      const half = await rawHalf(t, a);
      const far = await clientHalf(t, b);
      const linkAtA = await dial(b.port, '/link');
      const linkAtB = await b.held('/link');
      native().markLink(linkAtB);
      const carrier = new LinkPair(half.id, linkAtA, '', { ...limits, ...own });
      const session = new LinkPair(linkAtB, far.id, 'c', limits);
      assert.equal(await far.client.nextText(), 'c');
      if (keepsTail) half.raw.send(1, 'the last word');
      end(half.raw, far.client);
      if (keepsTail) assert.equal(await far.client.nextText(), 'the last word');
      assert.equal((await far.client.closed).code, code);
      assert.deepEqual(await session.ended, owner);
      assert.equal((await carrier.ended).outcome, owner.outcome);
      half.raw.socket.destroy();
      await noHalves();
    });
  }

  test('a clean close whose link is not read for a while loses nothing', async (t) => {
    const { near, far, carrier, session } = await cross(t, { highWaterBytes: 65_536, lowWaterBytes: 32_768 });
    assert.equal(await far.nextText(), 'c');
    far.ws.pause();
    // Until the owner reads the link no more, and some on top, which only the kernel holds.
    let sent = 0;
    for (let more = 0; more < 8; sent++) {
      if (session.bufferedBytes > 65_536) more++;
      near.send(Buffer.alloc(65_536, sent));
      await until(() => near.ws.bufferedAmount === 0 && carrier.bufferedBytes === 0, 'what was sent to be on its way');
    }
    near.ws.close(1000, 'done');
    await near.closed;
    // Longer than a half is given to answer, with the far half sending the while: on a closed connection it is reset.
    const start = Date.now();
    await until(() => {
      far.send('still here');
      return Date.now() - start > 3000;
    }, 'three seconds');
    far.ws.resume();
    await far.closed;
    assert.equal(far.received.length, sent);
    assert.ok(far.received.every(({ data }, i) => data.length === 65_536 && data[0] === (i & 0xff)));
    assert.deepEqual(await far.closed, { code: 1000, reason: 'peer closed' });
    assert.deepEqual(await session.ended, { outcome: 'normal', closedBy: 'user', error: '' });
    await noHalves();
  });
});

describe('[K3] a link that breaks', () => {
  for (const how of ['end', 'resetAndDestroy'] as const) {
    test(`at the owner, by ${how}`, async (t) => {
      const { link, far, session } = await own(t);
      link.send(1, 'tail');
      assert.equal(await far.nextText(), 'c');
      assert.equal(await far.nextText(), 'tail');
      link.socket[how]();
      assert.deepEqual(await far.closed, { code: 4502, reason: 'peer connection lost' });
      assert.deepEqual(await session.ended, { outcome: 'peer-error', closedBy: 'user', error: 'broken' });
      await noHalves();
    });

    test(`at the carrier, by ${how}`, async (t) => {
      const { link, near, carrier } = await carry(t);
      link.socket.write(clientFrame(1, 'tail', { masked: false }));
      assert.equal(await near.nextText(), 'tail');
      link.socket[how]();
      assert.deepEqual(await near.closed, { code: 4502, reason: 'peer connection lost' });
      assert.deepEqual(await carrier.ended, { outcome: 'peer-error', closedBy: 'device', error: 'broken' });
      await noHalves();
    });
  }

  test('the far half that breaks is told to the half at the carrier', async (t) => {
    const { near, far, carrier, session } = await cross(t);
    assert.equal(await near.nextText(), 'c');
    far.ws.terminate();
    assert.deepEqual(await near.closed, { code: 4502, reason: 'peer connection lost' });
    assert.deepEqual(await session.ended, { outcome: 'peer-error', closedBy: 'device', error: 'broken' });
    assert.deepEqual(await carrier.ended, { outcome: 'peer-error', closedBy: 'device', error: 'broken' });
    await noHalves();
  });

  test('what the owner ends the session with is what the half at the carrier gets', async (t) => {
    const { near, far, carrier, session } = await cross(t);
    await Promise.all([near.next(), far.next()]);
    native().end(session.id, 5, 4410, 'revoked by hand', false);
    assert.deepEqual(await near.closed, { code: 4410, reason: 'revoked by hand' });
    assert.deepEqual(await carrier.ended, { outcome: 'revoked', closedBy: 'relay', error: '' });
    await noHalves();
  });
});
