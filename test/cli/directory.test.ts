import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CoupletError } from '../../src/index.ts';
import { type Place, places, runDirectory } from '../support/directory-cli.ts';
import { startServe } from '../support/serve.ts';

/** A device in a group of its own, with the user `root` holding all rights over it. */
async function withDevice(at: Place): Promise<{ nodeid: string; groupid: string }> {
  const [group] = await at.json('group', 'add', 'Office');
  const [device] = await at.json('device', 'add', 'pc', '--group', 'Office');
  await at.text('grant', 'root', 'Office', 'admin');
  return { nodeid: String(device!.nodeid), groupid: String(group!.groupid) };
}

async function refused(work: Promise<unknown>, code: string, words: RegExp): Promise<void> {
  await assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof CoupletError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, words);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  });
}

for (const [where, make] of places) {
  /** Over a data folder the API's own error comes through; a client says who answered. */
  const code = (api: string) => (where === 'a server' ? 'CPL_CLIENT_API' : api);

  test(`users, over ${where}: added, listed, locked, given a password, removed`, async (t) => {
    const at = await make(t);
    const flags = [...at.flags, '--json'];
    const [line] = await runDirectory(
      ['user', 'add', 'Alice', '--password-stdin', '--site-rights', 'recordings', '--realname', 'Alice A.', ...flags],
      'first password\nnot this\n',
    );
    const made = JSON.parse(line!) as Record<string, unknown>;
    assert.equal(made.userid, 'user//alice');
    assert.equal(made.siteRights, 'recordings');
    assert.equal(made.realname, 'Alice A.');
    assert.equal(made.hasPassword, true);
    await refused(
      at.text('user', 'add', 'alice'),
      code('CPL_DIRECTORY_EXISTS'),
      /there is a user "user\/\/alice" already/,
    );

    await at.text('user', 'lock', 'alice');
    const locked = (await at.json('user', 'list')).map(({ userid, locked }) => [userid, locked]);
    assert.deepEqual(locked, [
      ['user//alice', true],
      ['user//root', false],
    ]);
    await at.text('user', 'unlock', 'user//alice');
    assert.equal((await at.json('user', 'list'))[0]!.locked, false);

    await runDirectory(['user', 'password', 'alice', '--password-stdin', ...at.flags], 'second password\n');
    if (at.serve !== undefined) {
      const login = async (password: string) =>
        (
          await fetch(`http://${at.serve!.address}/api/v1/login`, {
            method: 'POST',
            headers: { 'content-type': 'application/json' },
            body: JSON.stringify({ user: 'alice', password }),
          })
        ).status;
      assert.equal(await login('first password'), 401);
      assert.equal(await login('second password'), 200);
    }

    assert.deepEqual(await at.text('user', 'remove', 'alice'), ['remove: alice']);
    assert.deepEqual((await at.json('user', 'list')).length, 1);
    await refused(at.text('user', 'remove', 'alice'), code('CPL_API_UNKNOWN'), /there is no user "alice"/);
  });

  test(`[T1] [T2] groups, devices and grants, over ${where}, as the contract prints them`, async (t) => {
    const at = await make(t);
    const [group] = await at.json('group', 'add', 'Office', '--description', 'first floor');
    assert.match(String(group!.groupid), /^mesh\/\/./);
    const before = Date.now();
    // One line of JSON, also without --json.
    const lines = await at.text('device', 'add', 'pc', '--group', 'Office', '--expires', '30m');
    assert.equal(lines.length, 1);
    const device = JSON.parse(lines[0]!) as { nodeid: string; join: string; joinExpiresMs: number };
    assert.match(device.nodeid, /^node\/\/./);
    assert.match(device.join, /^[\w-]{20,}$/);
    assert.ok(Math.abs(device.joinExpiresMs - before - 1_800_000) < 60_000);
    const [again] = await at.text('device', 'join-code', 'pc');
    const code2 = JSON.parse(again!) as typeof device;
    assert.equal(code2.nodeid, device.nodeid);
    assert.notEqual(code2.join, device.join);
    assert.ok(Math.abs(code2.joinExpiresMs - before - 86_400_000) < 60_000);

    await at.text('user', 'add', 'bob');
    const [granted] = await at.json('grant', 'bob', 'Office', 'remote-control,no-files');
    assert.deepEqual(
      [granted!.subjectId, granted!.targetId, granted!.rights, granted!.rightBits],
      ['user//bob', group!.groupid, 'remote-control,no-files', 8 + 1024],
    );
    await at.text('grant', 'bob', 'pc', '2097160');
    const rights = (await at.json('grant', 'list', '--user', 'bob')).map(({ targetId, rights: held }) => [
      targetId,
      held,
    ]);
    assert.deepEqual(
      new Map(rights as [string, string][]),
      new Map([
        [group!.groupid as string, 'remote-control,no-files'],
        [device.nodeid, 'remote-control,relay'],
      ]),
    );
    assert.equal((await at.json('grant', 'list', '--on', 'pc')).length, 1);
    const all = await at.json('grant', 'list');
    assert.deepEqual(
      all.map(({ subjectId }) => subjectId),
      ['user//bob', 'user//bob'],
    );
    await at.text('revoke', 'bob', 'Office');
    await at.text('grant', 'remove', 'bob', 'pc');
    assert.deepEqual(await at.json('grant', 'list', '--user', 'bob'), []);
    await refused(at.text('revoke', 'bob', 'pc'), code('CPL_API_UNKNOWN'), /there is no link of bob to "pc"/);
    await refused(at.text('grant', 'bob', 'pc', 'fly'), code('CPL_API_VALUE'), /"fly".*remote-control/);

    await at.text('device', 'revoke', 'pc');
    assert.match((await at.text('device', 'list', '--group', 'Office'))[1]!, / revoked /);
    await refused(at.text('group', 'remove', 'Office'), code('CPL_DIRECTORY_IN_USE'), /device/);
    await at.text('device', 'remove', 'pc');
    await at.text('group', 'remove', 'Office');
    assert.deepEqual(await at.json('group', 'list'), []);
    assert.deepEqual(await at.json('device', 'list'), []);
  });

  test(`[T1] user groups, over ${where}: members come and go, and are granted rights`, async (t) => {
    const at = await make(t);
    const { groupid } = await withDevice(at);
    await at.text('user', 'add', 'bob');
    const [made] = await at.json('usergroup', 'add', 'Helpers');
    assert.match(String(made!.usergroupid), /^ugrp\/\/./);
    await at.text('usergroup', 'add-member', 'Helpers', 'bob');
    assert.deepEqual(await at.json('usergroup', 'members', 'Helpers'), [{ userid: 'user//bob' }]);
    const [granted] = await at.json('grant', 'Helpers', 'Office', '8');
    assert.deepEqual([granted!.subjectId, granted!.targetId], [made!.usergroupid, groupid]);
    await at.text('usergroup', 'remove-member', 'Helpers', 'bob');
    assert.deepEqual(await at.json('usergroup', 'members', 'Helpers'), []);
    await at.text('usergroup', 'remove', 'Helpers');
    assert.deepEqual(await at.json('usergroup', 'list'), []);
  });

  test(`[T15] share create, list and revoke, over ${where}`, async (t) => {
    const at = await make(t);
    const { nodeid } = await withDevice(at);
    const args = ['share', 'create', 'pc', '--protocols', 'tcp:5900,terminal', '--expires', '2h', '--guest', 'Eve'];
    const before = Date.now();
    const [made] = await at.json(...args, ...at.as('root'));
    const url = String(made!.url);
    const prefix = at.serve === undefined ? '/' : `ws://${at.serve.address}/`;
    assert.ok(url.startsWith(prefix), url);
    const query = new URL(url, 'ws://relay').searchParams;
    assert.equal(query.get('nodeid'), nodeid);
    assert.ok(query.get('auth')!.length > 100);
    const [listed, ...more] = await at.json('share', 'list', '--device', 'pc');
    assert.deepEqual(more, []);
    assert.equal(listed!.id, made!.id);
    assert.equal(listed!.protocols, 'terminal,tcp:5900');
    assert.equal(listed!.guestName, 'Eve');
    assert.equal(listed!.createdBy, 'user//root');
    assert.ok(Math.abs((listed!.expiresMs as number) - before - 7_200_000) < 60_000);
    assert.equal(listed!.revokedMs, null);
    assert.equal('url' in listed!, false);
    await at.text('share', 'revoke', String(made!.id));
    assert.equal(typeof (await at.json('share', 'list'))[0]!.revokedMs, 'number');
    await at.text('share', 'remove', String(made!.id));
    assert.deepEqual(await at.json('share', 'list'), []);

    // Without --json: the id, then the URL.
    const lines = await at.text(...args, '--view-only', ...at.as('root'));
    assert.equal(lines.length, 2);
    assert.ok(lines[1]!.startsWith(prefix));

    const create = (...flags: string[]) => at.text('share', 'create', 'pc', ...flags, ...at.as('root'));
    await refused(
      create('--protocols', 'udp:53', '--expires', '2h'),
      code('CPL_SHARE_PROTOCOLS'),
      /"udp:53".*terminal.*tcp:PORT/,
    );
    for (const time of ['2', '2 h', '-1h', '0h', '1w', '']) {
      await refused(
        create('--protocols', 'terminal', '--expires', time),
        'CPL_CLIENT_OPTIONS',
        /--expires.*30m, 2h or 7d/,
      );
    }
    const wrong = at.serve === undefined ? at.text(...args) : at.text(...args, '--user', 'root');
    await refused(wrong, 'CPL_CLIENT_OPTIONS', /--user/);
  });

  test(`API tokens, over ${where}: made, listed without their secret, revoked`, async (t) => {
    const at = await make(t);
    const [made] = await at.json(
      'api-token',
      'create',
      'ci',
      '--scopes',
      'devices:read,tunnels:write',
      '--expires',
      '7d',
      ...at.as('root'),
    );
    assert.match(String(made!.secret), /^cplt_/);
    const listed = (await at.json('api-token', 'list', ...at.as('root'))).filter(({ name }) => name === 'ci');
    assert.deepEqual(listed[0]!.scopes, ['devices:read', 'tunnels:write']);
    assert.equal(JSON.stringify(listed).includes(String(made!.secret)), false);
    await at.text('api-token', 'revoke', String(made!.id), ...at.as('root'));
    assert.equal(
      (await at.json('api-token', 'list', ...at.as('root'))).some(({ name }) => name === 'ci'),
      false,
    );
    await refused(
      at.text('api-token', 'create', 'x', '--scopes', 'everything', ...at.as('root')),
      code('CPL_API_VALUE'),
      /scopes/,
    );
    const wrong =
      at.serve === undefined ? at.text('api-token', 'list') : at.text('api-token', 'list', '--user', 'root');
    await refused(wrong, 'CPL_CLIENT_OPTIONS', /--user/);
  });

  test(`fault 34: hostile names are refused, or printed harmlessly, over ${where}`, async (t) => {
    const at = await make(t);
    const hostile = ['a\nb', '\u001b[31mred', '\u202eevil', 'a\u0000b', '\u200bx', '\u0085'];
    for (const name of hostile) {
      await refused(at.text('group', 'add', name), code('CPL_DIRECTORY_VALUE'), /^[\x20-\x7e]*$/);
      await refused(at.text('group', 'remove', name), code('CPL_API_UNKNOWN'), /^[\x20-\x7e]*$/);
      await refused(at.text('user', 'add', name), code('CPL_DIRECTORY_VALUE'), /^[\x20-\x7e]*$/);
    }
    // Names that are allowed and mean something to URLs, shells and tables.
    for (const name of ['..', '.', 'a/b', 'a?b#c%2F', '日本語', '"x" \\ $(y)', '&domain=z']) {
      const [made] = await at.json('group', 'add', name);
      assert.equal(made!.name, name);
      assert.equal((await at.json('group', 'list'))[0]!.groupid, made!.groupid);
      await at.text('device', 'add', name, '--group', name);
      assert.equal((await at.json('device', 'list', '--group', name))[0]!.name, name);
      await at.text('device', 'remove', name);
      await at.text('group', 'remove', name);
    }
    assert.deepEqual(await at.json('group', 'list'), []);
    await refused(at.text('group', 'remove', ''), 'CPL_CLIENT_OPTIONS', /empty/);
  });
}

