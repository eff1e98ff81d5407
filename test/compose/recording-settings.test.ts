import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { recordingFolders, recordingOptions, retentionLimits } from '../../src/compose/recording-settings.ts';
import { loadConfig } from '../../src/config/load.ts';
import { settingsOf } from '../../src/recording/policy.ts';

const config = (settings: object) => loadConfig({ env: {}, settings }).config;

test('[R33] without settings nothing is recorded, of everybody and everything, below the data folder', () => {
  const options = recordingOptions(config({}));
  assert.deepEqual(options, { mode: 'off', folder: resolve('data/recordings'), index: true, domains: {} });
  assert.deepEqual(recordingFolders(options), [resolve('data/recordings')]);
});

test('[R33] mode, folder, protocols, indexing and selection are those of the configuration', () => {
  const recording = { mode: 'strict', dir: '/r/', protocols: [1, 2], index: false };
  const selection = { users: ['user//a'], deviceGroups: ['mesh//g'] };
  assert.deepEqual(recordingOptions(config({ recording: { ...recording, ...selection } })), {
    mode: 'strict',
    folder: '/r',
    protocols: [1, 2],
    index: false,
    selection,
    domains: {},
  });
});

test('[R33] a domain has its own settings over the global ones, and only those it names', () => {
  const options = recordingOptions(
    config({
      recording: { mode: 'best-effort', dir: '/r', protocols: [2], users: ['user/second/a'] },
      domains: {
        second: { recording: { mode: 'strict', dir: 'second', protocols: [1], index: false } },
        third: { recording: { index: false } },
        fourth: {},
      },
    }),
  );
  assert.deepEqual(options.domains, {
    second: { mode: 'strict', folder: resolve('second'), protocols: [1], index: false },
    third: { index: false },
  });
  const selection = { users: ['user/second/a'] };
  assert.deepEqual(settingsOf(options, 'third'), {
    mode: 'best-effort',
    folder: '/r',
    protocols: [2],
    index: false,
    selection,
  });
  assert.equal(settingsOf(options, 'fourth').folder, '/r');
});

test('[R33] [R38] every folder once, however it is written, those of domains that are off too', () => {
  const options = recordingOptions(
    config({
      recording: { dir: 'recordings' },
      domains: {
        same: { recording: { dir: './recordings/' } },
        absolute: { recording: { dir: resolve('recordings') } },
        off: { recording: { mode: 'off', dir: 'old' } },
        again: { recording: { mode: 'strict', dir: 'old' } },
        none: { recording: { mode: 'strict' } },
      },
    }),
  );
  assert.deepEqual(recordingFolders(options), [resolve('recordings'), resolve('old')]);
});

test('[R38] a limit of 0 is none, not one that deletes everything', () => {
  assert.deepEqual(retentionLimits(config({})), {});
  const recording = { maxAgeHours: 2, maxCount: 3, maxTotalBytes: 4 };
  assert.deepEqual(retentionLimits(config({ recording })), { maxAgeMs: 7_200_000, maxCount: 3, maxBytes: 4 });
  assert.deepEqual(retentionLimits(config({ recording: { maxCount: 3 } })), { maxCount: 3 });
});
