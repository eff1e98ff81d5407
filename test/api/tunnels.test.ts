import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Admitter } from '../../src/auth/admission.ts';
import type { AdmittedHalf } from '../../src/auth/admission-types.ts';
import { CookieSealer } from '../../src/auth/cookie.ts';
import { ApiClient } from '../../src/clients/api.ts';
import { systemClock } from '../../src/core/clock.ts';
import { parseRights } from '../../src/core/rights.ts';
import { parseRelayQuery } from '../../src/protocol/relay-query.ts';
import { TestApi } from './support.ts';
import { World } from './world.ts';

async function start(t: Parameters<typeof TestApi.start>[0], options: Parameters<typeof TestApi.start>[1] = {}) {
  const api = await TestApi.start(t, options);
  return { api, world: await World.make(api) };
}

/** What the relay makes of a half that connects with this query. */
async function admitted(api: TestApi, query: string): Promise<AdmittedHalf | string> {
  const used = new Set<string>();
  const admitter = new Admitter({
    loginKey: api.loginKey,
    cookieEncoding: 'base64',
    clock: systemClock,
    singleUse: {
      use: ({ fingerprint }) => (used.has(fingerprint) ? 'used' : used.add(fingerprint) && 'fresh'),
    },
    allowNoUser: false,
    signedIds: false,
    anonymousDevice: false,
    routing: true,
    knownDomain: () => true,
    resolveShare: () => ({ userid: 'user//user' }),
  });
  const parsed = parseRelayQuery(query);
  if (!parsed.ok) return parsed.reason;
  const result = await admitter.admit({ domain: '', query: parsed.query, address: '127.0.0.1' });
  return result.ok ? result.half : result.reason;
}

/** What connectHalf makes of a ticket. */
function queryOf({ url, id, cookie }: { url: string; id: string; cookie: string }): string {
  const { search } = new URL(url, 'ws://x');
  return `${search.slice(1)}&id=${encodeURIComponent(id)}&auth=${encodeURIComponent(cookie)}`;
}

test('[T5] the clients log in, find a device and get tickets that open that target alone', async (t) => {
  const { api, world } = await start(t);
  await world.directory.users.setPassword(world.ids.user, 'a good password');
  const device = await world.device();
  const client = new ApiClient(api.origin);
  await client.login('user', 'a good password');
  assert.equal(await client.findDevice(device.name), device.id);
  await assert.rejects(client.findDevice('no such device'), /no device that you may see/);
  const { signal } = new AbortController();
  const targets = [
    [{ transport: 'tcp', host: '127.0.0.1', port: 22 }, { transport: 'tcp', port: 22, address: '127.0.0.1' }, 0],
    [{ transport: 'udp', host: 'dns.local', port: 53 }, { transport: 'udp', port: 53, address: 'dns.local' }, 0],
    [{ transport: 'none', protocol: 1 }, { transport: 'none', port: 0, address: '' }, 1],
  ] as const;
  for (const [request, routing, protocol] of targets) {
    const ticket = await client.openTunnel({ device: device.id, ...request }, signal);
    assert.ok(ticket.url.startsWith(`${api.origin.replace('http', 'ws')}/meshrelay.ashx`), ticket.url);
    const half = await admitted(api, queryOf(ticket));
    assert.ok(typeof half === 'object', String(half));
    assert.deepEqual(half.routing, { nodeid: device.id, ...routing });
    assert.deepEqual([half.id, half.protocol, half.identity.userid], [ticket.id, protocol, world.ids.user]);
    const swapped = await admitted(api, `p=2&nodeid=node//x&tcpport=80&${queryOf(ticket)}`);
    assert.ok(typeof swapped === 'object');
    assert.deepEqual(swapped.routing, half.routing, 'the URL turns it to nothing else');
    if (request.transport === 'none') assert.equal(swapped.protocol, 1, 'nor to another protocol');
    const opened = new CookieSealer(api.loginKey, systemClock).open(ticket.cookie, 'auth');
    assert.ok(opened.ok && opened.once !== undefined, 'single use');
    const untilMs = opened.once.expiredAtMs - systemClock.nowMs();
    assert.ok(untilMs > 100_000 && untilMs <= 122_000, `${untilMs} ms`);
  }
});

