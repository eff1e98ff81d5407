import type { TunnelReport } from '../../protocol/agent-messages.ts';
import { defaultTargetAddress } from '../../protocol/relay-query.ts';
import { parseTunnelValue, type TunnelCommand, type TunnelValue } from '../../protocol/tunnel-command.ts';

/** Rights that a tunnel command may carry (T2), as far as an agent minds them. */
const rightBits = { viewOnly: 256, noTerminal: 512 } as const;
/** All bits: an administrator, whom the *no …* bits do not bind. */
const allRights = 0xffffffff;

/** Terminal protocols (R3) that a shell can serve; 6 and 9 ask for PowerShell. */
const shellProtocols = new Set([1, 8]);

type RefusalReason = Extract<TunnelReport, { type: 'tunnel-refused' }>['reason'];

/** What an agent does about a tunnel command. */
export type TunnelPlan =
  | { readonly kind: 'tcp' | 'udp'; readonly value: TunnelValue; readonly host: string; readonly port: number }
  | { readonly kind: 'terminal'; readonly value: TunnelValue }
  | { readonly kind: 'refuse'; readonly value: TunnelValue; readonly reason: RefusalReason; readonly detail: string };

/**
 * [T8] What a tunnel command allows, and nothing beside it: its target where it names one (tcp before udp, R2), else its
 * protocol. The command's own `usages`, view-only and rights bind the agent, whatever the user half says later.
 * `undefined`: the value is no relay address on this agent's server.
 */
export function planTunnel(command: TunnelCommand): TunnelPlan | undefined {
  const value = parseTunnelValue(command.value);
  if (value === undefined) return undefined;
  const usages = command.soptions?.usages;
  if (usages !== undefined && !usages.includes(value.protocol)) {
    return { kind: 'refuse', value, reason: 'protocol', detail: `protocol ${value.protocol} is not among its usages` };
  }
  const { tcpport, tcpaddr = defaultTargetAddress, udpport, udpaddr = defaultTargetAddress } = command;
  if (tcpport !== undefined) return { kind: 'tcp', value, host: tcpaddr, port: tcpport };
  if (udpport !== undefined) return { kind: 'udp', value, host: udpaddr, port: udpport };
  return planTerminal(command, value);
}

function planTerminal(command: TunnelCommand, value: TunnelValue): TunnelPlan {
  if (!shellProtocols.has(value.protocol)) {
    return {
      kind: 'refuse',
      value,
      reason: 'protocol',
      detail: `this agent does not serve protocol ${value.protocol}`,
    };
  }
  const rights = command.rights === undefined || command.rights === -1 ? allRights : command.rights;
  const denied = rights === allRights ? 0 : rights & (rightBits.viewOnly | rightBits.noTerminal);
  if (command.desktopviewonly === true || denied !== 0) {
    return {
      kind: 'refuse',
      value,
      reason: 'rights',
      detail: 'view only or without a terminal: no terminal is served',
    };
  }
  return { kind: 'terminal', value };
}
