import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { newChallenge } from '../../src/cluster/link-seal.ts';
import { halfErrors, loadNative } from '../../src/native/binding.ts';
import { closeCodes, linkEnding } from '../../src/protocol/close-codes.ts';
import { proofHeader } from '../../src/protocol/link-messages.ts';
import type { Admission } from '../../src/relay/half.ts';
import { until } from '../support/relay.ts';
import { admission, userIdentity } from '../support/relay-doubles.ts';
import { linkedPair, newSeal, type Path, Site, silentServer, twoSites } from './link-site.ts';

const paths: readonly Path[] = loadNative().addon === undefined ? ['no-addon'] : ['native', 'portable', 'no-addon'];

function linkOf(b: Site, a: Site, of: Admission) {
  const challenge = b.tickets.expect({ boot: a.boot, domain: of.domain, id: of.id });
  return { challenge, fence: 3, waitedMs: 5, admission: of };
}

test('[R28] [K3] every close code of a link has an outcome, any other is a peer error', () => {
  const table = Object.values(closeCodes).map((code) => [code, linkEnding(code).outcome, linkEnding(code).error]);
  assert.deepEqual(table, [
    [1000, 'normal', ''],
    [1001, 'shutdown', ''],
    [1002, 'peer-error', ''],
    [1009, 'limit', 'too-big'],
    [4401, 'expired', ''],
    [4403, 'denied', ''],
    [4404, 'no-peer', ''],
    [4408, 'no-peer', ''],
    [4409, 'duplicate', ''],
    [4410, 'revoked', ''],
    [4429, 'limit', ''],
    [4500, 'recording-failed', ''],
    [4502, 'peer-error', 'broken'],
    [4503, 'slow', 'stalled'],
    [4504, 'idle', ''],
  ]);
  for (const code of [0, 1003, 1011, 3000, 4999]) assert.equal(linkEnding(code).outcome, 'peer-error', `${code}`);
  const tails = [...Object.values(closeCodes), 4999].filter((code) => linkEnding(code).keepsTail);
  assert.deepEqual(tails, [1000, 1001, 4502]);
  for (const code of Object.values(closeCodes)) assert.ok(halfErrors.includes(linkEnding(code).error));
});

