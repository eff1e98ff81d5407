import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestApi } from './support.ts';
import { World } from './world.ts';

const hostile = [
  '../../etc/passwd',
  'a\u0000b',
  'line\r\nset-cookie: x=1',
  '\u001b[31mred\u001b[0m',
  '\u202egnp.exe',
  '\u2028',
  'x'.repeat(300),
  '\ud800',
  '<script>alert(1)</script>',
  "'; drop table users; --",
  '"}],"admin":true,"x":[{"',
  '%2e%2e%2f',
  '__proto__',
  'constructor',
  'node//x',
  '💥 ü ß',
  '~',
  '',
];

/** Nothing of what came back may break a line or move text about. */
function harmless(what: string, answer: Awaited<ReturnType<TestApi['call']>>): void {
  assert.ok(answer.status < 500, `${what}: ${answer.status} ${answer.text}`);
  for (const [name, value] of answer.headers) assert.match(`${name}${value}`, /^[\x20-\x7e]+$/, what);
  assert.equal(answer.headers.get('set-cookie'), null, what);
  assert.doesNotMatch(answer.text, /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2028\u2029]/, what);
  if (answer.status < 400) return;
  assert.match(answer.body.error.message, /^[\x20-\x7e]{1,500}$/, what);
}

test('fault 34: hostile names in every text field are refused or come back as data', async (t) => {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const token = await world.token('admin');
  const { id: device } = await world.device();
  const { users, userGroups, deviceGroups } = world.directory;
  const user = await world.newUser();
  const { id: group } = await userGroups.create({ name: 'g' });
  const { id: mesh } = await deviceGroups.create({ name: 'm' });
  // UTF-8 has no form for half of a pair; in JSON it stands as an escape.
  const seg = (text: string) => encodeURIComponent(text.replaceAll(/\p{Surrogate}/gu, '\ufffd'));
  let kept = 0;
  for (const text of hostile) {
    const writes: readonly (readonly [method: string, target: string, body: Record<string, unknown>, field: string])[] =
      [
        ['POST', '/users', { name: text }, 'name'],
        ['PATCH', `/users/${seg(user)}`, { realname: text }, 'realname'],
        ['PATCH', '/me', { realname: text }, 'realname'],
        ['POST', '/tokens', { name: text, scopes: ['users:read'] }, 'name'],
        ['POST', '/user-groups', { name: text }, 'name'],
        ['PATCH', `/user-groups/${seg(group)}`, { description: text }, 'description'],
        ['PUT', '/domains/~', { title: text }, 'title'],
        ['PUT', '/domains/~', { privacyBarText: text }, 'privacyBarText'],
        ['PUT', `/domains/${seg(text)}`, {}, 'id'],
        ['POST', '/device-groups', { name: text }, 'name'],
        ['PATCH', `/device-groups/${seg(mesh)}`, { description: text }, 'description'],
        ['POST', '/devices', { deviceGroup: 'm', name: text }, 'name'],
        ['PATCH', `/devices/${seg(device)}`, { name: text }, 'name'],
      ];
    for (const [method, target, body, field] of writes) {
      const what = `${method} ${target} ${JSON.stringify(body)}`;
      const answer = await api.call(method, target, { token, body });
      harmless(what, answer);
      const sent = body[field];
      if (answer.status >= 300 || typeof sent !== 'string') continue;
      kept++;
      const expected = target === '/users' ? sent.toLowerCase() : sent;
      assert.equal(answer.body[field], expected, `${what}: as it was sent`);
    }
    const reads = [
      `/users/${seg(text)}`,
      `/devices/${seg(text)}`,
      `/device-groups/${seg(text)}`,
      `/user-groups/${seg(text)}/members`,
      `/shares/${seg(text)}`,
      `/domains/${seg(text)}`,
      `/devices?name=${seg(text)}`,
      `/devices?group=${seg(text)}`,
      `/devices?after=${seg(text)}`,
      `/users?domain=${seg(text)}`,
      `/users?limit=${seg(text)}`,
      `/grants?subject=${seg(text)}`,
      `/${seg(text)}`,
      `/me?${seg(text)}=1`,
    ].map((target) => target.replaceAll('%EF%BF%BD', '%ED%A0%80'));
    for (const target of reads) harmless(target, await api.call('GET', target, { token }));
    const posts: readonly (readonly [string, unknown])[] = [
      ['/login', { user: text, password: text }],
      ['/login', { user: 'admin', password: 'x', domain: text }],
      ['/login', { [text]: text }],
      ['/tunnels', { nodeid: text, transport: 'tcp', host: text, port: 1 }],
      ['/tunnels', { nodeid: device, transport: text }],
      ['/shares', { device: text, protocols: text, expiresInMs: 1_000 }],
      ['/devices', { deviceGroup: 'm', name: { [text]: text } }],
    ];
    for (const [target, body] of posts) {
      harmless(`${target} ${JSON.stringify(body)}`, await api.call('POST', target, { token, body }));
    }
    harmless(
      'grants',
      await api.call('PUT', '/grants', { token, body: { subject: text, target: text, rights: text } }),
    );
  }
  assert.ok(kept > 40, `${kept} of them are allowed and came back`);
  assert.ok((await users.list('')).every(({ id }) => /^user\/\/[!-.0-~]+$/.test(id)));
  assert.deepEqual(api.failures, []);
});

test('fault 34: what an agent says of itself comes back as data', async (t) => {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const { id: nodeid, name } = await world.device();
  for (const text of hostile) {
    const said = { hostname: text, platform: text, version: text, capabilities: [text] };
    api.agents.set(nodeid, { address: '127.0.0.1', sinceMs: 1, ...said });
    const answer = await api.call('GET', `/devices/${name}`, { token: await world.token('admin') });
    harmless(text, answer);
    assert.deepEqual(answer.body.agent, { address: '127.0.0.1', sinceMs: 1, ...said });
  }
});

test('[R8] fault 14: passwords, tokens and cookies are in no error', async (t) => {
  const api = await TestApi.start(t);
  const secret = 'very-secret-value-0123456789';
  const told = [
    await api.call('POST', '/login', { body: { user: 'x', password: secret } }),
    await api.call('POST', '/login', { body: { user: 'x', password: [secret] } }),
    await api.call('POST', '/login', { body: `{"user":"x","password":"${secret}"` }),
    await api.call('GET', '/me', { token: secret }),
    await api.call('GET', '/me', { cookie: secret }),
    await api.call('GET', '/me', { headers: { authorization: `Basic ${secret}` } }),
  ];
  for (const { status, text } of told) {
    assert.ok(status === 400 || status === 401, text);
    assert.ok(!text.includes(secret), text);
  }
  assert.ok(!JSON.stringify(api.told).includes(secret));
});
