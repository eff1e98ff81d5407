import assert from 'node:assert/strict';
import { CookieSealer } from '../../src/auth/cookie.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { systemClock } from '../../src/core/clock.ts';
import { runSuite } from './suite.ts';

// Opening a cookie is on the way of every half that is set up; sealing is here for comparison.

const sealer = new CookieSealer(LoginKey.generate(), systemClock);
const userContent = { userid: 'user//bench', domainid: '' };
const user = sealer.seal(userContent);
const device = sealer.seal({ ruserid: 'user//bench', nodeid: 'node//bench', id: 'session' });
const once = sealer.seal({ ...userContent, once: 1 });
const forged = new CookieSealer(LoginKey.generate(), systemClock).seal(userContent);

assert.ok(sealer.open(user, 'auth').ok && sealer.open(device, 'rauth').ok && sealer.open(once, 'auth').ok);
assert.ok(!sealer.open(forged, 'auth').ok && !sealer.open('no cookie', 'auth').ok);

await runSuite('cookie', {
  'open a user cookie': () => sealer.open(user, 'auth'),
  'open a device cookie': () => sealer.open(device, 'rauth'),
  'open a single-use cookie': () => sealer.open(once, 'auth'),
  'refuse a forged cookie': () => sealer.open(forged, 'auth'),
  'refuse what is no cookie': () => sealer.open('no cookie', 'auth'),
  'seal a user cookie': () => sealer.seal(userContent),
});
