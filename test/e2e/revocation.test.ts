import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { rightBits } from '../../src/core/rights.ts';
import { type Client, connect } from '../support/client.ts';
import { enrolRaw, type RawAgent } from '../support/raw-agent.ts';
import { routedUrl, type Site, startSite } from '../support/site.ts';

/** From the change to the close frame, milliseconds [T4]. */
const limitMs = 1000;
const shared = { bits: 1, tcpPorts: [22], expiresMs: 0 };

async function device(t: TestContext, site: Site, name = 'box'): Promise<{ agent: RawAgent; nodeid: string }> {
  const made = await site.directory.devices.create({ deviceGroupId: site.group.id, name });
  return { agent: await enrolRaw(t, site.deviceUrl, made.join.code), nodeid: made.device.id };
}

/** A running session of a user half that is routed. */
async function session(
  t: TestContext,
  site: Site,
  agent: RawAgent,
  url: string,
): Promise<{ user: Client; mate: Client }> {
  const user = await connect(t, url);
  const { value } = await agent.command();
  const query = `id=${encodeURIComponent(value.id)}&rauth=${encodeURIComponent(value.rauth)}`;
  const mate = await connect(t, `${site.deviceUrl}${value.path}?${query}`);
  assert.deepEqual([await user.nextText(), await mate.nextText()], ['c', 'c']);
  return { user, mate };
}

async function closedInTime(what: string, ...clients: Client[]): Promise<void> {
  const late = new Promise<'late'>((resolve) => setTimeout(resolve, limitMs, 'late').unref());
  for (const client of clients) {
    const closed = await Promise.race([client.closed, late]);
    assert.notEqual(closed, 'late', `${what}: not within ${limitMs} ms`);
    assert.equal((closed as { code: number }).code, 4410, what);
  }
}

test('[T4] fault 11: who loses a right, the device, the account or the share loses the session within 1 s', async (t) => {
  const site = await startSite(t);
  const { directory, alice, group } = site;
  const changes: [string, (nodeid: string) => Promise<unknown>][] = [
    ['the link goes', () => directory.links.revoke(alice.id, group.id)],
    ['the link loses a bit', () => directory.links.grant(alice.id, group.id, rightBits.wake)],
    [
      'the protocol is taken away',
      () => directory.links.grant(alice.id, group.id, rightBits['remote-control'] | rightBits['no-terminal']),
    ],
    ['the user is locked', () => directory.users.update(alice.id, { locked: true })],
    ['the device is revoked', (nodeid) => directory.devices.revoke(nodeid)],
    ['the device is removed', (nodeid) => directory.devices.remove(nodeid)],
    [
      'the device moves',
      async (nodeid) =>
        directory.devices.update(nodeid, {
          deviceGroupId: (await directory.deviceGroups.create({ name: 'elsewhere' })).id,
        }),
    ],
    ['the group goes', () => directory.deviceGroups.remove(group.id, { withDevices: true })],
  ];
  let n = 0;
  for (const [what, change] of changes) {
    await directory.users.update(alice.id, { locked: false });
    await directory.links.grant(alice.id, group.id, rightBits['remote-control']);
    const { agent, nodeid } = await device(t, site, `box ${++n}`);
    const running = await session(t, site, agent, routedUrl(site, { nodeid, p: 1 }));
    const waiting = await connect(t, routedUrl(site, { nodeid, p: 1 }));
    await agent.command();
    await change(nodeid);
    await closedInTime(what, running.user, running.mate, waiting);
  }
  const revoked = site.relay.events().filter(({ code }) => code === 'CPL-1004I');
  assert.equal(revoked.length, changes.length);
  assert.equal(await site.relay.metric('couplet_session_outcomes_total{outcome="revoked"}'), 2 * changes.length);
});

test('[T4] a change that touches others, or takes nothing away, ends nothing', async (t) => {
  const site = await startSite(t);
  const { directory, alice, group } = site;
  const { agent, nodeid } = await device(t, site);
  const { user, mate } = await session(t, site, agent, routedUrl(site, { nodeid, p: 1 }));
  const bob = await directory.users.create({ name: 'bob' });
  await directory.links.grant(bob.id, group.id, 8);
  await directory.users.remove(bob.id);
  await directory.links.grant(alice.id, group.id, rightBits['remote-control'] | rightBits['no-files']);
  await directory.links.grant(alice.id, nodeid, 8);
  await directory.links.revoke(alice.id, group.id);
  await directory.domains.put('', { consent: 1 });
  user.send('still there');
  assert.equal(await mate.nextText(), 'still there');
});

