import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Command } from 'commander';
import { CookieSealer } from '../../src/auth/cookie.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { IdSigner } from '../../src/auth/signed-id.ts';
import { type LoginKeyFlags, parseTtlMinutes, registerToken } from '../../src/cli/token.ts';
import { CoupletError } from '../../src/core/errors.ts';
import { keyHex, loginKey, SetClock } from '../auth/fixtures.ts';

function run(argv: string[], clock = new SetClock()): string {
  const printed: string[] = [];
  const program = new Command().exitOverride();
  registerToken(program, {
    clock,
    print: (line) => printed.push(line),
    resolveLoginKey: (flags: LoginKeyFlags) => LoginKey.parse(flags.loginKey ?? ''),
  });
  program.parse(['token', ...argv, '--login-key', keyHex], { from: 'user' });
  assert.equal(printed.length, 1);
  return printed[0]!;
}

/** Opens what the command printed, `ageSeconds` later. */
function open(argv: string[], parameter: 'auth' | 'rauth', ageSeconds = 0) {
  const clock = new SetClock();
  const printed = run(argv, clock);
  clock.ms += ageSeconds * 1000;
  return new CookieSealer(loginKey, clock).open(printed, parameter);
}

test('[R5][R7] couplet token user: a user cookie of the domain in the user id', () => {
  for (const [userid, domainid] of [
    ['user//alice', ''],
    ['user/acme/alice', 'acme'],
  ] as const) {
    const opened = open(['user', userid], 'auth');
    assert.ok(opened.ok && opened.cookie.kind === 'user');
    assert.equal(opened.cookie.userid, userid);
    assert.equal(opened.cookie.domainid, domainid);
    assert.equal(opened.once, undefined);
    assert.equal(opened.expiresAtMs, undefined);
  }
});

test('[R7] couplet token device: a device cookie, with node and id where they are given', () => {
  const plain = open(['device', '--for', 'user//alice'], 'rauth');
  assert.ok(plain.ok && plain.cookie.kind === 'device');
  assert.deepEqual([plain.cookie.userid, plain.cookie.nodeid, plain.cookie.id], ['user//alice', undefined, undefined]);
  const bound = open(['device', '--for', 'user//alice', '--node', 'node//n1', '--id', 's1'], 'rauth');
  assert.ok(bound.ok && bound.cookie.kind === 'device');
  assert.deepEqual([bound.cookie.nodeid, bound.cookie.id], ['node//n1', 's1']);
});

test('[R14] couplet token id: an id that is signed now', () => {
  const clock = new SetClock();
  assert.equal(new IdSigner(loginKey, clock).check(run(['id'], clock)).ok, true);
});

test('[R6] --ttl is the time in which the cookie opens; without it 60 minutes, for devices 240', () => {
  const accepted = (argv: string[], parameter: 'auth' | 'rauth', seconds: number) => {
    assert.equal(open(argv, parameter, seconds).ok, true, `${argv} after ${seconds} s`);
    assert.equal(open(argv, parameter, seconds + 1).ok, false, `${argv} after ${seconds + 1} s`);
  };
  const user = ['user', 'user//alice'];
  accepted(user, 'auth', 3600);
  accepted(['device', '--for', 'user//alice'], 'rauth', 14_400);
  for (const [ttl, seconds] of [
    ['60m', 3600],
    ['5', 300],
    ['30s', 30],
    ['7s', 7],
    ['90s', 90],
    ['2h', 7200],
    ['1d', 86_400],
  ] as const) {
    accepted([...user, '--ttl', ttl], 'auth', seconds);
  }
  assert.equal(open([...user, '--ttl', '0'], 'auth', 1e9).ok, true);
  const short = open([...user, '--ttl', '30s'], 'auth');
  assert.ok(short.ok && short.expiresAtMs === undefined, 'a ttl does not end the session');
});

test('[R6] a --ttl in any other form is an error', () => {
  assert.equal(parseTtlMinutes('30s'), 0.5);
  for (const bad of ['', 'm', '-1', '1.5h', '1w', '60 m', '1h30m', '10000000000d', '99999999999']) {
    assert.throws(() => parseTtlMinutes(bad), /--ttl/, bad);
  }
});

test('[R7] couplet token user --once, --ip, a target and an id', () => {
  const argv = ['user', 'user//alice', '--once', '--ip', '192.0.2.1', '--node', 'node//n1', '--id', 's1'];
  const opened = open([...argv, '--tcp-port', '22', '--tcp-address', '10.0.0.1'], 'auth');
  assert.ok(opened.ok && opened.cookie.kind === 'user' && opened.once !== undefined);
  assert.equal(opened.cookie.ip, '192.0.2.1');
  assert.equal(opened.cookie.id, 's1');
  assert.deepEqual(opened.cookie.routing, { nodeid: 'node//n1', transport: 'tcp', port: 22, address: '10.0.0.1' });
  const udp = open(['user', 'user//alice', '--node', 'node//n1', '--udp-port', '53'], 'auth');
  assert.ok(udp.ok && udp.cookie.kind === 'user');
  assert.equal(udp.cookie.routing?.transport, 'udp');
});

test('[R5] --cookie-encoding hex', () => {
  const clock = new SetClock();
  const printed = run(['user', 'user//alice', '--cookie-encoding', 'hex'], clock);
  assert.equal(new CookieSealer(loginKey, clock, 'hex').open(printed, 'auth').ok, true);
});

test('what the relay would refuse is not printed: one line names the fault, and no key', () => {
  const user = ['user', 'user//alice'];
  for (const [argv, named] of [
    [['user', 'alice'], '"alice" must be user/DOMAIN/NAME'],
    [['user', 'node//n1'], '"node//n1" must be user/DOMAIN/NAME'],
    [['device', '--for', 'alice'], '--for "alice" must be user/DOMAIN/NAME'],
    [['device', '--for', 'user//alice', '--node', 'n1'], '--node "n1" must be node/DOMAIN/ID'],
    [['device', '--for', 'user//alice', '--node', 'node/acme/n1'], '--node "node/acme/n1" must be'],
    [['device', '--for', 'user//alice', '--id', 'ä'], '--id "ä" must be'],
    [[...user, '--ip', 'here'], '--ip "here" must be an IP address'],
    [[...user, '--once', '--ttl', '0'], '--once cannot go with --ttl 0'],
    [[...user, '--tcp-port', '22'], 'needs --node'],
    [[...user, '--node', 'node//n1', '--tcp-port', '0'], '--tcp-port "0" must be a port'],
    [[...user, '--cookie-encoding', 'base32'], '"base32" must be base64 or hex'],
  ] as const) {
    assert.throws(
      () => run([...argv]),
      (error: unknown) => {
        assert.ok(error instanceof CoupletError, String(error));
        assert.ok(error.message.includes(named), error.message);
        assert.ok(!/\n/.test(error.message) && !error.message.includes(keyHex.slice(0, 20)));
        return true;
      },
    );
  }
});
