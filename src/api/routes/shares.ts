import { z } from 'zod';
import { type Tunnel, tunnelAllowed } from '../../core/rights.ts';
import {
  parseShareProtocols,
  printShareProtocols,
  type ShareProtocols,
  shareBits,
} from '../../core/share-protocols.ts';
import type { Device, Share, User } from '../../directory/directory.ts';
import { canonicalRelayPathOf } from '../../protocol/paths.ts';
import { conflict, forbidden, notFound } from '../errors.ts';
import { found, requireAccess, requireOwnRight } from '../permissions.ts';
import { type Call, type Route, route } from '../route.ts';
import { actorOf, changed, epochMs, given, idOrName, maybeMs, orNull, paging, text } from '../shapes.ts';

const maxLifetimeMs = 366 * 86_400_000;

const shareOut = z.object({
  id: z.string(),
  nodeid: z.string(),
  createdBy: z.string(),
  protocols: z.string().describe('As `terminal,desktop,files,tcp:22`.'),
  guestName: z.string(),
  viewOnly: z.boolean(),
  createdMs: epochMs,
  expiresMs: epochMs,
  revokedMs: maybeMs,
  uses: z.number().int(),
});

function show(share: Share): z.input<typeof shareOut> {
  const { id, deviceId, createdBy, guestName, viewOnly, createdMs, expiresMs, revokedMs, uses } = share;
  const protocols = printShareProtocols(share);
  return {
    id,
    nodeid: deviceId,
    createdBy,
    protocols,
    guestName,
    viewOnly,
    createdMs,
    expiresMs,
    revokedMs: orNull(revokedMs),
    uses,
  };
}

/** The protocol of R3 that each bit opens first. */
const protocolOf = { terminal: 1, desktop: 2, files: 5 } as const;

/** The tunnels that a share opens, one of each kind. */
function tunnelsOf({ bits, tcpPorts }: ShareProtocols): (Tunnel & { readonly port?: number })[] {
  const words = Object.entries(shareBits).filter(([, bit]) => (bits & bit) !== 0);
  return [
    ...words.map(([word]) => ({ protocol: protocolOf[word as keyof typeof protocolOf], transport: 'none' as const })),
    ...tcpPorts.map((port) => ({ protocol: 0, transport: 'tcp' as const, port })),
  ];
}

/** [T15] A guest gets nothing that who shares does not have. @throws CoupletError 403 */
function requireShareable(rights: number, share: ShareProtocols, viewOnly: boolean, requireRelayRight: boolean): void {
  for (const tunnel of tunnelsOf(share)) {
    const verdict = tunnelAllowed(rights, tunnel, requireRelayRight);
    if (!verdict.allowed) throw forbidden(`your rights do not let you share that: ${verdict.by}`, verdict.by);
    if (verdict.viewOnly && !viewOnly) {
      throw forbidden('you may only view this desktop, so the share must be view-only', 'view-only');
    }
  }
}

/** On whose behalf the guest comes: the caller, or whom root names. */
async function sharer(call: Call, named: string | undefined): Promise<User> {
  const { parts, caller, domain } = call;
  if (caller.kind !== 'root') {
    if (named !== undefined) throw forbidden('only root shares on behalf of somebody else', 'user');
    if (caller.kind !== 'nobody') return caller.user;
  }
  if (named === undefined) throw conflict('a share is on behalf of a user: name one as "user"');
  const user = await found(parts.directory.users.find(domain, named));
  if (user === undefined) throw notFound('user', named);
  return user;
}

/** The share cookie, and where it is good for its first protocol. The cookie is as good as the share: to be handed on with care. */
function ticketOf({ parts }: Pick<Call, 'parts'>, share: Share, device: Device): { cookie: string; url: string } {
  const { id: pid, deviceId: nid, bits: p, guestName: gn, expiresMs: expire, viewOnly } = share;
  const cookie = parts.sealer.seal({ nid, pid, p, gn, expire, vo: viewOnly ? 1 : 0, domainid: device.domain });
  const first = tunnelsOf(share)[0]!;
  const target = first.transport === 'tcp' ? `tcpport=${first.port}` : `p=${first.protocol}`;
  const query = `auth=${encodeURIComponent(cookie)}&nodeid=${encodeURIComponent(nid)}&${target}`;
  return { cookie, url: `${canonicalRelayPathOf(device.domain)}?${query}` };
}

const shared = { caller: 'user', inDomain: true } as const;
const sharePath = z.strictObject({ id: z.string().max(64) });

