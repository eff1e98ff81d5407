import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ConfigError } from '../../src/config/errors.ts';
import { type LoadedConfig, loadConfig } from '../../src/config/load.ts';
import { planReload } from '../../src/config/reload.ts';

const load = (flags: Record<string, string>) => loadConfig({ env: {}, flags });
const keys = (changes: readonly { key: string }[]) => changes.map(({ key }) => key);

test('[R40] a reload applies limits and log level at once; the rest is told to need a restart', () => {
  const old = load({});
  const next = load({
    'relay.holdMs': '1',
    'relay.maxWaiting': '5',
    'log.level': 'debug',
    'server.listen': '127.0.0.1:1',
  });
  const plan = planReload(old, next);
  assert.deepEqual(keys(plan.applies), ['relay.holdMs', 'relay.maxWaiting', 'log.level']);
  assert.deepEqual(plan.needsRestart, [{ key: 'server.listen', from: '127.0.0.1:8080', to: '127.0.0.1:1' }]);
  assert.equal(plan.running.config.relay.holdMs, 1);
  assert.equal(plan.running.config.server.listen, '127.0.0.1:8080', 'what needs a restart has not happened');
  assert.equal(old.config.relay.holdMs, 30_000, 'the old configuration is not touched');
  assert.deepEqual(keys(planReload(plan.running, next).needsRestart), ['server.listen'], 'still told the next time');
});

test('[R40] equal configurations change nothing', () => {
  const plan = planReload(load({}), load({}));
  assert.deepEqual([plan.applies, plan.needsRestart, plan.renewTls], [[], [], false]);
});

test('[R40] fault 46: a bad reload throws before there is anything to apply', () => {
  const old = load({ 'relay.holdMs': '77' });
  assert.throws(() => planReload(old, load({ 'relay.holdMs': '-1' })), ConfigError);
  assert.equal(old.config.relay.holdMs, 77);
});

test('[R40] a derived default follows the setting it is derived from', () => {
  const plan = planReload(load({}), load({ 'relay.highWaterBytes': '4096' }));
  assert.deepEqual(keys(plan.applies), ['relay.highWaterBytes', 'relay.lowWaterBytes']);
  assert.equal(plan.running.config.relay.lowWaterBytes, 1024);
});

test('[R40] certificates: new content under the old name is renewed; TLS on or off needs a restart', () => {
  const withTls = (fingerprint: string): LoadedConfig => {
    const loaded = load({});
    return {
      ...loaded,
      config: { ...loaded.config, tls: { certFile: 'c.pem', keyFile: 'k.pem' } },
      tlsFingerprint: fingerprint,
    };
  };
  const renewed = planReload(withTls('1'), withTls('2'));
  assert.equal(renewed.renewTls, true);
  assert.deepEqual(keys(renewed.applies), ['tls.certFile']);
  assert.equal(renewed.running.tlsFingerprint, '2');
  const turnedOn = planReload(load({}), withTls('1'));
  assert.equal(turnedOn.renewTls, false);
  assert.deepEqual(keys(turnedOn.needsRestart), ['tls.certFile', 'tls.keyFile']);
  assert.equal(turnedOn.running.config.tls.certFile, undefined);
});

test('[R40] [R8] a login key that changed needs a restart and is not shown', () => {
  const plan = planReload(load({ 'auth.loginKey': 'a1'.repeat(80) }), load({ 'auth.loginKey': 'b2'.repeat(80) }));
  const hidden = '(value not shown)';
  assert.deepEqual(plan.needsRestart, [{ key: 'auth.loginKey', from: hidden, to: hidden }]);
  assert.equal(plan.running.loginKey?.toString('hex'), 'a1'.repeat(80));
  const file = planReload({ ...load({}), loginKey: Buffer.from('1') }, { ...load({}), loginKey: Buffer.from('2') });
  assert.deepEqual(keys(file.needsRestart), ['auth.loginKeyFile']);
});