test('a page ends no list: what a server gives in pages is asked for until nothing comes', async (t) => {
  const { createServer } = await import('node:http');
  const asked: string[] = [];
  const pages: Readonly<Record<string, string[]>> = { '': ['a', 'b'], b: ['c'], c: [] };
  const server = createServer((request, response) => {
    asked.push(request.url!);
    const after = new URL(request.url!, 'http://x').searchParams.get('after') ?? '';
    const hostile = '\u001b[2J\u202e\u2028\u0007';
    const users = pages[after]!.map((userid) => ({ userid, realname: hostile, siteRights: 'none' }));
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ users }));
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as { port: number };
  const flags = ['--url', `http://127.0.0.1:${port}/below/`, '--token', 'x'];
  const lines = await runDirectory(['user', 'list', '--json', '--domain', 'other', ...flags]);
  assert.deepEqual(
    lines.map((line) => (JSON.parse(line) as { userid: string }).userid),
    ['a', 'b', 'c'],
  );
  assert.equal(asked.length, 3);
  for (const url of asked) assert.match(url, /^\/below\/api\/v1\/users\?limit=\d+(&after=.)?&domain=other$/);
  // Fault 34: a server, too, may hold anything.
  const table = await runDirectory(['user', 'list', ...flags]);
  assert.equal(table.length, 4);
  for (const line of [...lines, ...table]) assert.match(line, /^[\x20-\x7e]*$/);
  assert.ok(table[1]!.includes('\\u001b[2J\\u202e\\u2028\\u0007'), table[1]);
});

