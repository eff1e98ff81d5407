import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Admitter } from '../../src/auth/admission.ts';
import type { AdmissionOptions, AdmissionResult, AdmittedHalf } from '../../src/auth/admission-types.ts';
import type { OnceRecord } from '../../src/auth/cookie.ts';
import { IdSigner } from '../../src/auth/signed-id.ts';
import type { Admission } from '../../src/relay/half.ts';
import { admissionOptions, assertRefused, loginKey, queryOf, SetClock, sealByHand } from './fixtures.ts';

const clock = new SetClock();
const address = '192.0.2.10';
const alice = 'user//alice';
const node = 'node//n1';

const seal = (content: object) => sealByHand({ time: clock.seconds, ...content });
const userCookie = (more: object = {}) => seal({ userid: alice, domainid: '', ...more });
const deviceCookie = (more: object = {}) => seal({ ruserid: alice, ...more });

interface Extra {
  readonly domain?: string;
  readonly address?: string;
  readonly options?: Partial<AdmissionOptions>;
  readonly login?: { userid: string; username: string; originAllowed: boolean };
}

/** Admits at once; a promise here is a failure. */
function admit(parameters: Record<string, string>, extra: Extra = {}): AdmissionResult {
  const admitter = new Admitter(admissionOptions(clock, extra.options));
  const result = admitter.admit({
    domain: extra.domain ?? '',
    query: queryOf(parameters),
    address: extra.address ?? address,
    ...(extra.login === undefined ? {} : { login: extra.login }),
  });
  assert.ok(!(result instanceof Promise), 'the answer must come at once');
  return result;
}

function half(parameters: Record<string, string>, extra: Extra = {}): AdmittedHalf {
  const result = admit(parameters, extra);
  assert.ok(result.ok, JSON.stringify(result));
  return result.half;
}

/** `HTTPSTATUS reason` of a refusal. */
function refusal(parameters: Record<string, string>, extra: Extra = {}): string {
  const result = admit(parameters, extra);
  assertRefused(result);
  for (const cookie of [parameters.auth, parameters.rauth]) {
    if (cookie) assert.ok(!JSON.stringify(result).includes(cookie), 'cookies stay out of events');
  }
  return `${result.httpStatus} ${result.reason}`;
}

test('[R7][R9] a user half: what pairing gets to know', () => {
  const admitted: Admission = half({
    id: 's1',
    auth: userCookie({ x: 1 }),
    browser: '1',
    p: '2',
    nodeid: node,
    noping: '1',
    hd: '1',
  });
  assert.deepEqual(admitted, {
    domain: '',
    id: 's1',
    identity: { kind: 'user', side: 'user', userid: alice, username: 'alice' },
    protocol: 2,
    nodeid: node,
    browser: true,
    noping: true,
    hardClose: true,
    address,
    issuedSeconds: Math.floor(clock.ms / 1000),
  });
});

test('[R7] a device half stands for the user in its cookie', () => {
  const admitted: Admission = half({ id: 's1', rauth: deviceCookie(), p: '1' });
  assert.deepEqual(admitted.identity, { kind: 'device', side: 'device', userid: alice, username: 'alice' });
  assert.equal(admitted.protocol, 1);
});

test('[R1] path domain, domainid and the domain in the user id must be equal', () => {
  const cookie = (userDomain: string, domainid: string) => seal({ userid: `user/${userDomain}/alice`, domainid });
  assert.equal(half({ id: 's', auth: cookie('acme', 'acme') }, { domain: 'acme' }).domain, 'acme');
  for (const [path, userDomain, domainid] of [
    ['', 'acme', 'acme'],
    ['acme', '', ''],
    ['acme', 'acme', ''],
    ['acme', '', 'acme'],
    ['', '', 'acme'],
    ['', 'acme', ''],
    ['Acme', 'acme', 'acme'],
  ] as const) {
    assert.equal(refusal({ id: 's', auth: cookie(userDomain, domainid) }, { domain: path }), '401 domain-mismatch');
  }
  const device = (more: object) => ({ id: 's', rauth: deviceCookie(more) });
  assert.equal(refusal(device({}), { domain: 'acme' }), '401 domain-mismatch');
  assert.equal(refusal(device({ domainid: 'acme' })), '401 domain-mismatch');
  assert.equal(refusal(device({ nodeid: 'node/acme/n1' })), '401 domain-mismatch');
  assert.equal(refusal({ auth: userCookie({ nodeid: 'node/acme/n1', id: 's' }) }), '401 domain-mismatch');
});

