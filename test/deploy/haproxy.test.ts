import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { connect } from '../support/client.ts';
import { configFor, type Haproxy, startHaproxy } from '../support/haproxy.ts';
import { ProxiedServer } from '../support/proxied-server.ts';
import { makeCertificate, temporaryFolder } from '../support/relay.ts';
import { requireProgram } from '../support/services.ts';

const names = ['relay1', 'relay2', 'relay3', 'relay4'];

async function start(t: TestContext): Promise<{ haproxy: Haproxy; servers: ProxiedServer[] } | undefined> {
  const program = requireProgram(t, 'haproxy');
  if (program === undefined) return undefined;
  const servers = await Promise.all(names.map((name) => ProxiedServer.start(t, name)));
  const haproxy = await startHaproxy(t, program, { servers: servers.map(({ port }) => port) });
  return { haproxy, servers };
}

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly headers: NodeJS.Dict<string | string[]>;
}

function ask(
  haproxy: Haproxy,
  path: string,
  options: { agent?: Agent; localAddress?: string; method?: string; headers?: Record<string, string> } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const to = { host: '127.0.0.1', port: haproxy.port, path, rejectUnauthorized: false, ...options };
    const sent = request(to, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => {
        body += text;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body, headers: response.headers }));
    });
    sent.on('error', reject);
    sent.end();
  });
}

/** Which server each id goes to. */
async function placesOf(haproxy: Haproxy, ids: readonly string[]): Promise<string[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 20 });
  try {
    return await Promise.all(
      ids.map(async (id) => {
        const { status, body } = await ask(haproxy, `/meshrelay.ashx?id=${encodeURIComponent(id)}`, { agent });
        assert.equal(status, 200);
        return body;
      }),
    );
  } finally {
    agent.destroy();
  }
}

function randomIds(count: number): string[] {
  return Array.from({ length: count }, () => randomBytes(16).toString('base64url'));
}

