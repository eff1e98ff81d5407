import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decideRecording, type KnownParties, type RecordingOptions, settingsOf } from '../../src/recording/policy.ts';

const options: RecordingOptions = { mode: 'best-effort', folder: '/r', index: true };
const session = { domain: '', userId: 'user//ann', protocols: [1], messenger: false };
const parties: KnownParties = { userGroupIds: ['ugrp//admins'], deviceGroupId: 'mesh//office', deviceName: 'pc' };
const why = (
  o: Partial<RecordingOptions>,
  s: Partial<typeof session> | { userId: undefined } = {},
  known: Partial<KnownParties> = {},
) => {
  const decision = decideRecording({ ...options, ...o }, { ...session, ...s }, { ...parties, ...known });
  return decision.record ? decision.form : decision.why;
};

test('[R33] a session is recorded by mode, a known user and its protocol', () => {
  assert.equal(why({}), 'mcrec');
  assert.equal(why({ mode: 'strict' }), 'mcrec');
  assert.equal(why({ mode: 'off' }), 'off');
  assert.equal(why({}, { userId: undefined }), 'no-user');
  assert.equal(why({ protocols: [2, 5] }), 'protocol');
  assert.equal(why({ protocols: [] }), 'protocol');
  assert.equal(why({}, { protocols: [200], messenger: true }), 'jsonl');
  assert.equal(why({}, { protocols: [200] }), 'mcrec', 'a number that a half says makes no messenger session');
});

test('[R3] [R33] where the halves name different protocols, one that is recorded is enough', () => {
  assert.equal(why({ protocols: [2] }, { protocols: [1, 2] }), 'mcrec');
  assert.equal(why({ protocols: [2] }, { protocols: [1, 5] }), 'protocol');
});

test('[R33] the selection: users, user groups, device groups; one match is enough, no list is everybody', () => {
  assert.equal(why({ selection: {} }), 'mcrec');
  assert.equal(why({ selection: { users: [] } }), 'not-selected');
  assert.equal(why({ selection: { users: ['user//bob'] } }), 'not-selected');
  assert.equal(why({ selection: { users: ['user//bob', 'user//ann'] } }), 'mcrec');
  assert.equal(why({ selection: { users: ['user//bob'], userGroups: ['ugrp//admins'] } }), 'mcrec');
  assert.equal(why({ selection: { userGroups: ['ugrp//other'] } }), 'not-selected');
  assert.equal(why({ selection: { deviceGroups: ['mesh//office'] } }), 'mcrec');
  assert.equal(why({ selection: { deviceGroups: ['mesh//home'] } }), 'not-selected');
  const nobody = { userGroupIds: [], deviceGroupId: '', deviceName: '' };
  assert.equal(why({ selection: { userGroups: ['ugrp//admins'] } }, {}, nobody), 'not-selected', 'without a directory');
});

test("[R33] a domain's own selection in the directory takes the place of the configured one", () => {
  const selection = { users: ['user//bob'] };
  assert.equal(why({ selection: { users: ['user//ann'] } }, {}, { selection }), 'not-selected');
  assert.equal(why({ selection }, {}, { selection: { userGroups: ['ugrp//admins'] } }), 'mcrec');
});

test('[R33] a domain overrides mode, folder, protocols and index, and nothing of another domain', () => {
  const domains = {
    corp: { mode: 'strict', folder: '/corp', protocols: [5], index: false },
    lax: { mode: 'off' },
  } as const;
  const given: RecordingOptions = { ...options, protocols: [1], domains };
  assert.deepEqual(settingsOf(given, 'corp'), { mode: 'strict', folder: '/corp', protocols: [5], index: false });
  assert.deepEqual(settingsOf(given, 'lax'), { ...options, protocols: [1], mode: 'off' });
  for (const domain of ['', 'constructor', 'other']) {
    assert.deepEqual(settingsOf(given, domain), { ...options, protocols: [1] });
  }
  const decision = decideRecording(given, { ...session, domain: 'corp', protocols: [5] }, parties);
  assert.deepEqual(decision, { record: true, mode: 'strict', folder: '/corp', index: false, form: 'mcrec' });
});
