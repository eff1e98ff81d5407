import type { Command } from 'commander';
import { CookieSealer } from '../auth/cookie.ts';
import type { CookieContent } from '../auth/cookie-kinds.ts';
import type { CookieEncoding } from '../auth/cookie-text.ts';
import type { LoginKey } from '../auth/keys.ts';
import { isSameNetwork } from '../auth/same-network.ts';
import { IdSigner } from '../auth/signed-id.ts';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { isPrintableId, parseId } from '../core/ids.ts';
import { isNodeId } from '../protocol/relay-query.ts';

export interface LoginKeyFlags {
  readonly loginKey?: string;
  readonly loginKeyFile?: string;
}

/** What the command needs of its surroundings. */
export interface TokenIo {
  readonly clock: Clock;
  /** Prints one line on stdout. */
  print(line: string): void;
  /** The login key from the flags, else from the environment; throws a CoupletError where there is none. */
  resolveLoginKey(flags: LoginKeyFlags): LoginKey;
}

interface CookieFlags extends LoginKeyFlags {
  readonly ttl?: string;
  readonly once?: true;
  readonly cookieEncoding: string;
}

interface UserFlags extends CookieFlags {
  readonly ip?: string;
  readonly node?: string;
  readonly id?: string;
  readonly tcpPort?: string;
  readonly tcpAddress?: string;
  readonly udpPort?: string;
  readonly udpAddress?: string;
}

interface DeviceFlags extends CookieFlags {
  readonly for: string;
  readonly node?: string;
  readonly id?: string;
}

const maxTtlMinutes = 1e10;

/** Adds `couplet token user|device|id`: prints a sealed cookie [R5]–[R7] or a signed session id [R14]. */
export function registerToken(program: Command, io: TokenIo): void {
  const token = program.command('token').description('print a sealed cookie, or a signed session id');

  const user = token
    .command('user')
    .description("seal a user's cookie, for the parameter auth")
    .argument('<userid>', 'the user, as user/DOMAIN/NAME (user//NAME in the default domain)');
  addCookieOptions(user, '60m')
    .option('--ip <address>', 'only for peers in the same /24, or /64 for IPv6')
    .option('--node <nodeid>', 'only for this device, as node/DOMAIN/ID')
    .option('--id <id>', 'only for this session id')
    .option('--tcp-port <port>', 'with --node: only for this TCP port of the device')
    .option('--tcp-address <address>', 'with --tcp-port: of this address as the device sees it')
    .option('--udp-port <port>', 'with --node: only for this UDP port of the device')
    .option('--udp-address <address>', 'with --udp-port: of this address as the device sees it')
    .action((userid: string, flags: UserFlags) => {
      requireUserId('the user', userid);
      if (flags.node !== undefined) requireNodeId(flags.node, userid);
      if (flags.id !== undefined) requireId(flags.id);
      if (flags.ip !== undefined) requireAddress(flags.ip);
      const content = {
        userid,
        domainid: parseId(userid)?.domain,
        ip: flags.ip,
        nodeid: flags.node,
        id: flags.id,
        tcpport: readPort('--tcp-port', flags.tcpPort),
        tcpaddr: flags.tcpAddress,
        udpport: readPort('--udp-port', flags.udpPort),
        udpaddr: flags.udpAddress,
      };
      io.print(sealCookie(io, flags, content, 'auth'));
    });

  const device = token
    .command('device')
    .description("seal a device's cookie, for the parameter rauth")
    .requiredOption('--for <userid>', 'the user on whose behalf the device connects, as user/DOMAIN/NAME');
  addCookieOptions(device, '240m')
    .option('--node <nodeid>', 'the device, as node/DOMAIN/ID')
    .option('--id <id>', 'only for this session id')
    .action((flags: DeviceFlags) => {
      requireUserId('--for', flags.for);
      if (flags.node !== undefined) requireNodeId(flags.node, flags.for);
      if (flags.id !== undefined) requireId(flags.id);
      const content = { ruserid: flags.for, nodeid: flags.node, id: flags.id };
      io.print(sealCookie(io, flags, content, 'rauth'));
    });

  const id = token.command('id').description('print a new signed session id, good for two minutes');
  addKeyOptions(id).action((flags: LoginKeyFlags) => {
    io.print(new IdSigner(io.resolveLoginKey(flags), io.clock).sign());
  });
}

