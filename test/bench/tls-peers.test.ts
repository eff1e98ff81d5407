import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { buildTools } from '../../bench/build.ts';
import { measure } from '../../bench/measure.ts';
import { benchCertificate, certificateUnavailable } from '../../bench/peers/certificate.ts';
import { coupletPortablePeer, coupletTlsPeer } from '../../bench/peers/couplet.ts';
import { wsTlsPeer } from '../../bench/peers/ws.ts';

for (const peer of [coupletTlsPeer, wsTlsPeer]) {
  test(`${peer.name} relays between halves that trust the bench's certificate`, { timeout: 30_000 }, async (t) => {
    const missing = peer.unavailable();
    if (missing !== undefined) return t.skip(missing);
    const relay = await peer.start(undefined);
    t.after(() => relay.stop());
    assert.equal(relay.tls, true);
    const ca = readFileSync(benchCertificate().certFile);
    const [user, device] = [relay.userPath, relay.devicePath].map(
      (path) => new WebSocket(`wss://127.0.0.1:${relay.port}${path.replaceAll('{pair}', '0')}`, { ca }),
    );
    const greetings = await Promise.all([once(user!, 'message'), once(device!, 'message')]);
    assert.deepEqual(greetings.map(String), ['c,false', 'c,false']);
    const received = once(device!, 'message');
    user!.send('across');
    assert.equal(String((await received)[0]), 'across');
    for (const half of [user!, device!]) half.terminate();
    const plain = new WebSocket(`ws://127.0.0.1:${relay.port}${relay.userPath}`);
    assert.equal((await once(plain, 'error')).length, 1, 'no plain HTTP on that port');
  });
}

test('the certificate is made once, with its key; one that is good for less than a day is made anew', (t) => {
  const missing = certificateUnavailable();
  if (missing !== undefined) return t.skip(missing);
  const work = mkdtempSync(join(tmpdir(), 'couplet-certificate-test-'));
  try {
    const folder = join(work, 'tls');
    const { certFile, keyFile } = benchCertificate(folder);
    const pem = readFileSync(certFile);
    const certificate = new X509Certificate(pem);
    assert.equal(certificate.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1');
    assert.ok(certificate.checkPrivateKey(createPrivateKey(readFileSync(keyFile))));
    assert.ok(certificate.checkIP('127.0.0.1'));
    benchCertificate(folder);
    assert.deepEqual(readFileSync(certFile), pem);
    const oneDay = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1'];
    execFileSync('openssl', [...oneDay, '-subj', '/CN=localhost', '-keyout', keyFile, '-out', certFile], {
      stdio: 'pipe',
    });
    const old = readFileSync(certFile);
    benchCertificate(folder);
    assert.notDeepEqual(readFileSync(certFile), old);
    const renewed = new X509Certificate(readFileSync(certFile));
    assert.ok(renewed.checkPrivateKey(createPrivateKey(readFileSync(keyFile))));
    assert.deepEqual(readdirSync(work), ['tls'], 'nothing is left beside it');
  } finally {
    rmSync(work, { recursive: true });
  }
});

test('couplet-portable delivers every message', { timeout: 30_000 }, async (t) => {
  const missing = coupletPortablePeer.unavailable();
  if (missing !== undefined) return t.skip(missing);
  const load = { mode: 'pingpong', pairs: 16, inFlight: 1, messageBytes: 64 } as const;
  const interval = { warmupSeconds: 0.05, durationSeconds: 0.2 };
  const unpinned = { relayCpu: undefined, generatorCpu: undefined };
  const result = await measure(buildTools().load, coupletPortablePeer, load, interval, unpinned);
  assert.ok(result.messages > 0);
});
