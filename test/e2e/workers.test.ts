import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Client, connect, connectPair } from '../support/client.ts';
import { descriptorsOf } from '../support/processes.ts';
import { makeCertificate, temporaryFolder, until } from '../support/relay.ts';
import { couplet, startServe } from '../support/serve.ts';
import { isAlive, pidsOf, sample, startRedis, startWorkers, workerSettings } from '../support/workers.ts';

/** What a pair still carries, both ways. */
async function assertCarries({ user, device }: { user: Client; device: Client }, text: string): Promise<void> {
  user.send(text);
  assert.equal(await device.nextText(), text);
  device.send(text);
  assert.equal(await user.nextText(), text);
}

const long = { server: { drainMs: 600_000 } };

test('[K8] workers share one port, and one line says that all of them listen', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const workers = await startWorkers(t, redis, 3, 'shared', { settings: { server: { publicMetrics: true } } });
  const { serve } = workers;
  assert.equal(serve.listening.workers, 3);
  assert.equal(serve.listening.pid, serve.pid);
  assert.equal(serve.listening.addresses, undefined);
  assert.equal(serve.lines.filter(({ msg }) => msg === 'listening').length, 1);
  const all = [1, 2, 3].map((number) => workers.worker(number));
  for (const { address } of all) assert.equal(address, serve.address);
  assert.equal(new Set(all.map(({ pid }) => pid)).size, 3);
  // Connections reach every one of them. Each half waits under an id of its own.
  const before = all.map(({ pid }) => descriptorsOf(pid));
  for (let i = 0; i < 60; i++) await connect(t, serve.url('user', `waits-${i}`));
  for (const [index, { pid }] of all.entries()) {
    assert.ok(descriptorsOf(pid) >= before[index]! + 3, `worker ${index + 1} takes connections`);
  }
  assert.equal(sample(await workers.metrics(), 'couplet_halves{state="waiting"}'), 60);
  // Any worker answers, also for all.
  for (let i = 0; i < 10; i++) {
    const ask = (path: string) => fetch(`http://${serve.address}${path}`, { headers: { connection: 'close' } });
    assert.equal((await ask('/readyz')).status, 200);
    const text = await (await ask('/metrics')).text();
    assert.equal(sample(text, 'couplet_workers'), 3);
    assert.equal(sample(text, 'couplet_halves{state="waiting"}'), 60);
  }
  serve.signal('SIGTERM');
  assert.deepEqual(await serve.exited, { code: 0, signal: '' });
  assert.equal(serve.stderr, '');
  assert.deepEqual(serve.strayLines, []);
});

test('[K8] a worker that is killed is started again: the others go on, and no counter falls', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const workers = await startWorkers(t, redis, 2, 'consecutive');
  const [one, two] = [workers.worker(1), workers.worker(2)];
  assert.deepEqual(workers.serve.listening.addresses, [one.address, two.address]);
  const stays = await connectPair(t, one, 'stays');
  const dies = await connectPair(t, two, 'dies');
  await assertCarries(stays, 'before');
  await assertCarries(dies, 'before');
  const total = 'couplet_sessions_total{protocol="2"}';
  const counted = async () => {
    const text = await workers.metrics();
    const protocols = text.split('\n').filter((line) => line.startsWith('couplet_sessions_total'));
    return { text, sessions: protocols.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0) };
  };
  const first = await counted();
  assert.equal(first.sessions, 2, total);
  process.kill(two.pid, 'SIGKILL');
  await dies.user.closed;
  const gone = await counted();
  assert.equal(gone.sessions, 2, 'what the dead worker had counted stays');
  await assertCarries(stays, 'meanwhile');
  const next = await workers.started(2, 2);
  assert.notEqual(next.pid, two.pid);
  assert.equal(next.address, two.address, 'it is where it was');
  await assertCarries(await connectPair(t, next, 'again'), 'again');
  const last = await counted();
  assert.equal(last.sessions, 3);
  assert.equal(sample(last.text, 'couplet_worker_restarts_total'), 1);
  assert.equal(sample(last.text, 'couplet_workers'), 2);
  assert.equal(sample(last.text, 'couplet_relayed_messages_total{direction="user_to_device"}'), 4);
  await assertCarries(stays, 'after');
  const told = workers.serve.lines.find(({ msg }) => msg.startsWith('worker 2 ended'))!;
  assert.deepEqual([told.level, told.worker, told.signal], ['error', 2, 'SIGKILL']);
});

