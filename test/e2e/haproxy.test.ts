import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect as connectTcp, createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from '../support/client.ts';
import { makeCertificate, startRelay, temporaryFolder, until } from '../support/relay.ts';
import { requireProgram } from '../support/services.ts';

const shipped = readFileSync(new URL('../../deploy/haproxy.cfg', import.meta.url), 'utf8');

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTcp({ host: '127.0.0.1', port });
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

test('[R12] behind HAProxy as in deploy/haproxy.cfg: TLS at the edge, the address by PROXY protocol v2', async (t) => {
  const haproxy = requireProgram(t, 'haproxy');
  if (haproxy === undefined) return;
  const folder = temporaryFolder(t);
  const relay = await startRelay(t, { settings: { server: { trustedProxies: ['127.0.0.1'] } } });
  const { certFile, keyFile } = makeCertificate(folder);
  const pem = join(folder, 'couplet.pem');
  writeFileSync(pem, readFileSync(certFile, 'utf8') + readFileSync(keyFile, 'utf8'));
  const port = await freePort();
  // The machine's own limits allow fewer connections than the file asks for.
  const config = shipped
    .replace('bind :443', `bind 127.0.0.1:${port}`)
    .replace('/etc/haproxy/couplet.pem', pem)
    .replaceAll('127.0.0.1:8080', `127.0.0.1:${relay.port}`)
    .replaceAll('maxconn 200000', 'maxconn 1000');
  assert.ok(config.includes(`127.0.0.1:${port}`) && config.includes(pem) && config.includes(`127.0.0.1:${relay.port}`));
  const file = join(folder, 'haproxy.cfg');
  writeFileSync(file, config);
  execFileSync(haproxy, ['-c', '-q', '-f', file]);
  const process = spawn(haproxy, ['-db', '-f', file], { stdio: 'ignore' });
  t.after(() => process.kill('SIGKILL'));
  await until(() => accepts(port), 'HAProxy listens');

  const through = (side: 'user' | 'device') => `wss://127.0.0.1:${port}${relay.path(side, 'proxied')}`;
  // HAProxy's first health check may still be under way: it answers 503 until then.
  const localAddress = '127.0.0.7';
  let user: Awaited<ReturnType<typeof connect>> | undefined;
  await until(async () => {
    user = await connect(t, through('user'), { localAddress }).catch(() => undefined);
    return user !== undefined;
  }, 'the backend is up');
  const device = await connect(t, through('device'));
  assert.equal(await user!.nextText(), 'c');
  assert.equal(await device.nextText(), 'c');
  user!.send('through the proxy');
  assert.equal(await device.nextText(), 'through the proxy');
  await until(() => relay.events().some(({ msgid }) => msgid === 13), 'the start event');
  assert.deepEqual(relay.events().find(({ msgid }) => msgid === 13)?.msgArgs, ['proxied', localAddress, '127.0.0.1']);
});
