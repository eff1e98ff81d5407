import assert from 'node:assert/strict';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { systemGuard } from '../../src/recording/locks.ts';
import { salvageFolder } from '../../src/recording/salvage.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { Random } from '../support/random.ts';
import { assertGood, echo, eventsOf, recordedPair, serveRecording, textsIn } from '../support/recorded-pairs.ts';
import { assertAllVerify, isFinished, RecordedTraffic } from '../support/recorded-traffic.ts';
import { recordingsIn } from '../support/recordings.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import type { ServeChild } from '../support/serve.ts';

/** 5 kills, and 200 in `npm run torture`. */
const rounds = Math.ceil(Number(process.env.COUPLET_TEST_ROUNDS ?? 15) / 3);
const flushMs = 250;
/**
 * Beyond `flushMs`: the writer begins at 3/4 of it, so a quarter is left for 50 files in the page cache. What is not
 * its own is how long the machine keeps a thread waiting that wants to run; this process's own worst delay stands for
 * that, twice, as the writer needs to be woken and then to get through.
 */
const slackMs = 25;

async function kill(serve: ServeChild): Promise<void> {
  serve.signal('SIGKILL');
  assert.equal((await serve.exited).signal, 'SIGKILL');
}

/** A minute passes for files in which nothing is written yet: until then they may be somebody's. */
function age(path: string): void {
  const before = Date.now() / 1000 - 120;
  utimesSync(path, before, before);
}

/** The names that events of salvage tell of, from the given event on. */
function salvaged(serve: ServeChild, from: number): string[] {
  const events = serve.events().slice(from);
  return events.filter(({ code }) => code === 'CPL-1204W').map(({ file }) => String(file));
}

test(`[R37] fault 36: kill -9 at ${rounds} random moments while 50 sessions are recorded`, async (t) => {
  const random = new Random();
  t.diagnostic(`COUPLET_TEST_SEED=${random.seed}`);
  const start = (folder?: string) =>
    serveRecording(
      t,
      { mode: random.pick(['best-effort', 'strict']), flushMs, fsyncMs: 1000 },
      folder === undefined ? {} : { folder },
    );
  let serve = await start();
  const { folder } = serve;
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const sum = { messages: 0, torn: 0, empty: 0, worstLossMs: 0, worstLagMs: 0 };
  for (let round = 0; round < rounds; round++) {
    const traffic = new RecordedTraffic(random, 50, `r${round}`);
    const opened = traffic.open(t, serve);
    // In one of four rounds while the sessions begin.
    if (random.chance(0.25)) {
      await delay(random.below(300));
    } else {
      await opened;
      await delay(300 + random.below(900));
    }
    const killedMs = performance.now();
    const lagMs = traffic.worstLagMs(killedMs - 2 * flushMs);
    await kill(serve);
    traffic.stop();
    await opened;

    const context = `round ${round}, seed ${random.seed}`;
    const paths = recordingsIn(folder);
    const empty = paths.filter((path) => statSync(path).size === 0);
    const torn = paths.filter((path) => statSync(path).size > 0 && !isFinished(path));
    for (const path of empty) age(path);
    const byMs = killedMs - flushMs - slackMs - 2 * lagMs;
    traffic.assertRecorded(serve, byMs, killedMs);
    const before = torn.map((path) => textsIn(path));

    const known = serve.events().length;
    serve = await start(folder);
    const wanted = [...torn, ...empty].map((path) => basename(path)).sort();
    await until(() => salvaged(serve, known).length >= wanted.length, `${context}: the salvage`, 20_000);
    assert.deepEqual(salvaged(serve, known).sort(), wanted, `${context}: an event for each`);
    assertAllVerify(folder);
    assert.deepEqual(
      torn.map((path) => textsIn(path)),
      before,
      `${context}: salvage keeps every whole block`,
    );
    for (const path of empty) assert.equal(existsSync(path), false);
    const lossMs = traffic.assertRecorded(serve, byMs, killedMs);
    sum.messages += traffic.sentCount;
    sum.torn += torn.length;
    sum.empty += empty.length;
    sum.worstLossMs = Math.max(sum.worstLossMs, lossMs);
    sum.worstLagMs = Math.max(sum.worstLagMs, lagMs);
    for (const name of readdirSync(join(folder, 'data', 'recordings')))
      rmSync(join(folder, 'data', 'recordings', name));
  }
  t.diagnostic(JSON.stringify(sum));
  assert.ok(sum.torn > rounds * 10 && sum.messages > rounds * 50, JSON.stringify(sum));
});

/** Contents by name, of recordings and sidecars. */
function contentsOf(folder: string): Map<string, string> {
  const names = readdirSync(folder).sort();
  return new Map(names.map((name) => [name, readFileSync(join(folder, name)).toString('latin1')]));
}

