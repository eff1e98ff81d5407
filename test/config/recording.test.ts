import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { configReference } from '../../src/config/docs.ts';
import { ConfigError } from '../../src/config/errors.ts';
import { type LoadInput, loadConfig } from '../../src/config/load.ts';
import { planReload } from '../../src/config/reload.ts';
import { settingsByKey } from '../../src/config/schema.ts';
import { parseRelayQuery } from '../../src/protocol/relay-query.ts';

const folder = mkdtempSync(join(tmpdir(), 'couplet-config-'));
after(() => rmSync(folder, { recursive: true }));

const load = (input: LoadInput) => loadConfig({ env: {}, ...input });
const keys = (changes: readonly { key: string }[]) => changes.map(({ key }) => key);

function yaml(text: string): LoadInput {
  const file = join(folder, 'couplet.yaml');
  writeFileSync(file, text);
  return { file };
}

function problems(input: LoadInput): readonly string[] {
  try {
    load(input);
  } catch (error) {
    assert.ok(error instanceof ConfigError && !error.message.includes('\n'), String(error));
    return error.problems;
  }
  return [];
}

test('[R33] [R37] [R38] the defaults: nothing recorded, nothing deleted, the bounds of the rules', () => {
  assert.deepEqual(load({}).config.recording, {
    mode: 'off',
    dir: join('data', 'recordings'),
    index: true,
    sidecar: true,
    flushMs: 250,
    fsyncMs: 1000,
    maxQueueBytes: 268_435_456,
    threads: 1,
    startMs: 5000,
    maxAgeHours: 0,
    maxCount: 0,
    maxTotalBytes: 0,
    sweepSeconds: 60,
  });
  assert.equal(load({ flags: { 'server.dataDir': '/d' } }).config.recording.dir, '/d/recordings');
});

test('[R33] [R40] the contract names flags and variables', () => {
  const names = {
    'recording.mode': ['--recording', 'COUPLET_RECORDING_MODE'],
    'recording.dir': ['--recording-dir', 'COUPLET_RECORDING_DIR'],
    'recording.protocols': ['--recording-protocols', 'COUPLET_RECORDING_PROTOCOLS'],
    'recording.maxTotalBytes': ['--recording-max-total-bytes', 'COUPLET_RECORDING_MAX_TOTAL_BYTES'],
  };
  for (const [key, [option, env]] of Object.entries(names)) {
    assert.deepEqual([settingsByKey.get(key)?.option, settingsByKey.get(key)?.env], [option, env]);
  }
});

test('[R33] protocols and selections are read from texts and from the file', () => {
  const fromTexts = load({
    flags: { 'recording.mode': 'strict', 'recording.protocols': '1, 2,5' },
    env: { COUPLET_RECORDING_USERS: 'user//a,user/second/b', COUPLET_RECORDING_DEVICE_GROUPS: '["mesh//a,b"]' },
  }).config.recording;
  assert.equal(fromTexts.mode, 'strict');
  assert.deepEqual(fromTexts.protocols, [1, 2, 5]);
  assert.deepEqual(fromTexts.users, ['user//a', 'user/second/b']);
  assert.deepEqual(fromTexts.deviceGroups, ['mesh//a,b']);
  const fromFile = load(
    yaml('recording: { mode: off, protocols: [200], userGroups: [ugrp//x], index: false, maxAgeHours: 24 }'),
  ).config.recording;
  assert.deepEqual([fromFile.mode, fromFile.protocols, fromFile.userGroups], ['off', [200], ['ugrp//x']]);
  assert.deepEqual([fromFile.index, fromFile.maxAgeHours], [false, 24]);
  assert.deepEqual(load({ env: { COUPLET_RECORDING_PROTOCOLS: '[1,0]' } }).config.recording.protocols, [1, 0]);
});

test('[R3] [R33] the protocols that can be recorded are those that a query can name, and 0 for the others', () => {
  for (let number = 1; number <= 300; number++) {
    const parsed = parseRelayQuery(`id=x&p=${number}`);
    const known = parsed.ok && parsed.query.protocol === number;
    const accepted = problems({ flags: { 'recording.protocols': String(number) } }).length === 0;
    assert.equal(accepted, known, `protocol ${number}`);
  }
  assert.deepEqual(problems({ flags: { 'recording.protocols': '0' } }), []);
});

