import assert from 'node:assert/strict';
import { copyFileSync, cpSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { connectPair } from '../support/client.ts';
import { echo, eventsOf } from '../support/recorded-pairs.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import { couplet, mainFile, root, startServe } from '../support/serve.ts';

const why = 'recording.mode: recording does not work here: the addon cannot be loaded: ';

/** The built program without its addon, as where it could not be compiled. */
function withoutAddon(t: TestContext): string {
  const folder = temporaryFolder(t);
  cpSync(dirname(mainFile), join(folder, 'dist'), { recursive: true });
  copyFileSync(join(root, 'package.json'), join(folder, 'package.json'));
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  return join(folder, 'dist', 'main.js');
}

test('[R35] without the recorder a server that is to record does not start, and says why in one line', async (t) => {
  const program = withoutAddon(t);
  const data = join(temporaryFolder(t), 'data');
  const listen = ['--listen', '127.0.0.1:0', '--metrics-listen', '127.0.0.1:0', '--data', data];
  for (const mode of ['strict', 'best-effort']) {
    const { code, stdout, stderr } = await couplet(['serve', ...listen, '--recording', mode], { mainFile: program });
    assert.equal(code, 1);
    const lines = stderr.trimEnd().split('\n');
    assert.equal(lines.length, 1, stderr);
    assert.ok(lines[0]!.includes(why), stderr);
    assert.doesNotMatch(stdout, /listening/);
  }
});

test('[R35] [R40] without the recorder a reload that turns recording on is refused and changes nothing', async (t) => {
  const relay = { maxWaiting: 7 };
  const serve = await startServe(t, { mainFile: withoutAddon(t), settings: { relay } });
  assert.equal(serve.listening.forwarder, 'portable');
  const { user, device } = await connectPair(t, serve, 'before');
  const dir = join(serve.folder, 'own');
  const recording: Record<string, Record<string, Record<string, unknown>>> = {
    strict: { recording: { mode: 'strict' } },
    'best effort': { recording: { mode: 'best-effort' } },
    'one domain': { domains: { d: { recording: { mode: 'strict', dir } } } },
    'all but one domain': { recording: { mode: 'strict' }, domains: { d: { recording: { mode: 'off' } } } },
  };
  for (const [index, [what, settings]] of Object.entries(recording).entries()) {
    serve.configure({ relay: { maxWaiting: 8 }, log: { level: 'debug' }, ...settings });
    serve.signal('SIGHUP');
    await until(() => eventsOf(serve, 'CPL-2004E').length === index + 1, `the refusal: ${what}`);
    assert.ok(String(eventsOf(serve, 'CPL-2004E').at(-1)?.error).startsWith(why), what);
    const told = () => serve.lines.filter(({ level, msg }) => level === 'error' && msg.startsWith(why));
    await until(() => told().length >= index + 1, `the log: ${what}`);
    assert.ok(told().every(({ msg }) => !msg.includes('\n')));
  }
  assert.deepEqual(eventsOf(serve, 'CPL-2003I'), [], 'nothing was taken over');
  assert.equal(readdirSync(serve.dataDir).includes('recordings'), false);
  await echo(user, device, 'the session goes on');
  await connectPair(t, serve, 'after');

  // What does not record counts, also where it says so; only now the other setting does.
  mkdirSync(dir);
  serve.configure({
    relay: { maxWaiting: 8 },
    recording: { mode: 'off', sidecar: false },
    domains: { d: { recording: { dir } } },
  });
  serve.signal('SIGHUP');
  await until(() => eventsOf(serve, 'CPL-2003I').length === 1, 'the good reload');
  const changed = eventsOf(serve, 'CPL-2003I')[0]?.changed as string[];
  assert.ok(changed.includes('relay.maxWaiting') && changed.includes('recording.sidecar'), String(changed));
  assert.equal(eventsOf(serve, 'CPL-2004E').length, Object.keys(recording).length);
});
