import assert from 'node:assert/strict';
import { test } from 'node:test';
import { apiPrefix, rootRequest } from '../../src/api/request.ts';
import { allRoutes } from '../../src/api/routes/index.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { joinCodeId } from '../../src/protocol/agent-proofs.ts';
import { TestApi } from './support.ts';

async function start(t: Parameters<typeof TestApi.start>[0]) {
  const api = await TestApi.start(t);
  // biome-ignore lint/suspicious/noExplicitAny: a test says itself what it expects
  const root = async (method: string, target: string, body?: unknown): Promise<{ status: number; body: any }> => {
    const answer = await api.router.dispatch(rootRequest(method, target, body));
    assert.equal(answer.kind, 'json');
    return { status: answer.status, body: answer.kind === 'json' ? answer.body : undefined };
  };
  return { api, root };
}

test('in-process, root sets up a domain from nothing, without a server', async (t) => {
  const { api, root } = await start(t);
  assert.equal(
    (await root('POST', '/users', { name: 'alice', siteRights: 'admin', password: 'good enough' })).status,
    201,
  );
  assert.equal((await root('POST', '/device-groups', { name: 'lab' })).status, 201);
  const { status, body: device } = await root('POST', '/devices', { deviceGroup: 'lab', name: 'pi' });
  assert.equal(status, 201);
  assert.ok(
    (await api.directory.devices.enrol(joinCodeId(device.join), Buffer.alloc(32).toString('base64url'))) !== undefined,
  );
  const grant = await root('PUT', '/grants', {
    subject: 'alice',
    target: 'lab',
    rights: 'remote-control,guest-sharing',
  });
  assert.deepEqual([grant.status, grant.body.rightBits], [200, 524_296]);
  assert.equal((await root('GET', '/devices?name=pi')).body.devices[0].nodeid, device.nodeid);
  const wanted = { device: 'pi', protocols: 'terminal', expiresInMs: 60_000 };
  assert.equal((await root('POST', '/shares', wanted)).status, 409, 'on whose behalf?');
  const share = await root('POST', '/shares', { ...wanted, user: 'alice' });
  assert.deepEqual([share.status, share.body.createdBy], [201, 'user//alice']);
  assert.equal((await root('PUT', '/domains/lab', { title: 'Lab' })).status, 200);
  assert.equal((await root('POST', '/users?domain=lab', { name: 'bob' })).body.userid, 'user/lab/bob');
  assert.equal((await root('DELETE', '/users/alice')).status, 409, 'the last administrator stays');
  assert.equal((await root('POST', '/tunnels', { nodeid: 'pi', transport: 'none', protocol: 1 })).status, 409);
  assert.equal((await root('GET', '/me')).status, 409);
  const told = api.told.filter(({ event }) => event === 'directoryChanged');
  assert.deepEqual(told[0], {
    event: 'directoryChanged',
    actor: { userid: '', via: 'root', address: '' },
    domain: '',
    action: 'user-created',
    target: 'user//alice',
    detail: 'site rights admin',
  });
  assert.equal(told.at(-1)!.domain, 'lab');
});

test('no request from the network is root', async (t) => {
  const { api } = await start(t);
  const headers = { 'x-caller': 'root', caller: '{"kind":"root"}' };
  for (const query of ['', '?caller=root', '?caller[kind]=root']) {
    assert.equal((await api.call('GET', `/users${query}`, { headers })).status, 401);
  }
});

test('an error that nobody foresaw is 500 without details, and told to the log', async (t) => {
  const broken = allRoutes.map((route) => ({
    ...route,
    handler: async () => {
      if (route.path === '/me') throw new Error('secret detail');
      if (route.path === '/tokens') return { tokens: [{ hash: 'not in the schema' }] };
      const options = { httpStatus: 503, cause: new Error('at 10.0.0.1') };
      throw new CoupletError('CPL_DIRECTORY_UNAVAILABLE', 'the database at 10.0.0.1 is gone', options);
    },
  }));
  const api = await TestApi.start(t, { routes: broken });
  const { id } = await api.directory.users.create({ name: 'alice' });
  const token = await api.token(id);
  const answers = [
    [await api.call('GET', '/me', { token }), 500, 'CPL_API_FAILED'],
    [await api.call('GET', '/tokens', { token }), 500, 'CPL_API_FAILED'],
    [await api.call('GET', '/devices', { token }), 503, 'CPL_DIRECTORY_UNAVAILABLE'],
  ] as const;
  for (const [{ status, body, text }, expected, code] of answers) {
    assert.deepEqual([status, body.error.code], [expected, code]);
    assert.doesNotMatch(text, /secret|10\.0|hash/);
  }
  assert.equal(api.failures.length, 3);
});

test('paths and methods that are none, HEAD and OPTIONS', async (t) => {
  const { api } = await start(t);
  const { id } = await api.directory.users.create({ name: 'alice', siteRights: 543 });
  const token = await api.token(id);
  for (const target of ['/', '/nothing', '/users/', '/users//', '/users/%', '/users/a/b', '/ME', '/me/', '/%6de/']) {
    assert.equal((await api.call('GET', target, { token })).status, 404, target);
  }
  assert.equal((await api.call('GET', '/%6de', { token })).status, 200, 'an escape that need not be');
  assert.equal((await api.call('GET', '/users/user%2F%2Falice', { token })).body.userid, id);
  assert.equal((await api.call('GET', '/users/Alice', { token })).body.userid, id);
  const wrong = await api.call('DELETE', '/me', { token });
  assert.deepEqual([wrong.status, wrong.headers.get('allow')], [405, 'GET, PATCH, HEAD, OPTIONS']);
  const head = await api.call('HEAD', '/me', { token });
  const get = await api.call('GET', '/me', { token });
  assert.deepEqual([head.status, head.text, head.headers.get('content-length')], [200, '', String(get.text.length)]);
  const options = await api.call('OPTIONS', '/me', { headers: { origin: 'https://evil.example' } });
  assert.deepEqual([options.status, options.headers.get('allow')], [204, 'GET, PATCH, HEAD, OPTIONS']);
  assert.equal(options.headers.get('access-control-allow-origin'), null);
  assert.equal(options.headers.get('content-length'), null);
  for (const [query, field] of [
    ['limit=1&limit=2', 'limit'],
    ['limit=0', 'limit'],
    ['limit=1e9', 'limit'],
    ['nothing=1', 'nothing'],
  ]) {
    const { status, body } = await api.call('GET', `/users?${query}`, { token });
    assert.equal(status, 400, query);
    assert.match(body.error.message, new RegExp(`^query.*${field}`));
  }
  assert.equal((await api.call('POST', '/logout', { token, body: { a: 1 } })).status, 400);
  assert.ok(apiPrefix === '/api/v1');
});
