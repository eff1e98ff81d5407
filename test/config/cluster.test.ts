import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { parseLinkUrl } from '../../src/config/cluster.ts';
import { ConfigError } from '../../src/config/errors.ts';
import { loadConfig } from '../../src/config/load.ts';
import { nodeText, parseRedisUrl, targetText } from '../../src/config/redis-url.ts';
import { settingsByKey } from '../../src/config/schema.ts';
import { makeCertificate } from '../support/relay.ts';

const folder = mkdtempSync(join(tmpdir(), 'couplet-config-'));
after(() => rmSync(folder, { recursive: true }));

const load = (flags: Record<string, string>) => loadConfig({ env: {}, flags });
const redis = { 'cluster.redis': 'redis://127.0.0.1' };

function problems(flags: Record<string, string>): readonly string[] {
  try {
    load(flags);
  } catch (error) {
    assert.ok(error instanceof ConfigError && !error.message.includes('\n'), String(error));
    return error.problems;
  }
  return [];
}

test('[K1] the defaults: no cluster, links on loopback, peers on private networks', () => {
  assert.deepEqual(load({}).config.cluster, {
    linkListen: '127.0.0.1:0',
    peerNetworks: ['127.0.0.0/8', '::1/128', '10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7'],
    heartbeatMs: 10_000,
    commandMs: 500,
    prefix: 'couplet',
    streamMaxEvents: 100_000,
  });
  const options = ['redis', 'linkListen', 'advertise', 'peerNetworks'];
  assert.deepEqual(
    options.map((name) => settingsByKey.get(`cluster.${name}`)!.option),
    ['--redis', '--link-listen', '--advertise', '--peer-networks'],
  );
});

const none = { username: undefined, password: undefined };
const single = { kind: 'single', tls: false, ...none, masterName: '', database: 0 };
const forms: readonly [text: string, target: object, shown?: string][] = [
  ['redis://localhost', { ...single, nodes: [{ host: 'localhost', port: 6379 }] }, 'redis://localhost:6379'],
  [
    'rediss://relay:p%40ss%3A@redis.example:6380/5',
    {
      ...single,
      tls: true,
      nodes: [{ host: 'redis.example', port: 6380 }],
      username: 'relay',
      password: 'p@ss:',
      database: 5,
    },
    'rediss://redis.example:6380/5',
  ],
  [
    'redis://:pass@[::1]:7000/',
    { ...single, nodes: [{ host: '::1', port: 7000 }], password: 'pass' },
    'redis://[::1]:7000',
  ],
  ['redis://relay@[::1]', { ...single, nodes: [{ host: '::1', port: 6379 }], username: 'relay', password: '' }],
  [
    'redis+sentinel://u:p@a:1,b:2,[fd00::1]/main/3',
    {
      ...single,
      kind: 'sentinel',
      nodes: [
        { host: 'a', port: 1 },
        { host: 'b', port: 2 },
        { host: 'fd00::1', port: 26_379 },
      ],
      username: 'u',
      password: 'p',
      masterName: 'main',
      database: 3,
    },
    'redis+sentinel://a:1,b:2,[fd00::1]:26379/main/3',
  ],
  [
    'rediss+cluster://a,b:2',
    {
      ...single,
      kind: 'cluster',
      tls: true,
      nodes: [
        { host: 'a', port: 6379 },
        { host: 'b', port: 2 },
      ],
    },
    'rediss+cluster://a:6379,b:2',
  ],
];

test('[K1] every form of a Redis URL is taken apart, and shown without user and password', () => {
  for (const [text, target, shown] of forms) {
    const parsed = parseRedisUrl(text);
    assert.deepEqual(parsed, target, text);
    if (shown !== undefined) assert.equal(targetText(parsed!), shown);
    assert.equal(load({ 'cluster.redis': text }).config.cluster.redis, text);
  }
  assert.equal(nodeText({ host: 'fd00::1', port: 1 }), '[fd00::1]:1');
});

