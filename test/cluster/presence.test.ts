import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Presence, type PresentAgent } from '../../src/cluster/presence.ts';
import { until } from '../support/relay.ts';
import { type Kept, PeerNetwork, RedisDouble, ServersDouble, sealing } from './presence-doubles.ts';

class Member {
  readonly redis: RedisDouble;
  readonly servers: ServersDouble;
  readonly presence: Presence;
  readonly replaced: string[] = [];
  readonly failures: unknown[] = [];
  monotonic = 0;

  constructor(t: TestContext, network: PeerNetwork, kept: Kept, boot: string) {
    const peers = network.join(boot);
    this.redis = new RedisDouble(kept);
    this.servers = new ServersDouble(network);
    this.presence = new Presence({
      boot,
      store: this.redis,
      redis: this.redis,
      servers: this.servers,
      clock: { monotonicMs: () => this.monotonic },
      ...sealing,
      replaced: (nodeid, address) => {
        this.replaced.push(`${nodeid} by ${address}`);
        this.presence.offline(nodeid);
      },
      tellReplaced: (other, connection) => peers.ask(other, 'agent-replaced', connection),
      failed: (error) => this.failures.push(error),
      retryMs: 5,
    });
    peers.serve('agent-replaced', (body) => this.presence.wasReplaced(body as never));
    t.after(async () => {
      await this.presence.close();
      assert.deepEqual(this.failures, []);
    });
  }

  async where(...nodeids: string[]): Promise<(string | undefined)[]> {
    const found = await this.presence.find(nodeids);
    return nodeids.map((nodeid) => found.get(nodeid)?.boot);
  }
}

function cluster(t: TestContext) {
  const network = new PeerNetwork();
  const kept: Kept = new Map();
  const [a, b, c] = ['A', 'B', 'C'].map((boot) => new Member(t, network, kept, boot)) as [Member, Member, Member];
  const settled = async () => {
    for (const member of [a, b, c]) await member.servers.refresh();
    for (const member of [a, b, c]) await member.presence.settled();
  };
  return { network, kept, a, b, c, settled };
}

const agent = (nodeid: string, sinceMs = 1, address = '192.0.2.1'): PresentAgent => ({
  ...{ nodeid, sinceMs, address, hostname: 'h', platform: 'linux', version: '1', capabilities: ['tcp'] },
});

test('[K4] which server holds a device is known to all, until it is gone; keys hold no id, only a hash', async (t) => {
  const { a, b, c, kept, settled } = cluster(t);
  a.presence.online(agent('node//one'));
  b.presence.online(agent('node//two'));
  await settled();
  assert.deepEqual(await c.where('node//one', 'node//two', 'node//none'), ['A', 'B', undefined]);
  const { boot: _, connection: __, ...facts } = (await c.presence.find(['node//one'])).get('node//one')!;
  assert.deepEqual({ nodeid: 'node//one', ...facts }, agent('node//one'));
  assert.deepEqual(await a.where('node//one'), [undefined], 'who asks about its own has looked at home before');
  for (const key of kept.keys()) assert.match(key, /^agent:[\w-]{43}$/);
  a.presence.offline('node//one');
  await settled();
  assert.deepEqual(await c.where('node//one', 'node//two'), [undefined, 'B']);
  assert.equal(kept.size, 1);
});

test('[T9] [K4] the newer connection wins: the server of the older one closes it, and takes nothing away from the newer', async (t) => {
  const { a, b, c, network, settled } = cluster(t);
  a.presence.online(agent('node//x', 1));
  await settled();
  b.presence.online(agent('node//x', 2, '192.0.2.2'));
  await until(() => a.replaced.length > 0, 'A closes its own');
  assert.deepEqual(a.replaced, ['node//x by 192.0.2.2']);
  await settled();
  assert.deepEqual(await c.where('node//x'), ['B'], 'A going offline takes away what is its own alone');
  // And back, though B's wall clock goes ahead.
  a.presence.online(agent('node//x', 0));
  await until(() => b.replaced.length > 0, 'B closes its own');
  await settled();
  assert.deepEqual(await c.where('node//x'), ['A']);
  assert.deepEqual(network.asked, ['agent-replaced B>A', 'agent-replaced A>B']);
});

test('[T9] a word about an older connection does not close the one that came since', async (t) => {
  const { a, b, network, settled } = cluster(t);
  a.presence.online(agent('node//x'));
  await settled();
  network.silent.add('A');
  const told = network.next('agent-replaced');
  b.presence.online(agent('node//x'));
  await told;
  a.presence.offline('node//x');
  a.presence.online(agent('node//x'));
  network.silent.delete('A');
  await until(() => b.replaced.length === 1, 'B hears of the newest');
  await until(() => network.asked.filter((asked) => asked === 'agent-replaced B>A').length > 1, 'A is told, late');
  await settled();
  assert.deepEqual(a.replaced, []);
});

test('[K4] the same device again on the same server is one step: it is never gone in between', async (t) => {
  const { a, c, settled } = cluster(t);
  a.presence.online(agent('node//x'));
  await settled();
  a.redis.calls.length = 0;
  a.presence.offline('node//x');
  a.presence.online(agent('node//x', 2, '192.0.2.9'));
  await settled();
  assert.deepEqual(a.redis.calls, ['exchange']);
  assert.equal((await c.presence.find(['node//x'])).get('node//x')?.address, '192.0.2.9');
  assert.deepEqual(a.replaced, []);
});

