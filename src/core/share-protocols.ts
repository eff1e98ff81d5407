import { CoupletError } from './errors.ts';
import type { Tunnel } from './rights.ts';

/** [T15] What a share opens: bits as in the cookie's `p` (1 terminal, 2 desktop, 4 files), and TCP ports of the device. */
export interface ShareProtocols {
  readonly bits: number;
  /** Ascending, each once. */
  readonly tcpPorts: readonly number[];
}

export const shareBits = { terminal: 1, desktop: 2, files: 4 } as const;
export const allShareBits = 7;
export const maxSharePorts = 64;

const protocolBit: ReadonlyMap<number, number> = new Map([
  [1, shareBits.terminal],
  [6, shareBits.terminal],
  [8, shareBits.terminal],
  [9, shareBits.terminal],
  [2, shareBits.desktop],
  [5, shareBits.files],
]);

/**
 * Reads `terminal,desktop,files,tcp:22`.
 * @throws CoupletError `CPL_SHARE_PROTOCOLS`
 */
export function parseShareProtocols(text: string): ShareProtocols {
  let bits = 0;
  const ports = new Set<number>();
  for (const word of text.split(',').map((part) => part.trim().toLowerCase())) {
    const port = /^tcp:([0-9]{1,5})$/.exec(word)?.[1];
    if (port !== undefined) ports.add(Number(port));
    else if (Object.hasOwn(shareBits, word)) bits |= shareBits[word as keyof typeof shareBits];
    else return refuse(text);
  }
  const protocols = { bits, tcpPorts: [...ports].sort((a, b) => a - b) };
  return areShareProtocols(protocols) ? protocols : refuse(text);
}

function refuse(text: string): never {
  const shown = JSON.stringify(text.slice(0, 64)).replaceAll(/[^\x20-\x7e]/g, '?');
  const allowed = `one or more of ${Object.keys(shareBits).join(', ')} and tcp:PORT, at most ${maxSharePorts} ports of 1 to 65535`;
  throw new CoupletError('CPL_SHARE_PROTOCOLS', `share protocols ${shown}: allowed are ${allowed}`, {
    httpStatus: 400,
  });
}

/** True where the bits and ports are known ones and there is at least one. */
export function areShareProtocols({ bits, tcpPorts }: ShareProtocols): boolean {
  const isPort = (port: number) => Number.isInteger(port) && port >= 1 && port <= 65_535;
  if (!Number.isInteger(bits) || bits < 0 || bits > allShareBits) return false;
  return tcpPorts.length <= maxSharePorts && tcpPorts.every(isPort) && (bits > 0 || tcpPorts.length > 0);
}

/** The inverse of `parseShareProtocols`. */
export function printShareProtocols({ bits, tcpPorts }: ShareProtocols): string {
  const names = Object.entries(shareBits).filter(([, bit]) => (bits & bit) !== 0);
  return [...names.map(([name]) => name), ...tcpPorts.map((port) => `tcp:${port}`)].join(',');
}

/** What a shared port is a port of: the device itself, and not what else its agent may dial. */
const ownAddresses: ReadonlySet<string> = new Set(['127.0.0.1', '::1', 'localhost']);

/** [T15] Whether the share itself opens this tunnel; the rights of the user who shared count besides. UDP is never shared. */
export function shareAllows(
  share: ShareProtocols,
  tunnel: Tunnel & { readonly port: number; readonly address: string },
): boolean {
  if (tunnel.transport === 'udp') return false;
  if (tunnel.transport === 'tcp') return ownAddresses.has(tunnel.address) && share.tcpPorts.includes(tunnel.port);
  return (share.bits & (protocolBit.get(tunnel.protocol) ?? 0)) !== 0;
}
