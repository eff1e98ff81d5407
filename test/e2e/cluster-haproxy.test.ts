import assert from 'node:assert/strict';
import { randomBytes, randomInt } from 'node:crypto';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { WebSocket } from 'ws';
import { Client } from '../support/client.ts';
import { type Haproxy, startHaproxy } from '../support/haproxy.ts';
import { until } from '../support/relay.ts';
import { type ServeChild, startServe } from '../support/serve.ts';
import { requireProgram } from '../support/services.ts';
import { startRedis } from '../support/workers.ts';

type Side = 'user' | 'device';

const addresses = { user: '127.0.0.7', device: '127.0.0.8' } as const;
/** What ids may hold that is escaped in one way or another; the semicolon and the plus are split and unescaped by some. */
const awkward = [...'@+/ ;,:!$*()\'~%&=#?"<>[]{}|\\^`'];

function awkwardId(): string {
  const random = randomBytes(9).toString('base64url');
  const at = randomInt(1, random.length);
  const [first, second] = [awkward[randomInt(awkward.length)]!, awkward[randomInt(awkward.length)]!];
  return `${random.slice(0, at)}${first}${random.slice(at)}${second}z`;
}

const hex = (char: string) => `%${char.charCodeAt(0).toString(16).padStart(2, '0')}`;