test('flags that do not go together are told before anything is opened', async () => {
  const cases: [string[], RegExp][] = [
    [['user', 'list', '--url', 'http://127.0.0.1:1'], /--token and --token-file/],
    [['user', 'list', '--url', 'http://127.0.0.1:1', '--token', 'a', '--token-file', 'b'], /exactly one/],
    [['user', 'list', '--url', 'http://127.0.0.1:1', '--token', 'a', '--data', 'd'], /--data does not go with --url/],
    [['user', 'list', '--token-file', 'a'], /--token-file needs --url/],
    [['user', 'add', 'x', '--admin', '--site-rights', '2'], /--admin or --site-rights/],
    [['user', 'password', 'x'], /--password-stdin/],
    [['session', 'list'], /--url/],
    [['session', 'kill', 'x', '--data', 'd'], /--url/],
  ];
  for (const [args, words] of cases) await refused(runDirectory(args), 'CPL_CLIENT_OPTIONS', words);
  await refused(
    runDirectory(['user', 'list', '--directory', 'none']),
    'CPL_DIRECTORY_NONE',
    /no directory.*sqlite.*--url/,
  );
  const nobody = ['user', 'list', '--url', 'http://127.0.0.1:1', '--token', 'a'];
  await refused(runDirectory(nobody), 'CPL_CLIENT_CONNECT', /cannot connect to http:\/\/127\.0\.0\.1:1/);
});

test('a server with the wrong token answers 401 in one line', async (t) => {
  const serve = await startServe(t);
  const flags = ['--url', `http://${serve.address}`, '--token', 'cplt_wrong'];
  await refused(runDirectory(['user', 'list', ...flags]), 'CPL_CLIENT_API', /HTTP 401.*API token/);
});
