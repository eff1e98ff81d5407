import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  controlText,
  controlTexts,
  greetings,
  isGreeting,
  parseControlText,
  termsizeText,
} from '../../src/protocol/control-messages.ts';

test('[R20] the greeting is c, or cr where the session is recorded', () => {
  assert.deepEqual(greetings, { plain: 'c', recorded: 'cr' });
  for (const text of ['c', 'cr']) assert.equal(isGreeting(text), true);
  for (const text of ['', 'C', 'c ', 'crc', 'r']) assert.equal(isGreeting(text), false);
});

test('[R21] keepalive texts are written as peers in the field expect them', () => {
  assert.equal(controlTexts.ping, '{"ctrlChannel":"102938","type":"ping"}');
  assert.equal(controlTexts.pong, '{"ctrlChannel":"102938","type":"pong"}');
  assert.equal(controlTexts.caps, '{"ctrlChannel":"102938","type":"caps","eof":true}');
  assert.equal(controlTexts.eof, '{"ctrlChannel":"102938","type":"eof"}');
  assert.equal(termsizeText(80, 25), '{"ctrlChannel":"102938","type":"termsize","cols":80,"rows":25}');
});

test('[R42] control messages are recognised, also the rtt of a browser and a channel written as a number', () => {
  assert.deepEqual(parseControlText('{"ctrlChannel":"102938","type":"rtt","time":17}'), {
    type: 'rtt',
    fields: { ctrlChannel: '102938', type: 'rtt', time: 17 },
  });
  assert.equal(parseControlText('{"type":"ping", "ctrlChannel":102938}')?.type, 'ping');
  for (const text of Object.values(controlTexts)) assert.ok(parseControlText(text));
});

test('payload is not mistaken for a control message, and none makes the recogniser throw', () => {
  for (const text of [
    '',
    'c',
    '102938',
    '{"type":"ping"}',
    '{"ctrlChannel":"102938"}',
    '{"ctrlChannel":"102938","type":5}',
    '{"ctrlChannel":"1029380","type":"ping"}',
    '{"ctrlChannel":["102938"],"type":"ping"}',
    '{"note":"102938","type":"ping"}',
    '{"ctrlChannel":"102938","type":"ping"',
    ' {"ctrlChannel":"102938","type":"ping"}',
    '[{"ctrlChannel":"102938","type":"ping"}]',
    controlText('ping', { filler: 'x'.repeat(5000) }),
  ]) {
    assert.equal(parseControlText(text), undefined, text);
  }
  fc.assert(
    fc.property(fc.string(), fc.string(), (before, after) => {
      parseControlText(`{${before}102938${after}`);
    }),
  );
});
