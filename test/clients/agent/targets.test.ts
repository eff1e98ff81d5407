import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseAllowList, type TargetAddress, TargetList } from '../../../src/clients/agent/targets.ts';

function resolver(names: Record<string, string[]>) {
  let asked = 0;
  const resolve = async (name: string): Promise<TargetAddress[]> => {
    asked++;
    const found = names[name];
    if (found === undefined) throw Object.assign(new Error('no'), { code: 'ENOTFOUND' });
    return found.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));
  };
  return { resolve, asked: () => asked };
}

/** The addresses that may be dialled, or the error's code. */
async function verdict(list: TargetList, host: string, port: number): Promise<string> {
  return list.check(host, port).then(
    (found) => found.map(({ address }) => address).join(' '),
    (error) => error.code,
  );
}

const refused = 'CPL_AGENT_TARGET';

test('[T8] without a list only loopback is dialled, however it is written', async () => {
  const { resolve } = resolver({ localhost: ['::1', '127.0.0.1'], '127.1': ['127.0.0.1'], evil: ['10.0.0.1'] });
  const list = new TargetList(undefined, resolve);
  for (const [host, expected] of [
    ['127.0.0.1', '127.0.0.1'],
    ['127.9.9.9', '127.9.9.9'],
    ['::1', '::1'],
    ['::ffff:127.0.0.1', '127.0.0.1'],
    ['0.0.0.0', '127.0.0.1'],
    ['::', '::1'],
    ['localhost', '::1 127.0.0.1'],
    ['127.1', '127.0.0.1'],
    ['10.0.0.1', refused],
    ['::ffff:10.0.0.1', refused],
    ['169.254.169.254', refused],
    ['fe80::1%lo', refused],
    ['evil', refused],
    ['nowhere', 'CPL_AGENT_RESOLVE'],
  ] as const) {
    assert.equal(await verdict(list, host, 22), expected, host);
  }
});

test('[T8] rules: ranges, ports, names, everything', async () => {
  const { resolve } = resolver({ 'db.internal': ['10.1.2.3', 'fd00::5'], 'web.internal': ['10.200.0.1'] });
  const list = new TargetList(
    ['10.1.0.0/16:5432', '[fd00::/8]:1-100', 'web.internal:443', '192.0.2.7:*', '*:9'],
    resolve,
  );
  for (const [host, port, expected] of [
    ['10.1.255.255', 5432, '10.1.255.255'],
    ['10.2.0.0', 5432, refused],
    ['10.1.0.1', 5433, refused],
    ['fd00::1', 100, 'fd00::1'],
    ['fd00::1', 101, refused],
    ['fe00::1', 1, refused],
    ['db.internal', 5432, '10.1.2.3'],
    ['db.internal', 80, 'fd00::5'],
    ['DB.Internal.', 5432, '10.1.2.3'],
    ['web.internal', 443, '10.200.0.1'],
    ['WEB.internal.', 443, '10.200.0.1'],
    ['10.200.0.1', 443, refused],
    ['web.internal', 80, refused],
    ['192.0.2.7', 65_535, '192.0.2.7'],
    ['198.51.100.1', 9, '198.51.100.1'],
  ] as const) {
    assert.equal(await verdict(list, host, port), expected, `${host} ${port}`);
  }
});

test('[T8] no rebinding: a name is resolved once, and a name rule never opens this machine or its link', async () => {
  for (const address of [
    '127.0.0.1',
    '::1',
    '::ffff:127.0.0.1',
    '0.0.0.0',
    '169.254.169.254',
    'fe80::1',
    '224.0.0.1',
  ]) {
    const { resolve, asked } = resolver({ 'web.example': [address] });
    const list = new TargetList(['web.example:80'], resolve);
    assert.equal(await verdict(list, 'web.example', 80), refused, address);
    assert.equal(asked(), 1);
  }
  // Of several answers only the allowed ones are dialled.
  const { resolve } = resolver({ mixed: ['10.0.0.1', '127.0.0.1'] });
  assert.equal(await verdict(new TargetList(undefined, resolve), 'mixed', 80), '127.0.0.1');
});

test('[T8] a rule that is none is refused with what is allowed', () => {
  for (const rule of [
    '',
    '127.0.0.1',
    '127.0.0.1:0',
    '127.0.0.1:65536',
    '127.0.0.1:9-1',
    '::1:22',
    '[::1]',
    '[127.0.0.1]:22',
    '10.0.0.0/33:1',
    '10.0.0.0/8/9:1',
    '10.0.0:1',
    'a b:1',
    'name/8:1',
    '[*]:1',
  ]) {
    assert.throws(() => parseAllowList(rule), { code: 'CPL_AGENT_ALLOW', message: /it must read HOST:PORT/ }, rule);
  }
  assert.deepEqual(parseAllowList('127.0.0.1:22, [::1]:1-9,*:*'), ['127.0.0.1:22', '[::1]:1-9', '*:*']);
});
