import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { WebSocket } from 'ws';
import { buildTools } from '../../bench/build.ts';
import { type LoadResult, runLoad } from '../../bench/measure.ts';
import { incumbentPeer, incumbentPort, incumbentRecordedPeer, relayingPid } from '../../bench/peers/incumbent.ts';
import { incumbentConfig } from '../../bench/peers/incumbent-config.ts';
import { fetchIncumbent, incumbentFetched, incumbentVersion } from '../../bench/peers/incumbent-fetch.ts';
import type { RunningPeer } from '../../bench/peers/peer.ts';
import { recordingsUnavailable } from '../../bench/peers/recordings.ts';

function makeFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-incumbent-test-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A command that is called as npm is; `script` finds the folder to install to in `$folder`. */
function makeNpm(folder: string, script: string): string {
  const path = join(folder, 'npm');
  writeFileSync(path, `#!/bin/sh\necho "$@" >> ${folder}/calls\nfolder=$3\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

const installs = (version: string): string =>
  `mkdir -p $folder/node_modules/meshcentral && echo '{"version":"${version}"}' > $folder/node_modules/meshcentral/package.json`;

test('where it may not be fetched or npm fails, the reason is told and nothing is left', (t) => {
  const work = makeFolder(t);
  const target = (name: string) => join(work, name, 'incumbent');
  const npm = makeNpm(work, 'exit 7');
  const offline = { folder: target('offline'), npm, environment: { COUPLET_BENCH_OFFLINE: '1' } };
  assert.match(fetchIncumbent(offline) ?? '', /has not been fetched, and COUPLET_BENCH_OFFLINE=1/);
  assert.ok(!existsSync(join(work, 'calls')), 'npm was not run');

  const faults: readonly [string, string, RegExp][] = [
    ['silent', npm, /could not be fetched with npm: it ended with 7/],
    ['absent', join(work, 'no-npm'), /could not be fetched with npm: .*ENOENT/],
    [
      'talking',
      makeNpm(makeFolder(t), 'echo "npm error network ENOTFOUND" >&2; exit 1'),
      /npm error network ENOTFOUND/,
    ],
    ['wrong', makeNpm(makeFolder(t), installs('1.0.0')), /could not be fetched/],
  ];
  for (const [name, command, reason] of faults) {
    const options = { folder: target(name), npm: command, environment: { PATH: process.env.PATH } };
    assert.match(fetchIncumbent(options) ?? '', reason, name);
    assert.deepEqual(readdirSync(join(work, name)), [], name);
  }
});

test('it is fetched once, at its exact version and without scripts; a failure is not tried twice', (t) => {
  const work = makeFolder(t);
  const npm = makeNpm(work, installs(incumbentVersion));
  const options = { folder: join(work, 'incumbent'), npm, environment: { PATH: process.env.PATH } };
  mkdirSync(join(options.folder, 'node_modules'), { recursive: true }); // half of one, of whoever was interrupted
  assert.equal(fetchIncumbent(options), undefined);
  assert.equal(fetchIncumbent({ ...options, environment: { COUPLET_BENCH_OFFLINE: '1' } }), undefined);
  const calls = (folder: string) => readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n');
  assert.equal(calls(work).length, 1);
  assert.match(
    calls(work)[0]!,
    /^install --prefix .*incumbent\.\w+ --ignore-scripts .*--save-exact image-size@2\.0\.2 meshcentral@1\.1\.55$/,
  );

  const failing = makeFolder(t);
  const broken = { folder: join(failing, 'incumbent'), npm: makeNpm(failing, 'exit 1'), environment: {} };
  const reason = fetchIncumbent(broken);
  assert.ok(reason !== undefined);
  assert.equal(fetchIncumbent(broken), reason);
  assert.equal(calls(failing).length, 1);
});

test('its configuration keeps it on the loopback and from calling out', () => {
  const { settings, domains } = incumbentConfig(4321);
  const asked = { port: 4321, portBind: '127.0.0.1', exactPorts: true, redirPort: 0, mpsPort: 0, selfUpdate: false };
  for (const [key, value] of Object.entries(asked)) assert.equal(settings[key], value, key);
  for (const key of ['amtScanner', 'meshScanner', 'agentTimeStampServer', 'autoBackup', 'wsCompression']) {
    assert.equal(settings[key], false, key);
  }
  assert.equal(domains[''].sessionRecording, undefined);
  const { sessionRecording } = incumbentConfig(4321, '/recordings').domains[''];
  assert.equal(sessionRecording?.filepath, '/recordings');
  assert.ok(sessionRecording.protocols.includes(2));
});

test('its port and the process that relays are read from what it tells', () => {
  assert.equal(incumbentPort('MeshCentral HTTP server running on port 18443.'), 18443);
  assert.equal(incumbentPort('MeshCentral v1.1.55, WAN mode.'), undefined);
  const state = 'time=1\r\nstate=running\r\nserver-pid=4711\r\nserver-parent-pid=4700\r\nhttp-port=18443\r\n';
  assert.equal(relayingPid(state), 4711);
  assert.equal(relayingPid('state=starting\r\nserver-parent-pid=4700\r\n'), undefined);
});

// Against the real one: where the benchmark has fetched it, or where it is asked for.
const skip =
  incumbentFetched() || process.env.COUPLET_BENCH_INCUMBENT === '1'
    ? false
    : `meshcentral has not been fetched; COUPLET_BENCH_INCUMBENT=1 does (450 MB), as does \`npm run bench\``;
const noErrors: LoadResult['errors'] = { order: 0, content: 0, protocol: 0, closed: 0, lost: 0 };

async function greetings(relay: RunningPeer): Promise<string[]> {
  const halves = [relay.userPath, relay.devicePath].map(
    (path) => new WebSocket(`ws://127.0.0.1:${relay.port}${path.replaceAll('{pair}', 'greeted')}`),
  );
  const texts = await Promise.all(halves.map(async (half) => String((await once(half, 'message'))[0])));
  await Promise.all(
    halves.map((half) => {
      const closed = once(half, 'close');
      half.close();
      return closed;
    }),
  );
  return texts;
}

test('meshcentral relays every message of 16 and of 200 pairs, and all its processes end', { skip }, async () => {
  assert.equal(incumbentPeer.unavailable(), undefined);
  const relay = await incumbentPeer.start(undefined);
  try {
    assert.deepEqual(await greetings(relay), ['c', 'c']);
    for (const pairs of [16, 200]) {
      const load = { mode: 'pingpong', pairs, inFlight: 1, messageBytes: 64 } as const;
      const result = await runLoad(buildTools().load, relay, load, { warmupSeconds: 0.1, durationSeconds: 0.5 });
      assert.deepEqual(result.errors, noErrors);
      assert.ok(result.messages >= pairs, `${result.messages} messages`);
      // It is a JavaScript relay at full load: the process that was named has done the work.
      assert.ok(result.relayCpuSeconds! > 0.1 * result.seconds, `${result.relayCpuSeconds} s of CPU`);
    }
  } finally {
    await relay.stop();
  }
  assert.throws(() => process.kill(relay.pid, 0), /ESRCH/);
});

test('meshcentral records every message, and one that is not recorded is noticed', { skip }, async (t) => {
  const missing = recordingsUnavailable();
  if (missing !== undefined) return t.skip(missing);
  for (const load of [
    { mode: 'pingpong', pairs: 16, inFlight: 1, messageBytes: 64 },
    { mode: 'pingpong', pairs: 4, inFlight: 1, messageBytes: 65536 },
  ] as const) {
    const relay = await incumbentRecordedPeer.start(undefined);
    const recordings = relay.recordings!;
    try {
      const result = await runLoad(buildTools().load, relay, load, { warmupSeconds: 0.1, durationSeconds: 0.3 });
      assert.deepEqual(result.errors, noErrors);
      await relay.stop();
      recordings.check(result.allMessages, load.messageBytes);
      assert.throws(() => recordings.check(result.allMessages + 1, load.messageBytes), /recorded were/);
    } finally {
      await relay.stop();
      recordings.remove();
    }
  }
});
