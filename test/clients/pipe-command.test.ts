import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { after, afterEach, before, test } from 'node:test';
import { CookieSealer } from '../../src/auth/cookie.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { runByteSession } from '../../src/clients/byte-session.ts';
import { connectHalf } from '../../src/clients/connect.ts';
import { systemClock } from '../../src/core/clock.ts';
import { mintId } from '../../src/core/ids.ts';
import { startTestRelay, type TestRelay, untilQuiet } from '../support/ws-pair.ts';

const loginKey = LoginKey.generate();
const sealer = new CookieSealer(loginKey, systemClock);
const folder = mkdtempSync(join(tmpdir(), 'couplet-pipe-'));
const main = ['--import', 'tsx', new URL('./pipe-main.ts', import.meta.url).pathname, 'pipe'];

let relay: TestRelay;
before(async () => {
  relay = await startTestRelay({
    refuse: (query) => {
      const [user, device] = [query.get('auth'), query.get('rauth')];
      const opened = user === null ? sealer.open(device ?? '', 'rauth') : sealer.open(user, 'auth');
      return opened.ok ? undefined : 401;
    },
  });
  writeFileSync(join(folder, 'login.key'), `${loginKey.toHex()}\n`, { mode: 0o600 });
});
after(async () => {
  await relay.close();
  rmSync(folder, { recursive: true });
});

const running = new Set<ChildProcess>();
afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
});

const asUser = ['--login-key-file', join(folder, 'login.key'), '--as', 'user:user//demo'];

function args(id: string, credential: readonly string[] = asUser): string[] {
  return [...main, '--url', relay.url, '--id', id, ...credential];
}

/** Runs `couplet pipe`, by itself or inside a shell command where it reads `"$@"`. */
function run(command: readonly string[], shell?: string) {
  const child = shell
    ? spawn('bash', ['-c', shell, 'bash', process.execPath, ...command])
    : spawn(process.execPath, command);
  running.add(child);
  child.stdin.on('error', () => undefined); // a command that ended early is seen in its status
  const status = once(child, 'close').then(([code]) => {
    running.delete(child);
    return code as number;
  });
  return { child, status, errors: text(child.stderr) };
}

/** The other end, in this process. */
async function mateOf(id: string) {
  const credential = { parameter: 'rauth', cookie: sealer.seal({ ruserid: 'user//demo' }) } as const;
  const half = await connectHalf({ url: relay.url, id, credential });
  const input = new PassThrough();
  const output = new PassThrough({ highWaterMark: 64 * 1024 * 1024 });
  const outcome = runByteSession(half, { input, output }).then(
    () => 'ok',
    (error) => error.code as string,
  );
  return { half, input, output, outcome };
}

for (const [what, shell] of [
  ['a socket', undefined],
  ['a pipe', '"$@" | (cat; echo "the end")'],
] as const) {
  test(`[T11] the mate's end closes standard output (${what}) while standard input goes on`, async () => {
    const id = mintId();
    const { child, status, errors } = run(args(id), shell);
    const mate = await mateOf(id);
    mate.input.end('from the mate, ');
    let heard = '';
    for await (const chunk of child.stdout.setEncoding('utf8')) {
      heard += chunk;
      if (heard.endsWith('the end\n')) break; // the shell itself keeps its standard output
    }
    assert.equal(heard, shell ? 'from the mate, the end\n' : 'from the mate, ');
    child.stdin.end('still open');
    assert.equal(await text(mate.output), 'still open');
    assert.deepEqual([await status, await errors, await mate.outcome], [0, '', 'ok']);
  });
}

test('[T11] what a late reader of standard output has not taken yet is not lost at the end', async () => {
  const id = mintId();
  const { child, status, errors } = run(args(id));
  child.stdin.end();
  const mate = await mateOf(id);
  const data = randomBytes(8 * 1024 * 1024);
  mate.input.end(data);
  await once(mate.input, 'end');
  assert.ok((await buffer(child.stdout)).equals(data));
  assert.deepEqual([await status, await errors, await mate.outcome], [0, '', 'ok']);
});

