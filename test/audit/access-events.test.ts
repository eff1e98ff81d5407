import assert from 'node:assert/strict';
import test from 'node:test';
import { eventKinds } from '../../src/audit/codes.ts';
import { Events } from '../../src/audit/events.ts';
import type { EventRecord } from '../../src/audit/sink.ts';
import { systemClock } from '../../src/core/clock.ts';

interface Collected {
  /** Without their time. */
  readonly events: Partial<EventRecord>[];
  readonly lines: string[];
}

function collect(run: (events: Events) => void): Collected {
  const collected: Collected = { events: [], lines: [] };
  const write = ({ time: _, ...event }: EventRecord, json: string) => {
    collected.events.push(event);
    collected.lines.push(json);
  };
  run(new Events({ clock: systemClock, sinks: [{ name: 'collector', write }] }));
  return collected;
}

const ann = { domain: 'd', userid: 'user/d/ann', username: 'ann' };
const device = { domain: 'd', nodeid: 'node/d/pc' };
const address = '192.0.2.1';
const at = { id: 'abc', address };

test('[R30] [T6] a tunnel command is told with who asked for it and what it opens', () => {
  const { events } = collect((all) => {
    all.tunnelSent({ ...ann, ...device, id: 'abc', protocol: 14, target: 'tcp:127.0.0.1:22' });
    all.tunnelSent({ ...ann, ...device, guestname: 'Bob', shareid: 's1', id: 'abc', protocol: 1, target: 'none' });
  });
  const common = { code: 'CPL-1301I', etype: 'tunnel', action: 'tunnelsent', ...ann, ...device, id: 'abc' };
  assert.deepEqual(events, [
    {
      ...common,
      protocol: 14,
      target: 'tcp:127.0.0.1:22',
      msg: 'Asked node/d/pc to join session "abc" for user/d/ann, protocol 14, target tcp:127.0.0.1:22',
    },
    {
      ...common,
      guestname: 'Bob',
      shareid: 's1',
      protocol: 1,
      target: 'none',
      msg: 'Asked node/d/pc to join session "abc" for user/d/ann, protocol 1, target none',
    },
  ]);
});

test('[R30] [T5] [T11] a tunnel that is refused, by the relay or the agent, is told with the true reason', () => {
  const { events } = collect((all) => {
    all.tunnelRefused({ userid: ann.userid, ...device, ...at, reason: 'no-link' });
    all.tunnelFailed({ ...device, id: 'abc', state: 'refused', reason: 'target', detail: 'not allowed' });
    all.tunnelFailed({ ...device, userid: ann.userid, id: 'abc', state: 'failed', reason: 'dial', detail: 'refused' });
  });
  assert.deepEqual(
    events.map(({ code, userid, state, reason, msg }) => [code, userid, state, reason, msg]),
    [
      [
        'CPL-1302W',
        'user/d/ann',
        undefined,
        'no-link',
        'Refused user/d/ann from 192.0.2.1 a tunnel to node/d/pc: no-link',
      ],
      [
        'CPL-1303W',
        undefined,
        'refused',
        'target',
        'The agent of node/d/pc refuses the tunnel of session "abc": target: not allowed',
      ],
      [
        'CPL-1303W',
        'user/d/ann',
        'failed',
        'dial',
        'The agent of node/d/pc failed at the tunnel of session "abc": dial: refused',
      ],
    ],
  );
});

test('[R30] [T15] a share that is made, used and revoked is told, with its guest', () => {
  const share = { domain: 'd', userid: ann.userid, nodeid: device.nodeid, shareid: 's1', guestname: 'Bob' };
  const { events } = collect((all) => {
    all.shareCreated({ ...share, username: 'ann', protocols: 'terminal,tcp:22', expiresMs: 0, viewOnly: true });
    all.shareUsed({ ...share, ...at, protocol: 1 });
    all.shareRevoked({ ...share, actorid: 'user/d/root' });
  });
  assert.deepEqual(events, [
    {
      code: 'CPL-1305I',
      etype: 'share',
      action: 'sharecreated',
      ...share,
      username: 'ann',
      protocols: 'terminal,tcp:22',
      expires: '1970-01-01T00:00:00.000Z',
      viewonly: true,
      msg: 'user/d/ann shared node/d/pc with "Bob" until 1970-01-01T00:00:00.000Z: terminal,tcp:22',
    },
    {
      code: 'CPL-1304I',
      etype: 'share',
      action: 'shareused',
      ...share,
      ...at,
      protocol: 1,
      msg: 'Guest "Bob" from 192.0.2.1 used the share s1 of user/d/ann to node/d/pc',
    },
    {
      code: 'CPL-1306I',
      etype: 'share',
      action: 'sharerevoked',
      ...share,
      actorid: 'user/d/root',
      msg: 'user/d/root revoked the share s1 of user/d/ann to node/d/pc',
    },
  ]);
});

