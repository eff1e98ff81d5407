import assert from 'node:assert/strict';
import { test } from 'node:test';
import { adminRights } from '../../src/core/rights.ts';
import { parseTunnelValue } from '../../src/protocol/tunnel-command.ts';
import { until } from '../support/relay.ts';
import { type AgentDouble, TestCluster } from './cluster-member.ts';

test('[K4] [T6] a tunnel command reaches the agent on another server, and is told once the channel was written to', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b] = cluster.members as [(typeof cluster.members)[0], (typeof cluster.members)[0]];
  const agent = await cluster.agentOn(b!);
  const user = await a.user(cluster.alice, agent.nodeid, 'abc');
  assert.deepEqual(a.told, [], 'not told before it is');
  await until(() => a.told.length > 0, 'the command is told');
  assert.deepEqual(a.told, ['sent']);
  assert.deepEqual(
    agent.commands.map(({ sessionid, tcpport }) => [sessionid, tcpport]),
    [['abc', 22]],
  );
  assert.deepEqual(cluster.network.asked, ['tunnel A>B'], 'no other server was asked');
  assert.equal(user.state, 'waiting');
  const device = a.device(cluster.alice, 'abc');
  assert.deepEqual([user.state, device.state], ['paired', 'paired']);
});

test('[T6] without another server nothing is asked of one, and the command is told at once', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a] = cluster.members;
  const agent = await cluster.agentOn(a!);
  a!.redis.calls.length = 0;
  await a!.user(cluster.alice, agent.nodeid, 'abc');
  assert.deepEqual(a!.told.at(-1), 'sent');
  assert.equal(agent.commands.length, 1);
  assert.deepEqual([a!.redis.calls, cluster.network.asked], [[], []]);
});

test('[K2] [T6] the command waits for the claim: sent to who waits here, not for a half that is carried away, paired or gone', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a] = cluster.members;
  const agent = await cluster.agentOn(a!);
  let settle: (where: 'here' | 'linked') => void = () => {};
  a!.claiming = () =>
    new Promise((resolve) => {
      settle = resolve;
    });
  const arrive = async (id: string, where: 'here' | 'linked') => {
    const half = await a!.user(cluster.alice, agent.nodeid, id);
    assert.equal(half.state, 'new');
    const settled = async () => {
      settle(where);
      await Promise.resolve();
    };
    return { half, settle: settled };
  };
  const first = await arrive('first', 'here');
  assert.equal(agent.commands.length, 0);
  await first.settle();
  assert.deepEqual([first.half.state, agent.commands.length], ['waiting', 1]);
  const carried = await arrive('second', 'linked');
  await carried.settle();
  const gone = await arrive('third', 'here');
  a!.relay.left(gone.half);
  await gone.settle();
  assert.deepEqual([carried.half.state, gone.half.state], ['linked', 'closed']);
  assert.deepEqual(
    agent.commands.map(({ sessionid }) => sessionid),
    ['first'],
  );
  assert.deepEqual(a!.told.slice(1), ['sent']);
});

test('[T7] [K4] a device that is connected nowhere, or on a server that died, is told at once: 4404', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b] = cluster.members;
  const { device } = await cluster.device('never');
  const never = await a!.user(cluster.alice, device.id, 'one');
  await until(() => never.socket.code !== undefined, 'it is closed');
  assert.deepEqual(never.socket.closes, [{ code: 4404, reason: 'device offline' }]);
  assert.deepEqual(cluster.network.asked, []);
  const agent = await cluster.agentOn(b!, 'dead');
  cluster.network.alive.delete('B');
  cluster.network.silent.add('B');
  const dead = await a!.user(cluster.alice, agent.nodeid, 'two');
  await until(() => dead.socket.code !== undefined, 'it is closed');
  assert.equal(dead.socket.code, 4404);
  assert.deepEqual(cluster.network.asked, ['tunnel A>B'], 'asked once: the registry tells that it has died');
  assert.deepEqual(a!.told, ['refused offline', 'refused offline']);
  assert.equal(a!.devices.cluster?.tunnelsUnsent, 1);
  assert.equal(a!.relay.pairing.waitingCount, 0);
});