/** @throws CoupletError 404 also where the share is neither the caller's nor on a device whose users he manages */
async function seeShare({ parts, may, caller, domain }: Call, id: string): Promise<Share> {
  const share = await parts.directory.shares.get(id);
  const device = share === undefined ? undefined : await parts.directory.devices.get(share.deviceId);
  if (share === undefined || device === undefined || device.domain !== domain) throw notFound('share', id);
  if ('user' in caller && caller.user.id === share.createdBy) return share;
  if (!(await may.managesUsersOf(device))) throw notFound('share', id);
  return share;
}

const create = route({
  ...shared,
  method: 'POST',
  path: '/shares',
  summary: 'Share a device with a guest, by a URL',
  scope: 'shares:write',
  body: z.strictObject({
    device: idOrName,
    protocols: z.string().max(1_024).describe('One or more of `terminal`, `desktop`, `files` and `tcp:PORT`.'),
    expiresInMs: z.number().int().min(1_000).max(maxLifetimeMs),
    guestName: text.optional(),
    viewOnly: z.boolean().optional(),
    user: idOrName.optional().describe('Root alone: on whose behalf.'),
  }),
  status: 201,
  answer: shareOut.extend({
    cookie: z.string().describe('For `auth=`.'),
    url: z.string().describe('A path on this server, good for the first protocol.'),
  }),
  async handler(call) {
    const { parts, may, body } = call;
    const { device } = await may.seeDevice(body.device);
    const user = await sharer(call, body.user);
    const protocols = parseShareProtocols(body.protocols);
    const access = await parts.directory.access(user.id, device.id);
    requireAccess(access);
    for (const right of ['remote-control', 'guest-sharing'] as const) requireOwnRight(access.rights, right);
    requireShareable(access.rights, protocols, body.viewOnly ?? false, parts.requireRelayRight());
    const share = await parts.directory.shares.create({
      deviceId: device.id,
      createdBy: user.id,
      ...protocols,
      expiresMs: parts.clock.nowMs() + body.expiresInMs,
      ...given({ guestName: body.guestName, viewOnly: body.viewOnly }),
    });
    parts.events.shareCreated({ actor: actorOf(call.caller), domain: call.domain, share });
    return { ...show(share), ...ticketOf(call, share, device) };
  },
});

const list = route({
  ...shared,
  method: 'GET',
  path: '/shares',
  summary: 'List the own shares; all of them, or all of a device, for who manages users there',
  scope: 'shares:read',
  query: z.strictObject({ device: idOrName.optional(), ...paging }),
  answer: z.object({ shares: z.array(shareOut) }),
  async handler({ parts, may, caller, domain, query }) {
    const { device: named, ...page } = query;
    const own = 'user' in caller ? { createdBy: caller.user.id } : {};
    const { shares } = parts.directory;
    if (named === undefined) {
      const of = may.holdsSite('manage-users') ? { domain } : own;
      return { shares: (await shares.list(of, page)).map(show) };
    }
    const { device } = await may.seeDevice(named);
    const of = (await may.managesUsersOf(device)) ? {} : own;
    return { shares: (await shares.list({ deviceId: device.id, ...of }, page)).map(show) };
  },
});

const get = route({
  ...shared,
  method: 'GET',
  path: '/shares/{id}',
  summary: 'Show a share',
  scope: 'shares:read',
  params: sharePath,
  answer: shareOut,
  handler: async (call) => show(await seeShare(call, call.params.id)),
});

const revoke = route({
  ...shared,
  method: 'POST',
  path: '/shares/{id}/revoke',
  summary: 'Revoke a share and end its sessions; it stays in the list',
  scope: 'shares:write',
  params: sharePath,
  async handler(call) {
    const { id, deviceId: nodeid, guestName: guestname, createdBy } = await seeShare(call, call.params.id);
    await call.parts.directory.shares.revoke(id);
    const { domain, caller } = call;
    call.parts.events.shareRevoked({ actor: actorOf(caller), domain, shareId: id, nodeid, guestname, createdBy });
  },
});

const remove = route({
  ...shared,
  method: 'DELETE',
  path: '/shares/{id}',
  summary: 'Remove a share and end its sessions',
  scope: 'shares:write',
  params: sharePath,
  async handler(call) {
    const share = await seeShare(call, call.params.id);
    await call.parts.directory.shares.remove(share.id);
    changed(call, 'share-removed', share.id, `${printShareProtocols(share)} of ${share.deviceId}`);
  },
});

export const shareRoutes: readonly Route[] = [create, list, get, revoke, remove];
