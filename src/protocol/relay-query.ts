import { isPrintableId, ownCopy, parseId } from '../core/ids.ts';

/** Where a routed session is to end (T5): a TCP or UDP port on the device, or no port: the agent itself serves it. */
export interface RoutingInstruction {
  readonly nodeid: string;
  readonly transport: 'tcp' | 'udp' | 'none';
  /** 1–65535; 0 where the transport is `none`. */
  readonly port: number;
  /** Address as the device sees it; empty where the transport is `none`. */
  readonly address: string;
}

/** A relay request's parameters (R2). Text that was not given is the empty string. */
export interface RelayQuery {
  readonly id: string;
  /** Sealed cookies, still closed: never to be logged (R8). */
  readonly auth: string;
  readonly rauth: string;
  readonly browser: boolean;
  readonly noping: boolean;
  readonly hardClose: boolean;
  /** Protocol number of R3, 0 for none or another. */
  readonly protocol: number;
  readonly nodeid: string;
  /** The URL's own routing instruction; a cookie's goes before it. */
  readonly routing: RoutingInstruction | undefined;
}

/** Why a query is refused with 400; a word for `couplet_refused_total{reason}`. */
export type QueryFault = 'bad-id' | 'bad-nodeid' | 'bad-routing' | 'no-id';

export type ParsedQuery =
  | { readonly ok: true; readonly query: RelayQuery }
  | { readonly ok: false; readonly httpStatus: 400; readonly reason: QueryFault; readonly detail: string };

/** Target of a routing instruction that names none (T6). */
export const defaultTargetAddress = '127.0.0.1';

const parameterNames = new Set('id auth rauth browser p nodeid tcpport tcpaddr udpport udpaddr noping hd'.split(' '));
const protocols = new Map([1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 100, 101, 200].map((p) => [String(p), p]));

/** True for a protocol number of R3 but 0. */
export function isProtocol(value: unknown): value is number {
  return typeof value === 'number' && protocols.get(String(value)) === value;
}

/**
 * [R2][R3][R4][R42] Parses the raw query string of an upgrade request, without the `?`.
 *
 * - A parameter is split at its first `=`; a `+` is a plus; percent escapes in values are decoded. A value with a broken
 *   escape is taken as it is written, so that a damaged cookie is a bad cookie (401) and not another answer.
 * - Of a repeated parameter the first counts, even if it is empty. An empty value is the same as none. Unknown
 *   parameters are not looked at.
 * - Refused with 400: an id or nodeid that is no printable ASCII of at most 256 bytes, a port that is none, routing to
 *   what is no device, and a query with neither id nor routing unless it has an `auth` cookie, which may hold both.
 *
 * Never throws.
 */
export function parseRelayQuery(raw: string): ParsedQuery {
  const values = readParameters(raw);
  const id = values.get('id') ?? '';
  if (id !== '' && !isPrintableId(id)) return refused('bad-id', 'id');
  const nodeid = values.get('nodeid') ?? '';
  if (nodeid !== '' && !isPrintableId(nodeid)) return refused('bad-nodeid', 'nodeid');
  const protocol = protocols.get(values.get('p') ?? '') ?? 0;
  const routing = readRouting(values, id, nodeid, protocol);
  if (typeof routing === 'string') return refused('bad-routing', routing);
  const auth = values.get('auth') ?? '';
  if (id === '' && routing === undefined && auth === '') {
    return { ok: false, httpStatus: 400, reason: 'no-id', detail: 'the query has neither an id nor a routing target' };
  }
  return {
    ok: true,
    query: {
      id: ownCopy(id),
      auth,
      rauth: values.get('rauth') ?? '',
      browser: values.get('browser') === '1',
      noping: values.get('noping') === '1',
      hardClose: values.get('hd') === '1',
      protocol,
      nodeid: nodeid === '' ? '' : ownCopy(nodeid),
      routing,
    },
  };
}

function refused(reason: QueryFault, parameter: string): ParsedQuery {
  const rule =
    reason === 'bad-routing'
      ? 'needs a port of 1 to 65535, an address of printable ASCII and a nodeid as node/DOMAIN/ID'
      : 'must be 1 to 256 bytes of printable ASCII';
  return { ok: false, httpStatus: 400, reason, detail: `${parameter} ${rule}` };
}