function addKeyOptions(command: Command): Command {
  return command
    .option('--login-key <hex>', 'the login key, 160 hex digits (for tests: others can read it on the command line)')
    .option('--login-key-file <file>', 'file that holds the login key');
}

function addCookieOptions(command: Command, defaultTtl: string): Command {
  return addKeyOptions(command)
    .option(
      '--ttl <time>',
      `how long the cookie opens: 30s, 60m, 2h, 1d, or minutes; 0: for ever (default: ${defaultTtl})`,
    )
    .option('--once', 'the cookie opens once')
    .option('--cookie-encoding <encoding>', 'base64 or hex, as auth.cookieEncoding of the relay', 'base64');
}

/** Seals and opens again: what the relay would refuse is not printed. */
function sealCookie(io: TokenIo, flags: CookieFlags, content: CookieContent, parameter: 'auth' | 'rauth'): string {
  const expire = flags.ttl === undefined ? undefined : parseTtlMinutes(flags.ttl);
  if (flags.once && expire === 0) fail('--once cannot go with --ttl 0: it would have to be remembered for ever');
  const encoding = readEncoding(flags.cookieEncoding);
  const sealer = new CookieSealer(io.resolveLoginKey(flags), io.clock, encoding);
  const cookie = sealer.seal({ ...content, expire, once: flags.once ? 1 : undefined });
  const opened = sealer.open(cookie, parameter);
  if (!opened.ok) fail(`these options make no valid cookie (${opened.fault}): a port or address needs --node`);
  return cookie;
}

/**
 * The cookie's `expire` for a `--ttl`, in minutes [R6]; `30s` is half a minute. It is never an absolute time, which
 * would also end the running session at that moment.
 * @throws CoupletError `CPL_TOKEN`
 */
export function parseTtlMinutes(ttl: string): number {
  const match = /^([0-9]{1,10})([smhd]?)$/.exec(ttl);
  if (match === null) return fail(`--ttl ${JSON.stringify(ttl)} must be as 30s, 60m, 2h, 1d, or minutes`);
  const minutes = (Number(match[1]) * secondsPer[match[2] as keyof typeof secondsPer]) / 60;
  if (minutes > maxTtlMinutes) return fail(`--ttl ${JSON.stringify(ttl)} must be at most ${maxTtlMinutes} minutes`);
  return minutes;
}

const secondsPer = { s: 1, m: 60, '': 60, h: 3600, d: 86_400 } as const;

function readEncoding(encoding: string): CookieEncoding {
  if (encoding === 'base64' || encoding === 'hex') return encoding;
  return fail(`--cookie-encoding ${JSON.stringify(encoding)} must be base64 or hex`);
}

function readPort(flag: string, port: string | undefined): number | undefined {
  if (port === undefined) return undefined;
  if (/^[0-9]{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= 65_535) return Number(port);
  return fail(`${flag} ${JSON.stringify(port)} must be a port, 1 to 65535`);
}

function requireUserId(what: string, userid: string): void {
  if (parseId(userid)?.kind === 'user') return;
  fail(`${what} ${JSON.stringify(userid)} must be user/DOMAIN/NAME (user//NAME in the default domain)`);
}

function requireNodeId(nodeid: string, userid: string): void {
  if (isNodeId(nodeid) && parseId(nodeid)?.domain === parseId(userid)?.domain) return;
  fail(`--node ${JSON.stringify(nodeid)} must be node/DOMAIN/ID, in the domain of ${JSON.stringify(userid)}`);
}

function requireId(id: string): void {
  if (!isPrintableId(id)) fail(`--id ${JSON.stringify(id)} must be 1 to 256 characters of printable ASCII`);
}

function requireAddress(ip: string): void {
  if (!isSameNetwork(ip, ip)) fail(`--ip ${JSON.stringify(ip)} must be an IP address`);
}

function fail(message: string): never {
  throw new CoupletError('CPL_TOKEN', message, { level: 'error' });
}
