import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { ConfigError } from '../../src/config/errors.ts';
import { type LoadInput, loadConfig, resolveLoginKey } from '../../src/config/load.ts';
import { CoupletError } from '../../src/core/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'couplet-config-'));
after(() => rmSync(folder, { recursive: true }));
const key = 'a1'.repeat(80);
const otherKey = 'b2'.repeat(80);

function put(name: string, text: string): string {
  const file = join(folder, name);
  writeFileSync(file, text);
  return file;
}

const load = (input: LoadInput) => loadConfig({ env: {}, ...input });

function failure(input: LoadInput): ConfigError {
  try {
    load(input);
  } catch (error) {
    assert.ok(error instanceof ConfigError && error instanceof CoupletError);
    assert.equal(error.code, 'CPL_CONFIG');
    assert.ok(!error.message.includes('\n'), 'one line');
    return error;
  }
  assert.fail('no error');
}

test('[R26] the defaults are those of the table', () => {
  const { relay, auth } = load({}).config;
  assert.equal(relay.maxMessageBytes, 16 * 1024 * 1024);
  assert.equal(relay.idleMs, 0);
  assert.equal(relay.maxSessionMs, 0);
  assert.equal(relay.sessionBytesPerSecond, 0);
  assert.equal(relay.userBytesPerSecond, 0);
  assert.equal(relay.maxWaiting, 100_000);
  assert.equal(relay.maxWaitingPerAddress, 1000);
  assert.equal(relay.maxSessionsPerUser, 0);
  assert.equal(relay.upgradesPerAddressPerSecond, 200);
  assert.equal(auth.pendingMs, 5000);
});

test('[R26] the defaults of holding, pings, flow control and lingering are those of the rules', () => {
  const { relay, server } = load({}).config;
  assert.equal(relay.holdMs, 30_000);
  assert.equal(relay.wsPingSeconds, 60);
  assert.equal(relay.stallMs, 120_000);
  assert.equal(relay.highWaterBytes, 1_048_576);
  assert.equal(relay.lowWaterBytes, 262_144);
  assert.equal(relay.lingerMs, 30_000);
  assert.equal(server.drainMs, 60_000);
});

test('the defaults are the safe ones: loopback, nothing anonymous, metrics apart', () => {
  const { server, auth, messenger, audit, directory } = load({}).config;
  assert.equal(server.listen, '127.0.0.1:8080');
  assert.equal(server.metricsListen, '127.0.0.1:9464');
  assert.equal(server.publicMetrics, false);
  assert.deepEqual([server.trustedProxies, server.allowedOrigins], [[], []]);
  assert.deepEqual([auth.allowNoUser, auth.defaultUser, messenger.allowAnonymousDevice], [false, undefined, false]);
  assert.equal(directory, 'sqlite');
  assert.equal(audit.dir, join('data', 'events'));
});

test('[R40] defaults, file, environment, flags: the later one wins, whatever the form of the file', () => {
  const yaml = put('a.yaml', 'relay:\n  holdMs: 1000\n  lingerMs: 1000\n  stallMs: 1000\ntls:\n');
  const json = put('a.json', '{\n\t"relay": { "holdMs": 1000, "lingerMs": 1000, "stallMs": 1000 }\n}');
  for (const file of [yaml, json]) {
    const { config, sources } = load({
      file,
      env: { COUPLET_RELAY_LINGER_MS: '2000', COUPLET_RELAY_STALL_MS: '2000', COUPLET_RELAY_IDLE_MS: '' },
      flags: { 'relay.stallMs': '3000' },
    });
    const { holdMs, lingerMs, stallMs, idleMs } = config.relay;
    assert.deepEqual({ holdMs, lingerMs, stallMs, idleMs }, { holdMs: 1000, lingerMs: 2000, stallMs: 3000, idleMs: 0 });
    assert.equal(sources.get('relay.holdMs'), `file ${file}`);
    assert.equal(sources.get('relay.lingerMs'), 'environment COUPLET_RELAY_LINGER_MS');
    assert.equal(sources.get('relay.stallMs'), 'flag --relay-stall-ms');
  }
  assert.equal(load({ env: { COUPLET_CONFIG: yaml } }).config.relay.holdMs, 1000);
});