test('[T7] [K4] a server that does not answer is asked twice, counted, and the half told 4404', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b] = cluster.members;
  const agent = await cluster.agentOn(b!);
  cluster.network.silent.add('B');
  const user = await a!.user(cluster.alice, agent.nodeid, 'x');
  await until(() => user.socket.code !== undefined, 'it is closed');
  assert.deepEqual([user.socket.code, cluster.network.asked], [4404, ['tunnel A>B', 'tunnel A>B']]);
  assert.equal(a!.devices.cluster?.tunnelsUnsent, 1);
});

test('[K4] an agent that moved while its old server was asked gets the command where it is', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b, c] = cluster.members;
  const agent = await cluster.agentOn(b!);
  // B is asked, and the agent has just left it for C.
  const asked = cluster.network.next('tunnel');
  let moved: AgentDouble | undefined;
  const moving = asked.then(async () => {
    agent.leave();
    moved = await agent.again(c!);
  });
  cluster.network.silent.add('B');
  void asked.then(() => cluster.network.silent.delete('B'));
  let hold = () => {};
  a!.servers.refresh = () =>
    new Promise((resolve) => {
      hold = resolve;
    });
  await a!.user(cluster.alice, agent.nodeid, 'x');
  await moving;
  await until(() => b!.redis.calls.includes('release') && c!.redis.calls.includes('exchange'), 'Redis knows');
  hold();
  await until(() => a!.told.includes('sent'), 'the command is sent');
  assert.deepEqual([agent.commands.length, moved!.commands.length], [0, 1]);
});

test('[K4] a command that was passed on, but whose answer was lost, is not passed on twice', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b] = cluster.members;
  const agent = await cluster.agentOn(b!);
  const { ask } = a!.peers;
  let lost = 0;
  a!.peers.ask = async (...asked) => {
    const answer = await ask.apply(a!.peers, asked);
    if (lost++ === 0) throw new Error('lost on the way');
    return answer;
  };
  await a!.user(cluster.alice, agent.nodeid, 'x');
  await until(() => a!.told.includes('sent'), 'the command is sent');
  assert.deepEqual([lost, agent.commands.length], [2, 1]);
  assert.equal(a!.devices.cluster?.tunnelsUnsent, 0);
});

test('[K4] [R15] the half may leave while the other server is asked; the agent that comes then does not wait, there as here', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b] = cluster.members;
  const agent = await cluster.agentOn(b!);
  const user = await a!.user(cluster.alice, agent.nodeid, 'x');
  a!.relay.left(user);
  await until(() => a!.told.includes('sent'), 'the command was sent all the same');
  assert.equal(agent.commands.length, 1);
  for (const member of [a!, b!]) {
    const device = member.device(cluster.alice, 'x');
    assert.deepEqual(device.socket.closes, [{ code: 4408, reason: 'the user half has left' }], member.boot);
    assert.equal(member.relay.pairing.waitingCount, 0);
  }
  const other = b!.device(cluster.alice, 'not-ordered');
  assert.equal(other.state, 'waiting');
  // Nor is it told that the device is offline where it left before that was found out.
  const { device } = await cluster.device('off');
  const left = await a!.user(cluster.alice, device.id, 'y');
  a!.relay.left(left);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual([left.socket.closes, a!.told], [[], ['sent']]);
});

