import type { ClientRequestArgs } from 'node:http';
import { type ClientOptions, WebSocket } from 'ws';
import { channelPath, envelopeBytes, maxAnswerBytes, proofHeader } from '../protocol/link-messages.ts';
import { type ChannelWire, peerError } from './channel.ts';
import { newChallenge } from './link-seal.ts';
import type { LinkTickets } from './link-tickets.ts';
import { connectPeer, type PeerNetworks } from './peer-address.ts';
import type { ServerEntry } from './servers.ts';

/** From the first packet to the other side's proof. */
export const dialMs = 2000;
/** ws takes both kinds of options, and one that its typings do not know. */
export type PeerWsOptions = ClientOptions & ClientRequestArgs & { readonly closeTimeout: number };

/** For the answer to a close frame. */
const closeMs = 1000;

export interface ChannelListener {
  heard(text: string): void;
  /** `isOrderly`: the other side said goodbye, or we did. */
  closed(isOrderly: boolean): void;
}

export interface DialParts {
  readonly tickets: LinkTickets;
  readonly networks: PeerNetworks;
}

/** `handshakeTimeout` counts only for a connection that ws makes itself. */
export function endIfSilent(ws: WebSocket, withinMs: number): void {
  const timer = setTimeout(() => ws.terminate(), withinMs);
  for (const event of ['open', 'close'] as const) ws.once(event, () => clearTimeout(timer));
}

/**
 * [K3] Dials another server's peer channel and proves both sides to each other. What comes is told to the listener that
 * is set before the event loop turns.
 * @throws CoupletError `CPL_PEER`
 */
export async function dialChannel(
  entry: ServerEntry,
  { tickets, networks }: DialParts,
): Promise<{ readonly wire: ChannelWire; listen(listener: ChannelListener): void }> {
  const socket = await connectPeer(entry, networks, dialMs);
  const challenge = newChallenge();
  const url = `${entry.linkUrl.replace(/\/+$/, '')}${channelPath}?hello=${tickets.hello(entry.boot, challenge)}`;
  const options: PeerWsOptions = {
    createConnection: () => socket,
    perMessageDeflate: false,
    maxPayload: maxAnswerBytes + envelopeBytes,
    closeTimeout: closeMs,
  };
  const ws = new WebSocket(url, options);
  endIfSilent(ws, dialMs);
  const proof = await new Promise<string>((resolve, reject) => {
    let answer = '';
    // Never with its text: ws names the URL in some errors.
    ws.on('error', (cause) => reject(peerError('unreachable', 'a server did not take the peer channel', cause)));
    ws.on('upgrade', (response) => {
      answer = String(response.headers[proofHeader] ?? '');
    });
    ws.on('open', () => {
      const first = tickets.proveChannel(answer, entry.boot, challenge);
      if (first !== undefined) return resolve(first);
      ws.terminate();
      reject(peerError('unreachable', 'who answered the peer channel did not prove to be that server'));
    });
  });
  let listener: ChannelListener | undefined;
  let weClosed = false;
  ws.on('message', (data, isBinary) => {
    if (isBinary) ws.terminate();
    else listener?.heard((data as Buffer).toString());
  });
  ws.on('close', (code) => listener?.closed(weClosed || code === 1000 || code === 1001));
  const wire: ChannelWire = {
    send: (text) => {
      if (ws.readyState === WebSocket.OPEN) ws.send(text);
    },
    bufferedBytes: () => ws.bufferedAmount,
    close: (code, reason) => {
      weClosed = true;
      ws.close(code, reason);
    },
    terminate: () => ws.terminate(),
    bytesHeard: () => socket.bytesRead,
  };
  wire.send(proof);
  return {
    wire,
    listen: (to) => {
      listener = to;
    },
  };
}