test('[T2][T5] a tunnel needs the rights for it: 403 with the word, 409 where the device is offline', async (t) => {
  const { api, world } = await start(t, { requireRelayRight: true });
  const token = await world.token('user');
  const tunnels = [
    ['remote-control', { transport: 'none', protocol: 1 }, 200, ''],
    ['wake', { transport: 'none', protocol: 1 }, 403, 'remote-control'],
    ['remote-control,no-terminal', { transport: 'none', protocol: 1 }, 403, 'no-terminal'],
    ['remote-control,no-terminal', { transport: 'none', protocol: 5 }, 200, ''],
    ['remote-control,no-files', { transport: 'none', protocol: 5 }, 403, 'no-files'],
    ['remote-control,view-only', { transport: 'none', protocol: 2 }, 200, ''],
    ['remote-control,view-only', { transport: 'tcp', host: '::1', port: 1 }, 403, 'view-only'],
    ['remote-control', { transport: 'tcp', host: '::1', port: 1 }, 403, 'relay'],
    ['remote-control,relay', { transport: 'udp', host: '::1', port: 1 }, 200, ''],
    ['admin', { transport: 'tcp', host: '::1', port: 65_535 }, 200, ''],
  ] as const;
  for (const [rights, target, status, word] of tunnels) {
    const { id: nodeid } = await world.device(parseRights(rights));
    const { status: got, text, body } = await api.call('POST', '/tunnels', { token, body: { nodeid, ...target } });
    assert.equal(got, status, `${rights} ${JSON.stringify(target)}: ${text}`);
    if (status !== 403) continue;
    assert.equal(body.error.reason, word);
    assert.ok(body.error.message.includes(word));
  }
  const body = { nodeid: (await world.device()).id, transport: 'none', protocol: 1 };
  api.agents.clear();
  const offline = await api.call('POST', '/tunnels', { token, body });
  assert.deepEqual([offline.status, offline.body.error.code], [409, 'CPL_API_OFFLINE']);
  await world.directory.devices.revoke(body.nodeid);
  const revoked = await api.call('POST', '/tunnels', { token, body });
  assert.deepEqual([revoked.status, revoked.body.error.reason], [403, 'device-revoked']);
});

test('a tunnel in another domain goes by the path of that domain', async (t) => {
  const { api, world } = await start(t);
  const group = await world.directory.deviceGroups.create({ name: 'g', domain: 'other' });
  const { device } = await world.directory.devices.create({ name: 'd', deviceGroupId: group.id });
  await world.directory.links.grant(world.ids.other, group.id, 8);
  world.bringOnline(device.id);
  const body = { nodeid: 'd', transport: 'none', protocol: 1 };
  const answer = await api.call('POST', '/tunnels', { token: await world.token('other'), body });
  assert.equal(answer.body.url, `/other/meshrelay.ashx?p=1&nodeid=${encodeURIComponent(device.id)}`);
});