test('[K8] a worker that hangs is left out of a scrape, its counters are not', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const workers = await startWorkers(t, redis, 2, 'consecutive');
  const two = workers.worker(2);
  await assertCarries(await connectPair(t, workers.worker(1), 'one'), 'x');
  await assertCarries(await connectPair(t, two, 'two'), 'x');
  const messages = 'couplet_relayed_messages_total{direction="user_to_device"}';
  const paired = 'couplet_halves{state="paired"}';
  const before = await workers.metrics();
  assert.deepEqual([sample(before, messages), sample(before, paired)], [2, 4]);
  process.kill(two.pid, 'SIGSTOP');
  const hung = await workers.metrics();
  process.kill(two.pid, 'SIGCONT');
  assert.deepEqual([sample(hung, messages), sample(hung, paired)], [2, 2]);
  assert.equal(sample(hung, 'couplet_worker_silences_total'), 1);
  const after = await workers.metrics();
  assert.deepEqual([sample(after, messages), sample(after, paired)], [2, 4]);
  assert.equal(sample(after, 'couplet_worker_silences_total'), 1);
});

test('[K8] [R39] SIGTERM drains all workers, also where the whole group gets it, and a second one skips the wait', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const workers = await startWorkers(t, redis, 2, 'consecutive', { settings: long });
  const { serve } = workers;
  const pairs = await Promise.all([1, 2].map((number) => connectPair(t, workers.worker(number), `pair-${number}`)));
  // As a terminal or a service manager does.
  for (const pid of [serve.pid, ...pidsOf(workers)]) process.kill(pid, 'SIGTERM');
  for (const number of [1, 2]) {
    await serve.line(({ msg, worker }) => msg === 'stopping' && worker === number);
    const ready = await fetch(`http://${workers.worker(number).address}/readyz`);
    assert.equal(ready.status, 503);
  }
  for (const pair of pairs) await assertCarries(pair, 'draining');
  serve.signal('SIGTERM');
  for (const { user, device } of pairs) {
    assert.equal((await user.closed).code, 1001);
    assert.equal((await device.closed).code, 1001);
  }
  assert.deepEqual(await serve.exited, { code: 0, signal: '' });
  for (const number of [1, 2]) assert.equal(workers.events(number).at(-1)?.action, 'stopped');
});

test('[K8] a worker that does not stop in order makes the exit code 1', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const workers = await startWorkers(t, redis, 2, 'consecutive', { settings: long });
  const { serve } = workers;
  await connectPair(t, workers.worker(2), 'holds');
  serve.signal('SIGINT');
  await serve.line(({ msg, worker }) => msg === 'stopping' && worker === 2);
  process.kill(workers.worker(2).pid, 'SIGKILL');
  assert.deepEqual(await serve.exited, { code: 1, signal: '' });
});

