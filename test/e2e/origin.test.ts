import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connect, type Refused } from '../support/client.ts';
import { startRelay } from '../support/relay.ts';

test('[R10] fault 13: a login session that a hook vouches for needs an allowed Origin; a cookie in the URL needs none', async (t) => {
  const relay = await startRelay(t, {
    settings: { server: { allowedOrigins: ['https://good.example'] } },
    hooks: {
      authenticate: ({ cookie }) =>
        cookie === 'session=alice'
          ? { kind: 'user', side: 'user', userid: 'user//alice', username: 'alice' }
          : undefined,
    },
  });
  let next = 0;
  const status = (headers: Record<string, string>, query = '') =>
    connect(t, `ws://127.0.0.1:${relay.port}/relay?id=x${next++}${query}`, { headers }).then(
      () => 101,
      (error: Refused) => error.status,
    );
  const session = { cookie: 'session=alice' };
  for (const origin of [
    'https://evil.example',
    'null',
    'https://good.example.evil',
    'https://good.example:8443',
    'http://good.example',
  ]) {
    assert.equal(await status({ ...session, origin }), 403, origin);
  }
  assert.equal(await status(session), 403, 'none');
  assert.equal(await status({ ...session, origin: 'https://good.example' }), 101);
  assert.equal(await status({ ...session, origin: `http://127.0.0.1:${relay.port}` }), 101, 'its own');
  const sealed = encodeURIComponent(relay.sealer.seal({ userid: 'user//alice', domainid: '' }));
  assert.equal(await status({ origin: 'https://evil.example' }, `&auth=${sealed}`), 101);
  assert.equal(relay.events().filter(({ reason }) => reason === 'origin').length, 6);
});