test('[R40] texts become lists, switches and maps; a list may be JSON', () => {
  const env = {
    COUPLET_SERVER_TRUSTED_PROXIES: '10.0.0.0/8, ::1',
    COUPLET_SERVER_ALLOWED_ORIGINS: '["https://a.example","http://b.example:81"]',
    COUPLET_RELAY_SIGNED_IDS: 'true',
    COUPLET_DOMAINS: '{"second":{}}',
  };
  const { server, relay, domains } = load({ env }).config;
  assert.deepEqual(server.trustedProxies, ['10.0.0.0/8', '::1']);
  assert.deepEqual(server.allowedOrigins, ['https://a.example', 'http://b.example:81']);
  assert.equal(relay.signedIds, true);
  assert.deepEqual(domains, { second: {} });
});

const bad: readonly [name: string, input: LoadInput, says: readonly string[]][] = [
  [
    'a number out of range',
    { flags: { 'relay.holdMs': '0' } },
    ['relay.holdMs', '--relay-hold-ms', ' 0;', 'from 1 to'],
  ],
  ['a fraction', { env: { COUPLET_RELAY_IDLE_MS: '1.5' } }, ['relay.idleMs', '"1.5"', 'a whole number']],
  ['a delay no timer takes', { flags: { 'relay.idleMs': '2147483648' } }, ['relay.idleMs', '2147483647']],
  ['a word', { flags: { 'log.level': 'loud' } }, ['log.level', '"loud"', 'debug, info, warn, error']],
  ['a directory', { flags: { directory: 'mongodb://x' } }, ['directory', 'must be none, sqlite or postgres:']],
  ['a port', { flags: { 'server.listen': '127.0.0.1:65536' } }, ['server.listen', '65536', 'HOST:PORT']],
  ['an address', { flags: { 'server.listen': '[127.0.0.1]:80' } }, ['server.listen', 'HOST:PORT']],
  ['a proxy', { flags: { 'server.trustedProxies': '10.0.0.0/33' } }, ['server.trustedProxies', '10.0.0.0/33']],
  ['the null origin', { flags: { 'server.allowedOrigins': 'null' } }, ['server.allowedOrigins', '"null"']],
  ['an origin with a path', { flags: { 'server.allowedOrigins': 'https://a.example/' } }, ['server.allowedOrigins']],
  [
    'low water above high water',
    { flags: { 'relay.highWaterBytes': '2048', 'relay.lowWaterBytes': '2048' } },
    ['relay.lowWaterBytes', '2048', 'less than relay.highWaterBytes'],
  ],
  ['one TLS file alone', { flags: { 'tls.certFile': 'c.pem' } }, ['tls.keyFile', 'not set', 'tls.certFile']],
  [
    'one address for two listeners',
    { flags: { 'server.listen': '127.0.0.1:9464' } },
    ['server.metricsListen', '127.0.0.1:9464'],
  ],
  ['a missing file', { file: join(folder, 'absent.yaml') }, ['absent.yaml', 'ENOENT']],
  ['a missing login key file', { flags: { 'auth.loginKeyFile': '/nowhere' } }, ['auth.loginKeyFile', 'ENOENT']],
];
for (const [name, input, says] of bad) {
  test(`[R40] the error names key, value and what is allowed: ${name}`, () => {
    const { message } = failure(input);
    for (const part of says) assert.ok(message.includes(part), `${message} must name ${part}`);
  });
}

test('[R40] unknown keys, groups and variables are errors, with the nearest that exists', () => {
  const cases: [LoadInput, string][] = [
    [{ file: put('u1.yaml', 'relay:\n  maxMesageBytes: 1\n') }, 'did you mean relay.maxMessageBytes?'],
    [{ file: put('u2.yaml', 'holdMs: 1\n') }, 'did you mean relay.holdMs?'],
    [{ file: put('u3.yaml', 'rellay:\n  holdMs: 1\n') }, 'did you mean relay?'],
    [{ env: { COUPLET_RELAY_HOLDMS: '1' } }, 'did you mean COUPLET_RELAY_HOLD_MS?'],
  ];
  for (const [input, hint] of cases) {
    const { message } = failure(input);
    assert.ok(message.startsWith('unknown ') && message.endsWith(hint), message);
  }
  assert.ok(!failure({ file: put('u4.yaml', 'completelyElse: 1\n') }).message.includes('did you mean'));
});

test('[R40] variables that Kubernetes and the tests set are not ours', () => {
  const env = {
    COUPLET_PORT: 'tcp://10.0.0.1:80',
    COUPLET_SERVICE_HOST: '10.0.0.1',
    COUPLET_PORT_8080_TCP_ADDR: '10.0.0.1',
    COUPLET_TEST_REQUIRE_SERVICES: '1',
  };
  assert.equal(load({ env }).sources.size, 0);
  assert.match(failure({ env: { COUPLET_PORT: '80' } }).message, /^unknown variable "COUPLET_PORT"/);
});

