import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { type RightName, rightBits } from '../../src/core/rights.ts';
import { connect } from '../support/client.ts';
import { enrolRaw, type RawAgent } from '../support/raw-agent.ts';
import { until } from '../support/relay.ts';
import { addAgent, routedUrl, type Site, startSite } from '../support/site.ts';

/** A device whose agent only listens. */
async function listening(t: TestContext, site: Site, name = 'box'): Promise<{ agent: RawAgent; nodeid: string }> {
  const { device, join } = await site.directory.devices.create({ deviceGroupId: site.group.id, name });
  return { agent: await enrolRaw(t, site.deviceUrl, join.code), nodeid: device.id };
}

function codes(site: Site): string[] {
  return site.relay.events().map(({ code }) => code);
}

/** The device half that a tunnel command asks for. */
function answerUrl(site: Site, value: { path: string; id: string; rauth: string }): string {
  return `${site.deviceUrl}${value.path}?id=${value.id}&rauth=${encodeURIComponent(value.rauth)}`;
}

test('[T5][T6] a user half with a target has the agent connect back, and is paired', async (t) => {
  const site = await startSite(t);
  await site.directory.domains.put('', { consent: 3, privacyBarText: 'Somebody watches' });
  await site.directory.deviceGroups.update(site.group.id, { consent: 8 });
  const { agent, nodeid } = await listening(t, site);
  const user = await connect(t, routedUrl(site, { nodeid, tcpport: 22, p: 14 }));
  const { command, value } = await agent.command();
  assert.match(command.value, /^\*\/meshrelay\.ashx\?p=14&nodeid=node\/\/[\w-]+&id=[\w-]{24}&rauth=[^%]+$/);
  const { value: _, ...rest } = command;
  assert.deepEqual(rest, {
    action: 'msg',
    type: 'tunnel',
    tcpport: 22,
    tcpaddr: '127.0.0.1',
    rights: 0xffffffff,
    consent: 11,
    username: 'alice',
    userid: 'user//alice',
    sessionid: value.id,
    realname: 'Alice A.',
    privacybartext: 'Somebody watches',
    soptions: { usages: [14] },
  });
  const opened = site.relay.sealer.open(value.rauth, 'rauth');
  assert.ok(opened.ok && opened.cookie.kind === 'device');
  assert.deepEqual(
    [opened.cookie.userid, opened.cookie.nodeid, opened.cookie.id],
    ['user//alice', nodeid, value.id],
    'the cookie is for this user, device and session alone',
  );
  const device = await connect(t, answerUrl(site, value));
  assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
  user.send(Buffer.from('to the device'));
  assert.equal((await device.next()).data.toString(), 'to the device');
  const started = site.relay.events().find(({ code }) => code === 'CPL-1001I');
  assert.equal(started?.nodeid, nodeid);
  assert.equal(started?.protocol, 14);
});

test('[T5] routing stands in the URL, in the cookie, and the cookie goes first; UDP and terminals too', async (t) => {
  const site = await startSite(t);
  const { agent, nodeid } = await listening(t, site);
  const cookie = { userid: site.alice.id, domainid: '', nodeid, tcpport: 5900, tcpaddr: '10.0.0.5' };
  await connect(t, routedUrl(site, { nodeid, tcpport: 22 }, site.relay.sealer.seal(cookie)));
  const first = await agent.command();
  assert.deepEqual([first.command.tcpport, first.command.tcpaddr], [5900, '10.0.0.5']);
  await connect(t, routedUrl(site, { nodeid, udpport: 53, udpaddr: '::1' }));
  const second = await agent.command();
  assert.deepEqual([second.command.udpport, second.command.udpaddr, second.command.tcpport], [53, '::1', undefined]);
  await connect(t, routedUrl(site, { nodeid, p: 1 }));
  const third = await agent.command();
  assert.deepEqual([third.command.soptions, third.command.tcpport], [{ usages: [1] }, undefined]);
  await connect(t, routedUrl(site, { nodeid, tcpport: 22, id: 'mine@$1' }));
  assert.equal((await agent.command()).value.id, 'mine@$1', 'an id of its own, as written');
});

test('[T7] a device that is connected nowhere is told at once: 4404', async (t) => {
  const site = await startSite(t);
  const { device } = await site.directory.devices.create({ deviceGroupId: site.group.id, name: 'off' });
  const user = await connect(t, routedUrl(site, { nodeid: device.id, tcpport: 22 }));
  assert.deepEqual(await user.closed, { code: 4404, reason: 'device offline' });
  assert.equal(await site.relay.metric('couplet_halves{state="waiting"}'), 0);
  assert.deepEqual(
    codes(site).filter((code) => code.startsWith('CPL-130')),
    ['CPL-1302W'],
  );
});

