import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { siteRightBits } from '../../src/core/rights.ts';
import { tryLockFile } from '../../src/native/file-lock.ts';
import { startMs } from '../recording/support.ts';
import { TestApi } from './support.ts';
import { World } from './world.ts';

async function setUp(t: Parameters<typeof TestApi.start>[0]) {
  const api = await TestApi.start(t);
  const world = await World.make(api);
  const viewer = await world.newUser({ siteRights: siteRightBits.recordings });
  const token = await api.token(viewer);
  const actor = { userid: viewer, via: 'session', address: '127.0.0.1' };
  const bytesOf = (file: string) => readFileSync(join(api.recordings, file));
  return { api, world, viewer, token, actor, bytesOf };
}

/** Resolves when the API has told so many events. */
async function told(api: TestApi, count: number): Promise<void> {
  while (api.told.length < count) await new Promise((resolve) => setImmediate(resolve));
}

const big = [{ flags: 0, ms: 1, data: randomBytes(3_000_000) }];

test('[R38] recordings of the own domain are listed and shown to the site right, each leaving its event', async (t) => {
  const { api, world, token, actor, bytesOf } = await setUp(t);
  const file = world.record();
  const foreign = world.record(world.ids.other);
  const listed = await api.call('GET', '/recordings', { token });
  const { modifiedMs, ...shown } = listed.body.recordings[0];
  assert.ok(modifiedMs > 0);
  assert.deepEqual(shown, {
    file,
    form: 'mcrec',
    domain: '',
    sessionId: 'abc',
    userid: world.ids.user,
    username: 'user',
    nodeid: 'node//pc',
    protocol: 1,
    startedMs: startMs,
    seconds: 61,
    bytes: bytesOf(file).length,
    state: 'finished',
    indexed: false,
  });
  assert.deepEqual([listed.body.recordings.length, listed.body.next], [1, null]);
  assert.deepEqual((await api.call('GET', `/recordings/${file}`, { token })).body, listed.body.recordings[0]);
  for (const [method, path] of [
    ['GET', foreign],
    ['GET', `${foreign}/data`],
    ['DELETE', foreign],
  ] as const) {
    assert.equal((await api.call(method, `/recordings/${path}`, { token })).status, 404, `${method} ${path}`);
  }
  assert.deepEqual(api.told, [
    { event: 'recordingsListed', actor, domain: '', count: 1 },
    { event: 'recordingViewed', actor, domain: '', file },
  ]);
  const admin = await world.token('admin');
  const there = await api.call('GET', '/recordings?domain=other', { token: admin });
  assert.deepEqual(
    there.body.recordings.map(({ file: name }: { file: string }) => name),
    [foreign],
  );
});

test('[R38] recordings come in pages', async (t) => {
  const { api, world, token } = await setUp(t);
  const files = Array.from({ length: 5 }, () => world.record()).sort();
  const seen: string[] = [];
  for (let next: string | null = ''; next !== null; ) {
    const after: string = next === '' ? '' : `&after=${encodeURIComponent(next)}`;
    const { body } = await api.call('GET', `/recordings?limit=2${after}`, { token });
    seen.push(...body.recordings.map(({ file }: { file: string }) => file));
    next = body.next;
  }
  assert.deepEqual(seen, files);
});

test('[R38] a download is the file, byte for byte, and leaves an event when it has ended', async (t) => {
  const { api, world, token, actor, bytesOf } = await setUp(t);
  const file = world.record(world.ids.user, big);
  const response = await api.fetch('GET', `/recordings/${file}/data`, { token });
  const bytes = Buffer.from(await response.arrayBuffer());
  assert.equal(response.status, 200);
  assert.ok(bytes.equals(bytesOf(file)));
  const header = (name: string) => response.headers.get(name);
  assert.deepEqual(
    [header('content-type'), header('content-length'), header('accept-ranges'), header('content-range')],
    ['application/octet-stream', String(bytes.length), 'bytes', null],
  );
  assert.equal(header('content-disposition'), `attachment; filename="${file}"`);
  assert.match(header('etag')!, /^"[0-9a-z]+-[0-9a-z]+-[0-9a-z]+"$/);
  await told(api, 1);
  const facts = { domain: '', file, range: undefined, bytes: bytes.length, complete: true };
  assert.deepEqual(api.told, [{ event: 'recordingDownloaded', actor, ...facts }]);

  const head = await api.fetch('HEAD', `/recordings/${file}/data`, { token });
  assert.deepEqual([head.status, head.headers.get('content-length')], [200, String(bytes.length)]);
  assert.equal(head.headers.get('etag'), header('etag'));
  assert.deepEqual(api.told.slice(1), [{ event: 'recordingViewed', actor, domain: '', file }]);
  assert.deepEqual(api.failures, []);
});