test('[R24] what came before a failure is written, however late it is read', async () => {
  const id = mintId();
  const gate = join(folder, 'gate');
  const { child, status, errors } = run(
    args(id),
    `"$@" | (until [ -e ${gate} ]; do sleep 0.05; done; cat); exit $PIPESTATUS`,
  );
  const mate = await mateOf(id);
  // A pipe takes 64 KiB; the rest waits in the command, yet is too little to keep it from hearing of the close.
  const data = randomBytes(72 * 1024);
  mate.input.write(data.subarray(0, 65_536));
  mate.input.write(data.subarray(65_536));
  // The session may take its time to start: all of it has to be on its way before the mate leaves.
  const unsent = () => mate.input.readableLength + mate.input.writableLength + mate.half.bufferedBytes;
  while (unsent() > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await untilQuiet(() => mate.half.bufferedBytes);
  mate.half.close();
  await mate.half.closed;
  await untilQuiet(() => 0); // time enough to end without the rest
  writeFileSync(gate, '');
  const written = await buffer(child.stdout);
  assert.equal(written.length, data.length, await errors);
  assert.ok(written.equals(data));
  assert.equal(await status, 1);
  assert.equal(await errors, 'couplet pipe: the mate left before the end of its data\n');
});

test('[T11] standard output may be a file, and a full disk is an error', async () => {
  const id = mintId();
  const file = join(folder, 'received');
  const { child, status } = run(args(id), `"$@" > ${file}`);
  child.stdin.end();
  const mate = await mateOf(id);
  const data = randomBytes(3_000_000);
  mate.input.end(data);
  assert.equal(await status, 0);
  assert.ok(readFileSync(file).equals(data));

  const full = run(args(id), '"$@" > /dev/full');
  const disappointed = await mateOf(id);
  disappointed.input.end(data);
  assert.equal(await full.status, 1);
  assert.match(await full.errors, /^couplet pipe: cannot write the output: ENOSPC\n$/);
  assert.equal(await disappointed.outcome, 'CPL_CLIENT_MATE_LEFT');
});

test('[T11] a reader that leaves early (| head -c 10): its data, status 1 and one line', async () => {
  const id = mintId();
  const { child, status, errors } = run(args(id), '"$@" | head -c 10; exit $PIPESTATUS');
  const mate = await mateOf(id);
  mate.input.end(Buffer.alloc(4 * 1024 * 1024, '0123456789'));
  assert.equal(await text(child.stdout), '0123456789');
  assert.equal(await status, 1);
  assert.match(await errors, /^couplet pipe: the output was closed by its reader .*\n$/);
  assert.equal(await mate.outcome, 'CPL_CLIENT_MATE_LEFT');
});

test('[T11] a pipe shared with the next command is given back blocking', async () => {
  const id = mintId();
  const { child, status } = run(args(id), '("$@"; cat /proc/self/fdinfo/1) | cat');
  child.stdin.end();
  (await mateOf(id)).input.end('data\n');
  const [, flags] = /^data\n.*^flags:\s*([0-7]+)$/ms.exec(await text(child.stdout))!;
  assert.equal(Number.parseInt(flags!, 8) & 0o4000, 0, 'O_NONBLOCK');
  assert.equal(await status, 0);
});

test('[R24] SIGTERM and SIGINT close the half in good order, also against a stalled reader', async () => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const id = mintId();
    const { child, status, errors } = run(args(id));
    const mate = await mateOf(id);
    const data = Readable.from(Array.from({ length: 1024 }, () => Buffer.alloc(64 * 1024)));
    let left = 0;
    data.on('data', () => left++).pipe(mate.input);
    await untilQuiet(() => left);
    assert.ok(left > 0 && left < 1024, 'the reader is stalled');
    child.kill(signal);
    // Nobody reads child.stdout before it has ended: neither the signal nor the exit may wait for that.
    await once(child, 'exit');
    child.stdout.resume();
    assert.equal(await status, 1);
    assert.equal(await errors, `couplet pipe: ended by ${signal} before both directions had ended\n`);
    assert.equal((await mate.half.closed).code, 1000);
  }
});