test('[R1] an unknown domain is 404, before anything else', () => {
  const options = { knownDomain: (domain: string) => domain === '' };
  assert.equal(refusal({ id: 's', auth: 'rubbish' }, { domain: 'other', options }), '404 domain-unknown');
  assert.equal(half({ id: 's', auth: userCookie() }, { options }).id, 's');
});

test('[R2] auth goes before rauth, which is not even looked at', () => {
  assert.equal(half({ id: 's', auth: userCookie(), rauth: 'rubbish' }).identity.kind, 'user');
  assert.equal(refusal({ id: 's', auth: 'rubbish', rauth: deviceCookie() }), '401 cookie-encoding');
  assert.equal(refusal({ id: 's', auth: deviceCookie() }), '401 cookie-parameter');
  assert.equal(refusal({ id: 's', rauth: userCookie() }), '401 cookie-parameter');
});

test('[R2] neither id nor routing is 400 where the cookie turns out to hold none', () => {
  assert.equal(refusal({ auth: userCookie() }), '400 no-id');
  assert.equal(refusal({ auth: 'rubbish' }), '401 cookie-encoding');
  assert.equal(refusal({ rauth: deviceCookie(), nodeid: node, tcpport: '22' }), '400 no-id');
});

test('[R6] an absolute expire becomes the end of the session', () => {
  const expire = clock.ms + 5000;
  assert.equal(half({ id: 's', auth: userCookie({ expire }) }).expiresAtMs, expire);
  assert.equal(half({ id: 's', rauth: deviceCookie({ expire }) }).expiresAtMs, expire);
  assert.ok(!('expiresAtMs' in half({ id: 's', auth: userCookie({ expire: 5 }) })));
  assert.equal(refusal({ id: 's', auth: userCookie({ expire: clock.ms }) }), '401 cookie-expired');
});

test('[R7] ip: the peer must be near the address in a user cookie', () => {
  const auth = userCookie({ ip: '192.0.2.200' });
  assert.equal(half({ id: 's', auth }).id, 's');
  assert.equal(refusal({ id: 's', auth }, { address: '192.0.3.10' }), '401 cookie-address');
  assert.equal(refusal({ id: 's', auth: userCookie({ ip: '' }) }), '401 cookie-address');
  assert.equal(half({ id: 's', rauth: deviceCookie({ ip: '10.9.9.9' }) }).id, 's', 'not a key of device cookies');
});

test('[R7] id and nodeid in a device cookie must match', () => {
  const rauth = deviceCookie({ id: 's', nodeid: node });
  assert.equal(half({ id: 's', rauth, nodeid: node }).nodeid, node);
  assert.equal(half({ id: 's', rauth }).nodeid, node, 'agents are not told their own nodeid (T6)');
  assert.equal(refusal({ id: 'other', rauth }), '401 cookie-id');
  assert.equal(refusal({ id: 's', rauth, nodeid: 'node//n2' }), '401 cookie-nodeid');
  assert.equal(refusal({ id: 'other', auth: userCookie({ id: 's' }) }), '401 cookie-id');
});

test('[R7] a nouser cookie only where it is allowed, and only for its id', () => {
  const rauth = seal({ nouser: 1, id: 's' });
  const options = { allowNoUser: true };
  assert.equal(refusal({ id: 's', rauth }), '401 nouser-off');
  const identity = { kind: 'nouser', side: 'device', userid: '', username: '' };
  assert.deepEqual(half({ id: 's', rauth }, { options }).identity, identity);
  assert.equal(refusal({ id: 'other', rauth }, { options }), '401 cookie-id');
  assert.equal(refusal({ id: 's', rauth: seal({ nouser: 1 }) }, { options }), '401 cookie-content');
});

test('[R7] a user cookie with a target opens that target only, never under an id from the URL', () => {
  const target = { nodeid: node, tcpport: 22 };
  const options = { routing: true };
  const routing = { nodeid: node, transport: 'tcp', port: 22, address: '127.0.0.1' };
  const url = { id: 'of-someone', nodeid: 'node//n2', tcpport: '80' };
  const minted = half({ ...url, auth: userCookie(target) }, { options });
  assert.deepEqual(minted.routing, routing);
  assert.equal(minted.nodeid, node, '[R3] a routed session takes nodeid from its instruction');
  assert.notEqual(minted.id, 'of-someone');
  const named = half({ ...url, auth: userCookie({ ...target, id: 'named' }) });
  assert.equal(named.id, 'named');
  assert.deepEqual(named.routing, routing);
  assert.equal(refusal({ ...url, auth: userCookie(target) }), '400 routing-unavailable');
});

