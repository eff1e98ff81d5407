import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentState } from '../../src/clients/agent/state.ts';
import { connect } from '../support/client.ts';
import { enrolRaw, RawAgent } from '../support/raw-agent.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import { addAgent, routedUrl, runAgent, type Site, startSite } from '../support/site.ts';

async function newDevice(site: Site, name = 'box'): Promise<{ nodeid: string; code: string }> {
  const { device, join } = await site.directory.devices.create({ deviceGroupId: site.group.id, name });
  return { nodeid: device.id, code: join.code };
}

function codes(site: Site): string[] {
  return site.relay
    .events()
    .map(({ code }) => code)
    .filter((code) => code.startsWith('CPL-14'));
}

test('[T9] a join code is good for one device once, however many try at the same time', async (t) => {
  const site = await startSite(t);
  const { nodeid, code } = await newDevice(site);
  const agents = await Promise.all([1, 2, 3, 4].map(() => RawAgent.open(t, site.url)));
  for (const agent of agents) agent.enrol(code);
  const answers = await Promise.all(agents.map((agent) => agent.next()));
  const types = answers.map((answer) => ('action' in answer ? '' : answer.type)).sort();
  assert.deepEqual(types, ['accepted', 'refused', 'refused', 'refused']);
  const winner = agents[answers.findIndex((answer) => !('action' in answer) && answer.type === 'accepted')]!;
  assert.equal((await site.directory.devices.get(nodeid))?.publicKey, winner.keys.publicKey);
  const late = await RawAgent.open(t, site.url);
  late.enrol(code);
  assert.deepEqual(await late.next(), { type: 'refused', reason: 'join-code' });
  assert.equal((await late.client.closed).code, 4403);
  assert.deepEqual(codes(site).sort(), ['CPL-1401I', 'CPL-1404W', 'CPL-1404W', 'CPL-1404W', 'CPL-1404W', 'CPL-1405I']);
});

test('[T9] nothing that crosses the wire can be replayed', async (t) => {
  const site = await startSite(t);
  const { nodeid, code } = await newDevice(site);
  const agent = await enrolRaw(t, site.url, code);
  const known = await RawAgent.open(t, site.url, agent.keys);
  known.authenticate(nodeid);
  assert.equal(((await known.next()) as { type: string }).type, 'accepted');
  for (const text of [...agent.said, ...known.said]) {
    const thief = await RawAgent.open(t, site.url);
    thief.sayText(text);
    const answer = await thief.next();
    assert.deepEqual('action' in answer ? '' : answer.type, 'refused', text.slice(0, 40));
  }
  // A second handshake on a connection that stands is a protocol error, even the right one.
  known.sayText(known.said[0]!);
  assert.equal((await known.client.closed).code, 1002);
});

test('[T9] another key, another device, another host and another server are refused', async (t) => {
  const site = await startSite(t);
  const { nodeid, code } = await newDevice(site);
  const other = await newDevice(site, 'other');
  const agent = await enrolRaw(t, site.url, code);
  const refused = async (go: (agent: RawAgent) => void, reason: string, keys = agent.keys) => {
    const attempt = await RawAgent.open(t, site.url, keys);
    go(attempt);
    assert.deepEqual(await attempt.next(), { type: 'refused', reason });
  };
  await refused((a) => a.authenticate(nodeid), 'credentials', (await RawAgent.open(t, site.url)).keys);
  await refused((a) => a.authenticate(other.nodeid), 'credentials');
  await refused((a) => a.authenticate('node//unknown'), 'credentials');
  await refused((a) => a.authenticate(nodeid, { ...a.context, host: 'evil.example:443' }), 'host');
  await refused((a) => a.authenticate(nodeid, { ...a.context, serverId: 'another' }), 'credentials');
  await refused((a) => a.enrol(other.code, { ...a.context, host: 'evil.example:443' }), 'host');
  await refused((a) => a.enrol(other.code, { ...a.context, challenge: agent.context.challenge }), 'join-code');
  assert.equal((await site.directory.devices.get(other.nodeid))?.publicKey, undefined, 'the code is not used up');
});

test('[T9] agents.hosts: names behind a proxy count, and only those', async (t) => {
  const site = await startSite(t, { settings: { agents: { hosts: ['relay.example', 'other.example:8443'] } } });
  const { nodeid, code } = await newDevice(site);
  const { keys } = await enrolRaw(t, site.url, code);
  for (const [host, expected] of [
    ['relay.example:443', 'accepted'],
    ['relay.example:80', 'accepted'],
    ['other.example:8443', 'accepted'],
    ['other.example:443', 'refused'],
  ] as const) {
    const agent = await RawAgent.open(t, site.url, keys);
    agent.authenticate(nodeid, { ...agent.context, host });
    assert.equal(((await agent.next()) as { type: string }).type, expected, host);
  }
});

