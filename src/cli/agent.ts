import type { Command } from 'commander';
import { Agent, type AgentEvents } from '../clients/agent/agent.ts';
import { AgentState } from '../clients/agent/state.ts';
import { parseAllowList, TargetList } from '../clients/agent/targets.ts';
import { systemClock } from '../core/clock.ts';
import { addSecurityOptions, optionsError, readFile, readNumber, readSecurity } from './server-options.ts';

export interface AgentDeps {
  /** Writes one line to standard output. */
  print(line: string): void;
  /** Aborted by SIGINT or SIGTERM; called once, when the command runs. */
  stopped(): AbortSignal;
}

interface AgentFlags {
  readonly url: string;
  readonly join?: string;
  readonly joinFile?: string;
  readonly state: string;
  readonly allow?: string;
  readonly shell?: string;
  readonly maxTunnels: string;
  readonly ca?: string;
  readonly insecure?: boolean;
}

/** Adds `couplet agent`: makes this machine a device. One JSON line per event, `"msg":"online"` among them. */
export function registerAgent(program: Command, deps: AgentDeps): void {
  addSecurityOptions(
    program
      .command('agent')
      .description('Make this machine a device: answer what users ask of it through the relay.')
      .requiredOption('--url <URL>', 'the server: wss://HOST or ws://HOST:PORT')
      .requiredOption('--state <DIR>', "folder of the device's key and enrolment")
      .option('--join <CODE>', 'join code of "couplet device add"; needed once')
      .option('--join-file <FILE>', 'file that holds the join code')
      .option(
        '--allow <TARGETS>',
        'what may be dialled, HOST:PORT,…: address, [IPv6], ADDRESS/BITS, name or *, and port, FIRST-LAST or *; default: loopback only',
      )
      .option('--shell <PROGRAM>', "what a terminal runs (default: the user's login shell)")
      .option('--max-tunnels <N>', 'tunnels at once', '1000'),
  ).action((flags: AgentFlags) => runAgent(flags, deps));
}

async function runAgent(flags: AgentFlags, { print, stopped }: AgentDeps): Promise<void> {
  const { url, allow, shell, maxTunnels } = flags;
  const join = readJoin(flags);
  const agent = new Agent({
    url,
    ...readSecurity(flags),
    ...(join !== undefined && { join }),
    ...(allow !== undefined && { targets: new TargetList(parseAllowList(allow)) }),
    ...(shell !== undefined && { terminal: { shell } }),
    maxTunnels: readNumber(maxTunnels, '--max-tunnels', 1, 100_000),
    state: AgentState.open(flags.state),
    clock: systemClock,
    events: printedEvents(print),
  });
  await agent.run(stopped());
}

function readJoin({ join, joinFile }: AgentFlags): string | undefined {
  if (join !== undefined && joinFile !== undefined) throw optionsError('give --join or --join-file, not both');
  return joinFile === undefined ? join : readFile(joinFile, '--join-file').trim();
}

function printedEvents(print: (line: string) => void): AgentEvents {
  const line = (fields: Record<string, unknown>) => print(JSON.stringify(fields));
  return {
    online: ({ nodeid, name }) => line({ msg: 'online', nodeid, name }),
    offline: ({ code, message }, retryMs) =>
      line({ msg: 'offline', code, error: message, retryMs: Math.round(retryMs) }),
    tunnelOpened: (plan) =>
      line({
        msg: 'tunnel',
        id: plan.value.id,
        kind: plan.kind,
        ...('host' in plan && { host: plan.host, port: plan.port }),
      }),
    tunnelClosed: (plan, error) =>
      line({ msg: 'tunnel ended', id: plan.value.id, ...(error && { code: error.code, error: error.message }) }),
    badCommand: () => line({ msg: 'bad tunnel command', error: 'its value is no relay address on this server' }),
  };
}