test('[R37] fault 36: salvage killed while it salvages: what it comes to is the same', async (t) => {
  const random = new Random();
  t.diagnostic(`COUPLET_TEST_SEED=${random.seed}`);
  const first = await serveRecording(t, { flushMs: 20 });
  t.after(() => rmSync(first.folder, { recursive: true, force: true }));
  const traffic = new RecordedTraffic(random, 10, 's');
  await traffic.open(t, first);
  await until(() => traffic.sentCount > 200, 'some traffic');
  await kill(first);
  traffic.stop();

  // Copies that are torn at other bytes, some in their header block, with the sidecar as it was.
  const folder = join(first.dataDir, 'recordings');
  for (const path of recordingsIn(first.folder)) {
    const { size } = statSync(path);
    if (size === 0) continue;
    for (let copy = 0; copy < 40; copy++) {
      const name = path.replace('.mcrec', `-${copy + 2}.mcrec`);
      copyFileSync(path, name);
      copyFileSync(`${path}.cpt`, `${name}.cpt`);
      truncateSync(name, random.below(random.chance(0.1) ? 300 : size + 1));
      age(name);
    }
  }
  const model = join(temporaryFolder(t), 'recordings');
  cpSync(folder, model, { recursive: true, preserveTimestamps: true });
  const guard = await systemGuard();
  const states = [...salvageFolder(model, { guard })].map(({ state }) => state);
  assert.ok(states.length > 200 && states.includes('removed'), `${states.length} files`);
  const expected = contentsOf(model);
  const leftOf = () => recordingsIn(first.folder).filter((path) => !isFinished(path)).length;

  const all = leftOf();
  let amid = 0;
  const kills = rounds;
  for (let round = 0; round < kills; round++) {
    const before = leftOf();
    if (before === 0) break;
    const serve = await serveRecording(t, {}, { folder: first.folder });
    const known = salvaged(serve, 0).length;
    await until(() => salvaged(serve, 0).length > known || leftOf() < before, 'the salvage begins');
    await delay(random.below(30));
    await kill(serve);
    const left = leftOf();
    if (left > 0 && left < before) amid++;
  }
  t.diagnostic(`${all} files, ${amid} kills in the middle`);
  assert.ok(amid > 0, 'it was killed in the middle');
  const last = await serveRecording(t, {}, { folder: first.folder });
  await until(() => leftOf() === 0, 'the last salvage', 20_000);
  await until(() => contentsOf(folder).size === expected.size, 'its last file');
  assert.deepEqual(contentsOf(folder), expected);
  assertAllVerify(first.folder);
  const again = last.events().length;
  last.signal('SIGTERM');
  await last.exited;
  const idle = await serveRecording(t, {}, { folder: first.folder });
  await echoAlone(t, idle);
  assert.deepEqual(salvaged(idle, again), [], 'there is nothing left to do');
  assert.deepEqual(eventsOf(idle, 'CPL-1205E'), []);
});

async function echoAlone(t: TestContext, serve: ServeChild): Promise<void> {
  const { user, device } = await recordedPair(t, serve, 'alone');
  await echo(user, device, 'afterwards');
  user.ws.close(1000);
  await until(() => eventsOf(serve, 'CPL-1203I').some(({ id }) => id === 'alone'), 'its recording ends');
}

describe('a process that ends', () => {
  // The writer would not look at anything by itself for a long time: what is there in the end was written by the end.
  const lazy = { flushMs: 600_000, fsyncMs: 600_000 };

  async function talking(t: TestContext, serve: ServeChild): Promise<RecordedTraffic> {
    const random = new Random();
    t.diagnostic(`COUPLET_TEST_SEED=${random.seed}`);
    const traffic = new RecordedTraffic(random, 20, 'x');
    await traffic.open(t, serve);
    await until(() => traffic.sentCount > 150, 'some traffic');
    return traffic;
  }

  async function assertNothingLost(serve: ServeChild, traffic: RecordedTraffic): Promise<void> {
    traffic.stop();
    assert.equal(recordingsIn(serve.folder).length, 20);
    assertAllVerify(serve.folder);
    for (const path of recordingsIn(serve.folder)) assert.deepEqual(verifyRecording(path).notes, []);
    const now = performance.now();
    traffic.assertRecorded(serve, now, now);
    assert.equal((await serve.verify()).code, 0);
  }

  const deaths = {
    'an exception nobody caught': { code: "setTimeout(() => { throw new Error('boom'); })", exit: 1 },
    'a rejection nobody caught': { code: "void Promise.reject(new Error('boom'))", exit: 1 },
    'process.exit': { code: 'process.exit(3)', exit: 3 },
  };
  for (const [what, { code, exit }] of Object.entries(deaths)) {
    for (const mode of ['best-effort', 'strict'] as const) {
      test(`[R37] fault 38: ${what}, ${mode}: nothing that was forwarded is missing`, async (t) => {
        const preload = `process.on('SIGUSR2', () => { ${code}; });`;
        // A strict session waits for its header on the disk, which is asked for.
        const serve = await serveRecording(
          t,
          { mode, ...lazy },
          { preload, settings: { server: { drainMs: 600_000 } } },
        );
        const traffic = await talking(t, serve);
        serve.signal('SIGUSR2');
        assert.deepEqual(await serve.exited, { code: exit, signal: '' });
        await assertNothingLost(serve, traffic);
        if (exit === 1) {
          assert.equal(eventsOf(serve, 'CPL-1203I').length, 20);
          assert.equal(eventsOf(serve, 'CPL-1002I').length, 20);
        }
      });
    }
  }

  test('[R39] fault 45: SIGTERM: sessions are recorded while they drain, and finished', async (t) => {
    const serve = await serveRecording(t, lazy, { settings: { server: { drainMs: 700 } } });
    const traffic = await talking(t, serve);
    const sentBefore = traffic.sentCount;
    serve.signal('SIGTERM');
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    assert.ok(traffic.sentCount > sentBefore + 50, 'it went on meanwhile');
    await assertNothingLost(serve, traffic);
    assert.equal(eventsOf(serve, 'CPL-1203I').length, 20);
    assert.equal(serve.events().at(-1)?.action, 'stopped');
  });

  test('[R39] fault 45: SIGTERM twice: nothing recorded is lost', async (t) => {
    const serve = await serveRecording(t, lazy, { settings: { server: { drainMs: 600_000 } } });
    const traffic = await talking(t, serve);
    serve.signal('SIGTERM');
    await until(async () => (await fetch(`http://${serve.address}/readyz`)).status === 503, 'it drains');
    const { sentCount } = traffic;
    await until(() => traffic.sentCount > sentCount + 20, 'sessions go on');
    serve.signal('SIGTERM');
    assert.deepEqual(await serve.exited, { code: 0, signal: '' });
    await assertNothingLost(serve, traffic);
    for (const { complete } of eventsOf(serve, 'CPL-1203I')) assert.equal(complete, true);
    assert.equal(eventsOf(serve, 'CPL-1203I').length, 20);
  });
});