test('[T9] one connection for each device: the newer replaces the older, with an event', async (t) => {
  const site = await startSite(t);
  const { nodeid, code } = await newDevice(site);
  const first = await enrolRaw(t, site.url, code);
  const second = await RawAgent.open(t, site.url, first.keys);
  second.authenticate(nodeid);
  assert.equal(((await second.next()) as { type: string }).type, 'accepted');
  assert.deepEqual(await first.next(), { type: 'replaced' });
  assert.equal((await first.client.closed).code, 4409);
  assert.ok(codes(site).includes('CPL-1403W'));
  assert.equal(await site.relay.metric('couplet_agents'), 1);
  await connect(t, routedUrl(site, { nodeid, tcpport: 22 }));
  assert.equal((await second.command()).value.nodeid, nodeid, 'commands go to the newer');
});

test('[T9][T4] a device that is revoked or removed loses its control channel, and stays out', async (t) => {
  const site = await startSite(t);
  for (const how of ['revoke', 'remove'] as const) {
    const { nodeid, code } = await newDevice(site, how);
    const agent = await enrolRaw(t, site.url, code);
    await site.directory.devices[how](nodeid);
    assert.deepEqual(await agent.next(), { type: 'revoked' });
    assert.equal((await agent.client.closed).code, 4410);
    const again = await RawAgent.open(t, site.url, agent.keys);
    again.authenticate(nodeid);
    assert.deepEqual(await again.next(), { type: 'refused', reason: how === 'revoke' ? 'revoked' : 'credentials' });
  }
});

test('[T9] rubbish on a control channel ends it, and nothing else', async (t) => {
  const site = await startSite(t);
  const healthy = await addAgent(t, site);
  for (const text of [
    '',
    'null',
    '[]',
    '{"type":"enrol"}',
    '{"type":1}',
    '{',
    `{"type":"authenticate","nodeid":"${'x'.repeat(300)}"}`,
  ]) {
    const agent = await RawAgent.open(t, site.url);
    agent.sayText(text);
    assert.equal((await agent.client.closed).code, 1002, text);
  }
  const unknown = await RawAgent.open(t, site.url);
  unknown.sayText('{"type":"of-a-later-version"}');
  unknown.authenticate(healthy.nodeid);
  assert.equal(((await unknown.next()) as { type: string }).type, 'refused', 'an unknown type is passed over');
  const binary = await RawAgent.open(t, site.url);
  binary.client.send(Buffer.from([1, 2, 3]));
  assert.equal((await binary.client.closed).code, 1002);
  const large = await RawAgent.open(t, site.url);
  large.sayText(`"${'x'.repeat(70_000)}"`);
  await large.client.closed;
  assert.equal(healthy.online(), 1);
  assert.equal(await site.relay.metric('couplet_agents'), 1);
});

test('[T10] an agent that is silent is offline in time, one that says heartbeats is not', async (t) => {
  const site = await startSite(t, { settings: { agents: { heartbeatMs: 100 } } });
  const { nodeid, code } = await newDevice(site);
  const silent = await enrolRaw(t, site.url, code);
  const lively = await addAgent(t, site, { name: 'lively' });
  const { code: closeCode } = await silent.client.closed;
  assert.equal(closeCode, 1006, 'its connection just ends: nobody listens there');
  const offline = site.relay.events().find(({ code }) => code === 'CPL-1402I');
  assert.deepEqual([offline?.nodeid, offline?.reason], [nodeid, 'silent']);
  assert.equal(lively.online(), 1);
  assert.deepEqual(lively.offline, []);
});

test('[T10] an agent comes back when the server does, with the same identity', async (t) => {
  const site = await startSite(t);
  const state = AgentState.open(temporaryFolder(t));
  const agent = await addAgent(t, site, { state });
  await agent.stop();
  await until(async () => (await site.relay.metric('couplet_agents')) === 0, 'it is offline');
  const user = await connect(t, routedUrl(site, { nodeid: agent.nodeid, tcpport: 22 }));
  assert.equal((await user.closed).code, 4404);
  const again = await runAgent(t, site, { state });
  assert.equal(again.online(), 1);
  assert.equal(codes(site).filter((code) => code === 'CPL-1401I').length, 2);
  assert.equal(codes(site).filter((code) => code === 'CPL-1405I').length, 1, 'it did not enrol again');
});

test('[T10] a server that goes away says so to its agents', async (t) => {
  const site = await startSite(t);
  const { code } = await newDevice(site);
  const agent = await enrolRaw(t, site.url, code);
  const stopped = site.relay.server.close();
  assert.equal((await agent.client.closed).code, 1001);
  await stopped;
});
