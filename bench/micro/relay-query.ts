import assert from 'node:assert/strict';
import { CookieSealer } from '../../src/auth/cookie.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { systemClock } from '../../src/core/clock.ts';
import { parseRelayQuery } from '../../src/protocol/relay-query.ts';
import { runSuite } from './suite.ts';

// The query string of an upgrade request, once for every half that is set up, and for every one that is refused.

const sealer = new CookieSealer(LoginKey.generate(), systemClock);
const auth = sealer.seal({ userid: 'user//bench', domainid: '' });
const rauth = sealer.seal({ ruserid: 'user//bench', nodeid: 'node//bench', id: 'session' });
const id = 'f3b8c2a914e7d6';
const node = `node//${'aB3$x@9z'.repeat(8)}`;

const user = `browser=1&p=2&nodeid=${node}&id=${id}&auth=${auth}`;
const device = `p=2&nodeid=${node}&id=${id}&rauth=${rauth}`;
const escaped = `browser=1&p=2&nodeid=${encodeURIComponent(node)}&id=${id}&auth=${encodeURIComponent(auth)}`;
const routed = `noping=1&hd=1&nodeid=${node}&tcpport=22&tcpaddr=192.0.2.7&auth=${auth}`;
const empty = 'p=2&browser=1';
const strange = `${'unknown=1&'.repeat(100)}id=${id}`;

for (const query of [user, device, escaped, routed, strange]) assert.ok(parseRelayQuery(query).ok, query);
assert.deepEqual(parseRelayQuery(escaped), parseRelayQuery(user));
assert.ok(!parseRelayQuery(empty).ok);

await runSuite('relay query', {
  "a user half's": () => parseRelayQuery(user),
  "a device half's": () => parseRelayQuery(device),
  "a user half's with percent escapes": () => parseRelayQuery(escaped),
  'routed to a port': () => parseRelayQuery(routed),
  'refused: neither id nor routing': () => parseRelayQuery(empty),
  'with 100 unknown parameters': () => parseRelayQuery(strange),
});
