import type { Command } from 'commander';
import { openHalf } from '../clients/open-tunnel.ts';
import { runShell, type ShellTerminal } from '../clients/shell.ts';
import { addLoginOptions, type LoginOptions, logIn, readNumber, readSecurity } from './server-options.ts';

export interface ShellDeps {
  /** Called once, when the command runs. */
  terminal(): ShellTerminal;
  /** Aborted by SIGINT, SIGTERM or SIGHUP; called once, when the command runs. */
  stopped(): AbortSignal;
  /** Ends the process with this status; a terminal's input would keep it alive. */
  exit(status: number): void;
}

interface ShellFlags extends LoginOptions {
  readonly protocol: string;
}

/** Adds `couplet shell`. */
export function registerShell(program: Command, deps: ShellDeps): void {
  addLoginOptions(
    program
      .command('shell')
      .description("Open a terminal on a device; ends with the remote shell's exit status.")
      .argument('<DEVICE>', 'name or nodeid')
      .option('--protocol <NUMBER>', '1: a shell, 8: a user shell', '1')
      .addHelpText(
        'after',
        '\nWith --user alone the password is asked for. With --password-stdin the keys come after its line.',
      ),
  ).action((device: string, flags: ShellFlags) => openShell(device, flags, deps));
}

async function openShell(device: string, flags: ShellFlags, deps: ShellDeps): Promise<void> {
  const protocol = readNumber(flags.protocol, '--protocol', 1, 9);
  const signal = deps.stopped();
  const terminal = deps.terminal();
  const api = await logIn(flags, () => terminal.input, signal, terminal.askPassword);
  const nodeid = await api.findDevice(device, signal);
  const half = await openHalf(
    api.openTunnel,
    { device: nodeid, transport: 'none', protocol },
    readSecurity(flags),
    signal,
  );
  const status = await runShell(half, { terminal, protocol, signal });
  // The end of the process would cut off what a pipe has not taken yet.
  await new Promise<void>((resolve) => terminal.output.write('', () => resolve()));
  deps.exit(status);
}