function readParameters(raw: string): Map<string, string> {
  const values = new Map<string, string>();
  let start = 0;
  while (start < raw.length) {
    let end = raw.indexOf('&', start);
    if (end < 0) end = raw.length;
    const equals = raw.indexOf('=', start);
    const nameEnd = equals < 0 || equals > end ? end : equals;
    const name = raw.slice(start, nameEnd);
    if (parameterNames.has(name) && !values.has(name)) values.set(name, decodeValue(raw.slice(nameEnd + 1, end)));
    start = end + 1;
  }
  return values;
}

function decodeValue(value: string): string {
  if (!value.includes('%')) return value;
  try {
    return decodeURIComponent(value);
  } catch {
    // The only error is a broken escape; such a value is what it says (see parseRelayQuery).
    return value;
  }
}

/** The instruction, `undefined` for none, or the name of the parameter that is wrong. tcp goes before udp (R2). */
function readRouting(
  values: ReadonlyMap<string, string>,
  id: string,
  nodeid: string,
  protocol: number,
): RoutingInstruction | string | undefined {
  const transport = values.get('tcpport') ? 'tcp' : values.get('udpport') ? 'udp' : 'none';
  if (nodeid === '') return undefined;
  if (transport === 'none') {
    // With an id, nodeid and p only describe the session (R3): the device was told to come by someone else.
    if (id !== '' || protocol === 0) return undefined;
    return isNodeId(nodeid) ? { nodeid, transport, port: 0, address: '' } : 'nodeid';
  }
  const portText = values.get(`${transport}port`) ?? '';
  const port = /^[0-9]{1,5}$/.test(portText) ? Number(portText) : 0;
  if (!isPort(port)) return `${transport}port`;
  const address = values.get(`${transport}addr`) || defaultTargetAddress;
  if (!isPrintableId(address)) return `${transport}addr`;
  return isNodeId(nodeid) ? { nodeid, transport, port, address } : 'nodeid';
}

/** True for a whole number of 1 to 65535. */
export function isPort(port: unknown): port is number {
  return Number.isInteger(port) && (port as number) >= 1 && (port as number) <= 65_535;
}

/** True for a device's id, `node/DOMAIN/ID` (R4). */
export function isNodeId(id: string): boolean {
  return parseId(id)?.kind === 'node';
}

/** The two parties of a messenger id, `user/D/N` or `node/D/N` each. */
export interface MessengerParties {
  readonly domain: string;
  /** One entry, or two where both parties are users. Never two times the same. */
  readonly userids: readonly string[];
  /** Empty where both parties are users. */
  readonly nodeid: string;
}

const messengerPrefix = 'meshmessenger/';

/** True for ids that R13 rules, well-formed or not. */
export function isMessengerId(id: string): boolean {
  return id.startsWith(messengerPrefix);
}

/**
 * [R13] Takes `meshmessenger/A/B` apart. `undefined` where it does not name two parties of one domain of which at least
 * one is a user. Names hold no slash here: with one, where A ends would be anybody's guess.
 */
export function parseMessengerId(id: string): MessengerParties | undefined {
  if (!isMessengerId(id) || !isPrintableId(id)) return undefined;
  const parts = id.split('/');
  if (parts.length !== 7) return undefined;
  const a = parseId(parts.slice(1, 4).join('/'));
  const b = parseId(parts.slice(4, 7).join('/'));
  if (a === undefined || b === undefined || a.domain !== b.domain) return undefined;
  if (a.kind === 'mesh' || b.kind === 'mesh' || (a.kind === 'node' && b.kind === 'node')) return undefined;
  const ids = [a, b].map((party) => ({ kind: party.kind, id: `${party.kind}/${party.domain}/${party.name}` }));
  const userids = ids.filter((party) => party.kind === 'user').map((party) => party.id);
  if (userids[0] === userids[1]) return undefined;
  return { domain: a.domain, userids, nodeid: ids.find((party) => party.kind === 'node')?.id ?? '' };
}