test('[T4] sessions that nobody routed end too, where the directory had granted them', async (t) => {
  const site = await startSite(t);
  const { directory, alice, group, relay } = site;
  const { nodeid } = await device(t, site);
  const pair = async (id: string) => {
    const user = await connect(t, relay.url('user', id));
    const rauth = relay.sealer.seal({ ruserid: alice.id, nodeid, id });
    const mate = await connect(t, `${site.deviceUrl}/relay?id=${id}&rauth=${encodeURIComponent(rauth)}`);
    assert.deepEqual([await user.nextText(), await mate.nextText()], ['c', 'c']);
    return { user, mate };
  };
  const first = await pair('one');
  await directory.links.revoke(alice.id, group.id);
  await closedInTime('the link goes', first.user, first.mate);
  const second = await pair('two');
  await directory.users.update(alice.id, { realname: 'Alice B.' });
  second.user.send('never granted, so never withdrawn');
  assert.equal(await second.mate.nextText(), 'never granted, so never withdrawn');
  await directory.users.remove(alice.id);
  await closedInTime('the user goes', second.user, second.mate);
});

test('[T4] what was issued to a user who was removed opens nothing any more, not even for one of that name', async (t) => {
  const site = await startSite(t);
  const { directory, alice, relay } = site;
  const url = relay.url('user', 'x');
  await directory.users.remove(alice.id);
  await assert.rejects(connect(t, url), /refused with 401/);
  await directory.users.create({ name: 'alice' });
  const old = relay.sealer.seal({ userid: alice.id, domainid: '', time: Math.floor(Date.now() / 1000) - 60 });
  await assert.rejects(connect(t, `${site.url}/relay?id=x&auth=${encodeURIComponent(old)}`), /refused with 401/);
  await connect(t, relay.url('user', 'x'));
  assert.equal(await relay.metric('couplet_refused_total{reason="user-replaced"}'), 2);
});

test("[T15] a share opens what it names, under the guest's name, counted, until it is revoked", async (t) => {
  const site = await startSite(t);
  const { directory, alice, relay } = site;
  const { agent, nodeid } = await device(t, site);
  const expiresMs = Date.now() + 3_600_000;
  const share = await directory.shares.create({
    ...shared,
    deviceId: nodeid,
    createdBy: alice.id,
    expiresMs,
    guestName: 'Guest \u202eG'.replace('\u202e', ''),
  });
  const cookie = (more: object = {}) =>
    relay.sealer.seal({ nid: nodeid, pid: share.id, p: 1, gn: share.guestName, expire: expiresMs, vo: 0, ...more });
  const guest = await session(t, site, agent, routedUrl(site, { nodeid, p: 1 }, cookie()));
  const started = relay.events().find(({ code }) => code === 'CPL-1001I');
  assert.deepEqual([started?.guestname, started?.userid, started?.shareid], ['Guest G', 'user//alice', share.id]);
  assert.equal((await directory.shares.get(share.id))?.uses, 1);
  const port = await session(t, site, agent, routedUrl(site, { nodeid, tcpport: 22 }, cookie()));
  for (const query of [
    { p: 2 },
    { p: 5 },
    { p: 11 },
    { tcpport: 23 },
    { udpport: 22 },
    { tcpport: 22, tcpaddr: '10.0.0.5' },
  ]) {
    const refused = await connect(t, routedUrl(site, { nodeid, ...query }, cookie()));
    assert.equal((await refused.closed).code, 4403, JSON.stringify(query));
  }
  await assert.rejects(connect(t, routedUrl(site, { nodeid, p: 1 }, cookie({ pid: 'unknown' }))), /refused with 401/);
  const other = await device(t, site, 'other');
  await assert.rejects(connect(t, routedUrl(site, { nodeid: other.nodeid, p: 1 }, cookie())), /refused with 401/);
  await directory.shares.revoke(share.id);
  await closedInTime('the share is revoked', guest.user, guest.mate, port.user, port.mate);
  await assert.rejects(connect(t, routedUrl(site, { nodeid, p: 1 }, cookie())), /refused with 401/);
});

test('[T15] a guest gets no more than the share and the one who shared have', async (t) => {
  const site = await startSite(t);
  const { directory, alice, group, relay } = site;
  const { agent, nodeid } = await device(t, site);
  const expiresMs = Date.now() + 3_600_000;
  const share = await directory.shares.create({
    bits: 3,
    tcpPorts: [22],
    expiresMs,
    deviceId: nodeid,
    createdBy: alice.id,
    viewOnly: true,
  });
  const auth = relay.sealer.seal({ nid: nodeid, pid: share.id, p: 3, gn: 'G', expire: expiresMs, vo: 1 });
  const desktop = await connect(t, routedUrl(site, { nodeid, p: 2 }, auth));
  const { command } = await agent.command();
  assert.deepEqual([command.rights, command.desktopviewonly, command.guestname], [264, true, 'G']);
  for (const query of [{ p: 1 }, { tcpport: 22 }]) {
    const refused = await connect(t, routedUrl(site, { nodeid, ...query }, auth));
    assert.equal((await refused.closed).code, 4403, `view only: ${JSON.stringify(query)}`);
  }
  await directory.links.grant(alice.id, group.id, rightBits['remote-control']);
  await closedInTime('who shared may not share any more', desktop);
});