test('[K8] [R40] SIGHUP reaches all workers; a bad configuration is told and reaches none', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const settings = workerSettings(redis, 2, 'consecutive');
  const workers = await startWorkers(t, redis, 2, 'consecutive');
  const { serve } = workers;
  const actions = (number: number, action: string) => workers.events(number).filter((e) => e.action === action).length;
  serve.configure({ ...settings, relay: { maxWaiting: 0 } });
  serve.signal('SIGHUP');
  for (const number of [1, 2]) {
    await until(() => actions(number, 'configurationreloaded') === 1, `worker ${number} has it`);
    await assert.rejects(connect(t, workers.worker(number).url('user', 'no')), { status: 503 });
  }
  serve.configure('relay: { maxWaiting: -1 }');
  serve.signal('SIGHUP');
  await until(() => actions(1, 'configurationreloadrefused') === 1, 'the first worker puts it on record');
  assert.match(JSON.stringify(workers.events(1).at(-1)), /relay\.maxWaiting/);
  // Started again, a worker gets what the others have, and not what stands in the file.
  const { pid } = workers.worker(2);
  process.kill(pid, 'SIGKILL');
  const next = await workers.started(2, 2);
  await assert.rejects(connect(t, next.url('user', 'no')), { status: 503 });
  assert.equal(actions(2, 'configurationreloadrefused'), 0);
  // And the next good one counts again.
  serve.configure({ ...settings, log: { level: 'debug' } });
  serve.signal('SIGHUP');
  await until(
    () => actions(2, 'configurationreloaded') === 2 && actions(1, 'configurationreloaded') === 2,
    'both have it',
  );
  await assertCarries(await connectPair(t, next, 'yes'), 'yes');
});

test('[K8] [R40] a certificate that one worker cannot use reaches no other', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const folder = temporaryFolder(t);
  const tls = makeCertificate(folder);
  const workers = await startWorkers(t, redis, 2, 'consecutive', { settings: { tls } });
  const { serve } = workers;
  const actions = (number: number, action: string) => workers.events(number).filter((e) => e.action === action).length;
  // The configuration's checks know this curve, the listener's library does not.
  const other = makeCertificate(folder, 'other', ['ec', '-pkeyopt', 'ec_paramgen_curve:secp256k1']);
  serve.configure({ ...workerSettings(redis, 2, 'consecutive'), tls: other });
  serve.signal('SIGHUP');
  await until(() => actions(1, 'configurationreloadrefused') === 1, 'the first worker refuses it');
  serve.configure({ ...workerSettings(redis, 2, 'consecutive'), tls: makeCertificate(folder, 'third') });
  serve.signal('SIGHUP');
  for (const number of [1, 2]) {
    await until(() => actions(number, 'certificatereplaced') === 1, `worker ${number} has the third`);
    assert.equal(actions(number, 'configurationreloaded'), 1);
  }
  assert.equal(actions(2, 'configurationreloadrefused'), 0);
});

test('[K8] [R37] what a killed worker recorded is salvaged once, by the one that takes its place', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const settings = { recording: { mode: 'best-effort', flushMs: 10, fsyncMs: 10 } };
  const workers = await startWorkers(t, redis, 3, 'consecutive', { settings });
  const recorded = async (number: number) => {
    const user = await connect(t, workers.worker(number).url('user', `recorded-${number}`));
    const device = await connect(t, workers.worker(number).url('device', `recorded-${number}`));
    for (const half of [user, device]) assert.equal(await half.nextText(), 'cr');
    await assertCarries({ user, device }, 'x'.repeat(10_000));
    return { user, device };
  };
  const stays = await recorded(1);
  await recorded(2);
  const written = async () => sample(await workers.metrics(), 'couplet_recording_bytes_total');
  await until(async () => (await written()) > 40_000, 'recordings are written');
  process.kill(workers.worker(2).pid, 'SIGKILL');
  await workers.started(2, 2);
  const salvaged = () =>
    [1, 2, 3].flatMap((n) =>
      workers
        .events(n)
        .filter(({ code }) => code === 'CPL-1204W')
        .map(() => n),
    );
  await until(() => salvaged().length > 0, 'the recording is salvaged');
  await assertCarries(stays, 'y');
  workers.serve.signal('SIGTERM');
  assert.equal((await workers.serve.exited).code, 0);
  assert.deepEqual(salvaged(), [2]);
  for (const n of [1, 2, 3]) {
    assert.deepEqual(
      workers.events(n).filter(({ code }) => String(code).match(/^CPL-12..E/)),
      [],
    );
  }
});

