import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AgentState } from '../../src/api/parts.ts';
import { TestApi } from './support.ts';
import { World } from './world.ts';

test('[T4] [K4] what changes the directory is answered when the other servers were told; what does not change it asks none', async (t) => {
  const done: string[] = [];
  let spread = () => {};
  const parts = {
    spreadChanges: () =>
      new Promise<void>((resolve) => {
        done.push('asked');
        spread = resolve;
      }),
  };
  const api = await TestApi.start(t, { parts });
  const world = await World.make(api);
  const device = await world.device();
  const token = await world.token('admin');
  const answer = api.call('POST', `/devices/${encodeURIComponent(device.id)}/revoke`, { token });
  void answer.then(() => done.push('answered'));
  while (done.length === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.ok((await api.directory.devices.get(device.id))!.revokedMs !== undefined, 'it is done already');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(done, ['asked']);
  spread();
  assert.equal((await answer).status, 204);

  const { id: nodeid } = await world.device();
  const session = world.runSession({ userid: world.ids.admin });
  const quiet: [string, string, object?][] = [
    ['GET', '/devices'],
    ['GET', '/sessions'],
    ['DELETE', `/sessions/${session.id}`],
    ['POST', '/login', { user: 'nobody', password: 'x' }],
  ];
  for (const [method, path, body] of quiet) await api.call(method, path, { token, ...(body && { body }) });
  const ticket = { nodeid, transport: 'none', protocol: 1 };
  assert.equal((await api.call('POST', '/tunnels', { token: await world.token('user'), body: ticket })).status, 200);
  assert.equal(done.filter((word) => word === 'asked').length, 1);

  const refused = await api.call('POST', '/users', { token, body: { name: '' } });
  assert.equal(refused.status, 400);
  assert.equal(done.filter((word) => word === 'asked').length, 1, 'nor does what was refused');
});

test('[K4] [K6] a device whose state cannot be found out is neither online nor offline, and a tunnel to it is tried', async (t) => {
  const states = new Map<string, AgentState>();
  const asked: string[][] = [];
  const api = await TestApi.start(t, {
    parts: {
      online: async (nodeids) => {
        asked.push([...nodeids]);
        return nodeids.map((nodeid) => states.get(nodeid) ?? 'offline');
      },
    },
  });
  const world = await World.make(api);
  const devices = [await world.device(), await world.device(), await world.device()];
  const [here, off, unknown] = devices as [(typeof devices)[0], (typeof devices)[0], (typeof devices)[0]];
  const presence = {
    address: '192.0.2.1',
    sinceMs: 1,
    hostname: 'h',
    platform: 'linux',
    version: '1',
    capabilities: [],
  };
  states.set(here!.id, presence).set(unknown!.id, 'unknown');
  const { body } = await api.call('GET', '/devices', { token: await world.token('admin') });
  const shown = new Map(
    body.devices.map((device: { nodeid: string; online: boolean | null; agent: object | null }) => [
      device.nodeid,
      [device.online, device.agent],
    ]),
  );
  assert.deepEqual(shown.get(here!.id), [true, presence]);
  assert.deepEqual(shown.get(off!.id), [false, null]);
  assert.deepEqual(shown.get(unknown!.id), [null, null]);
  assert.equal(asked.length, 1, 'all of a list are asked for at once');
  const token = await world.token('user');
  const tunnel = async (nodeid: string) =>
    (await api.call('POST', '/tunnels', { token, body: { nodeid, transport: 'none', protocol: 1 } })).status;
  assert.deepEqual([await tunnel(here!.id), await tunnel(off!.id), await tunnel(unknown!.id)], [200, 409, 200]);
});
