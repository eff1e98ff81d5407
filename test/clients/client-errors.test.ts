import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  closeError,
  connectError,
  isCleanClose,
  printableLine,
  refusedError,
} from '../../src/clients/client-errors.ts';
import { closeCodes } from '../../src/protocol/close-codes.ts';

test('[R27] every close code but 1000 has a stable code and a sentence of its own', () => {
  const codes = [1006, ...Object.values(closeCodes).filter((code) => !isCleanClose(code))];
  const errors = codes.map((code) => closeError({ code, reason: '' }));
  assert.equal(codes.length, Object.keys(closeCodes).length);
  assert.equal(new Set(errors.map(({ code }) => code)).size, codes.length);
  assert.equal(new Set(errors.map(({ message }) => message.replace(/\d+/, ''))).size, codes.length);
  for (const [index, error] of errors.entries()) {
    assert.notEqual(error.code, 'CPL_CLIENT_CLOSED');
    assert.equal(error.closeCode, codes[index]);
  }
  assert.equal(closeError({ code: 4999, reason: '' }).code, 'CPL_CLIENT_CLOSED');
});

test('[R27] the reason text is told, but cannot break the line or the terminal', () => {
  const { message } = closeError({ code: 4403, reason: 'not\r\n\x1b[31mallowed\u202e' });
  assert.equal(message, 'the relay did not allow this session (close code 4403, not [31mallowed )');
  assert.equal(printableLine('x'.repeat(1000)).length, 200);
});

test('each HTTP status of a refused upgrade has a stable code', () => {
  const codes = [400, 401, 403, 404, 429, 503, 200].map((status) => refusedError('ws://h/relay', status).code);
  assert.equal(new Set(codes).size, codes.length);
});

test('a certificate that is not trusted is answered with the option that helps', () => {
  const cause = Object.assign(new Error('self-signed certificate'), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' });
  assert.match(connectError('wss://h/relay', cause).message, /DEPTH_ZERO_SELF_SIGNED_CERT; .*--ca FILE/);
});