for (const [type, reason, code, said] of [
  ['tunnel-refused', 'target', 4403, 'refused by the device: not on the list'],
  ['tunnel-failed', 'dial', 1011, 'the device failed: not on the list'],
] as const) {
  test(`[K4] [T8] what an agent reports (${type}) ends the half that waits on another server, and no other`, async (t) => {
    const cluster = await TestCluster.start(t);
    const [a, b, c] = cluster.members;
    const agent = await cluster.agentOn(b!);
    const other = await cluster.agentOn(b!, 'other');
    const user = await a!.user(cluster.alice, agent.nodeid, 'x');
    const elsewhere = await c!.user(cluster.alice, agent.nodeid, 'y');
    await until(() => a!.told.includes('sent') && c!.told.includes('sent'), 'both commands are sent');
    const detail = 'not on the list';
    const report = { type, id: 'x', reason, detail } as Parameters<AgentDouble['say']>[0];
    other.say(report);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(user.socket.code, undefined, 'another device cannot end it');
    assert.equal(cluster.network.asked.filter((asked) => asked.startsWith('tunnel-report')).length, 0);
    agent.say(report);
    await until(() => user.socket.code !== undefined, 'it is closed');
    assert.equal(user.socket.closes[0]!.reason, said);
    if (type === 'tunnel-refused') assert.equal(user.socket.code, code);
    assert.deepEqual(a!.told, ['sent', `failed ${reason}`]);
    assert.equal(elsewhere.state, 'waiting');
    cluster.network.silent.add('C');
    agent.say({ ...report, id: 'y' } as typeof report);
    await until(() => b!.devices.cluster?.reportsLost === 1, 'a report that nobody takes is counted');
  });
}

test('[T8] [R14] [K4] where ids are signed a report names the signed one, and ends the half that waits, here and elsewhere', async (t) => {
  const cluster = await TestCluster.start(t, { signedIds: true });
  const [a, b] = cluster.members;
  const agent = await cluster.agentOn(b!);
  for (const member of [a!, b!]) {
    const user = await member.user(cluster.alice, agent.nodeid, `on-${member.boot}`);
    await until(() => member.told.includes('sent'), 'the command is sent');
    const { id } = parseTunnelValue(agent.commands.at(-1)!.value)!;
    assert.match(id, new RegExp(`^on-${member.boot}:\\d+:[0-9a-f]{96}$`));
    agent.say({ type: 'tunnel-refused', id, reason: 'target', detail: 'no' });
    await until(() => user.socket.code !== undefined, 'it is closed');
    assert.equal(user.socket.code, 4403);
  }
});

test('[T9] [K4] one connection for each device in the whole cluster: the newer one wins', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b, c] = cluster.members;
  const older = await cluster.agentOn(a!);
  const newer = await older.again(b!);
  await until(() => older.closes.length > 0, 'the older one is closed');
  assert.deepEqual(older.closes, [{ code: 4409, reason: 'a newer connection of this device' }]);
  assert.deepEqual(older.messages.at(-1), { type: 'replaced' });
  assert.deepEqual(a!.told.slice(1), ['offline replaced', 'replaced by 192.0.2.2']);
  const user = await c!.user(cluster.alice, older.nodeid, 'x');
  await until(() => c!.told.includes('sent'), 'the command is sent');
  assert.deepEqual([older.commands.length, newer.commands.length, user.state], [0, 1, 'waiting']);
  assert.deepEqual([newer.closes, b!.told.includes('offline replaced')], [[], false]);
});

test('[K4] [K6] every server says where a device is; with Redis down its own alone, and of the others that it cannot tell', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b] = cluster.members;
  const here = await cluster.agentOn(a!, 'here');
  const there = await cluster.agentOn(b!, 'there');
  const { device } = await cluster.device('off');
  const ask = () => a!.devices.online([there.nodeid, device.id, here.nodeid]);
  await until(async () => typeof (await ask())[0] === 'object', 'it is known');
  const [one, off, own] = await ask();
  const facts = { address: '192.0.2.1', hostname: 'box.example', platform: 'linux', version: '1.0.0' };
  for (const state of [one, own]) {
    assert.ok(typeof state === 'object');
    const { sinceMs, ...shown } = state;
    assert.ok(sinceMs > 0);
    assert.deepEqual(shown, { ...facts, capabilities: ['tcp'] });
  }
  assert.equal(off, 'offline');
  a!.redis.down();
  const without = await ask();
  assert.deepEqual([without[0], without[1]], ['unknown', 'unknown']);
  assert.ok(typeof without[2] === 'object');
  const user = await a!.user(cluster.alice, there.nodeid, 'x');
  await until(() => user.socket.code !== undefined, 'it is closed');
  assert.equal(user.socket.code, 4404);
  assert.equal(a!.devices.cluster?.tunnelsUnsent, 1);
});