test('[R30] [T9] [T10] what becomes of an agent and its key is told', () => {
  const { events } = collect((all) => {
    all.agentOnline({ ...device, address, platform: 'linux' });
    all.agentOffline({ ...device, address, reason: 'silent', onlineMs: 61_999 });
    all.agentReplaced({ ...device, address, replacedAddress: '192.0.2.2' });
    all.agentRefused({ address, reason: 'join-code' });
    all.agentRefused({ ...device, address, reason: 'revoked' });
    all.deviceEnrolled({ ...device, address, hostname: 'pc', fingerprint: 'f' });
    all.deviceRevoked({ ...device, ...ann });
  });
  assert.deepEqual(
    events.map(({ code, nodeid, seconds, msg }) => [code, nodeid, seconds, msg]),
    [
      ['CPL-1401I', 'node/d/pc', undefined, 'The agent of node/d/pc is online from 192.0.2.1'],
      ['CPL-1402I', 'node/d/pc', 61, 'The agent of node/d/pc is offline after 61 second(s): silent'],
      [
        'CPL-1403W',
        'node/d/pc',
        undefined,
        'A newer connection from 192.0.2.1 replaced that of the agent of node/d/pc from 192.0.2.2',
      ],
      ['CPL-1404W', undefined, undefined, 'Refused an agent from 192.0.2.1: join-code'],
      ['CPL-1404W', 'node/d/pc', undefined, 'Refused an agent that says it is node/d/pc from 192.0.2.1: revoked'],
      ['CPL-1405I', 'node/d/pc', undefined, '"pc" enrolled as node/d/pc from 192.0.2.1'],
      ['CPL-1406I', 'node/d/pc', undefined, 'user/d/ann took the key of node/d/pc away'],
    ],
  );
});

test('[R30] logins, login sessions and API tokens are told', () => {
  const token = { ...ann, tokenid: 't1', tokenname: 'ci' };
  const { events } = collect((all) => {
    all.login({ ...ann, address, loginid: 'l1' });
    all.loginFailed({ domain: 'd', username: 'ann', address, reason: 'locked-out' });
    all.loginEnded({ ...ann, loginid: 'l1', reason: 'logout' });
    all.loginEnded({ ...ann, loginid: 'l1', reason: 'ended', actorid: 'user/d/root' });
    all.tokenCreated({ ...token, scopes: ['devices', 'events'], expiresMs: 0 });
    all.tokenCreated({ ...token, scopes: ['devices'] });
    all.tokenRevoked(token);
    all.tokenRevoked({ ...token, actorid: 'user/d/root' });
  });
  assert.deepEqual(
    events.map(({ code, msg }) => [code, msg]),
    [
      ['CPL-1501I', 'user/d/ann logged in from 192.0.2.1'],
      ['CPL-1502W', 'A login as "ann" from 192.0.2.1 failed: locked-out'],
      ['CPL-1503I', 'A login session of user/d/ann ended: logout'],
      ['CPL-1503I', 'A login session of user/d/ann ended: ended, by user/d/root'],
      ['CPL-1504I', 'An API token "ci" of user/d/ann was made, good until 1970-01-01T00:00:00.000Z: devices, events'],
      ['CPL-1504I', 'An API token "ci" of user/d/ann was made, good until it is revoked: devices'],
      ['CPL-1505I', 'The API token "ci" of user/d/ann was revoked by user/d/ann'],
      ['CPL-1505I', 'The API token "ci" of user/d/ann was revoked by user/d/root'],
    ],
  );
  assert.deepEqual(events[4]?.scopes, ['devices', 'events']);
});

test('[R30] a change of the directory is told with who made it, and found by the device it is about', () => {
  const { events } = collect((all) => {
    all.directoryChanged({ ...ann, actor: 'api', change: 'user-created', target: 'user/d/bob' });
    all.directoryChanged({ ...ann, actor: 'api', change: 'device-removed', target: 'node/d/pc' });
    const detail = 'remote-control for user/d/bob';
    all.directoryChanged({
      domain: 'd',
      userid: '',
      username: '',
      actor: 'cli',
      change: 'grant-made',
      target: 'mesh/d/m',
      detail,
    });
  });
  assert.deepEqual(events, [
    {
      code: 'CPL-1601I',
      etype: 'directory',
      action: 'directorychanged',
      ...ann,
      actor: 'api',
      change: 'user-created',
      target: 'user/d/bob',
      msg: 'user-created of user/d/bob by user/d/ann',
    },
    {
      code: 'CPL-1601I',
      etype: 'directory',
      action: 'directorychanged',
      ...ann,
      actor: 'api',
      change: 'device-removed',
      target: 'node/d/pc',
      nodeid: 'node/d/pc',
      msg: 'device-removed of node/d/pc by user/d/ann',
    },
    {
      code: 'CPL-1601I',
      etype: 'directory',
      action: 'directorychanged',
      domain: 'd',
      userid: '',
      username: '',
      actor: 'cli',
      change: 'grant-made',
      target: 'mesh/d/m',
      detail: 'remote-control for user/d/bob',
      msg: 'grant-made of mesh/d/m by the cli: remote-control for user/d/bob',
    },
  ]);
});