test('[R38] a range of a download is 206, one that is not there 416, and If-Range decides whether it counts', async (t) => {
  const { api, world, token, bytesOf } = await setUp(t);
  const file = world.record(world.ids.user, big);
  const all = bytesOf(file);
  const path = `/recordings/${file}/data`;
  const get = async (headers: Record<string, string>) => {
    const response = await api.fetch('GET', path, { token, headers });
    return { response, bytes: Buffer.from(await response.arrayBuffer()) };
  };
  for (const [range, first, last] of [
    ['bytes=0-0', 0, 0],
    ['bytes=100-2000000', 100, 2_000_000],
    [`bytes=${all.length - 1}-`, all.length - 1, all.length - 1],
    ['bytes=-32', all.length - 32, all.length - 1],
  ] as const) {
    const { response, bytes } = await get({ range });
    assert.equal(response.status, 206, range);
    assert.equal(response.headers.get('content-range'), `bytes ${first}-${last}/${all.length}`);
    assert.ok(bytes.equals(all.subarray(first, last + 1)));
    await told(api, 1);
    const { range: part, bytes: count, complete } = api.told.pop()!;
    assert.deepEqual([part, count, complete], [`${first}-${last}`, last + 1 - first, true]);
  }
  const beyond = await get({ range: `bytes=${all.length}-` });
  assert.equal(beyond.response.status, 416);
  assert.equal(beyond.response.headers.get('content-range'), `bytes */${all.length}`);
  assert.match(beyond.bytes.toString(), /CPL_API_RANGE/);
  assert.equal(api.told.length, 0);
  assert.equal((await get({ range: 'bytes=0-1,5-6' })).response.status, 200, 'several ranges: all of it');

  const { headers } = (await get({ range: 'bytes=0-0' })).response;
  const ifRange = (value: string) => get({ range: 'bytes=0-0', 'if-range': value });
  assert.equal((await ifRange(headers.get('etag')!)).response.status, 206);
  assert.equal((await ifRange(headers.get('last-modified')!)).response.status, 206);
  assert.equal((await ifRange('"other"')).response.status, 200);
  const old = headers.get('etag')!;
  utimesSync(join(api.recordings, file), new Date(0), new Date(86_400_000));
  assert.equal((await ifRange(old)).response.status, 200, 'it was written since');
});

test('[R38] a download that the peer breaks off leaves the file free, and an event that says so', async (t) => {
  const { api, world, token, bytesOf } = await setUp(t);
  const file = world.record(world.ids.user, [{ flags: 0, ms: 1, data: randomBytes(30_000_000) }]);
  const path = join(api.recordings, file);
  await new Promise<void>((resolve, reject) => {
    const headers = { authorization: `Bearer ${token}` };
    const asked = request(`${api.origin}/api/v1/recordings/${file}/data`, { headers, agent: false }, (response) => {
      response.once('data', () => {
        response.pause();
        const fd = openSync(path, 'r+');
        const isHeld = !tryLockFile(fd, 'exclusive');
        closeSync(fd);
        asked.destroy();
        if (isHeld) resolve();
        else reject(new Error('the file was not held while it was sent'));
      });
      response.on('error', () => undefined);
    });
    asked.on('error', () => undefined);
    asked.end();
  });
  await told(api, 1);
  const { event, bytes, complete } = api.told[0]!;
  assert.deepEqual([event, complete], ['recordingDownloaded', false]);
  assert.ok((bytes as number) < bytesOf(file).length);
  assert.equal((await api.call('DELETE', `/recordings/${file}`, { token: await world.token('admin') })).status, 204);
});

