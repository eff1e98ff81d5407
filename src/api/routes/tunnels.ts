import { z } from 'zod';
import { CoupletError } from '../../core/errors.ts';
import { mintId } from '../../core/ids.ts';
import { tunnelAllowed } from '../../core/rights.ts';
import { relayPathOf } from '../../protocol/paths.ts';
import { isProtocol } from '../../protocol/relay-query.ts';
import { forbidden } from '../errors.ts';
import { requireAccess } from '../permissions.ts';
import { type Route, route } from '../route.ts';
import { idOrName } from '../shapes.ts';
import { userOf } from './account.ts';

/** How long the ticket is good for: the client connects at once. */
const ticketMinutes = 2;

const host = z
  .string()
  .regex(/^[!-~]{1,256}$/, 'allowed are 1 to 256 printable ASCII characters without space')
  .describe('As the device sees it.');
const port = z.number().int().min(1).max(65_535);
const protocol = z
  .number()
  .int()
  .refine((value) => isProtocol(value) && value !== 200, 'allowed is the number of a protocol that a device serves')
  .describe('Protocol number: 1 terminal, 2 desktop, 5 files, …');

const tunnelBody = z.discriminatedUnion('transport', [
  z.strictObject({ nodeid: idOrName, transport: z.literal('tcp'), host, port }),
  z.strictObject({ nodeid: idOrName, transport: z.literal('udp'), host, port }),
  z.strictObject({ nodeid: idOrName, transport: z.literal('none'), protocol }),
]);

type Tunnel = z.output<typeof tunnelBody>;

/** The routing of a user cookie [R7]: this target and no other. */
function routingOf(tunnel: Tunnel, nodeid: string): Record<string, unknown> {
  if (tunnel.transport === 'none') return { nodeid, p: tunnel.protocol };
  const { transport, host: address, port: number } = tunnel;
  return { nodeid, [`${transport}port`]: number, [`${transport}addr`]: address };
}

const create = route({
  method: 'POST',
  path: '/tunnels',
  summary: 'Get the ticket of one session with a device: single use, good for two minutes and this target alone',
  scope: 'tunnels:write',
  caller: 'user',
  body: tunnelBody,
  answer: z.object({
    url: z.string().describe('A path on this server, for a WebSocket; `id` and `auth` are added by the client.'),
    id: z.string().describe('The session id.'),
    cookie: z.string().describe('For `auth=`.'),
  }),
  async handler({ parts, may, caller, body }) {
    const { user } = userOf(caller);
    const { device } = await may.seeDevice(body.nodeid);
    const access = await parts.directory.access(user.id, device.id);
    requireAccess(access);
    const wanted = { transport: body.transport, protocol: body.transport === 'none' ? body.protocol : 0 };
    const verdict = tunnelAllowed(access.rights, wanted, parts.requireRelayRight());
    if (!verdict.allowed) throw forbidden(`your rights do not allow this tunnel: ${verdict.by}`, verdict.by);
    // Where that is not known the half is told, when it comes.
    if ((await parts.online([device.id]))[0] === 'offline') {
      throw new CoupletError('CPL_API_OFFLINE', 'the device is offline', { httpStatus: 409, reason: 'offline' });
    }
    const id = mintId();
    const routing = routingOf(body, device.id);
    const content = { userid: user.id, domainid: user.domain, ...routing, id, once: 1, expire: ticketMinutes };
    const relay = relayPathOf(user.domain);
    const described = `?p=${wanted.protocol}&nodeid=${encodeURIComponent(device.id)}`;
    return { url: body.transport === 'none' ? relay + described : relay, id, cookie: parts.sealer.seal(content) };
  },
});

export const tunnelRoutes: readonly Route[] = [create];