test('[R40] every mistake is told, each once', () => {
  const error = failure({ flags: { 'relay.holdMs': 'x', 'log.level': 'y' }, env: { COUPLET_NOTHING: 'z' } });
  assert.equal(error.problems.length, 3);
  assert.equal(error.message, error.problems.join('; '));
});

test('[R40] a file that does not parse is named with the place, and never quoted', () => {
  const broken = put('broken.json', `{"auth": {"loginKey": "${key}", ]`);
  const { message } = failure({ file: broken });
  assert.match(message, /is not YAML or JSON: [A-Z_]+ at line 1, column \d+$/);
  assert.ok(!message.includes('a1a1'));
  assert.match(failure({ file: put('twice.yaml', 'log: {}\nlog: {}\n') }).message, /DUPLICATE_KEY at line 2/);
  assert.match(failure({ file: put('list.yaml', '- 1\n') }).message, /must hold a map/);
  assert.match(failure({ file: put('group.yaml', 'relay: 5\n') }).message, /^relay .* must be a map/);
  assert.match(failure({ file: put('alias.yaml', 'relay: *x\n') }).message, /alias/);
});

test('[R40] [R8] a login key is in no error, wherever it was put', () => {
  const inputs: LoadInput[] = [
    { flags: { 'auth.loginKey': `${key}0` } },
    { env: { COUPLET_AUTH_LOGIN_KEY: key.slice(1) } },
    { flags: { 'server.listen': key } },
    { file: put('misspelt.yaml', `auth:\n  loginkey: ${key}\n`) },
    { file: put('number.yaml', `auth:\n  loginKey: [${key}]\n`) },
    { flags: { 'auth.loginKeyFile': put('short.key', key.slice(2)) } },
  ];
  for (const input of inputs) assert.doesNotMatch(failure(input).message, /(a1){8}|(1a){8}/);
});

test('[R40] the login key: one of value and file; the later place decides', () => {
  const file = put('login.key', `${otherKey}\n`);
  assert.equal(load({ flags: { 'auth.loginKey': key } }).loginKey?.toString('hex'), key);
  const fromFlag = load({ env: { COUPLET_AUTH_LOGIN_KEY: key }, flags: { 'auth.loginKeyFile': file } });
  assert.equal(fromFlag.loginKey?.toString('hex'), otherKey);
  const both = failure({ flags: { 'auth.loginKey': key, 'auth.loginKeyFile': file } });
  assert.match(both.message, /auth.loginKeyFile .* must be one of the two/);
  assert.equal(load({}).loginKey, undefined);
});

test('[R40] commands without a file find the login key in flags, then the environment', () => {
  const file = put('token.key', otherKey);
  assert.equal(resolveLoginKey({ loginKey: key }, { COUPLET_AUTH_LOGIN_KEY: otherKey }).toString('hex'), key);
  assert.equal(resolveLoginKey({ loginKeyFile: file }, { COUPLET_AUTH_LOGIN_KEY: key }).toString('hex'), otherKey);
  assert.equal(resolveLoginKey({}, { COUPLET_AUTH_LOGIN_KEY_FILE: file }).length, 80);
  assert.throws(() => resolveLoginKey({}, {}), /auth.loginKey is not set; .*--login-key, COUPLET_AUTH_LOGIN_KEY/);
  assert.throws(() => resolveLoginKey({ loginKey: 'ab' }, {}), /must be 160 hex digits/);
});

test('[R40] TLS files are read and must belong together', () => {
  const make = (name: string) => {
    const [certFile, keyFile] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)];
    const options = [
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-subj',
      '/CN=localhost',
    ];
    execFileSync('openssl', ['req', ...options, '-keyout', keyFile, '-out', certFile], { stdio: 'ignore' });
    return { 'tls.certFile': certFile, 'tls.keyFile': keyFile };
  };
  const [one, two] = [make('one'), make('two')];
  assert.match(load({ flags: one }).tlsFingerprint, /^[0-9a-f]{64}$/);
  assert.notEqual(load({ flags: one }).tlsFingerprint, load({ flags: two }).tlsFingerprint);
  const mixed = failure({ flags: { ...one, 'tls.keyFile': two['tls.keyFile'] } });
  assert.match(mixed.message, /^tls.keyFile .* must hold the key of the certificate/);
  const junk = put('junk.pem', 'junk');
  assert.match(failure({ flags: { ...one, 'tls.certFile': junk } }).message, /^tls.certFile .* a PEM certificate/);
  assert.match(failure({ flags: { ...one, 'tls.keyFile': junk } }).message, /^tls.keyFile .* a PEM private key/);
});