test('[R7][T5] the protocol in a user cookie with a target goes before that of the URL', () => {
  const target = { nodeid: node, id: 'named' };
  const routing = { nodeid: node, transport: 'none', port: 0, address: '' };
  const fixed = half({ id: 'named', p: '2', auth: userCookie({ ...target, p: 1 }) });
  assert.deepEqual([fixed.id, fixed.protocol, fixed.routing], ['named', 1, routing]);
  const free = half({ id: 'named', p: '2', auth: userCookie(target) });
  assert.deepEqual([free.id, free.protocol, free.routing], ['named', 2, routing]);
});

test('[R4] ids that are minted carry at least 128 random bits', () => {
  const auth = userCookie({ nodeid: node, tcpport: 22 });
  const ids = Array.from({ length: 200 }, () => half({ auth }, { options: { routing: true } }).id);
  assert.equal(new Set(ids).size, ids.length);
  for (const id of ids) assert.ok(Buffer.from(id, 'base64url').length * 8 >= 128, id);
});

test('[R2] routing in the URL: under its id, or a minted one where there is a directory', () => {
  const url = { nodeid: node, udpport: '53', auth: userCookie() };
  assert.equal(refusal(url), '400 routing-unavailable');
  const minted = half(url, { options: { routing: true } });
  assert.deepEqual(minted.routing, { nodeid: node, transport: 'udp', port: 53, address: '127.0.0.1' });
  assert.ok(minted.id.length >= 22);
  assert.equal(half({ ...url, id: 's' }).id, 's');
  assert.equal(refusal({ nodeid: node, udpport: '53' }, { options: { routing: true } }), '401 no-credential');
  assert.ok(!('routing' in half({ id: 's', nodeid: node, tcpport: '22', rauth: deviceCookie() })), 'users only');
});

test('[R8] fault 9: every way in which a cookie is bad gets the one answer, each with its true reason', () => {
  const good = userCookie();
  const flipped = good.slice(0, 30) + (good[30] === 'A' ? 'B' : 'A') + good.slice(31);
  const ways: [Record<string, string>, string][] = [
    [{ auth: 'rubbish' }, 'cookie-encoding'],
    [{ auth: good.slice(0, -1) }, 'cookie-encoding'],
    [{ auth: flipped }, 'cookie-forged'],
    [
      { auth: sealByHand({ userid: alice, domainid: '', time: clock.seconds }, 'base64', '00'.repeat(80)) },
      'cookie-forged',
    ],
    [{ auth: userCookie({ time: clock.seconds - 3601 }) }, 'cookie-expired'],
    [{ auth: userCookie({ time: clock.seconds + 31 }) }, 'cookie-early'],
    [{ auth: userCookie({ ruserid: alice }) }, 'cookie-kind'],
    [{ auth: seal({}) }, 'cookie-kind'],
    [{ auth: userCookie({ userid: 5 }) }, 'cookie-content'],
    [{ auth: deviceCookie() }, 'cookie-parameter'],
    [{ auth: userCookie({ once: 1, expire: 0 }) }, 'once-forever'],
    [{ auth: userCookie({ domainid: 'acme' }) }, 'domain-mismatch'],
    [{ auth: userCookie({ ip: '10.0.0.1' }) }, 'cookie-address'],
    [{ auth: userCookie({ id: 'other' }) }, 'cookie-id'],
    [{ rauth: seal({ nouser: 1, id: 's' }) }, 'nouser-off'],
  ];
  for (const [parameters, reason] of ways) assert.equal(refusal({ id: 's', ...parameters }), `401 ${reason}`);
});