test('a hang-up lets standard input end by itself: ssh sends it right after its last bytes', async () => {
  const id = mintId();
  const { child, status, errors } = run(args(id));
  const mate = await mateOf(id);
  mate.input.end();
  child.stdin.write('a');
  await once(mate.output, 'readable');
  child.kill('SIGHUP');
  child.stdin.end('b');
  assert.equal(await text(mate.output), 'ab');
  assert.deepEqual([await status, await errors], [0, '']);

  const abandoned = run(args(id));
  const second = await mateOf(id);
  abandoned.child.stdin.write('a');
  await once(second.output, 'readable');
  abandoned.child.kill('SIGHUP');
  assert.equal(await abandoned.status, 1);
  assert.match(await abandoned.errors, /^couplet pipe: ended by SIGHUP .*\n$/);
});

test('[R7] every way to give a cookie joins; of unknown kind it is tried as a user’s, then as a device’s', async () => {
  const user = sealer.seal({ userid: 'user//demo', domainid: '' });
  const device = sealer.seal({ ruserid: 'user//demo' });
  const file = join(folder, 'cookie');
  writeFileSync(file, `${device}\n`);
  for (const [credential, parameters] of [
    [asUser, ['auth']],
    [[...asUser.slice(0, 2), '--as', 'device:user//demo'], ['rauth']],
    [['--cookie', user], ['auth']],
    [
      ['--cookie', device],
      ['auth', 'rauth'],
    ],
    [['--cookie-file', file, '--side', 'device'], ['rauth']],
  ] as const) {
    const id = mintId();
    const before = relay.requests.length;
    const { child, status } = run(args(id, credential));
    child.stdin.end();
    child.stdout.resume();
    // The command is there first: what it asked for stands alone in the list.
    while (relay.requests.length < before + parameters.length) await new Promise((resolve) => setImmediate(resolve));
    const asked = relay.requests.slice(before).map(({ target }) => /&(r?auth)=/.exec(target)?.[1]);
    assert.deepEqual(asked, parameters);
    (await mateOf(id)).input.end();
    assert.equal(await status, 0);
  }
});

test('[R8] every mistake is status 1 and one line on stderr that never shows a secret', async () => {
  const secret = 'SECRETSECRET';
  const key = ['--login-key', loginKey.toHex()];
  for (const [credential, expected] of [
    [['--cookie', secret], /HTTP 401: the cookie is not valid here/],
    [[], /exactly one of --cookie, --cookie-file and --as/],
    [['--cookie', secret, ...asUser], /exactly one of --cookie, --cookie-file and --as/],
    [['--cookie-file', '/nowhere/cookie'], /cannot read --cookie-file "\/nowhere\/cookie": ENOENT/],
    [[...key, '--as', 'demo'], /--as is "demo"; it must be user:user\/DOMAIN\/NAME or device:/],
    [[...key, '--as', 'user:node//demo'], /--as is "user:node\/\/demo"/],
    [['--login-key', secret, '--as', 'user:user//demo'], /160 hex digits/],
    [[...asUser, '--ca', '/nowhere/ca'], /cannot read --ca "\/nowhere\/ca": ENOENT/],
  ] as const) {
    const { child, status, errors } = run(args('a', credential));
    assert.equal(await text(child.stdout), '');
    assert.equal(await status, 1);
    const line = await errors;
    assert.match(line, expected);
    assert.match(line, /^couplet pipe: [^\n]+\n$/);
    assert.ok(!line.includes(secret) && !line.includes(loginKey.toHex()));
  }
});