test('[K4] [K7] an entry of a server that is not in the registry is offline; a new server is looked for before', async (t) => {
  const { a, b, c, network, kept, settled } = cluster(t);
  a.presence.online(agent('node//x'));
  await settled();
  network.alive.delete('A');
  await c.servers.refresh();
  const looked = c.servers.refreshed;
  assert.deepEqual(await c.where('node//x'), [undefined]);
  assert.deepEqual(await c.where('node//x'), [undefined]);
  assert.equal(c.servers.refreshed, looked + 1, 'not at each question');
  const late = new Member(t, network, kept, 'D');
  late.presence.online(agent('node//y'));
  await late.presence.settled();
  assert.deepEqual(await c.where('node//y'), ['D'], 'it had not heard of it');
  // The dead one's entry is in nobody's way, and nobody waits for its answer.
  b.presence.online(agent('node//x'));
  await settled();
  assert.deepEqual(await c.where('node//x'), ['B']);
  assert.deepEqual(network.asked, []);
});

test('[K4] [K6] what Redis lost is there again when it is back, of all servers, and nobody is replaced', async (t) => {
  const { a, b, c, kept, settled } = cluster(t);
  const many = Array.from({ length: 250 }, (_, index) => `node//${index}`);
  for (const [index, nodeid] of many.entries()) (index % 2 === 0 ? a : b).presence.online(agent(nodeid));
  await settled();
  for (const { redis } of [a, b, c]) redis.down();
  await assert.rejects(c.where(many[0]!), { code: 'CPL_REDIS' });
  a.presence.online(agent('node//came'));
  a.presence.offline(many[0]!);
  b.presence.offline(many[1]!);
  await settled();
  kept.clear();
  for (const { redis } of [a, b, c]) redis.up();
  await settled();
  assert.deepEqual(await c.where(...many.slice(0, 6), 'node//came'), [undefined, undefined, 'A', 'B', 'A', 'B', 'A']);
  assert.equal(kept.size, 249);
  assert.deepEqual([...a.replaced, ...b.replaced], []);
});

test('[T9] [K6] a device that moved while Redis was away: after a loss the newer connection stays, whoever writes first', async (t) => {
  for (const first of ['A', 'B']) {
    const { a, b, c, kept, settled } = cluster(t);
    a.presence.online(agent('node//x', 1));
    await settled();
    for (const { redis } of [a, b, c]) redis.down();
    b.presence.online(agent('node//x', 2, '192.0.2.2'));
    await settled();
    kept.clear();
    for (const { redis } of first === 'A' ? [a, b, c] : [b, a, c]) {
      redis.up();
      await settled();
    }
    await until(() => a.replaced.length > 0, `${first} first: A closes its own`);
    await settled();
    assert.deepEqual([a.replaced, b.replaced], [['node//x by 192.0.2.2'], []]);
    assert.deepEqual(await c.where('node//x'), ['B']);
  }
});

test('[T9] [K4] who was not told that it was replaced finds out when it renews, whatever its clock says', async (t) => {
  const { a, b, c, network, settled } = cluster(t);
  a.presence.online(agent('node//x', 1_000_000));
  await settled();
  network.silent.add('A');
  b.presence.online(agent('node//x', 1, '192.0.2.2'));
  await until(() => b.presence.untold === 1, 'B gives up on telling A');
  assert.deepEqual(a.replaced, []);
  a.redis.blink();
  await settled();
  assert.deepEqual(a.replaced, ['node//x by 192.0.2.2']);
  assert.deepEqual(await c.where('node//x'), ['B']);
});

test('[K4] a command of Redis that fails is tried again', async (t) => {
  const { a, c, settled } = cluster(t);
  a.redis.failures = 2;
  a.presence.online(agent('node//x'));
  await until(async () => (await c.where('node//x'))[0] === 'A', 'it is written');
  await settled();
  a.redis.failures = 1;
  a.presence.offline('node//x');
  await until(async () => (await c.where('node//x'))[0] === undefined, 'it is taken away');
});

test('[K4] a server that ends takes its entries away', async (t) => {
  const { a, b, kept, settled } = cluster(t);
  a.presence.online(agent('node//x'));
  b.presence.online(agent('node//y'));
  await settled();
  a.presence.offline('node//x');
  await a.presence.close();
  assert.deepEqual(await b.where('node//x'), [undefined]);
  assert.equal(kept.size, 1);
});

test('[K1] what another key or a stranger wrote is no entry', async (t) => {
  const { a, c, kept, settled } = cluster(t);
  a.presence.online(agent('node//x'));
  a.presence.online(agent('node//y'));
  await settled();
  const [x, y] = [...kept.keys()] as [string, string];
  kept.set(x, kept.get(y)!);
  kept.set(y, sealing.seal(y, { boot: 'A', connection: 'many' }));
  assert.deepEqual(await c.where('node//x', 'node//y'), [undefined, undefined]);
});
