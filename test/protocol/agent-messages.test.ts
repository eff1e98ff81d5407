import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  type AgentMessage,
  readAgentMessage,
  readServerMessage,
  type ServerMessage,
  silenceLimitMs,
  writeMessage,
} from '../../src/protocol/agent-messages.ts';

const bytes = (length: number) => Buffer.alloc(length, 7).toString('base64url');
const facts = { hostname: 'box', platform: 'linux', version: '1', capabilities: ['tcp'] };

const fromServer: ServerMessage[] = [
  { type: 'hello', version: 1, serverId: 's', challenge: bytes(32), timeMs: 1 },
  { type: 'accepted', nodeid: 'node//a', name: 'box', heartbeatMs: 10_000 },
  { type: 'refused', reason: 'credentials' },
  { type: 'heartbeat' },
  { action: 'msg', type: 'tunnel', value: '*/meshrelay.ashx?id=a&rauth=b' },
  { type: 'replaced' },
  { type: 'revoked' },
];
const fromAgent: AgentMessage[] = [
  {
    type: 'enrol',
    joinId: bytes(16),
    joinProof: bytes(32),
    publicKey: bytes(32),
    host: 'h:1',
    signature: bytes(64),
    facts,
  },
  { type: 'authenticate', nodeid: 'node//a', host: 'h:1', signature: bytes(64), facts },
  { type: 'heartbeat' },
  { type: 'tunnel-refused', id: 'a', reason: 'target', detail: '' },
  { type: 'tunnel-failed', id: 'a', reason: 'dial', detail: 'x' },
];

test('[T9] every message is read as it was written, by the end it is for', () => {
  for (const message of fromServer) assert.deepEqual(readServerMessage(writeMessage(message)), { ok: true, message });
  for (const message of fromAgent) assert.deepEqual(readAgentMessage(writeMessage(message)), { ok: true, message });
  for (const message of fromServer.filter(({ type }) => type !== 'heartbeat')) {
    assert.equal(readAgentMessage(writeMessage(message)).ok, false);
  }
});

test('[T9] a message without one of its fields, or with a wrong one, is refused', () => {
  for (const [messages, read] of [
    [fromServer, readServerMessage],
    [fromAgent, readAgentMessage],
  ] as const) {
    for (const message of messages) {
      for (const field of Object.keys(message).filter((name) => name !== 'type')) {
        for (const value of [undefined, null, [], 'no\n'.repeat(9000)]) {
          const result = read(JSON.stringify({ ...message, [field]: value }));
          assert.ok(!result.ok && result.fault === 'fields', `${message.type}.${field} = ${String(value).slice(0, 9)}`);
          assert.ok(!result.detail.includes('no\n'));
        }
      }
    }
  }
});

test('[T9] whatever comes is answered, never thrown at; unknown types are told apart', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      for (const read of [readServerMessage, readAgentMessage]) assert.equal(read(text).ok, false);
    }),
  );
  const verdict = (text: string) => {
    const result = readServerMessage(text);
    return result.ok || result.fault;
  };
  assert.equal(verdict('{'), 'not-json');
  assert.equal(verdict('null'), 'fields');
  assert.equal(verdict('{"type":"later"}'), 'unknown-type');
  assert.equal(verdict('{"type":"constructor"}'), 'unknown-type');
});

test('[T10] with default heartbeats silence is noticed within 30 s', () => {
  // Looked at once per heartbeat.
  assert.ok(silenceLimitMs(10_000) + 10_000 > 30_000 && silenceLimitMs(10_000) < 30_000);
  assert.ok(Math.ceil(silenceLimitMs(10_000) / 10_000) * 10_000 <= 30_000);
});