for (const draining of [false, true]) {
  const when = draining ? ' while it stops' : '';
  test(`[K8] workers end when the supervising process is killed${when}, and keep the data folder until then`, async (t) => {
    const redis = await startRedis(t);
    if (redis === undefined) return;
    const workers = await startWorkers(t, redis, 2, 'consecutive', { settings: long });
    const { serve } = workers;
    const pair = await connectPair(t, workers.worker(2), 'holds');
    const [one, two] = [workers.worker(1).pid, workers.worker(2).pid];
    if (draining) {
      serve.signal('SIGTERM');
      await serve.line(({ msg, worker }) => msg === 'stopping' && worker === 2);
    }
    serve.signal('SIGKILL');
    await until(() => !isAlive(one), 'the idle worker is gone');
    const second = await couplet(['serve', '--config', serve.configFile]);
    assert.equal(second.code, 1);
    assert.match(second.stderr, /^couplet: server\.dataDir .* is another server's[^\n]*\n$/);
    await assertCarries(pair, 'it drains');
    // Without its supervisor a worker heeds signals.
    process.kill(two, 'SIGTERM');
    assert.equal((await pair.user.closed).code, 1001);
    await until(() => !isAlive(two), 'the other worker is gone');
    const again = await startServe(t, { folder: serve.folder, settings: workerSettings(redis, 2, 'consecutive') });
    again.signal('SIGTERM');
    assert.equal((await again.exited).code, 0);
    assert.equal((await again.verify()).code, 0);
  });
}

test('[K8] [R31] each worker has an event log of its own, which is verified with the others or alone', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const workers = await startWorkers(t, redis, 3, 'consecutive');
  const { serve } = workers;
  await connectPair(t, workers.worker(1), 'one');
  serve.signal('SIGTERM');
  await serve.exited;
  assert.deepEqual(readdirSync(serve.eventsDir).sort(), ['worker-1', 'worker-2', 'worker-3']);
  const whole = await serve.verify();
  assert.deepEqual([whole.code, whole.stderr], [0, '']);
  assert.match(whole.stdout, /^ok: [0-9]+ line\(s\) in 3 file\(s\)/);
  const alone = await serve.verify(join(serve.eventsDir, 'worker-2'));
  assert.equal(alone.code, 0);
  assert.match(alone.stdout, /in 1 file\(s\)/);
  const tail = await couplet(['audit', 'tail', '--data', serve.dataDir, '-n', '100']);
  assert.equal(tail.stdout.match(/"code":"CPL-2001I"/g)?.length, 3, 'each server says that it started');
  assert.equal(tail.stdout.match(/"code":"CPL-1001I"/g)?.length, 1);
  const file = join(serve.eventsDir, 'worker-2', 'events-00000001.jsonl');
  writeFileSync(file, readFileSync(file, 'utf8').replace('"action":"stopped"', '"action":"stepped"'));
  const edited = await serve.verify();
  assert.equal(edited.code, 1);
  assert.match(edited.stdout, /tampering: worker-2\/events-00000001\.jsonl:/);
  rmSync(join(serve.eventsDir, 'worker-2'), { recursive: true });
  const removed = await serve.verify();
  assert.equal(removed.code, 1);
  assert.match(removed.stdout, /tampering: worker-2:1: missing-file/);
});

