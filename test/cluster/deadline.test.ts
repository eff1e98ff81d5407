import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createConnection, createServer } from 'node:net';
import { test } from 'node:test';
import { DeadlineError, within } from '../../src/cluster/deadline.ts';

test('[K6] an answer that came while the event loop stood still is in time', async (t) => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = createConnection({ host: '127.0.0.1', port: (server.address() as { port: number }).port });
  t.after(() => {
    socket.destroy();
    server.close();
  });
  const [peer] = await once(server, 'connection');
  const waited = within(once(socket, 'data'), 20, 'the answer');
  peer.write('here');
  const untilMs = performance.now() + 60;
  while (performance.now() < untilMs);
  assert.equal(String((await waited)[0]), 'here');
});

test('[K6] what does not come ends by its deadline', async () => {
  await assert.rejects(within(new Promise(() => {}), 20, 'nothing'), DeadlineError);
});