test('[R7] fault 7: a once cookie is used up last, and refused when used or when that cannot be told', () => {
  const seen = new Set<string>();
  const singleUse = {
    use: ({ fingerprint }: OnceRecord) => {
      if (seen.has(fingerprint)) return 'used' as const;
      seen.add(fingerprint);
      return 'fresh' as const;
    },
  };
  for (const [name, cookie] of [
    ['auth', userCookie({ once: 1 })],
    ['rauth', deviceCookie({ once: 1 })],
  ] as const) {
    const options = { singleUse };
    assert.equal(refusal({ id: 's', [name]: cookie }, { domain: 'acme', options }), '401 domain-mismatch');
    assert.equal(half({ id: 's', [name]: cookie }, { options }).id, 's', 'a refusal for another reason left it good');
    assert.equal(refusal({ id: 's', [name]: cookie }, { options }), '401 once-used');
  }
  const options = { singleUse: { use: () => 'unavailable' as const } };
  assert.equal(refusal({ id: 's', auth: userCookie({ once: 1 }) }, { options }), '401 once-unavailable');
});

test('[R7] a memory that answers later is waited for; its failure is passed on', async () => {
  const request = { domain: '', query: queryOf({ id: 's', auth: userCookie({ once: 1 }) }), address };
  const later = (use: () => Promise<'used' | 'fresh'>) =>
    new Admitter(admissionOptions(clock, { singleUse: { use } })).admit(request);
  assert.equal((await later(async () => 'fresh')).ok, true);
  const used = await later(async () => 'used');
  assertRefused(used);
  assert.equal(used.reason, 'once-used');
  await assert.rejects(async () => later(() => Promise.reject(new Error('no answer'))), /no answer/);
});

test('[R9] a half with no credential is refused', () => {
  assert.equal(refusal({ id: 's' }), '401 no-credential');
  assert.equal(refusal({ id: 's', auth: '', rauth: '', browser: '1' }), '401 no-credential');
});

test('[R10] fault 13: a login session needs an allowed Origin, a cookie in the URL does not', () => {
  const login = (originAllowed: boolean) => ({ userid: alice, username: 'Alice A.', originAllowed });
  const identity = { kind: 'user', side: 'user', userid: alice, username: 'Alice A.' };
  assert.deepEqual(half({ id: 's' }, { login: login(true) }).identity, identity);
  assert.equal(refusal({ id: 's' }, { login: login(false) }), '403 origin');
  assert.equal(half({ id: 's', auth: userCookie() }, { login: login(false) }).identity.username, 'alice');
  assert.equal(refusal({ id: 's', auth: 'rubbish' }, { login: login(true) }), '401 cookie-encoding');
  assert.equal(refusal({ id: 's' }, { login: login(true), domain: 'acme' }), '401 domain-mismatch');
});

test('[R13] messenger of two users: each half must be authenticated as one of them', () => {
  const id = `meshmessenger/${alice}/user//bob`;
  const admitted = half({ id, auth: userCookie(), p: '1' });
  assert.equal(admitted.protocol, 200);
  assert.equal(half({ id, auth: seal({ userid: 'user//bob', domainid: '' }) }).identity.userid, 'user//bob');
  assert.equal(refusal({ id, auth: seal({ userid: 'user//carol', domainid: '' }) }), '401 messenger-party');
  assert.equal(refusal({ id, rauth: deviceCookie() }), '401 messenger-party');
  assert.equal(refusal({ id, rauth: deviceCookie({ nodeid: node }) }), '401 messenger-party');
  assert.equal(refusal({ id }), '401 no-credential');
  assert.equal(refusal({ id }, { options: { anonymousDevice: true } }), '401 no-credential');
});

test('[R13] messenger of user and device: that user, and a cookie for that device', () => {
  for (const id of [`meshmessenger/${alice}/${node}`, `meshmessenger/${node}/${alice}`]) {
    assert.equal(half({ id, auth: userCookie() }).identity.side, 'user');
    assert.equal(half({ id, rauth: deviceCookie({ nodeid: node }) }).identity.side, 'device');
    assert.equal(refusal({ id, auth: seal({ userid: 'user//bob', domainid: '' }) }), '401 messenger-party');
    assert.equal(refusal({ id, rauth: deviceCookie() }), '401 messenger-party');
    assert.equal(refusal({ id, rauth: deviceCookie(), nodeid: node }), '401 messenger-party', 'the URL proves nothing');
    assert.equal(refusal({ id, rauth: deviceCookie({ nodeid: 'node//n2' }) }), '401 messenger-party');
    assert.equal(refusal({ id }), '401 no-credential');
    const anonymous = half({ id, nodeid: 'node//n2' }, { options: { anonymousDevice: true } });
    assert.deepEqual(anonymous.identity, { kind: 'anonymous', side: 'device', userid: '', username: '' });
    assert.equal(anonymous.nodeid, node);
    assert.equal(refusal({ id, rauth: 'rubbish' }, { options: { anonymousDevice: true } }), '401 cookie-encoding');
  }
});

