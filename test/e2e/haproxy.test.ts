import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connect } from '../support/client.ts';
import { startHaproxy } from '../support/haproxy.ts';
import { startRelay, until } from '../support/relay.ts';
import { requireProgram } from '../support/services.ts';

test('[R12] behind HAProxy as in deploy/haproxy.cfg: TLS at the edge, the address by PROXY protocol v2', async (t) => {
  const program = requireProgram(t, 'haproxy');
  if (program === undefined) return;
  const relay = await startRelay(t, { settings: { server: { trustedProxies: ['127.0.0.1'] } } });
  const haproxy = await startHaproxy(t, program, { servers: [relay.port] });
  const through = (side: 'user' | 'device') => `wss://127.0.0.1:${haproxy.port}${relay.path(side, 'proxied')}`;
  const localAddress = '127.0.0.7';
  const user = await connect(t, through('user'), { localAddress });
  const device = await connect(t, through('device'));
  assert.equal(await user.nextText(), 'c');
  assert.equal(await device.nextText(), 'c');
  user.send('through the proxy');
  assert.equal(await device.nextText(), 'through the proxy');
  await until(() => relay.events().some(({ msgid }) => msgid === 13), 'the start event');
  assert.deepEqual(relay.events().find(({ msgid }) => msgid === 13)?.msgArgs, ['proxied', localAddress, '127.0.0.1']);
});