const bad: readonly [flag: string, value: string, says: readonly string[]][] = [
  ['recording.mode', 'on', ['--recording)', '"on"', 'one of off, best-effort, strict']],
  ['recording.protocols', '1,3', ['--recording-protocols)', '[1,3]', 'a list of one or more of 0, 1, 2, 5']],
  ['recording.protocols', 'terminal', ['["terminal"]', 'one or more of']],
  ['recording.protocols', '1.5', ['["1.5"]']],
  ['recording.protocols', '', ['[]', 'one or more of']],
  ['recording.users', 'alice', ['["alice"]', 'user/DOMAIN/NAME']],
  ['recording.users', 'mesh//a', ['user/DOMAIN/NAME']],
  ['recording.deviceGroups', 'node//a', ['mesh/DOMAIN/ID']],
  ['recording.userGroups', 'gr\u00fcn', ['printable ASCII']],
  ['recording.dir', '', ['""', 'a path of 1 to 4096 characters']],
  ['recording.index', 'on', ['"on"', 'true or false']],
  ['recording.flushMs', '0', ['a whole number from 1 to']],
  ['recording.maxQueueBytes', '4096', ['4096', 'from 1048576 to']],
  ['recording.threads', '0', ['from 1 to 64']],
  ['recording.maxAgeHours', '-1', ['-1', '(0: no limit)']],
  ['recording.sweepSeconds', '0', ['from 1 to']],
];
for (const [flag, value, says] of bad) {
  test(`[R40] ${flag} cannot be ${JSON.stringify(value)}`, () => {
    const found = problems({ flags: { [flag]: value } });
    assert.equal(found.length, 1);
    for (const part of [flag, ...says]) assert.ok(found[0]!.includes(part), `${found[0]} must name ${part}`);
  });
}

test('[R37] what is to survive a power cut is first to be written: fsyncMs below flushMs is refused', () => {
  assert.deepEqual(problems({ flags: { 'recording.flushMs': '100', 'recording.fsyncMs': '100' } }), []);
  assert.deepEqual(problems({ flags: { 'recording.fsyncMs': '249' } }), [
    'recording.fsyncMs is 249; it must be at least recording.flushMs, which is 250',
  ]);
});

test('[R33] a domain has its own mode, folder, protocols and indexing; groups without content are empty', () => {
  const text = `
domains:
  second:
    recording: { mode: strict, dir: /mnt/second, protocols: [1], index: false }
  third: { recording: { mode: off } }
  fourth: { recording: }
  fifth:
`;
  const { domains } = load(yaml(text)).config;
  assert.deepEqual(domains, {
    second: { recording: { mode: 'strict', dir: '/mnt/second', protocols: [1], index: false } },
    third: { recording: { mode: 'off' } },
    fourth: { recording: {} },
    fifth: {},
  });
  const fromText = load({ env: { COUPLET_DOMAINS: '{"second":{"recording":{"mode":"strict"}}}' } }).config.domains;
  assert.deepEqual(fromText, { second: { recording: { mode: 'strict' } } });
});

test('[R33] [R40] mistakes below a domain are told with the whole key, the value and what is allowed', () => {
  const input = yaml(`
domains:
  second:
    recording: { mod: strict, mode: loud, protocols: [3], index: 1, dir: 5, sidecar: false }
    recordings: { mode: off }
  third: 7
  fourth: { recording: on }
  a b: {}
  __proto__: { recording: { mode: off } }
`);
  const source = `(file ${input.file})`;
  const numbers = '0, 1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 100, 101, 200';
  const names = '1 to 64 letters, digits, `.`, `_`, `-`';
  assert.deepEqual(problems(input), [
    `unknown key "domains.second.recording.mod" ${source}; did you mean domains.second.recording.mode?`,
    `domains.second.recording.mode ${source} is "loud"; it must be one of off, best-effort, strict`,
    `domains.second.recording.protocols ${source} is [3]; it must be a list of one or more of ${numbers}`,
    `domains.second.recording.index ${source} is 1; it must be true or false`,
    `domains.second.recording.dir ${source} is 5; it must be a path of 1 to 4096 characters`,
    `unknown key "domains.second.recording.sidecar" ${source}`,
    `unknown key "domains.second.recordings" ${source}; did you mean domains.second.recording?`,
    `domains.third ${source} is 7; it must be a map of settings`,
    `domains.fourth.recording ${source} is "on"; it must be a map of settings`,
    `domains ${source} has the name "a b"; it must be ${names}`,
    `domains ${source} has the name "__proto__"; it must be ${names}`,
  ]);
  assert.deepEqual(problems({ flags: { domains: 'second' } }), [
    `domains (flag --domains) is "second"; it must be a map of domain names (${names}) to their settings`,
  ]);
  assert.match(problems({ settings: { domains: { a: { recording: { mode: undefined } } } } })[0]!, /is nothing; it/);
});

