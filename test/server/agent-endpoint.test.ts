import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import WebSocket from 'ws';
import { registerAgents } from '../../src/server/agent-endpoint.ts';
import { Listener } from '../../src/server/app.ts';

test('[T9] an agent is told 404 where agents are never taken, and 503 where they are not taken now', async (t) => {
  for (const [serves, status] of [
    [false, 404],
    [true, 503],
  ] as const) {
    const register = (app: Parameters<typeof registerAgents>[0]) =>
      registerAgents(app, {
        accepting: () => false,
        serves: () => serves,
        clientAddress: ({ tcp }) => tcp,
        admit: () => true,
        connected: () => assert.fail('nobody is taken'),
      });
    const listener = new Listener({ host: '127.0.0.1', port: 0, tls: undefined, register });
    listener.listen();
    t.after(() => listener.close());
    const socket = new WebSocket(`ws://127.0.0.1:${listener.port}/agent`);
    socket.on('error', () => {});
    const [, response] = await once(socket, 'unexpected-response');
    assert.equal(response.statusCode, status);
    socket.terminate();
  }
});