test('[T4] a download ends when the right is withdrawn', async (t) => {
  const { api, world, viewer, token } = await setUp(t);
  const file = world.record(world.ids.user, [{ flags: 0, ms: 1, data: randomBytes(30_000_000) }]);
  const ended = new Promise<string>((resolve) => {
    const headers = { authorization: `Bearer ${token}` };
    const asked = request(`${api.origin}/api/v1/recordings/${file}/data`, { headers, agent: false }, (response) => {
      response.once('data', () => {
        response.pause();
        api.directory.users.update(viewer, { siteRights: 0 }).then(() => {
          // A change is heard within 1 s; then the rest is asked for.
          setTimeout(() => response.resume(), 1_000);
        }, resolve);
      });
      response.on('error', () => resolve('broken'));
      response.on('end', () => resolve('complete'));
    });
    asked.on('error', () => resolve('broken'));
    asked.end();
  });
  assert.equal(await ended, 'broken');
  await told(api, 1);
  assert.equal(api.told[0]!.complete, false);
  const [failure] = api.failures as { code: string }[];
  assert.equal(failure?.code, 'CPL_API_FORBIDDEN');
});

test('[R38] a recording is deleted with an event, and one in use is not', async (t) => {
  const { api, world, token, actor, bytesOf } = await setUp(t);
  const file = world.record();
  const path = join(api.recordings, file);
  const bytes = bytesOf(file).length;
  const fd = openSync(path, 'r+');
  assert.ok(tryLockFile(fd, 'exclusive'));
  const refused = await api.call('DELETE', `/recordings/${file}`, { token });
  assert.deepEqual([refused.status, refused.body.error.code], [409, 'CPL_RECORDING_IN_USE']);
  writeFileSync(join(api.recordings, 'relaysession-running.mcrec'), bytesOf(file).subarray(0, -32));
  const running = openSync(join(api.recordings, 'relaysession-running.mcrec'), 'r+');
  assert.ok(tryLockFile(running, 'exclusive'));
  assert.equal((await api.call('GET', '/recordings/relaysession-running.mcrec/data', { token })).status, 409);
  closeSync(running);
  closeSync(fd);
  assert.deepEqual(api.told, []);
  assert.equal((await api.call('DELETE', `/recordings/${file}`, { token })).status, 204);
  assert.ok(!existsSync(path));
  assert.deepEqual(api.told, [{ event: 'recordingDeleted', actor, domain: '', file, bytes }]);
  assert.equal((await api.call('DELETE', `/recordings/${file}`, { token })).status, 404);
});

test('fault 34, fault 35: no name leaves the recordings folder', async (t) => {
  const { api, world, token } = await setUp(t);
  const file = world.record();
  const link = 'relaysession-link.mcrec';
  symlinkSync('/etc/passwd', join(api.recordings, link));
  const names = [
    '../directory.db',
    '..',
    '.',
    '/etc/passwd',
    `../recordings/${file}`,
    `./${file}`,
    `${file}\0`,
    `${file}\r\nX: y`,
    link,
    'relaysession-\u202e.mcrec',
    `relaysession-${'x'.repeat(400)}.mcrec`,
  ];
  for (const name of names) {
    for (const [method, more] of [
      ['GET', ''],
      ['GET', '/data'],
      ['DELETE', ''],
    ] as const) {
      const { status, text } = await api.call(method, `/recordings/${encodeURIComponent(name)}${more}`, { token });
      assert.equal(status, 404, `${method} ${JSON.stringify(name)}: ${text}`);
      assert.match(text, /^[\x20-\x7e]+$/);
    }
  }
  assert.deepEqual(api.told, []);
  assert.deepEqual(api.failures, []);
  assert.ok(existsSync(join(api.recordings, file)));
});
