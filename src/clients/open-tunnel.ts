import { type ClientHalf, connectHalf } from './connect.ts';

/** What a user half is to reach: a target of a device (T5), or a protocol that its agent serves itself. */
export type TunnelRequest =
  | {
      readonly device: string;
      readonly transport: 'tcp' | 'udp';
      /** As the device sees it. */
      readonly host: string;
      readonly port: number;
    }
  | { readonly device: string; readonly transport: 'none'; readonly protocol: number };

/** Where a user half goes: a relay endpoint, the session id, and a user cookie that holds the routing (R7). */
export interface TunnelTicket {
  readonly url: string;
  readonly id: string;
  readonly cookie: string;
}

/**
 * Gets the ticket of one session: each connection, and each UDP peer, has one of its own.
 * @throws CoupletError (as rejection)
 */
export type OpenTunnel = (request: TunnelRequest, signal: AbortSignal) => Promise<TunnelTicket>;

/** How the relay is reached. */
export interface TransportSecurity {
  readonly ca?: string;
  readonly insecure?: boolean;
}

/** Opens one user half to a target. */
export async function openHalf(
  open: OpenTunnel,
  request: TunnelRequest,
  security: TransportSecurity,
  signal: AbortSignal,
): Promise<ClientHalf> {
  const { url, id, cookie } = await open(request, signal);
  return connectHalf({ url, id, credential: { parameter: 'auth', cookie }, ...security, signal });
}