test('what a tunnel cannot be is 400 and names the field', async (t) => {
  const { api, world } = await start(t);
  const token = await world.token('user');
  const { id: nodeid } = await world.device();
  const bad = [
    [{ nodeid, transport: 'tcp', host: 'h', port: 0 }, /^body\.port 0: /],
    [{ nodeid, transport: 'tcp', host: 'h', port: 65_536 }, /^body\.port 65536: /],
    [{ nodeid, transport: 'tcp', host: 'h', port: '22' }, /^body\.port "22": /],
    [{ nodeid, transport: 'tcp', host: 'a b\n', port: 22 }, /^body\.host "a b\\n": /],
    [{ nodeid, transport: 'tcp', host: 'h'.repeat(257), port: 22 }, /^body\.host "h{80}/],
    [{ nodeid, transport: 'none', protocol: 3 }, /^body\.protocol 3: /],
    [{ nodeid, transport: 'none', protocol: 200 }, /^body\.protocol 200: /],
    [{ nodeid, transport: 'none', protocol: 1, port: 22 }, /port/],
    [{ nodeid, transport: 'sctp', port: 22 }, /^body\.transport "sctp": /],
    [{ transport: 'none', protocol: 1 }, /^body\.nodeid \(missing\): /],
  ] as const;
  for (const [body, message] of bad) {
    const answer = await api.call('POST', '/tunnels', { token, body });
    assert.equal(answer.status, 400, answer.text);
    assert.match(answer.body.error.message, message);
  }
});

test('[T15] a share gives a URL with a share cookie, good for what it opens; revoked it stays in the list', async (t) => {
  const { api, world } = await start(t);
  const token = await world.token('user');
  const device = await world.device();
  const wanted = { device: device.name, protocols: 'tcp:22,terminal', expiresInMs: 7_200_000, guestName: 'Günther' };
  const { status, body } = await api.call('POST', '/shares', { token, body: wanted });
  assert.equal(status, 201);
  assert.deepEqual([body.protocols, body.guestName, body.uses], ['terminal,tcp:22', 'Günther', 0]);
  const opened = new CookieSealer(api.loginKey, systemClock).open(body.cookie, 'auth');
  assert.ok(opened.ok);
  assert.deepEqual(opened.cookie, {
    kind: 'share',
    domainid: '',
    nodeid: device.id,
    publicId: body.id,
    protocolBits: 1,
    guestname: 'Günther',
    viewOnly: false,
  });
  assert.equal(opened.expiresAtMs, body.expiresMs, '[R6] the cookie ends with the share');
  const url = new URL(body.url, 'ws://x');
  assert.equal(url.pathname, '/relay');
  const half = await admitted(api, url.search.slice(1));
  assert.ok(typeof half === 'object', String(half));
  assert.deepEqual(half.routing, { nodeid: device.id, transport: 'none', port: 0, address: '' });
  assert.equal(half.protocol, 1);
  const port = await api.call('POST', '/shares', { token, body: { ...wanted, protocols: 'tcp:22' } });
  const portHalf = await admitted(api, new URL(port.body.url, 'ws://x').search.slice(1));
  assert.ok(typeof portHalf === 'object', String(portHalf));
  assert.deepEqual(portHalf.routing, { nodeid: device.id, transport: 'tcp', port: 22, address: '127.0.0.1' });

  const listed = await api.call('GET', `/shares?device=${device.name}`, { token });
  assert.equal(listed.body.shares.length, 2);
  assert.ok(!listed.text.includes(encodeURIComponent(body.cookie)) && !listed.text.includes(body.cookie));
  assert.equal((await api.call('POST', `/shares/${body.id}/revoke`, { token })).status, 204);
  const state = await world.directory.shares.check(body.id, device.id);
  assert.equal(!state.ok && state.refusal, 'revoked');
  assert.ok((await api.call('GET', `/shares/${body.id}`, { token })).body.revokedMs > 0);
  const told = api.told.find(({ event }) => event === 'shareRevoked')!;
  assert.deepEqual([told.shareId, told.nodeid, told.guestname], [body.id, device.id, 'Günther']);
  assert.ok(!JSON.stringify(api.told).includes(body.cookie), 'the cookie is in no event');
});

test('[T15] nobody shares what he does not have', async (t) => {
  const { api, world } = await start(t, { requireRelayRight: true });
  const token = await world.token('user');
  const shares = [
    ['remote-control,guest-sharing', { protocols: 'terminal,desktop,files' }, 201],
    ['remote-control', { protocols: 'terminal' }, 403],
    ['guest-sharing', { protocols: 'terminal' }, 403],
    ['remote-control,guest-sharing,no-files', { protocols: 'terminal,files' }, 403],
    ['remote-control,guest-sharing,no-files', { protocols: 'terminal,desktop' }, 201],
    ['remote-control,guest-sharing,view-only', { protocols: 'desktop' }, 403],
    ['remote-control,guest-sharing,view-only', { protocols: 'desktop', viewOnly: true }, 201],
    ['remote-control,guest-sharing', { protocols: 'tcp:22' }, 403],
    ['remote-control,guest-sharing,relay', { protocols: 'tcp:22' }, 201],
    ['admin', { protocols: 'terminal,tcp:1' }, 201],
    ['admin', { protocols: 'shell' }, 400],
    ['admin', { protocols: 'tcp:0' }, 400],
    ['admin', { protocols: 'terminal', expiresInMs: 0 }, 400],
    ['admin', { protocols: 'terminal', user: 'admin' }, 403],
  ] as const;
  for (const [rights, wanted, status] of shares) {
    const { id: device } = await world.device(parseRights(rights));
    const answer = await api.call('POST', '/shares', { token, body: { device, expiresInMs: 60_000, ...wanted } });
    assert.equal(answer.status, status, `${rights} ${JSON.stringify(wanted)}: ${answer.text}`);
  }
});

test('[T15] shares of others: for who manages users over the device', async (t) => {
  const { api, world } = await start(t);
  const device = await world.device();
  const wanted = { device: device.id, protocols: 'terminal', expiresInMs: 60_000 };
  const make = async (who: 'user' | 'groupAdmin') =>
    (await api.call('POST', '/shares', { token: await world.token(who), body: wanted })).body.id as string;
  const ids = [await make('user'), await make('groupAdmin')];
  const seen = async (who: 'user' | 'groupAdmin' | 'manager' | 'stranger', query = '') => {
    const { body } = await api.call('GET', `/shares${query}`, { token: await world.token(who) });
    return body.shares?.map(({ id }: { id: string }) => id).sort();
  };
  assert.deepEqual(await seen('user'), [ids[0]]);
  assert.deepEqual(await seen('user', `?device=${device.name}`), [ids[0]]);
  assert.deepEqual(await seen('groupAdmin', `?device=${device.name}`), [...ids].sort());
  assert.deepEqual(await seen('manager'), [...ids].sort());
  assert.deepEqual(await seen('stranger'), []);
  assert.equal(await seen('stranger', `?device=${device.name}`), undefined);
  const revoke = async (who: 'user', id: string) =>
    (await api.call('POST', `/shares/${id}/revoke`, { token: await world.token(who) })).status;
  assert.equal(await revoke('user', ids[1]!), 404);
});