test('[K1] [R40] what is no Redis URL is refused, and never shown', () => {
  const wrong = [
    '',
    'localhost',
    'redis://',
    'http://secret',
    'redis://secret@',
    'redis://h:0',
    'redis://h:65536',
    'redis://h:x',
    'redis://a,b',
    'redis://h/x',
    'redis://h/1/2',
    'redis://h/99999',
    'redis://h?tls=1',
    'redis://a@b@c',
    'redis://%zz:secret@h',
    'redis+sentinel://h:1',
    'redis+sentinel://h:1/',
    'redis+sentinel://h:1/a b',
    'redis+cluster://h:1/2',
    'redis+other://h',
    'redis://[::1',
    'redis://[x]:1',
    'redis://::1',
  ];
  for (const text of wrong) {
    assert.equal(parseRedisUrl(text), undefined, text);
    const [problem, ...more] = problems({ 'cluster.redis': text });
    assert.deepEqual(more, []);
    assert.match(problem!, /^cluster\.redis \(flag --redis\) is \(value not shown\); it must be redis:\/\/\[USER/);
    assert.ok(!problem!.includes('secret'));
  }
});

test('[K3] a wildcard link listener needs an address to advertise', () => {
  for (const host of ['0.0.0.0', '0', '[::]', '[0:0:0:0:0:0:0:0]', '[::0]', '[::ffff:0.0.0.0]']) {
    const [problem, ...more] = problems({ ...redis, 'cluster.linkListen': `${host}:7000` });
    assert.deepEqual(more, []);
    assert.match(problem!, /^cluster\.advertise is not set; it must be the URL .*wildcard address$/);
    assert.deepEqual(
      problems({ ...redis, 'cluster.linkListen': `${host}:7000`, 'cluster.advertise': 'ws://10.0.0.1:7000' }),
      [],
    );
    assert.deepEqual(problems({ 'cluster.linkListen': `${host}:7000` }), [], 'harmless without Redis');
  }
  assert.deepEqual(problems({ ...redis, 'cluster.linkListen': '[fd00::1]:7000' }), []);
});

test('[K3] what is advertised is ws:// or wss:// with a port, wss exactly where links have a certificate', () => {
  assert.deepEqual(parseLinkUrl('wss://[::1]:7000'), { tls: true, host: '::1', port: 7000 });
  for (const text of [
    'http://h:1',
    'ws://h',
    'ws://h:0',
    'ws://h:1/',
    'ws://u@h:1',
    'ws://h:1?x',
    'ws://256.0.0.1:1',
    '',
  ]) {
    assert.equal(parseLinkUrl(text), undefined, text);
    assert.match(
      problems({ ...redis, 'cluster.advertise': text })[0]!,
      /^cluster\.advertise .* must be ws:\/\/HOST:PORT/,
    );
  }
  const listen = { ...redis, 'cluster.linkListen': '127.0.0.1:7000' };
  assert.match(problems({ ...listen, 'cluster.advertise': 'wss://h:1' })[0]!, /must begin with ws:\/\/ .* is not set$/);
  const { certFile, keyFile } = makeCertificate(folder);
  const tls = { ...listen, 'cluster.linkCertFile': certFile, 'cluster.linkKeyFile': keyFile };
  assert.deepEqual(problems({ ...tls, 'cluster.advertise': 'wss://h:1' }), []);
  assert.match(problems({ ...tls, 'cluster.advertise': 'ws://h:1' })[0]!, /must begin with wss:\/\/ .* is set$/);
});

test('[K3] [R40] a link listener that makes no URL needs one to advertise', () => {
  for (const linkListen of ['[fe80::1%eth0]:7000', '256.0.0.1:7000']) {
    const message = `cluster.linkListen is "${linkListen}"; its host must be one of a URL, or cluster.advertise is set`;
    assert.deepEqual(problems({ ...redis, 'cluster.linkListen': linkListen }), [message]);
    assert.deepEqual(problems({ ...redis, 'cluster.linkListen': linkListen, 'cluster.advertise': 'ws://h:7000' }), []);
  }
});

test('[K3] [R40] what is advertised needs a port that is known', () => {
  for (const port of [0, 7000]) {
    const found = problems({
      ...redis,
      'cluster.linkListen': `127.0.0.1:${port}`,
      'cluster.advertise': 'ws://h:7000',
    });
    const message =
      'cluster.linkListen is "127.0.0.1:0"; its port must be from 1 to 65535 where cluster.advertise is set';
    assert.deepEqual(found, port === 0 ? [message] : []);
  }
});

test('[K3] certificate and key of links: both or none, readable, of one another', () => {
  const one = makeCertificate(folder, 'one');
  const two = makeCertificate(folder, 'two');
  const cert = { 'cluster.linkCertFile': one.certFile };
  assert.match(problems({ ...redis, ...cert })[0]!, /^cluster\.linkKeyFile is not set/);
  assert.match(problems({ ...redis, 'cluster.linkKeyFile': one.keyFile })[0]!, /^cluster\.linkCertFile is not set/);
  assert.deepEqual(problems(cert), [], 'harmless without Redis');
  const mixed = problems({ ...redis, ...cert, 'cluster.linkKeyFile': two.keyFile });
  assert.match(mixed[0]!, /^cluster\.linkKeyFile .* must hold the key of the certificate/);
  const junk = join(folder, 'junk');
  writeFileSync(junk, 'junk');
  assert.match(
    problems({ ...redis, ...cert, 'cluster.linkKeyFile': junk })[0]!,
    /^cluster\.linkKeyFile .* PEM private key/,
  );
  assert.match(problems({ ...redis, ...cert, 'cluster.linkKeyFile': `${junk}2` })[0]!, /cannot be read: ENOENT$/);
});

test('[K6] [K7] the bounds of the times, and a deadline longer than the heartbeat', () => {
  const bounds = { heartbeatMs: [500, 60_000], commandMs: [50, 10_000] } as const;
  for (const [name, [min, max]] of Object.entries(bounds)) {
    for (const value of [min, max]) assert.deepEqual(problems({ [`cluster.${name}`]: `${value}` }), []);
    for (const value of [min - 1, max + 1]) assert.equal(problems({ [`cluster.${name}`]: `${value}` }).length, 1);
  }
  const slow = { ...redis, 'cluster.heartbeatMs': '500', 'cluster.commandMs': '501' };
  assert.match(
    problems(slow)[0]!,
    /^cluster\.commandMs is 501; it must be at most cluster\.heartbeatMs, which is 500$/,
  );
  for (const prefix of ['', 'a b', '{a}', 'x'.repeat(65)])
    assert.equal(problems({ 'cluster.prefix': prefix }).length, 1);
});
