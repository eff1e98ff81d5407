import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Command } from 'commander';
import { addServeOptions, readServeArguments } from '../../src/cli/serve-options.ts';
import { configReference } from '../../src/config/docs.ts';
import { loadConfig } from '../../src/config/load.ts';
import { configJsonSchema, configSchema, settings, settingsByKey } from '../../src/config/schema.ts';
import { isNetwork, isOrigin, parseListen } from '../../src/config/setting.ts';

test('docs/reference/config.md is the schema', () => {
  const file = new URL('../../docs/reference/config.md', import.meta.url);
  const how = 'run: node --import tsx src/config/docs.ts > docs/reference/config.md';
  assert.ok(readFileSync(file, 'utf8') === configReference(), how);
});

test('[R40] names follow from the key path; those of the contract are as it says', () => {
  assert.equal(settingsByKey.get('relay.maxMessageBytes')?.env, 'COUPLET_RELAY_MAX_MESSAGE_BYTES');
  assert.equal(settingsByKey.get('relay.maxMessageBytes')?.option, '--relay-max-message-bytes');
  const contract = {
    '--listen': 'server.listen',
    '--metrics-listen': 'server.metricsListen',
    '--data': 'server.dataDir',
    '--directory': 'directory',
    '--login-key': 'auth.loginKey',
    '--login-key-file': 'auth.loginKeyFile',
    '--tls-cert': 'tls.certFile',
    '--tls-key': 'tls.keyFile',
    '--default-user': 'auth.defaultUser',
    '--log-level': 'log.level',
  };
  for (const [option, key] of Object.entries(contract)) assert.equal(settingsByKey.get(key)?.option, option);
});

test('[R40] no two settings share a flag or a variable', () => {
  for (const name of ['option', 'env'] as const) {
    assert.equal(new Set(settings.map((setting) => setting[name])).size, settings.length);
  }
});

test('every default passes its own type, through the text forms too', () => {
  for (const { key, initial } of settings) {
    if (initial === undefined) continue;
    const text = typeof initial === 'string' ? initial : JSON.stringify(initial);
    loadConfig({ env: {}, flags: { [key]: text } });
  }
});

interface JsonSchema {
  readonly properties?: Record<string, JsonSchema>;
  readonly additionalProperties?: unknown;
  readonly description?: string;
}

test('[R40] the JSON Schema holds every setting with its description and refuses unknown keys', () => {
  const root = configJsonSchema() as JsonSchema;
  assert.equal(root.additionalProperties, false);
  for (const { key, description } of settings) {
    const at = key.split('.').reduce<JsonSchema>((schema, name) => schema.properties![name]!, root);
    assert.equal(at.description, description, key);
  }
  assert.equal(configSchema.safeParse({ relay: { holdms: 1 } }).success, false);
});

function parse(...args: string[]) {
  const command = addServeOptions(new Command('serve'))
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  command.parse(args, { from: 'user' });
  return readServeArguments(command);
}

test('[R40] couplet serve takes every setting as a flag', () => {
  for (const { key, option } of settings) assert.deepEqual(parse(option, 'x').flags, { [key]: 'x' });
  assert.deepEqual(parse(), { file: undefined, flags: {}, checkConfig: false });
  assert.deepEqual(parse('--config', 'f', '--check-config', '--public-metrics', '--listen', '[::1]:0'), {
    file: 'f',
    flags: { 'server.publicMetrics': 'true', 'server.listen': '[::1]:0' },
    checkConfig: true,
  });
  assert.throws(() => parse('--relay-hold'));
});

test('[R40] the help text names every flag, its variable and its default', () => {
  const help = addServeOptions(new Command('serve')).configureHelp({ helpWidth: 1000 }).helpInformation();
  for (const { option, env } of settings) {
    assert.ok(help.includes(`${option} `) && help.includes(`[${env}]`), option);
  }
  assert.ok(help.includes('(default: 127.0.0.1:8080)'));
});

test('addresses, networks and origins are taken apart strictly', () => {
  assert.deepEqual(parseListen('[::1]:80'), { host: '::1', port: 80 });
  assert.deepEqual(parseListen('localhost:0'), { host: 'localhost', port: 0 });
  for (const text of ['', '80', ':80', '::1:80', '[::1]', 'a:b', 'a:080808', '[a]:1', 'a b:1']) {
    assert.equal(parseListen(text), undefined, text);
  }
  for (const text of ['127.0.0.1', '10.0.0.0/8', '::/0', 'fe80::1/128']) assert.ok(isNetwork(text), text);
  for (const text of ['', '10.0.0', '10.0.0.0/', '10.0.0.0/33', '::/129', '1.2.3.4/8/8', 'localhost']) {
    assert.ok(!isNetwork(text), text);
  }
  assert.ok(isOrigin('https://a.example:8443'));
  for (const text of [
    'null',
    '*',
    'https://A.example',
    'https://a.example:443',
    'ftp://a',
    'https://a@b',
    'https://',
  ]) {
    assert.ok(!isOrigin(text), text);
  }
});