test('[T2][T5] every bit against every protocol and way in', async (t) => {
  const site = await startSite(t, { settings: { routing: { requireRelayRight: true } } });
  const { agent, nodeid } = await listening(t, site);
  const ways = {
    terminal: { p: 1 },
    'admin shell': { p: 6 },
    'user shell': { p: 8 },
    'user PowerShell': { p: 9 },
    'web SSH': { p: 11 },
    desktop: { p: 2 },
    RDP: { p: 10 },
    VNC: { p: 12 },
    files: { p: 5 },
    'SSH files': { p: 13 },
    AMT: { p: 100 },
    'AMT over TLS': { p: 101 },
    TCP: { tcpport: 22 },
    UDP: { udpport: 53 },
    'TCP that says it is a terminal': { tcpport: 22, p: 1 },
  };
  const shells = [
    'terminal',
    'admin shell',
    'user shell',
    'user PowerShell',
    'web SSH',
    'TCP that says it is a terminal',
  ];
  const ports = ['TCP', 'UDP', 'TCP that says it is a terminal'];
  const desktops = ['desktop', 'RDP', 'VNC'];
  const all = Object.keys(ways);
  const but = (less: readonly string[]) => all.filter((way) => !less.includes(way));
  const withoutPorts = but(ports);
  const table: [RightName[], readonly string[]][] = [
    [['remote-control'], withoutPorts],
    [['remote-control', 'relay'], all],
    [['relay'], []],
    [['view-only', 'relay'], []],
    [['remote-control', 'relay', 'view-only'], desktops],
    [['remote-control', 'relay', 'no-terminal'], but(shells)],
    [['remote-control', 'relay', 'no-files'], but(['files', 'SSH files'])],
    [['remote-control', 'relay', 'no-desktop'], but(desktops)],
    [['remote-control', 'relay', 'no-amt'], but(['AMT', 'AMT over TLS'])],
    ...(Object.keys(rightBits) as RightName[])
      .filter((name) => !/^(remote-control|relay|view-only|no-.*)$/.test(name))
      .flatMap((name): [RightName[], readonly string[]][] => [
        [[name], []],
        [[name, 'remote-control'], withoutPorts],
      ]),
  ];
  // One that was not needed is waited for again: no two may read at once.
  let command = agent.command();
  command.catch(() => {});
  for (const [names, allowed] of table) {
    const rights = names.reduce((sum, name) => sum | rightBits[name], 0);
    await site.directory.links.grant(site.alice.id, site.group.id, rights);
    for (const [way, query] of Object.entries(ways)) {
      const what = `${way} with ${names.join(', ')}`;
      const user = await connect(t, routedUrl(site, { nodeid, ...query }));
      const told = await Promise.race([command, user.closed]);
      if ('command' in told) {
        command = agent.command();
        assert.ok(allowed.includes(way), `${what} is refused`);
        assert.equal(told.command.rights, rights, what);
        assert.equal(told.command.desktopviewonly, names.includes('view-only') ? true : undefined, what);
        user.ws.terminate();
      } else {
        assert.equal(told.code, 4403, what);
        assert.ok(!allowed.includes(way), `${what} is let through: ${told.reason}`);
      }
    }
  }
});

test('[T5] strangers, locked users, unknown devices and other domains get 4403 and an event, or 401', async (t) => {
  const site = await startSite(t);
  const { directory, relay } = site;
  const { nodeid } = await listening(t, site);
  await directory.users.create({ name: 'mallory' });
  const as = (userid: string) => relay.sealer.seal({ userid, domainid: '' });
  for (const [cookie, node] of [
    [as('user//mallory'), nodeid],
    [as('user//nobody'), nodeid],
    [as('user//alice'), 'node//unknown'],
    [as('user//alice'), 'node/other/unknown'],
  ] as const) {
    const user = await connect(t, routedUrl(site, { nodeid: node, tcpport: 22 }, cookie));
    assert.equal((await user.closed).code, 4403);
  }
  assert.equal(codes(site).filter((code) => code === 'CPL-1302W').length, 4);
  await directory.users.update(site.alice.id, { locked: true });
  await assert.rejects(connect(t, routedUrl(site, { nodeid, tcpport: 22 })), /refused with 401/);
  assert.equal(await relay.metric('couplet_refused_total{reason="user-locked"}'), 1);
});