test('[R38] looks at recordings are told with who, from where, and the name of the file alone', () => {
  const file = '/var/lib/couplet/recordings/r.mcrec';
  const { events } = collect((all) => {
    all.recordingViewed({ ...ann, address, file });
    all.recordingDownloaded({ ...ann, address, file, bytes: 10, complete: true });
    all.recordingDownloaded({ ...ann, address, file, range: '5-9', bytes: 3, complete: false });
    all.recordingsListed({ ...ann, address, count: 7 });
    all.recordingDeleted({ ...ann, address, file, bytes: 10, reason: 'user' });
  });
  const common = { etype: 'recording', ...ann, address };
  const downloaded = { ...common, code: 'CPL-1210I', action: 'recordingdownloaded', file: 'r.mcrec' };
  const who = 'user/d/ann from 192.0.2.1';
  assert.deepEqual(events, [
    {
      ...common,
      code: 'CPL-1209I',
      action: 'recordingviewed',
      file: 'r.mcrec',
      msg: `${who} looked at the recording r.mcrec`,
    },
    { ...downloaded, bytes: 10, complete: true, msg: `${who} downloaded the recording r.mcrec: 10 byte(s)` },
    {
      ...downloaded,
      range: '5-9',
      bytes: 3,
      complete: false,
      msg: `${who} downloaded the recording r.mcrec, bytes 5-9: 3 byte(s)`,
    },
    { ...common, code: 'CPL-1211I', action: 'recordingslisted', count: 7, msg: `${who} listed 7 recording(s)` },
    {
      ...common,
      code: 'CPL-1206I',
      action: 'recordingdeleted',
      file: 'r.mcrec',
      bytes: 10,
      reason: 'user',
      msg: 'The recording r.mcrec, 10 byte(s), was deleted by user/d/ann',
    },
  ]);
});

test('[T4] a session that is ended from outside is told, under its own user', () => {
  const session = { domain: 'd', id: 'abc', userid: ann.userid, nodeid: device.nodeid, protocol: 1 };
  const { events } = collect((all) => {
    all.sessionKilled({ ...session, actorid: 'user/d/root' });
    all.sessionRevoked({ ...session, reason: 'user-locked' });
  });
  const common = { etype: 'relay', ...session };
  assert.deepEqual(events, [
    {
      ...common,
      code: 'CPL-1003I',
      action: 'sessionkilled',
      actorid: 'user/d/root',
      msg: 'user/d/root ended session "abc" of user/d/ann',
    },
    {
      ...common,
      code: 'CPL-1004I',
      action: 'sessionrevoked',
      reason: 'user-locked',
      msg: 'Session "abc" of user/d/ann is not allowed any more: user-locked',
    },
  ]);
});

test('fault 34: events of users, devices, guests and agents are one harmless line each, and read back unchanged', () => {
  const evil = '../../x\n\r\u2028\u0085\u001b[2J\u0000\u202e\u200b$&"\\\ud800';
  const all = { domain: evil, userid: evil, username: evil, nodeid: evil, id: evil, address: evil, guestname: evil };
  const more = { shareid: evil, target: evil, reason: evil, detail: evil, hostname: evil, actorid: evil };
  const facts = { ...all, ...more, protocol: 1, loginid: evil, tokenid: evil, tokenname: evil, scopes: [evil] };
  const { events, lines } = collect((told) => {
    told.tunnelSent(facts);
    told.tunnelRefused(facts);
    told.tunnelFailed({ ...facts, state: 'failed' });
    told.shareUsed(facts);
    told.shareCreated({ ...facts, protocols: evil, expiresMs: 0, viewOnly: false });
    told.shareRevoked(facts);
    told.agentOnline({ ...facts, platform: evil, version: evil });
    told.agentRefused(facts);
    told.deviceEnrolled({ ...facts, fingerprint: evil });
    told.login(facts);
    told.loginFailed(facts);
    told.tokenCreated(facts);
    told.directoryChanged({ ...facts, actor: 'api', change: 'user-changed' });
    told.sessionKilled(facts);
    told.recordingDownloaded({ ...facts, file: evil, bytes: 1, complete: true });
  });
  assert.equal(lines.length, 15);
  for (const line of lines) {
    for (const char of line) {
      const code = char.codePointAt(0)!;
      assert.ok(code >= 0x20 && code !== 0x7f && !(code >= 0x80 && code < 0xa0), `U+${code.toString(16)} is escaped`);
    }
    assert.doesNotMatch(line, /[\u2028-\u202e\u200b-\u200f]/);
  }
  assert.equal(events[0]?.guestname, evil);
  assert.deepEqual(events[11]?.scopes, [evil]);
});

test('[R30] an event that cannot be made does not throw: a share or token until no time at all', () => {
  const events = new Events({ clock: systemClock, sinks: [] });
  const share = { ...ann, ...device, shareid: 's', guestname: '', protocols: '', viewOnly: false };
  events.shareCreated({ ...share, expiresMs: Number.POSITIVE_INFINITY });
  events.tokenCreated({ ...ann, tokenid: 't', tokenname: '', scopes: [], expiresMs: Number.NaN });
  assert.equal(events.sinkFailures().get('events'), 2);
  assert.equal(events.counts.get(eventKinds.shareCreated.code), 0);
});