/** Ways to write an id in a query that all mean the same. */
const escapes: readonly ((id: string) => string)[] = [
  encodeURIComponent,
  // As little as must be, as simple programs do.
  (id) => id.replace(/[%&# "<>[\]{}|\\^`]/g, hex),
  // Everything, in upper case and in lower case.
  (id) => [...id].map((char) => hex(char).toUpperCase()).join(''),
  (id) => [...id].map(hex).join(''),
];

/** Sessions that have started on a server: id, addresses of its halves in the order they came. */
function startsOf(server: ServeChild): readonly (readonly string[])[] {
  const starts = server.events().filter(({ code }) => code === 'CPL-1001I');
  return starts.map(({ msgArgs }) => msgArgs as string[]);
}

/** Halves through HAProxy, whose ids are written in any way and stand anywhere in the query. */
class Site {
  readonly haproxy: Haproxy;
  readonly servers: readonly ServeChild[];
  readonly ids: string[] = [];

  constructor(haproxy: Haproxy, servers: readonly ServeChild[]) {
    this.haproxy = haproxy;
    this.servers = servers;
  }

  async half(side: Side, written: string): Promise<Client> {
    const [path, query] = this.servers[0]!.path(side, 'x').split('?');
    const others = query!.split('&').filter((parameter) => !parameter.startsWith('id='));
    others.splice(randomInt(others.length + 1), 0, `id=${written}`);
    const url = `wss://127.0.0.1:${this.haproxy.port}${path}?${others.join('&')}`;
    const localAddress = addresses[side];
    const ws = new WebSocket(url, { rejectUnauthorized: false, perMessageDeflate: false, localAddress });
    const client = new Client(ws);
    await new Promise((resolve, reject) => ws.once('open', resolve).once('error', reject));
    return client;
  }

  /** A session whose halves come in either order or at once, and write its id in two different ways. */
  async session(): Promise<readonly Client[]> {
    const id = awkwardId();
    this.ids.push(id);
    const one = randomInt(escapes.length);
    const other = (one + randomInt(1, escapes.length)) % escapes.length;
    const [first, second]: [Side, Side] = randomInt(2) === 0 ? ['user', 'device'] : ['device', 'user'];
    const begun = this.half(first, escapes[one]!(id));
    if (randomInt(2) === 0) await begun;
    const halves = await Promise.all([begun, this.half(second, escapes[other]!(id))]);
    for (const half of halves) assert.equal(await half.nextText(), 'c');
    const text = `through ${id}`;
    halves[0]!.send(text);
    assert.equal(await halves[1]!.nextText(), text);
    return halves;
  }

  /** So many sessions, each of which ends; at most 32 at a time. */
  async sessions(count: number): Promise<void> {
    let left = count;
    const one = async () => {
      while (left-- > 0) {
        const halves = await this.session();
        halves[0]!.ws.close();
        await Promise.all(halves.map(({ closed }) => closed));
      }
    };
    await Promise.all(Array.from({ length: 32 }, one));
  }

  /** Halves of all servers that run, by where they found their rendezvous. */
  async met(result: string): Promise<number> {
    const running = this.servers.filter((server) => !server.ended);
    const each = running.map((server) => server.metric(`couplet_cluster_rendezvous_total{result="${result}"}`));
    return (await Promise.all(each)).reduce((sum, count) => sum + count, 0);
  }

  /** The same of all servers. */
  started(): readonly (readonly string[])[] {
    return this.servers.flatMap(startsOf);
  }
}

/** Four servers of one cluster, in processes of their own, behind deploy/haproxy.cfg. */
async function startSite(t: TestContext): Promise<Site | undefined> {
  const program = requireProgram(t, 'haproxy');
  if (program === undefined) return undefined;
  const redis = await startRedis(t);
  if (redis === undefined) return undefined;
  const server = { trustedProxies: ['127.0.0.1'], drainMs: 60_000 };
  const args = ['--directory', 'none'];
  const first = await startServe(t, { settings: { server, cluster: { redis } }, args });
  const auth = { loginKeyFile: join(first.folder, 'key') };
  const settings = { server, auth, cluster: { redis } };
  const others = await Promise.all([2, 3, 4].map(() => startServe(t, { settings, args })));
  const servers = [first, ...others];
  const haproxy = await startHaproxy(t, program, { servers: servers.map(({ port }) => port) });
  return new Site(haproxy, servers);
}

test('[K8] behind deploy/haproxy.cfg the halves of a session meet on one server, also while one drains and one dies', {
  timeout: 240_000,
}, async (t) => {
  const site = await startSite(t);
  if (site === undefined) return;
  const [, drained, killed] = site.servers;
  const recorded = () => until(() => site.started().length === site.ids.length, 'every start is on record');
  await site.sessions(1200);
  const steady = await site.met('linked');
  assert.ok(steady <= 12, `${steady} of 1,200 sessions were linked`);
  for (const server of site.servers) {
    const count = startsOf(server).length;
    assert.ok(count > 120, `a server has had ${count} of 1,200 sessions`);
  }

  // One that has sessions goes on with them, and takes no more.
  const kept: (readonly Client[])[] = [];
  const early = startsOf(drained!).length;
  await until(async () => {
    kept.push(await site.session());
    return startsOf(drained!).length > early;
  }, 'the second server has a session');
  drained!.signal('SIGTERM');
  // HAProxy has still to find out.
  const readiness = `http://127.0.0.1:${drained!.port}/readyz`;
  await until(async () => (await fetch(readiness)).status === 503, 'the second server drains');
  await recorded();
  const before = startsOf(drained!).length;
  await site.sessions(400);
  const drainedLinked = (await site.met('linked')) - steady;
  assert.ok(drainedLinked <= 8, `${drainedLinked} of 400 sessions were linked beside a server that drains`);
  assert.equal(startsOf(drained!).length, before);
  for (const [user, device] of kept) {
    user!.send('still here');
    assert.equal(await device!.nextText(), 'still here');
  }

  await recorded();
  const gone = await killed!.metric('couplet_cluster_rendezvous_total{result="linked"}');
  killed!.signal('SIGKILL');
  await killed!.exited;
  await site.sessions(400);
  const killedLinked = (await site.met('linked')) + gone - steady - drainedLinked;
  assert.ok(killedLinked <= 8, `${killedLinked} of 400 sessions were linked after a server's death`);

  await recorded();
  assert.deepEqual(
    site
      .started()
      .map(([id]) => id)
      .sort(),
    [...site.ids].sort(),
  );
  for (const [id, one, other] of site.started()) {
    assert.deepEqual([one, other].sort(), [addresses.user, addresses.device], id);
  }
  const linked = steady + drainedLinked + killedLinked;
  assert.ok(linked <= 20, `${linked} of ${site.ids.length} sessions were linked`);
  t.diagnostic(`linked: ${steady} steady, ${drainedLinked} beside one that drains, ${killedLinked} after a death`);
});
