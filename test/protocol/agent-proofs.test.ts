import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  agentHost,
  type HandshakeContext,
  joinCodeId,
  joinCodeKey,
  mintChallenge,
  mintDeviceKey,
  mintJoinCode,
  proveJoin,
  signAuthenticate,
  signEnrol,
  verifyAuthenticate,
  verifyEnrol,
  verifyJoin,
} from '../../src/protocol/agent-proofs.ts';

const text = fc.string({ maxLength: 40 });
const contexts = fc.record({ host: text, serverId: text, challenge: text });
const device = mintDeviceKey();
const other = mintDeviceKey();
const runs = { numRuns: 200 };

/** Everything that a proof covers, changed in one place: also by moving text from one field to the next. */
function changed(context: HandshakeContext, subject: string): [HandshakeContext, string][] {
  const { host, serverId, challenge } = context;
  return [
    [{ ...context, host: `${host}x` }, subject],
    [{ ...context, serverId: `${serverId}x` }, subject],
    [{ ...context, challenge: mintChallenge() }, subject],
    [context, `${subject}x`],
    ...(serverId === ''
      ? []
      : [[{ ...context, host: host + serverId, serverId: '' }, subject] as [HandshakeContext, string]]),
    ...(challenge === ''
      ? []
      : [[{ ...context, serverId: serverId + challenge, challenge: '' }, subject] as [HandshakeContext, string]]),
  ];
}

test('[T9] a signature is good for its host, server, challenge and device, and for nothing else', () => {
  fc.assert(
    fc.property(contexts, text, (context, nodeid) => {
      const signature = signAuthenticate(device.privateKey, context, nodeid);
      assert.ok(verifyAuthenticate(device.publicKey, context, nodeid, signature));
      assert.ok(!verifyAuthenticate(other.publicKey, context, nodeid, signature));
      assert.ok(!verifyEnrol(device.publicKey, context, signature), 'it is no proof of another kind');
      for (const [wrong, subject] of changed(context, nodeid)) {
        assert.ok(!verifyAuthenticate(device.publicKey, wrong, subject, signature));
      }
      const enrol = signEnrol(device.privateKey, context);
      assert.ok(verifyEnrol(device.publicKey, context, enrol));
      assert.ok(!verifyEnrol(other.publicKey, context, enrol));
      assert.ok(!verifyAuthenticate(device.publicKey, context, device.publicKey, enrol));
      for (const [wrong] of changed(context, '').slice(0, 3)) assert.ok(!verifyEnrol(device.publicKey, wrong, enrol));
    }),
    runs,
  );
});

test('[T9] a join code is proved without being told, for one connection and one key', () => {
  fc.assert(
    fc.property(contexts, (context) => {
      const code = mintJoinCode();
      const key = joinCodeKey(code);
      const proof = proveJoin(key, context, device.publicKey);
      assert.ok(verifyJoin(key, context, device.publicKey, proof));
      assert.ok(!verifyJoin(joinCodeKey(mintJoinCode()), context, device.publicKey, proof));
      for (const [wrong, publicKey] of changed(context, device.publicKey)) {
        assert.ok(!verifyJoin(key, wrong, publicKey, proof));
      }
      assert.notEqual(joinCodeId(code), joinCodeId(`${code}x`));
      assert.ok(!joinCodeKey(code).includes(joinCodeId(code)));
    }),
    runs,
  );
});

test('[T9] nothing that is no signature or key is good, and nothing throws', () => {
  const context = { host: 'h:1', serverId: 's', challenge: mintChallenge() };
  const signature = signAuthenticate(device.privateKey, context, 'n');
  fc.assert(
    fc.property(fc.string(), fc.uint8Array({ maxLength: 80 }), (noise, bytes) => {
      const encoded = Buffer.from(bytes).toString('base64url');
      for (const wrong of [noise, encoded]) {
        assert.equal(verifyAuthenticate(device.publicKey, context, 'n', wrong), false);
        assert.equal(verifyAuthenticate(wrong, context, 'n', signature), false);
        assert.equal(verifyJoin(wrong, context, 'p', wrong), false);
      }
    }),
    runs,
  );
});

test('[T9] the host is the same however the URL is written', () => {
  for (const [url, host] of [
    ['wss://Relay.Example/agent', 'relay.example:443'],
    ['wss://relay.example:443', 'relay.example:443'],
    ['ws://relay.example', 'relay.example:80'],
    ['https://relay.example:8443/x', 'relay.example:8443'],
    ['ws://[::1]:8080', '[::1]:8080'],
  ] as const) {
    assert.equal(agentHost(new URL(url)), host);
  }
});