test('[R40] a reload: what is recorded counts at once; folder, threads and the bounds wait for a restart', () => {
  const changed: Record<string, string> = {
    'recording.mode': 'strict',
    'recording.protocols': '1',
    'recording.users': 'user//a',
    'recording.userGroups': 'ugrp//a',
    'recording.deviceGroups': 'mesh//a',
    'recording.index': 'false',
    'recording.sidecar': 'false',
    'recording.startMs': '1',
    'recording.maxAgeHours': '1',
    'recording.maxCount': '1',
    'recording.maxTotalBytes': '1',
    'recording.sweepSeconds': '1',
  };
  const waiting: Record<string, string> = {
    'recording.dir': '/elsewhere',
    'recording.flushMs': '1',
    'recording.fsyncMs': '2',
    'recording.maxQueueBytes': '1048576',
    'recording.threads': '2',
  };
  const old = load({});
  const plan = planReload(old, load({ flags: { ...changed, ...waiting } }));
  assert.deepEqual(keys(plan.applies), Object.keys(changed));
  assert.deepEqual(keys(plan.needsRestart), Object.keys(waiting));
  assert.deepEqual(plan.running.config.recording, {
    ...load({ flags: changed }).config.recording,
    dir: old.config.recording.dir,
  });
});

test('[R40] a reload: the folder of another data folder waits for a restart as that does', () => {
  const plan = planReload(load({}), load({ flags: { 'server.dataDir': '/d' } }));
  assert.deepEqual(keys(plan.needsRestart), ['server.dataDir', 'recording.dir', 'audit.dir']);
});

test('[R33] [R40] a reload: a domain keeps the folder it has, and what else changed counts', () => {
  const domains = (value: object) => load({ settings: { domains: value } });
  const old = domains({ moved: { recording: { dir: '/a', mode: 'off' } }, constructor: { recording: { dir: '/c' } } });
  const next = domains({
    moved: { recording: { dir: '/b', mode: 'strict' } },
    new: { recording: { dir: '/n', index: false } },
  });
  const plan = planReload(old, next);
  assert.deepEqual(plan.needsRestart, [
    { key: 'domains.moved.recording.dir', from: '/a', to: '/b' },
    { key: 'domains.constructor.recording.dir', from: '/c', to: undefined },
    { key: 'domains.new.recording.dir', from: undefined, to: '/n' },
  ]);
  assert.deepEqual(keys(plan.applies), ['domains']);
  assert.deepEqual(plan.running.config.domains, {
    moved: { recording: { dir: '/a', mode: 'strict' } },
    constructor: { recording: { dir: '/c' } },
    new: { recording: { index: false } },
  });
  assert.equal(next.config.domains.moved?.recording?.dir, '/b', 'what was loaded is not touched');
  const again = planReload(plan.running, next);
  assert.deepEqual(again.applies, []);
  assert.deepEqual(keys(again.needsRestart).sort(), keys(plan.needsRestart).sort(), 'still told the next time');
});

test('the reference page names what a domain may have', () => {
  const page = configReference();
  for (const key of ['mode', 'dir', 'protocols', 'index']) assert.ok(page.includes(`\n- \`recording.${key}\`: `), key);
  assert.match(page, /`recording\.dir`: .* On change: restart\.\n/);
});