test('[T4] [K4] a right taken away on one server has ended the sessions on the others when that is acknowledged', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b, c] = cluster.members;
  const agent = await cluster.agentOn(b!);
  const running = [];
  for (const member of [b!, c!]) {
    await member.user(cluster.alice, agent.nodeid, `on-${member.boot}`);
    await until(() => member.told.includes('sent'), 'the command is sent');
    member.device(cluster.alice, `on-${member.boot}`);
    running.push(member.forwarder.pairs[0]!);
  }
  const waiting = await c!.user(cluster.alice, agent.nodeid, 'waits');
  await a!.directory.links.revoke(cluster.alice.id, cluster.group.id);
  await a!.devices.spreadChanges();
  assert.deepEqual(
    running.map(({ ended }) => [ended?.code, ended?.outcome]),
    [
      [4410, 'revoked'],
      [4410, 'revoked'],
    ],
  );
  assert.equal(waiting.socket.code, 4410);
  assert.equal(a!.devices.cluster?.changesUnanswered, 0);
  await a!.directory.devices.revoke(agent.nodeid);
  await a!.devices.spreadChanges();
  assert.deepEqual(agent.closes, [{ code: 4410, reason: 'revoked' }], '[T9] and its agent is gone');
});

test('[T4] [K3] a right taken away ends halves that are carried to another server too: that may have looked before they came', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a] = cluster.members;
  const { directory } = a!;
  const agent = await cluster.agentOn(a!);
  const bob = await directory.users.create({ name: 'bob' });
  await directory.links.grant(bob.id, cluster.group.id, adminRights);
  a!.claiming = () => Promise.resolve('linked');
  const ofAlice = await a!.user(cluster.alice, agent.nodeid, 'one');
  const ofBob = await a!.user(bob, agent.nodeid, 'two');
  await until(() => a!.carried.length === 2, 'both are carried');
  await directory.links.revoke(bob.id, cluster.group.id);
  await a!.devices.spreadChanges();
  assert.deepEqual(a!.revokedLinks, [ofBob]);
  assert.equal(ofAlice.state, 'linked');
});

test('[T4] a server that does not acknowledge a change is counted, holds nobody up, and finds it by itself', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b] = cluster.members;
  const agent = await cluster.agentOn(b!);
  await b!.user(cluster.alice, agent.nodeid, 'x');
  b!.device(cluster.alice, 'x');
  cluster.network.silent.add('B');
  await a!.directory.links.revoke(cluster.alice.id, cluster.group.id);
  await a!.devices.spreadChanges();
  assert.equal(a!.devices.cluster?.changesUnanswered, 1);
  await until(() => b!.forwarder.pairs[0]!.ended?.code === 4410, 'it is found in the database', 1000);
});

test('[K4] what other servers send is checked', async (t) => {
  const cluster = await TestCluster.start(t);
  const [a, b] = cluster.members;
  const agent = await cluster.agentOn(b!);
  const at = { nodeid: agent.nodeid, domain: '', id: 'x' };
  for (const [method, body] of [
    ['tunnel', { ...at, command: { action: 'msg', type: 'console', value: '*/x' } }],
    ['tunnel', { ...at, command: undefined }],
    [
      'tunnel-report',
      { nodeid: agent.nodeid, report: { type: 'tunnel-failed', id: 'x', reason: 'other', detail: '' } },
    ],
    ['agent-replaced', { nodeid: agent.nodeid, connection: 'all', address: '' }],
  ] as const) {
    await assert.rejects(a!.peers.ask('B', method, body), { name: 'ZodError' }, method);
  }
  assert.deepEqual([agent.messages, agent.closes], [[], []]);
});