/** Every byte escaped that an agent or a browser might escape, or might not. */
function escapeAll(id: string): string {
  return [...Buffer.from(id)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');
}

/** Runs `task` for each, at most `width` at a time. */
async function inWaves<T>(things: readonly T[], width: number, task: (thing: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < things.length; at += width) await Promise.all(things.slice(at, at + width).map(task));
}

test('[K8] deploy/haproxy.cfg as it is passes haproxy -c without a warning', (t) => {
  const haproxy = requireProgram(t, 'haproxy');
  if (haproxy === undefined) return;
  const folder = temporaryFolder(t);
  const { certFile, keyFile } = makeCertificate(folder);
  const pem = join(folder, 'couplet.pem');
  writeFileSync(pem, readFileSync(certFile, 'utf8') + readFileSync(keyFile, 'utf8'));
  const shipped = readFileSync(new URL('../../deploy/haproxy.cfg', import.meta.url), 'utf8');
  const file = join(folder, 'haproxy.cfg');
  writeFileSync(file, shipped.replace('/etc/haproxy/couplet.pem', pem));
  execFileSync(haproxy, ['-c', '-q', '-dW', '-f', file]);
  // The variant in comments, of servers from DNS, in place of the lines of servers.
  const dns = shipped.replace('/etc/haproxy/couplet.pem', pem).split('\n');
  const template = dns.find((line) => line.startsWith('#     server-template'))!.slice(2);
  const withDns = dns
    .map((line) => line.replace(/^# (resolvers| {4}nameserver| {4}accepted_payload_size)/, '$1'))
    .flatMap((line) => (/^ {4}server relay1 .* id 1$/.test(line) ? [template] : [line]))
    .filter((line) => !/^ {4}server relay[2-4] .* id \d$/.test(line))
    .map((line) =>
      line.replace(/^ {4}server relay1 .*track.*$/, template).replace(/^ {4}server relay[2-4] .*track.*$/, ''),
    );
  writeFileSync(file, withDns.join('\n'));
  execFileSync(haproxy, ['-c', '-q', '-dW', '-f', file]);
});

test('[K8] a server line of the file that names another than its id is not taken', () => {
  const at = { port: 1, statusPort: 2, socket: '/s', pem: '/p' };
  const lines = configFor(at, [
    { port: 7001, number: 1 },
    { port: 7004, number: 4 },
  ]).match(/^ {4}server .*$/gm)!;
  assert.deepEqual(lines.slice(0, 2), [
    '    server relay1 127.0.0.1:7001 id 1',
    '    server relay4 127.0.0.1:7004 id 4',
  ]);
  assert.equal(lines.length, 8);
  assert.ok(lines.slice(2).every((line) => / id (\d) track halves\/relay\1$/.test(line)));
});

test('[K8] both halves of each of 1,000 ids, differently escaped, reach one server; every server has its share', async (t) => {
  const running = await start(t);
  if (running === undefined) return;
  const { haproxy, servers } = running;
  const special = [
    'meshmessenger/user//alice/user//bob@example.org',
    'a b',
    'a+b',
    'what?a+b',
    'x;id=y',
    '100%',
    'a&b=c',
    'a=b',
    "~!*()'",
  ];
  const ids = [...randomIds(500), ...Array.from({ length: 491 }, (_, i) => `meshmessenger/user//u${i}/node//n@${i}`)];
  ids.push(...special);
  assert.equal(ids.length, 1000);
  const share = new Map<string, number>();
  await inWaves(ids, 50, async (id) => {
    const paths = [
      `/meshrelay.ashx?auth=x&id=${encodeURIComponent(id)}&p=1`,
      `/d1/relay?id=${escapeAll(id)}&rauth=id%3D`,
    ];
    const halves = await Promise.all(paths.map((path) => connect(t, `wss://127.0.0.1:${haproxy.port}${path}`)));
    const [a, b] = await Promise.all(halves.map((half) => half.nextText()));
    assert.equal(a, b, `the halves of ${id}`);
    share.set(a!, (share.get(a!) ?? 0) + 1);
    for (const { ws } of halves) ws.terminate();
  });
  assert.deepEqual([...share.keys()].sort(), names);
  for (const [name, count] of share) assert.ok(count > 180 && count < 320, `${name} has ${count} of 1,000 ids`);
  assert.deepEqual(
    servers.map(({ strangers }) => strangers),
    [0, 0, 0, 0],
  );
});

test('[K8] an id is read as Couplet reads it: the first one, split at & alone, broken escapes as they are', async (t) => {
  const running = await start(t);
  if (running === undefined) return;
  const { haproxy } = running;
  // Sixteen of each: that all meet by chance is out of the question.
  const pairs: ((id: string) => [string, string])[] = [
    (id) => [`id=${id}&id=other`, `id=${id}`],
    (id) => [`x=1;id=other&id=${id}`, `id=${id}`],
    (id) => [`id=${id};b`, `id=${id}%3Bb`],
    (id) => [`id=${id}+b`, `id=${id}%2Bb`],
    (id) => [`id=${id}?+b`, `id=${id}%3f%2bb`],
    (id) => [`myid=other&id=${id}`, `id=${id}`],
    (id) => [`id=${id}%zz`, `p=1&id=${id}%zz&id=1`],
    (id) => [`id=%41${id}`, `id=A${id}`],
  ];
  for (const pair of pairs) {
    for (const id of randomIds(16)) {
      const [a, b] = await Promise.all(pair(id).map((query) => ask(haproxy, `/meshrelay.ashx?${query}`)));
      assert.equal(a!.status, 200);
      assert.equal(a!.body, b!.body, pair(id).join(' and '));
    }
  }
  // And other ids go elsewhere: sixteen ids that have a start in common are not all in one place.
  const apart = await placesOf(
    haproxy,
    randomIds(16).map((id) => `a@b+${id}`),
  );
  assert.ok(new Set(apart).size > 1);
});

test('[K8] halves without an id, control channels and requests of the API are spread over all servers', async (t) => {
  const running = await start(t);
  if (running === undefined) return;
  const { haproxy } = running;
  for (const path of ['/meshrelay.ashx?nodeid=node//x&tcpport=80', '/relay?id=&auth=x', '/relay?id=&id=x', '/agent']) {
    const counts = new Map<string, number>();
    for (let i = 0; i < 40; i++) {
      const half = await connect(t, `wss://127.0.0.1:${haproxy.port}${path}`);
      const name = await half.nextText();
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    assert.deepEqual([...counts.keys()].sort(), names, path);
    for (const count of counts.values()) assert.ok(count >= 5 && count <= 15, `${path}: ${count} of 40`);
  }
  const answers = await Promise.all(names.map(() => ask(haproxy, '/api/v1/sessions')));
  assert.deepEqual(answers.map(({ body }) => body).sort(), names);
});

test('[K8] a server that goes moves its own ids alone, and they come back with it', async (t) => {
  const running = await start(t);
  if (running === undefined) return;
  const { haproxy, servers } = running;
  const ids = randomIds(1000);
  const before = await placesOf(haproxy, ids);
  const gone = servers[1]!;
  const { port } = gone;
  await gone.stop();
  // Before any check has failed: an attempt that is refused goes to the next server, and the client sees nothing of it.
  const atOnce = await placesOf(haproxy, ids.slice(0, 100));
  assert.ok(!atOnce.includes('relay2'));
  await haproxy.awaits('relay2', 'DOWN');
  const during = await placesOf(haproxy, ids);
  const moved = ids.filter((_, i) => before[i] !== during[i]);
  assert.ok(
    ids.every((_, i) => before[i] === 'relay2' || before[i] === during[i]),
    'ids of other servers stay',
  );
  assert.ok(moved.length > 180 && moved.length < 320, `${moved.length} of 1,000 ids moved`);
  assert.equal(new Set(during).size, 3);
  for (const name of ['relay1', 'relay3', 'relay4']) {
    const taken = during.filter((place, i) => place === name && before[i] === 'relay2').length;
    assert.ok(taken > moved.length / 6, `${name} takes ${taken} of the ${moved.length} that moved`);
  }
  // A file without the server (the others keep their ids) places every id alike.
  const program = requireProgram(t, 'haproxy')!;
  const others = [0, 2, 3].map((i) => ({ port: servers[i]!.port, number: i + 1 }));
  const without = await startHaproxy(t, program, { servers: others });
  assert.deepEqual(await placesOf(without, ids), during);

  await gone.listen(port);
  await haproxy.awaits('relay2', 'UP');
  assert.deepEqual(await placesOf(haproxy, ids), before);
});

test('[K8] a server that drains gets no new half; what runs on it goes on', async (t) => {
  const running = await start(t);
  if (running === undefined) return;
  const { haproxy, servers } = running;
  const url = (id: string) => `wss://127.0.0.1:${haproxy.port}/meshrelay.ashx?id=${id}`;
  const ids = randomIds(40);
  const halves = await Promise.all(ids.map((id) => connect(t, url(id))));
  const places = await Promise.all(halves.map((half) => half.nextText()));
  const draining = servers.find(({ name }) => name === places[0])!;
  draining.isDraining = true;
  // At once, while HAProxy still believes it to be up: its 503 is not what the client gets.
  const agents = await Promise.all(ids.map(() => connect(t, `wss://127.0.0.1:${haproxy.port}/agent`)));
  for (const half of [...(await Promise.all(ids.map((id) => connect(t, url(id))))), ...agents])
    assert.notEqual(await half.nextText(), draining.name);
  await haproxy.awaits(draining.name, 'DOWN');
  for (const [i, half] of halves.entries()) {
    half.send(`still here ${i}`);
    assert.equal(await half.nextText(), `still here ${i}`);
  }
  draining.isDraining = false;
  await haproxy.awaits(draining.name, 'UP');
  // The operator's way, before the server is told to end: no half ever meets its 503.
  await haproxy.say(`set server halves/${draining.name} state drain`);
  assert.ok(!(await placesOf(haproxy, ids)).includes(draining.name));
  assert.match(await haproxy.state(draining.name, 'agents'), /DRAIN/);
  await haproxy.say(`set server halves/${draining.name} state ready`);
  assert.deepEqual(await placesOf(haproxy, ids), places);
});

test("[R12] the client's address arrives by PROXY protocol v2, for every client its own; its claims do not", async (t) => {
  const running = await start(t);
  if (running === undefined) return;
  const { haproxy, servers } = running;
  const agent = new Agent({ keepAlive: true });
  t.after(() => agent.destroy());
  for (let i = 0; i < 12; i++) {
    const localAddress = `127.0.0.${20 + (i % 3)}`;
    const path = `/api/v1/sessions?from=${localAddress}`;
    await ask(haproxy, path, { agent, localAddress, headers: { 'x-forwarded-for': '10.1.2.3' } });
  }
  const half = await connect(t, `wss://127.0.0.1:${haproxy.port}/relay?id=x&from=127.0.0.9`, {
    localAddress: '127.0.0.9',
  });
  await half.nextText();
  const arrived = servers.flatMap((server) => server.arrived).filter(({ url }) => url.includes('from='));
  assert.equal(arrived.length, 13);
  for (const { url, address, headers } of arrived) {
    assert.equal(address, /from=(.*)$/.exec(url)![1]);
    assert.equal(headers['x-forwarded-for'], undefined);
  }
  const checks = servers.flatMap((server) => server.arrived).filter(({ url }) => url === '/readyz');
  assert.ok(checks.length > 0 && checks.every(({ address, headers }) => address === '' && headers.host === 'couplet'));
});

test("[K8] the edge: HTTP/1.1 alone, TLS 1.2 at least, no /metrics; HAProxy's own metrics on loopback", async (t) => {
  const running = await start(t);
  if (running === undefined) return;
  const { haproxy, servers } = running;
  const refused = await ask(haproxy, '/metrics');
  assert.equal(refused.status, 403);
  assert.ok(servers.every(({ arrived }) => arrived.every(({ url }) => url === '/readyz')));
  assert.match(String((await ask(haproxy, '/healthz')).headers['strict-transport-security']), /max-age=\d{7}/);
  const to = { host: '127.0.0.1', port: haproxy.port, rejectUnauthorized: false };
  const spoken = await new Promise((resolve, reject) => {
    const socket = connectTls({ ...to, ALPNProtocols: ['h2', 'http/1.1'] }, () => {
      resolve(socket.alpnProtocol);
      socket.destroy();
    });
    socket.on('error', reject);
  });
  assert.equal(spoken, 'http/1.1');
  const old = await new Promise((resolve) => {
    const socket = connectTls(
      { ...to, minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' },
      () => {
        resolve(undefined);
        socket.destroy();
      },
    );
    socket.on('error', resolve);
  });
  assert.ok(old instanceof Error, 'TLS 1.1 is refused');
  const metrics = await (await fetch(`http://127.0.0.1:${haproxy.statusPort}/metrics`)).text();
  assert.match(metrics, /^haproxy_server_status\{proxy="halves",server="relay1",state="UP"\} 1$/m);
});