for (const path of paths) {
  test(`[K3] what the far server closes a link with ends session and mate, ${path}`, async (t) => {
    const { a, b } = twoSites(t, { path });
    for (const code of [...Object.values(closeCodes), 4999]) {
      const [user, device] = await linkedPair(t, a, b);
      assert.equal(a.links.outgoing, 1);
      const reason = code === closeCodes.normal ? 'peer closed' : `because ${code}`;
      // A's end of the pair closes both, as it does for whatever it has found.
      a.endLinks(code, reason);
      assert.deepEqual(await device.closed, { code, reason });
      await user.closed;
      await until(() => b.relay.sessionCount === 0 && a.links.outgoing === 0, 'the end to be seen');
      const { end } = b.observer.ended.at(-1)!;
      const { outcome, error, closedBy } = linkEnding(code);
      assert.deepEqual(
        { outcome: end.outcome, error: end.error, closedBy: end.closedBy },
        { outcome, error, closedBy: closedBy === 'half' ? 'user' : 'relay' },
        `${code}`,
      );
    }
  });

  test(`[K7] a server that is lost takes its links with it, on both sides, ${path}`, async (t) => {
    const { a, b } = twoSites(t, { path });
    for (const loser of [a, b]) {
      const other = loser === a ? b : a;
      const [user, device] = await linkedPair(t, a, b);
      loser.links.lost(newChallenge());
      assert.equal(a.links.outgoing, 1, 'another server is no concern of theirs');
      loser.links.lost(other.boot);
      assert.equal((await user.closed).code, 4502);
      assert.equal((await device.closed).code, 4502);
      await until(() => a.links.outgoing === 0 && b.links.incoming === 0 && b.relay.sessionCount === 0, 'the end');
      assert.equal(b.observer.ended.at(-1)!.end.outcome, 'peer-error');
    }
  });

  test(`[K7] a half that was handed on ends with the server it came from, ${path}`, async (t) => {
    const { a, b } = twoSites(t, { path });
    const [user, device] = await linkedPair(t, a, b);
    // As if the half of the link, at A, had come over a link itself.
    const [half] = a.carried;
    a.links.arrived(half!, 'first');
    a.links.lost('another');
    assert.equal(a.links.outgoing, 1);
    a.links.lost('first');
    assert.equal((await device.closed).code, 4502);
    assert.equal((await user.closed).code, 4502);
    await until(() => a.links.outgoing === 0 && b.relay.sessionCount === 0, 'the end');
  });

  for (const ownerSaw of [true, false]) {
    const who = ownerSaw ? 'the owner, which puts it on record' : 'its link where the owner saw nothing of it';
    test(`[T4] a carried half that has lost its right is ended by ${who}, ${path}`, async (t) => {
      const { a, b } = twoSites(t, { path });
      const [user, device] = await linkedPair(t, a, b);
      const [half, ...more] = a.links.carried();
      assert.deepEqual(more, []);
      assert.equal(half?.state, 'linked');
      const [session] = b.relay.sessions();
      const revoked = a.links.revoke([half!]);
      assert.equal(half?.state, 'linked', 'the owner comes first');
      if (ownerSaw) b.relay.revoke(session!.user.domain, session!.user.id);
      await revoked;
      assert.equal((await user.closed).code, 4410);
      assert.equal((await device.closed).code, 4410);
      await until(() => a.links.outgoing === 0 && b.relay.sessionCount === 0, 'the end');
      assert.equal(b.observer.ended.at(-1)?.end.outcome, 'revoked');
      await a.links.revoke([half!]);
    });
  }

  test(`[K3] a half that has gone before its link came up is not carried, ${path}`, async (t) => {
    const { a, b } = twoSites(t, { path });
    const of = admission('gone', userIdentity());
    const link = await a.dialer.dial(b.entry, linkOf(b, a, of));
    await until(() => b.presented.length === 1, 'the link at the owner');
    const half = b.presented[0]!;
    assert.equal(half.state, 'waiting');
    assert.deepEqual(half.admission, of);
    assert.equal(half.socket.isLink, true);
    const gone = { admission: of, state: 'closed', isGone: () => true, socket: {} } as unknown as typeof half;
    assert.equal(a.links.carry(gone, link, b.boot), false);
    await until(() => b.relay.pairing.waitingCount === 0, 'the link to be closed');
    assert.equal(a.links.outgoing, 0);
  });

  test(`[K6] [K7] a server that takes the connection and says nothing is no link, and leaves none, ${path}`, async (t) => {
    const { a, b } = twoSites(t, { path });
    const { linkUrl, connections } = await silentServer(t);
    const request = linkOf(b, a, admission('silent', userIdentity()));
    await assert.rejects(a.dialer.dial({ ...b.entry, linkUrl }, request), { code: 'CPL_PEER' });
    await until(() => connections.length === 1 && connections[0]!.destroyed, 'the connection to end');
  });

  test(`[K3] a link is kept watched: its server's channel stands as long as it does, ${path}`, async (t) => {
    const { a, b } = twoSites(t, { path, heartbeatMs: 100, idleMs: 50 });
    const [user] = await linkedPair(t, a, b);
    await linkedPair(t, a, b);
    user.ws.close();
    await until(() => a.links.outgoing === 1, 'one link to end');
    await new Promise((resolve) => setTimeout(resolve, 400));
    assert.equal(a.peers.channelCount, 1);
    await a.links.drain(0, 0, new AbortController().signal);
    assert.equal(a.links.outgoing, 0);
    await until(() => a.peers.channelCount === 0, 'the channel to be given up');
    assert.deepEqual([...a.lost, ...b.lost], []);
  });

  test(`[K3] an admission too long for a URL is carried all the same, ${path}`, async (t) => {
    const { a, b } = twoSites(t, { path });
    const long = admission('long', { ...userIdentity(), username: 'ü'.repeat(3000) });
    const link = await a.dialer.dial(b.entry, linkOf(b, a, long));
    await until(() => b.presented.length === 1, 'the link at the owner');
    assert.deepEqual(b.presented[0]!.admission, long);
    link.close(1000, '');
    await until(() => b.relay.pairing.waitingCount === 0, 'the link to be closed');
  });

  test(`[K3] links without a ticket of ours, or with a used one, are refused alike (fault 43), ${path}`, async (t) => {
    const { a, b } = twoSites(t, { path });
    const of = admission('one', userIdentity());
    const { text } = a.tickets.issue(b.boot, linkOf(b, a, of));
    const http = b.entry.linkUrl.replace('ws', 'http');
    const upgrade = async (query: string) => {
      const headers = {
        connection: 'Upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': '13',
        'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
      };
      const sent = request(`${http}/link${query}`, { headers }).end();
      return new Promise<{ status: number; body: string }>((resolve, reject) => {
        sent.on('error', reject);
        sent.on('upgrade', (response, socket) => {
          socket.destroy();
          resolve({ status: response.statusCode!, body: '' });
        });
        sent.on('response', async (response) => {
          const chunks: Buffer[] = [];
          for await (const chunk of response) chunks.push(chunk as Buffer);
          resolve({ status: response.statusCode!, body: Buffer.concat(chunks).toString() });
        });
      });
    };
    const refused = { status: 401, body: 'Unauthorized\n' };
    const flipped = `${text.slice(0, 40)}${text[40] === 'A' ? 'B' : 'A'}${text.slice(41)}`;
    assert.deepEqual(await upgrade(''), refused);
    assert.deepEqual(await upgrade('?ticket='), refused);
    assert.deepEqual(await upgrade(`?ticket=${flipped}`), refused);
    assert.equal((await upgrade(`?ticket=${text}`)).status, 101);
    assert.deepEqual(await upgrade(`?ticket=${text}`), refused);
    assert.deepEqual(b.refusals, ['forged', 'forged', 'forged', 'challenge']);
    assert.equal(b.presented.length, 1);
  });

  test(`[K3] an owner that does not prove itself gets nothing of the half, ${path}`, async (t) => {
    const seal = newSeal();
    const a = new Site(t, { seal, path });
    const real = new Site(t, { seal, path });
    let heard = 0;
    let proof = '';
    let accept = true;
    const server = createServer().listen(0, '127.0.0.1');
    t.after(() => server.close());
    server.on('upgrade', ({ headers }, socket: Socket) => {
      socket.on('data', (data) => {
        heard += data.length;
      });
      socket.on('error', () => undefined);
      socket.on('end', () => socket.destroy());
      const key = accept ? `${headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11` : 'x';
      const head = `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${createHash('sha1').update(key).digest('base64')}\r\n`;
      socket.write(`${head}${proofHeader}: ${proof}\r\n\r\n`);
      closed.push(once(socket, 'close'));
    });
    const closed: Promise<unknown>[] = [];
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const entry = { ...real.entry, linkUrl: `ws://127.0.0.1:${port}` };
    const of = admission('one', userIdentity());
    const otherTicket = a.tickets.issue(real.boot, linkOf(real, a, of));
    const accepted = real.tickets.accept(otherTicket.text);
    assert.ok(typeof accepted === 'object');
    for (const [wrong, isAccepted] of [
      ['', true],
      [otherTicket.text, true],
      [accepted.proof, true],
      [accepted.proof, false],
    ] as const) {
      proof = wrong;
      accept = isAccepted;
      const error: unknown = await a.dialer.dial(entry, linkOf(real, a, of)).then(
        () => assert.fail('the link was taken for proven'),
        (thrown: unknown) => thrown,
      );
      assert.equal((error as { code?: string }).code, 'CPL_PEER');
      assert.doesNotMatch(inspect(error, { depth: 10 }), /ticket=/, 'no ticket in what is logged');
    }
    await Promise.all(closed);
    assert.equal(heard <= 4 * 8, true, `${heard} bytes: at most close frames`);
  });
}
