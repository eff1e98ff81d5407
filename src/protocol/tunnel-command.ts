import { z } from 'zod';
import { isPrintableId } from '../core/ids.ts';

/*
 * [T6] The tunnel command: the order to an agent to connect back. One JSON object, as existing agents know it:
 *
 *   {"action":"msg","type":"tunnel","value":"*\/meshrelay.ashx?p=P&nodeid=NODE&id=ID&rauth=COOKIE", …}
 *
 * (without the backslash). `*` stands for the server that the agent is connected to; another server cannot be named. The
 * query of `value` is as R2 and R42 say: split at the first `=`, `@` and `$` as written, percent escapes decoded once.
 */

const port = z.int().min(1).max(65_535);
const address = z.string().regex(/^[\x20-\x7e]{1,256}$/);
const shortText = z.string().max(1024);

/** Further fields are let through: the format grows, and agents take what they know. */
export const tunnelCommandSchema = z.looseObject({
  action: z.literal('msg'),
  type: z.literal('tunnel'),
  value: z.string().max(8192).startsWith('*/'),
  /** Target of a routed session; tcp goes before udp. With neither, the agent itself serves the protocol. */
  tcpport: port.optional(),
  tcpaddr: address.optional(),
  udpport: port.optional(),
  udpaddr: address.optional(),
  /** The user's effective rights over the device (T2). */
  rights: z.number().int().min(-1).max(0xffffffff).optional(),
  /** The device group's consent flags OR the domain's. */
  consent: z.number().int().nonnegative().optional(),
  username: shortText.optional(),
  realname: shortText.optional(),
  privacybartext: shortText.optional(),
  sessionid: shortText.optional(),
  userid: shortText.optional(),
  /** Protocol numbers that this tunnel may serve (T8). */
  soptions: z.looseObject({ usages: z.array(z.int().nonnegative()).max(64).optional() }).optional(),
  desktopviewonly: z.boolean().optional(),
  guestname: shortText.optional(),
});

export type TunnelCommand = z.infer<typeof tunnelCommandSchema>;

/** What `value` says: where the device half goes. */
export interface TunnelValue {
  /** Path on the agent's server, `/meshrelay.ashx` or `/DOMAIN/meshrelay.ashx`. */
  readonly path: string;
  /** Protocol number (R3), 0 for none. */
  readonly protocol: number;
  readonly nodeid: string;
  /** Session id. */
  readonly id: string;
  /** Sealed device cookie. */
  readonly rauth: string;
}

/** What a tunnel command is built from, beside the value. Those that do not apply are left out. */
export interface TunnelDetails {
  readonly target?: { readonly transport: 'tcp' | 'udp'; readonly port: number; readonly address: string };
  readonly rights?: number;
  readonly consent?: number;
  readonly username?: string;
  readonly realname?: string;
  readonly privacybartext?: string;
  readonly sessionid?: string;
  readonly userid?: string;
  /** Default: the value's protocol alone. */
  readonly usages?: readonly number[];
  readonly desktopviewonly?: boolean;
  readonly guestname?: string;
}

/** [T6] Builds the command. */
export function buildTunnelCommand(value: TunnelValue, details: TunnelDetails): TunnelCommand {
  const { target, usages = [value.protocol], ...rest } = details;
  return {
    action: 'msg',
    type: 'tunnel',
    value: buildTunnelValue(value),
    ...(target?.transport === 'tcp' && { tcpport: target.port, tcpaddr: target.address }),
    ...(target?.transport === 'udp' && { udpport: target.port, udpaddr: target.address }),
    ...rest,
    soptions: { usages: [...usages] },
  };
}

export function buildTunnelValue({ path, protocol, nodeid, id, rauth }: TunnelValue): string {
  return `*${path}?p=${protocol}&nodeid=${escapeValue(nodeid)}&id=${escapeValue(id)}&rauth=${escapeValue(rauth)}`;
}

/** [T6] Takes a command's value apart; `undefined` where it is none: no `*`, no relay path, no id or no cookie. */
export function parseTunnelValue(value: string): TunnelValue | undefined {
  const question = value.indexOf('?');
  if (!value.startsWith('*/') || question < 0) return undefined;
  const path = value.slice(1, question);
  if (!/^(?:\/[A-Za-z0-9._-]{1,64})?\/(?:meshrelay\.ashx|relay)$/.test(path)) return undefined;
  const fields = new Map<string, string>();
  for (const pair of value.slice(question + 1).split('&')) {
    const equals = pair.indexOf('=');
    const name = equals < 0 ? pair : pair.slice(0, equals);
    if (!fields.has(name)) fields.set(name, equals < 0 ? '' : unescapeValue(pair.slice(equals + 1)));
  }
  const id = fields.get('id') ?? '';
  const rauth = fields.get('rauth') ?? '';
  const p = fields.get('p') ?? '';
  if (!isPrintableId(id) || rauth === '') return undefined;
  return { path, protocol: /^\d{1,4}$/.test(p) ? Number(p) : 0, nodeid: fields.get('nodeid') ?? '', id, rauth };
}

/** Only what would end the value or be taken for an escape or a space; `@`, `$`, `/`, `=`, `:` stay as they are. */
function escapeValue(text: string): string {
  return text.replaceAll(/[%&#\s"<>\\^`{|}]/g, (character) => encodeURIComponent(character));
}

function unescapeValue(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // as the relay does with a broken escape (R42)
  }
}