test('[R37] two servers, one folder: the salvage of one leaves what the other records alone', async (t) => {
  const shared = join(temporaryFolder(t), 'recordings');
  mkdirSync(shared);
  const settings = (more: Record<string, unknown>) => ({ dir: shared, ...more });
  // Its header at most is written for a long time: its lock alone tells that the file is in use.
  const lazy = await serveRecording(t, settings({ flushMs: 600_000, fsyncMs: 600_000 }));
  const busy = await serveRecording(t, settings({ flushMs: 20 }));
  let crashing = await serveRecording(t, settings({ flushMs: 20 }));
  t.after(() => rmSync(crashing.folder, { recursive: true, force: true }));
  const lazyPair = await recordedPair(t, lazy, 'lazy');
  const busyPair = await recordedPair(t, busy, 'busy');
  await echo(lazyPair.user, lazyPair.device, 'before');
  const told: string[] = [];
  const say = async (word: string) => {
    told.push(word);
    await echo(busyPair.user, busyPair.device, word);
    await echo(lazyPair.device, lazyPair.user, word);
  };
  const pathOf = (id: string) => join(shared, readdirSync(shared).find((name) => name.endsWith(`-${id}.mcrec`))!);
  for (let round = 0; round < 3; round++) {
    const { user, device } = await recordedPair(t, crashing, `own${round}`);
    await echo(user, device, 'mine');
    await say(`round ${round}`);
    await until(
      () => statSync(pathOf(`own${round}`)).size > 0 && textsIn(pathOf(`own${round}`)).length === 1,
      'written',
    );
    await until(() => textsIn(pathOf('busy')).length === told.length, 'written');
    if (statSync(pathOf('lazy')).size > 0) assert.deepEqual(textsIn(pathOf('lazy')), []);
    age(pathOf('lazy'));
    age(pathOf('busy'));
    const inodes = ['lazy', 'busy'].map((id) => statSync(pathOf(id)).ino);
    const known = crashing.events().length;
    await kill(crashing);
    crashing = await serveRecording(t, settings({ flushMs: 20 }), { folder: crashing.folder });
    const own = basename(pathOf(`own${round}`));
    await until(() => salvaged(crashing, known).includes(own), 'its own is repaired');
    // The folder is gone through in the order of names, in which its own come last.
    assert.ok(own > basename(pathOf('lazy')));
    assert.deepEqual(salvaged(crashing, known), [own]);
    assertGood(pathOf(`own${round}`));
    assert.deepEqual(
      ['lazy', 'busy'].map((id) => statSync(pathOf(id)).ino),
      inodes,
    );
    for (const id of ['lazy', 'busy']) assert.equal(isFinished(pathOf(id)), false, id);
    await say(`after ${round}`);
  }
  for (const { user } of [lazyPair, busyPair]) user.ws.close(1000);
  await until(() => [lazy, busy].every((serve) => eventsOf(serve, 'CPL-1203I').length === 1), 'their recordings end');
  assertGood(pathOf('lazy'));
  assertGood(pathOf('busy'));
  assert.deepEqual(textsIn(pathOf('busy')), told);
  assert.deepEqual(textsIn(pathOf('lazy')), ['before', ...told]);
  for (const serve of [lazy, busy, crashing]) assert.deepEqual(eventsOf(serve, 'CPL-1205E'), []);
});