test('[K8] lines of several workers are never torn, however long', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  // Each worker writes lines that no pipe takes at once, while the supervisor writes its own.
  const preload = `
    import { writeSync } from 'node:fs';
    const put = (n) => {
      const line = JSON.stringify({ msg: 'long', worker: process.env.COUPLET_WORKER, n, text: 'x'.repeat(150_000) }) + '\\n';
      for (let at = 0; at < line.length; ) {
        try {
          at += writeSync(1, line.slice(at, at + 50_000));
        } catch (error) {
          if (error.code !== 'EAGAIN') throw error;
        }
      }
      if (n < 20) setTimeout(put, 10, n + 1);
    };
    if (process.env.COUPLET_WORKER) setTimeout(put, 0, 1);
  `;
  const workers = await startWorkers(t, redis, 3, 'shared', { preload });
  const { serve } = workers;
  const longs = () => serve.lines.filter(({ msg }) => msg === 'long');
  await until(() => longs().length === 60, 'all lines are there', 30_000);
  for (const { text } of longs()) assert.equal(String(text).length, 150_000);
  assert.deepEqual(serve.strayLines, []);
});

test('[K8] [R40] mistakes in the configuration are told in one line before anything is made', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const folder = temporaryFolder(t);
  const data = join(folder, 'data');
  const base = ['serve', '--data', data, '--metrics-listen', '127.0.0.1:0'];
  const good = ['--redis', redis, '--listen', '127.0.0.1:0'];
  for (const [args, says] of [
    [['--workers', '2'], /server\.workers is 2; it must be 1 where cluster\.redis is not set/],
    [['--workers', '0', ...good], /server\.workers.*is 0; it must be a whole number from 1 to 256/],
    [['--workers', '2', '--worker-ports', 'own', ...good], /server\.workerPorts.*one of shared, consecutive/],
    [
      ['--workers', '3', '--worker-ports', 'consecutive', '--redis', redis, '--listen', '127.0.0.1:65534'],
      /server\.listen is "127\.0\.0\.1:65534"; its port must be at most 65533 for 3 workers/,
    ],
  ] as const) {
    for (const more of [[], ['--check-config']]) {
      const { code, stdout, stderr } = await couplet([...base, ...args, ...more]);
      assert.deepEqual([code, stdout], [2, ''], stderr);
      assert.match(stderr, /^couplet: [^\n]*\n$/);
      assert.match(stderr, says);
    }
  }
  const checked = await couplet([...base, '--workers', '2', ...good, '--check-config']);
  assert.deepEqual([checked.code, checked.stderr], [0, '']);
  assert.deepEqual(readdirSync(folder), []);
  // What only a worker can find out ends all, with its one line.
  const { certFile, keyFile } = makeCertificate(folder, 'other', ['ec', '-pkeyopt', 'ec_paramgen_curve:secp256k1']);
  const other = await couplet([...base, '--workers', '2', ...good, '--tls-cert', certFile, '--tls-key', keyFile]);
  assert.equal(other.code, 2, other.stderr);
  assert.match(other.stderr, /^couplet: tls\.certFile [^\n]*\n$/);
  const stray = await couplet(['serve', ...good], { env: { COUPLET_WORKER: '1' } });
  assert.equal(stray.code, 2);
  assert.match(stray.stderr, /^couplet: COUPLET_WORKER [^\n]*must not be set[^\n]*\n$/);
});

test('[K8] a port that somebody else has is not shared with them', async (t) => {
  const redis = await startRedis(t);
  if (redis === undefined) return;
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  t.after(() => taken.close());
  const { port } = taken.address() as { port: number };
  const args = [
    'serve',
    '--data',
    join(temporaryFolder(t), 'data'),
    '--metrics-listen',
    '127.0.0.1:0',
    '--workers',
    '2',
  ];
  for (const ports of ['shared', 'consecutive']) {
    const listen = ['--redis', redis, '--listen', `127.0.0.1:${port}`, '--worker-ports', ports];
    const { code, stderr } = await couplet([...args, ...listen]);
    assert.equal(code, 1);
    assert.match(
      stderr,
      new RegExp(`^couplet: server\\.listen 127\\.0\\.0\\.1:${port} cannot be listened on[^\\n]*\\n$`),
    );
  }
});
