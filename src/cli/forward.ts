import type { Readable } from 'node:stream';
import type { Command } from 'commander';
import { runByteSession } from '../clients/byte-session.ts';
import { type ForwardOptions, forwardTcp, type Listener } from '../clients/forward.ts';
import { parseForward, parseTarget } from '../clients/forward-spec.ts';
import { type ForwardStatus, plainStatus, TerminalStatus } from '../clients/forward-status.ts';
import { forwardUdp } from '../clients/forward-udp.ts';
import { openHalf } from '../clients/open-tunnel.ts';
import { forwardSocks } from '../clients/socks.ts';
import { flush, type StandardIo } from '../clients/standard-io.ts';
import { systemClock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { addLoginOptions, type LoginOptions, logIn, optionsError, readNumber, readSecurity } from './server-options.ts';

/** ssh hangs up on its ProxyCommand right after closing the command's input, whose last bytes are still to be sent. */
const hangUpGraceMs = 2000;
const flushAfterSignalMs = 1000;

export interface ForwardDeps {
  /** Writes one line to standard output. */
  print(line: string): void;
  /** Aborted by SIGINT or SIGTERM; called once, where listeners run. */
  stopped(): AbortSignal;
  stdin(): Readable;
  /** Where a status line goes; `undefined`: there is no terminal. */
  terminal: { write(text: string): void } | undefined;
  /** Called once with `--stdio`: `processIo`, which takes over standard output. */
  io(): StandardIo;
}

interface ForwardFlags extends LoginOptions {
  readonly udp?: boolean;
  readonly socks?: string;
  readonly bind: string;
  readonly stdio?: boolean;
}

/** Adds `couplet forward`. */
export function registerForward(program: Command, deps: ForwardDeps): void {
  addLoginOptions(
    program
      .command('forward')
      .description('Lead local ports to targets of a device.')
      .argument('<DEVICE>', 'name or nodeid')
      .argument('[FORWARDS...]', '[ADDRESS:]LOCALPORT:HOST:PORT, HOST as the device sees it; with --stdio: HOST:PORT')
      .option('--udp', 'the forwards are UDP')
      .option('--socks <PORT>', 'also listen for SOCKS5 clients')
      .option('--bind <ADDRESS>', 'where --socks listens', '127.0.0.1')
      .option(
        '--stdio',
        'one connection on standard input and output, as a ProxyCommand of ssh; with --password-stdin it begins after that line',
      ),
  ).action((device: string, forwards: string[], flags: ForwardFlags) =>
    flags.stdio === true ? runStdio(device, forwards, flags, deps) : runListeners(device, forwards, flags, deps),
  );
}

async function runListeners(device: string, texts: string[], flags: ForwardFlags, deps: ForwardDeps): Promise<void> {
  const specs = texts.map(parseForward);
  const socksPort = flags.socks === undefined ? undefined : readNumber(flags.socks, '--socks', 0, 65_535);
  if (specs.length === 0 && socksPort === undefined)
    throw optionsError('give at least one LOCALPORT:HOST:PORT or --socks');
  const signal = deps.stopped();
  const api = await logIn(flags, deps.stdin, signal);
  // Nothing after the password is wanted; open it would keep the process alive.
  if (flags.passwordStdin) deps.stdin().destroy();
  const nodeid = await api.findDevice(device, signal);
  const { terminal } = deps;
  const status: ForwardStatus =
    terminal === undefined ? plainStatus(deps.print) : new TerminalStatus((text) => terminal.write(text), systemClock);
  const options: ForwardOptions = {
    device: nodeid,
    open: api.openTunnel,
    security: readSecurity(flags),
    events: status,
  };
  const listeners: Listener[] = [];
  try {
    for (const spec of specs) {
      listeners.push(await (flags.udp === true ? forwardUdp(spec, spec, options) : forwardTcp(spec, spec, options)));
    }
    if (socksPort !== undefined) {
      listeners.push(await forwardSocks({ bindAddress: flags.bind, localPort: socksPort }, options));
    }
    for (const listener of listeners) status.listening(listener);
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  } finally {
    await Promise.all(listeners.map((listener) => listener.close()));
    status.end();
  }
}

/** There is no local port to listen on; one that is given all the same, as without `--stdio`, is passed over. */
function parseStdioTarget(text: string): ReturnType<typeof parseTarget> {
  return parseTarget(text.replace(/^\d{1,5}:(?=.*:\d+$)/, ''));
}

async function runStdio(device: string, texts: string[], flags: ForwardFlags, deps: ForwardDeps): Promise<void> {
  const [text, ...more] = texts;
  if (text === undefined || more.length > 0) throw optionsError('--stdio takes one HOST:PORT');
  if (flags.udp || flags.socks !== undefined) throw optionsError('--stdio does not go with --udp and --socks');
  const { host, port } = parseStdioTarget(text);
  const io = deps.io();
  // From here on an error with nobody to hear it would end the process unordered; each is judged by the session.
  io.stdout.on('error', () => undefined);
  const stop = new AbortController();
  io.onSignal((name) => {
    const reason = new CoupletError('CPL_CLIENT_STOPPED', `ended by ${name} before both directions had ended`);
    if (name === 'SIGHUP') setTimeout(() => stop.abort(reason), hangUpGraceMs).unref();
    else stop.abort(reason);
  });
  const { signal } = stop;
  try {
    const api = await logIn(flags, () => io.stdin, signal);
    const nodeid = await api.findDevice(device, signal);
    const request = { device: nodeid, transport: 'tcp', host, port } as const;
    const half = await openHalf(api.openTunnel, request, readSecurity(flags), signal);
    await runByteSession(half, { input: io.stdin, output: io.stdout, signal });
  } catch (error) {
    await flush(io.stdout, signal.aborted ? AbortSignal.timeout(flushAfterSignalMs) : signal);
    if (!(error instanceof CoupletError)) throw error;
    await io.complain(`couplet forward: ${error.message}`);
    io.exit(1);
    return;
  }
  io.exit(0);
}
