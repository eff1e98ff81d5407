import { isPrintableId, parseId } from '../core/ids.ts';
import {
  defaultTargetAddress,
  isNodeId,
  isPort,
  isProtocol,
  type RoutingInstruction,
} from '../protocol/relay-query.ts';

/** A *user* cookie (R7): its holder is the user. */
export interface UserCookie {
  readonly kind: 'user';
  readonly userid: string;
  readonly domainid: string;
  /** The peer must come from near this address (see same-network.ts). */
  readonly ip: string | undefined;
  /** With a target the cookie opens that target only. */
  readonly routing: RoutingInstruction | undefined;
  /** Only with a target that is no port: the one protocol of it, whatever the URL says; `undefined`: the URL's counts. */
  readonly protocol: number | undefined;
  /** The one session id the cookie is good for. */
  readonly id: string | undefined;
}

/** A *device* cookie (R7): its holder is a device that connects on a user's behalf. */
export interface DeviceCookie {
  readonly kind: 'device';
  readonly userid: string;
  readonly domainid: string | undefined;
  readonly nodeid: string | undefined;
  readonly id: string | undefined;
}

/** A device cookie without a user, `{nouser: 1}`: good for one id only (R7). */
export interface NoUserCookie {
  readonly kind: 'nouser';
  readonly domainid: string | undefined;
  readonly nodeid: string | undefined;
  readonly id: string;
}

/** A *share* cookie (R7, T15): its holder is a guest; who shared it and whether it still holds, the directory knows. */
export interface ShareCookie {
  readonly kind: 'share';
  readonly domainid: string | undefined;
  /** The device, and the share's public id. */
  readonly nodeid: string;
  readonly publicId: string;
  /** Bits: 1 terminal, 2 desktop, 4 files. */
  readonly protocolBits: number;
  readonly guestname: string;
  readonly viewOnly: boolean;
}

export type CookieKinds = UserCookie | DeviceCookie | NoUserCookie | ShareCookie;

/** `cookie-kind`: of no kind or of two; `cookie-content`: a key of its kind is missing or holds what it must not. */
export type KindFault = 'cookie-kind' | 'cookie-content';

/** A cookie's JSON object; every key is unproven. */
export type CookieContent = Readonly<Record<string, unknown>>;

const maxGuestnameLength = 256;

/**
 * [R7] Tells the one kind of a cookie by its keys, and checks those of that kind; other keys are ignored. The key of one
 * kind is enough to make a cookie of another kind one of two, so that a guest's or device's cookie is never a user's.
 */
export function readKind(content: CookieContent): CookieKinds | KindFault {
  const user = content.userid !== undefined;
  const device = content.ruserid !== undefined;
  const noUser = content.nouser !== undefined;
  const share = content.nid !== undefined || content.pid !== undefined;
  if (Number(user) + Number(device) + Number(noUser) + Number(share) !== 1) return 'cookie-kind';
  const domainid = content.domainid;
  if (domainid !== undefined && typeof domainid !== 'string') return 'cookie-content';
  if (user) return readUser(content, domainid);
  return share ? readShare(content, domainid) : readDevice(content, domainid);
}

function readUser(content: CookieContent, domainid: string | undefined): CookieKinds | KindFault {
  const { userid, ip, id } = content;
  if (domainid === undefined || !isUserId(userid)) return 'cookie-content';
  if (ip !== undefined && typeof ip !== 'string') return 'cookie-content';
  if (!isOptionalId(id)) return 'cookie-content';
  const routing = readRouting(content);
  if (routing === 'cookie-content') return routing;
  // Couplet's own key: without it a cookie for the device's terminal would open its desktop too.
  const protocol = routing?.transport === 'none' ? content.p : undefined;
  if (protocol !== undefined && !isProtocol(protocol)) return 'cookie-content';
  return { kind: 'user', userid, domainid, ip, routing, protocol, id };
}

/** tcp goes before udp (R2), but a wrong value in either makes the cookie bad. */
function readRouting(content: CookieContent): RoutingInstruction | undefined | 'cookie-content' {
  const { nodeid, tcpport, tcpaddr, udpport, udpaddr } = content;
  if (tcpport !== undefined && !isPort(tcpport)) return 'cookie-content';
  if (udpport !== undefined && !isPort(udpport)) return 'cookie-content';
  if (!isOptionalId(tcpaddr) || !isOptionalId(udpaddr)) return 'cookie-content';
  if (nodeid === undefined) {
    // Part of a target without its device: such a cookie must not become one that opens any target.
    const partial = tcpport ?? tcpaddr ?? udpport ?? udpaddr;
    return partial === undefined ? undefined : 'cookie-content';
  }
  if (typeof nodeid !== 'string' || !isNodeId(nodeid)) return 'cookie-content';
  if (tcpport !== undefined) {
    return { nodeid, transport: 'tcp', port: tcpport, address: tcpaddr ?? defaultTargetAddress };
  }
  if (udpport !== undefined) {
    return { nodeid, transport: 'udp', port: udpport, address: udpaddr ?? defaultTargetAddress };
  }
  return { nodeid, transport: 'none', port: 0, address: '' };
}

function readDevice(content: CookieContent, domainid: string | undefined): CookieKinds | KindFault {
  const { ruserid, nouser, nodeid, id } = content;
  if (nodeid !== undefined && (typeof nodeid !== 'string' || !isNodeId(nodeid))) return 'cookie-content';
  if (!isOptionalId(id)) return 'cookie-content';
  if (nouser !== undefined) {
    if (nouser !== 1 || id === undefined) return 'cookie-content';
    return { kind: 'nouser', domainid, nodeid, id };
  }
  if (!isUserId(ruserid)) return 'cookie-content';
  return { kind: 'device', userid: ruserid, domainid, nodeid, id };
}

function readShare(content: CookieContent, domainid: string | undefined): CookieKinds | KindFault {
  const { nid, pid, p, gn, expire, vo } = content;
  if (typeof nid !== 'string' || !isNodeId(nid)) return 'cookie-content';
  if (typeof pid !== 'string' || !isPrintableId(pid)) return 'cookie-content';
  if (typeof p !== 'number' || !Number.isInteger(p) || p < 0 || p > 0xffff) return 'cookie-content';
  if (typeof gn !== 'string' || gn.length > maxGuestnameLength) return 'cookie-content';
  if (typeof expire !== 'number') return 'cookie-content';
  const viewOnly = readFlag(vo);
  if (viewOnly === undefined) return 'cookie-content';
  return { kind: 'share', domainid, nodeid: nid, publicId: pid, protocolBits: p, guestname: gn, viewOnly };
}

/** A flag: absent, false and 0 are false, true and 1 are true, anything else is `undefined`. */
export function readFlag(value: unknown): boolean | undefined {
  if (value === undefined || value === false || value === 0) return false;
  return value === true || value === 1 ? true : undefined;
}

function isUserId(value: unknown): value is string {
  return typeof value === 'string' && parseId(value)?.kind === 'user';
}

function isOptionalId(value: unknown): value is string | undefined {
  return value === undefined || (typeof value === 'string' && isPrintableId(value));
}
