import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { CookieSealer } from '../auth/cookie.ts';
import type { CookieEncoding } from '../auth/cookie-text.ts';
import type { LoginKey } from '../auth/keys.ts';
import { runByteSession } from '../clients/byte-session.ts';
import { type ClientHalf, type ConnectOptions, connectHalf } from '../clients/connect.ts';
import { flush, type StandardIo } from '../clients/standard-io.ts';
import { systemClock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { parseId } from '../core/ids.ts';

/** How long a hang-up waits for the input to end by itself; see {@link stopOnSignals}. */
const hangUpGraceMs = 2000;
/** After a signal: how long a slow reader of standard output may still take. */
const flushAfterSignalMs = 1000;

/** Where the login key comes from, as given on the command line. */
export interface LoginKeyOptions {
  readonly loginKey?: string;
  readonly loginKeyFile?: string;
}

export interface PipeDeps {
  /** @throws CoupletError where there is no key, or no good one. */
  resolveLoginKey(options: LoginKeyOptions): LoginKey | Promise<LoginKey>;
  /** Called once, when the command runs: `processIo`, which takes over standard output. */
  io(): StandardIo;
}

interface PipeOptions extends LoginKeyOptions {
  readonly url: string;
  readonly id: string;
  readonly cookie?: string;
  readonly cookieFile?: string;
  readonly cookieEncoding: CookieEncoding;
  readonly side?: 'user' | 'device';
  readonly as?: string;
  readonly ca?: string;
  readonly insecure?: boolean;
}

type Credential = ConnectOptions['credential'];

/** Adds `couplet pipe`: joins as one half and connects it to standard input and output. Writes nothing else there. */
export function registerPipe(program: Command, deps: PipeDeps): void {
  program
    .command('pipe')
    .description('Join a session as one half and connect it to standard input and output.')
    .requiredOption('--url <URL>', 'relay endpoint: ws://HOST:PORT/relay or wss://HOST/DOMAIN/meshrelay.ashx')
    .requiredOption('--id <ID>', 'session id; the mate names the same one')
    .option('--cookie <COOKIE>', 'sealed cookie (others can see the command line: prefer --cookie-file)')
    .option('--cookie-file <FILE>', 'file that holds the sealed cookie')
    .addOption(
      new Option('--side <SIDE>', 'what the cookie is for; without it, user is tried first').choices([
        'user',
        'device',
      ]),
    )
    .option(
      '--as <SIDE:USERID>',
      'seal a cookie with the login key: user:USERID, or device:USERID on behalf of the user',
    )
    .option('--login-key <HEX160>', "the relay's login key (for tests: prefer --login-key-file)")
    .option('--login-key-file <FILE>', "file that holds the relay's login key")
    .addOption(
      new Option('--cookie-encoding <ENCODING>', 'how the relay writes cookies')
        .choices(['base64', 'hex'])
        .default('base64'),
    )
    .option('--ca <FILE>', "PEM file of the authority that signed the relay's certificate")
    .option('--insecure', "take any certificate (for tests; the relay's identity is then not proven)")
    .addHelpText(
      'after',
      '\nBoth directions end on their own. Exit status: 0 when both ended well, 1 otherwise, with one line on stderr.',
    )
    .action((options: PipeOptions) => runPipe(options, deps));
}

async function runPipe(options: PipeOptions, deps: PipeDeps): Promise<void> {
  const io = deps.io();
  // From here on, not only during the session: an error with nobody to hear it would end the process unordered. Each
  // one is judged by the session, or comes after its verdict.
  io.stdout.on('error', () => undefined);
  const stop = stopOnSignals(io);
  try {
    const half = await join(options, deps, stop);
    await runByteSession(half, { input: io.stdin, output: io.stdout, signal: stop });
  } catch (error) {
    await flush(io.stdout, stop.aborted ? AbortSignal.timeout(flushAfterSignalMs) : stop);
    if (!(error instanceof CoupletError)) throw error;
    await io.complain(`couplet pipe: ${error.message}`);
    io.exit(1);
    return;
  }
  io.exit(0);
}

/**
 * SIGINT and SIGTERM close the half and end the command. SIGHUP waits a little first: ssh hangs up on its ProxyCommand
 * right after closing the command's input, whose last bytes are still to be sent.
 */
function stopOnSignals(io: StandardIo): AbortSignal {
  const stop = new AbortController();
  io.onSignal((signal) => {
    const reason = new CoupletError('CPL_CLIENT_STOPPED', `ended by ${signal} before both directions had ended`);
    if (signal === 'SIGHUP') setTimeout(() => stop.abort(reason), hangUpGraceMs).unref();
    else stop.abort(reason);
  });
  return stop.signal;
}

/**
 * Opens the half. A sealed cookie does not show its kind, and each kind has a parameter of its own (R2): where nothing
 * says which, a cookie refused as a user's is tried as a device's.
 */
async function join(options: PipeOptions, deps: PipeDeps, signal: AbortSignal): Promise<ClientHalf> {
  const base = {
    url: options.url,
    id: options.id,
    insecure: options.insecure === true,
    ...(options.ca !== undefined && { ca: readText(options.ca, '--ca') }),
    signal,
  };
  const [first, second] = await credentials(options, deps);
  try {
    return await connectHalf({ ...base, credential: first });
  } catch (error) {
    if (second === undefined || !(error instanceof CoupletError) || error.httpStatus !== 401) throw error;
    return connectHalf({ ...base, credential: second });
  }
}

async function credentials(options: PipeOptions, deps: PipeDeps): Promise<[Credential, Credential?]> {
  const { cookie: given, cookieFile, side, as } = options;
  if ([given, cookieFile, as].filter((value) => value !== undefined).length !== 1) {
    throw new CoupletError('CPL_CLIENT_OPTIONS', 'give exactly one of --cookie, --cookie-file and --as');
  }
  if (as !== undefined) return [sealCredential(as, await deps.resolveLoginKey(options), options.cookieEncoding)];
  const cookie = (given ?? readText(cookieFile ?? '', '--cookie-file')).trim();
  const user = { parameter: 'auth', cookie } as const;
  const device = { parameter: 'rauth', cookie } as const;
  if (side === undefined) return [user, device];
  return [side === 'user' ? user : device];
}

function sealCredential(as: string, loginKey: LoginKey, encoding: CookieEncoding): Credential {
  const colon = as.indexOf(':');
  const side = as.slice(0, colon);
  const userid = as.slice(colon + 1);
  const user = parseId(userid);
  if ((side !== 'user' && side !== 'device') || user?.kind !== 'user') {
    const allowed = 'user:user/DOMAIN/NAME or device:user/DOMAIN/NAME';
    throw new CoupletError('CPL_CLIENT_OPTIONS', `--as is ${JSON.stringify(as)}; it must be ${allowed}`);
  }
  const sealer = new CookieSealer(loginKey, systemClock, encoding);
  return side === 'user'
    ? { parameter: 'auth', cookie: sealer.seal({ userid, domainid: user.domain }) }
    : { parameter: 'rauth', cookie: sealer.seal({ ruserid: userid }) };
}

function readText(path: string, option: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new CoupletError('CPL_CLIENT_OPTIONS', `cannot read ${option} ${JSON.stringify(path)}: ${why}`, { cause });
  }
}