test('[T8] an agent that will not, or cannot, ends the half that waits for it, and no other', async (t) => {
  const site = await startSite(t);
  const first = await listening(t, site, 'one');
  const second = await listening(t, site, 'two');
  const user = await connect(t, routedUrl(site, { nodeid: first.nodeid, tcpport: 22 }));
  const { id } = (await first.agent.command()).value;
  const refusal = { type: 'tunnel-refused', id, reason: 'target', detail: 'not\nlisted \u001b[31m' } as const;
  second.agent.say(refusal);
  const other = await connect(t, routedUrl(site, { nodeid: second.nodeid, tcpport: 22 }));
  await second.agent.command();
  assert.equal(user.isClosed, false, 'another agent has no say in it');
  first.agent.say(refusal);
  assert.deepEqual(await user.closed, { code: 4403, reason: 'refused by the device: not?listed ?[31m' });
  assert.equal(other.isClosed, false);
  assert.equal(codes(site).filter((code) => code === 'CPL-1303W').length, 1);
});

test('[T8][T11] the real agent serves a target of loopback, and refuses others', async (t) => {
  const echo = createServer((socket) => socket.on('error', () => {}).pipe(socket));
  echo.listen(0, '127.0.0.1');
  await once(echo, 'listening');
  t.after(() => echo.close());
  const { port } = echo.address() as { port: number };
  const site = await startSite(t);
  const { nodeid } = await addAgent(t, site);
  const user = await connect(t, routedUrl(site, { nodeid, tcpport: port }));
  assert.equal(await user.nextText(), 'c');
  user.send(Buffer.from('ping'));
  let back = '';
  while (back.length < 4) {
    const { data, isBinary } = await user.next();
    if (isBinary) back += data.toString();
  }
  assert.equal(back, 'ping');
  const far = await connect(t, routedUrl(site, { nodeid, tcpport: port, tcpaddr: '192.0.2.1' }));
  const closed = await far.closed;
  assert.equal(closed.code, 4403, closed.reason);
});

test('[R14][T6] ids in tunnel commands are signed where ids must be', async (t) => {
  const site = await startSite(t, { settings: { relay: { signedIds: true } } });
  const { agent, nodeid } = await listening(t, site);
  const user = await connect(t, routedUrl(site, { nodeid, tcpport: 22 }));
  const { value } = await agent.command();
  assert.match(value.id, /^[\w-]{24}:[0-9]+:[0-9a-f]{96}$/);
  const device = await connect(t, answerUrl(site, value));
  assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
});

test('[T3] without a directory nothing is routed and every domain is known', async (t) => {
  const site = await startSite(t, { settings: { directory: 'none' } }).catch((error: Error) => error);
  assert.match(String(site), /there is no directory/);
});

test('[R1] with a directory an unknown domain is 404, and one that is made is known', async (t) => {
  const site = await startSite(t);
  const url = () =>
    `${site.url}/acme/meshrelay.ashx?id=x&auth=${encodeURIComponent(site.relay.sealer.seal({ userid: 'user/acme/bob', domainid: 'acme' }))}`;
  await assert.rejects(connect(t, url()), /refused with 404/);
  await site.directory.domains.put('acme', {});
  await until(async () => (await connect(t, url()).catch(() => undefined)) !== undefined, 'the domain is known', 1000);
});

test('[T5] [R3] with an id and no port: a device of the directory is sent, and named by nobody without a right', async (t) => {
  const site = await startSite(t);
  const { agent, nodeid } = await listening(t, site);
  const user = await connect(t, routedUrl(site, { nodeid, p: 1, id: 'own' }));
  const { value } = await agent.command();
  assert.equal(value.id, 'own');
  const device = await connect(t, answerUrl(site, value));
  assert.deepEqual([await user.nextText(), await device.nextText()], ['c', 'c']);
  await site.directory.users.create({ name: 'bob' });
  const bob = site.relay.sealer.seal({ userid: 'user//bob', domainid: '' });
  for (const query of [
    { id: 'x', nodeid, p: 1 },
    { id: 'x', nodeid },
  ]) {
    const forger = await connect(t, routedUrl(site, query, bob));
    assert.equal((await forger.closed).code, 4403, JSON.stringify(query));
  }
  const foreign = await connect(t, routedUrl(site, { id: 'y', nodeid: 'node//of-another-server', p: 1 }, bob));
  const mate = await connect(t, site.relay.url('device', 'y', {}, 'bob'));
  assert.deepEqual([await foreign.nextText(), await mate.nextText()], ['c', 'c'], 'others see to that device');
});