test('[R13] a messenger id that does not name two parties of this domain is refused', () => {
  const options = { anonymousDevice: true };
  for (const id of [
    'meshmessenger/',
    `meshmessenger/${alice}`,
    `meshmessenger/${alice}/${alice}`,
    `meshmessenger/${node}/node//n2`,
    `meshmessenger/${alice}/mesh//g1`,
    `meshmessenger/${alice}/user/acme/bob`,
    `meshmessenger/${alice}/user//bob/user//carol`,
  ]) {
    assert.equal(refusal({ id, auth: userCookie() }, { options }), '401 messenger-id', id);
    assert.equal(refusal({ id }, { options }), '401 messenger-id', id);
  }
  const id = 'meshmessenger/user//alice/node//n1';
  assert.equal(refusal({ id }, { options, domain: 'acme' }), '401 domain-mismatch');
});

test('[R14] with signed ids only signed ids are taken, and pairing uses RANDOM', () => {
  const signer = new IdSigner(loginKey, clock);
  const options = { signedIds: true };
  assert.equal(half({ id: signer.sign('random'), auth: userCookie() }, { options }).id, 'random');
  assert.equal(half({ id: signer.sign('random'), rauth: deviceCookie({ id: 'random' }) }, { options }).id, 'random');
  const earlier = new IdSigner(loginKey, new SetClock(clock.ms - 600_000)).sign('random');
  const rauth = deviceCookie({ id: earlier });
  assert.equal(half({ id: signer.sign('random'), rauth }, { options }).id, 'random');
  assert.equal(refusal({ id: signer.sign('other'), rauth }, { options }), '401 cookie-id');
  assert.equal(refusal({ id: 'random', auth: userCookie() }, { options }), '401 id-signature');
  assert.equal(refusal({ id: earlier, auth: userCookie() }, { options }), '401 id-age');
  const messenger = 'meshmessenger/user//alice/node//n1';
  const anonymousDevice = { signedIds: true, anonymousDevice: true };
  assert.equal(half({ id: signer.sign(messenger) }, { options: anonymousDevice }).id, messenger);
  assert.equal(refusal({ id: messenger }, { options: anonymousDevice }), '401 id-signature');
  assert.equal(half({ id: earlier, auth: userCookie() }).id, earlier, 'off: an id like any other');
});

test('[R7] share cookies are refused without a directory, and asked of it where there is one', async () => {
  const auth = seal({ nid: node, pid: 'share1', p: 1, gn: 'Guest', expire: clock.ms + 9000, vo: 0 });
  assert.equal(refusal({ id: 's', auth }), '401 share-unavailable');
  const request = { domain: '', query: queryOf({ id: 's', auth }), address };
  const ask = async (resolveShare: NonNullable<AdmissionOptions['resolveShare']>) =>
    new Admitter(admissionOptions(clock, { resolveShare, routing: true })).admit(request);
  for (const grant of [{ userid: alice }, Promise.resolve({ userid: alice })]) {
    const result = await ask((share) => {
      assert.equal(share.publicId, 'share1');
      return grant;
    });
    assert.ok(result.ok);
    assert.deepEqual(result.half.identity, {
      kind: 'share',
      side: 'user',
      userid: alice,
      username: 'alice',
      guestname: 'Guest',
      shareid: 'share1',
    });
    assert.notEqual(result.half.id, 's', 'a guest does not choose whom to meet');
    assert.deepEqual(result.half.routing, { nodeid: node, transport: 'none', port: 0, address: '' });
    assert.equal(result.half.nodeid, node);
    assert.equal(result.half.expiresAtMs, clock.ms + 9000);
  }
  for (const refused of [undefined, Promise.resolve(undefined)]) {
    const result = await ask(() => refused);
    assertRefused(result);
    assert.equal(`${result.httpStatus} ${result.reason}`, '401 share-refused');
  }
  const foreign = await ask(async () => ({ userid: 'user/acme/alice' }));
  assertRefused(foreign);
  assert.equal(foreign.reason, 'domain-mismatch');
  await assert.rejects(
    ask(() => Promise.reject(new Error('directory is gone'))),
    /directory is gone/,
  );
});
