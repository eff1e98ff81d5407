import { createHash, randomBytes } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import type { Socket } from 'node:net';
import { WebSocket } from 'ws';
import type { NativeAddon } from '../native/binding.ts';
import { depositMethod, linkPath, proofHeader } from '../protocol/link-messages.ts';
import { peerError } from './channel.ts';
import { type LinkSocket, NativeLinkSocket, WsLinkSocket } from './link-socket.ts';
import type { IssuedTicket, LinkRequest, LinkTickets } from './link-tickets.ts';
import { connectPeer, type PeerNetworks } from './peer-address.ts';
import { dialMs, endIfSilent, type PeerWsOptions } from './peer-dial.ts';
import type { Peers } from './peers.ts';
import type { ServerEntry } from './servers.ts';

export interface LinkDialParts {
  readonly tickets: LinkTickets;
  readonly networks: PeerNetworks;
  readonly peers: Pick<Peers, 'ask'>;
  /** Where halves are forwarded natively; absent: links are forwarded in TypeScript. */
  readonly addon: NativeAddon | undefined;
  /** `relay.maxMessageBytes`. */
  maxMessageBytes(): number;
  /** `cluster.heartbeatMs`. */
  readonly heartbeatMs: number;
}

const acceptSalt = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
/** A link's close has the deadlines of its pair, not one of ws's. */
const noCloseTimeoutMs = 2_147_483_647;

/** The descriptor below a plain TCP socket; Node.js shows it nowhere else. */
function descriptorOf(socket: Socket): number {
  return (socket as unknown as { _handle?: { fd?: number } })._handle?.fd ?? -1;
}

/** [K3] Dials links: one for each half that is presented to another server. */
export class LinkDialer {
  readonly #parts: LinkDialParts;
  /**
   * How long an answer is waited for. Who is asked may have paired the link already: giving it up early would cost
   * a session that had begun, so a server is given the time after which it counts as dead.
   */
  readonly #answerMs: number;

  constructor(parts: LinkDialParts) {
    this.#parts = parts;
    this.#answerMs = Math.max(dialMs, parts.heartbeatMs);
  }

  /** Whether the addon takes over a link to this server. */
  isNative(entry: ServerEntry): boolean {
    return this.#parts.addon?.adoptLink !== undefined && entry.linkUrl.startsWith('ws://');
  }

  /**
   * Opens a link to the server that has given out the challenge. When it resolves, both servers are proven to each other
   * and nothing of the half has been sent.
   * @throws CoupletError `CPL_PEER` where the server cannot be reached or refuses, `CPL_LINK` for a half that fits in no ticket
   */
  async dial(entry: ServerEntry, request: LinkRequest): Promise<LinkSocket> {
    const { tickets, networks, peers } = this.#parts;
    const ticket = tickets.issue(entry.boot, request);
    if (ticket.deposit !== undefined) await peers.ask(entry.boot, depositMethod, ticket.deposit, dialMs);
    const socket = await connectPeer(entry, networks, dialMs);
    const path = `${linkPath}?ticket=${ticket.text}`;
    if (this.isNative(entry)) return this.#native(this.#parts.addon!, socket, entry, path, ticket);
    return this.#portable(socket, entry, path, ticket);
  }

  #portable(socket: Socket, entry: ServerEntry, path: string, ticket: IssuedTicket): Promise<LinkSocket> {
    const options: PeerWsOptions = {
      createConnection: () => socket,
      perMessageDeflate: false,
      maxPayload: this.#parts.maxMessageBytes(),
      skipUTF8Validation: true,
      closeTimeout: noCloseTimeoutMs,
      // Zeros do not mask, and ws then sends what it is given without a copy: servers are no browsers.
      generateMask: (mask) => {
        mask.fill(0);
      },
    };
    const ws = new WebSocket(`${entry.linkUrl.replace(/\/+$/, '')}${path}`, options);
    endIfSilent(ws, this.#answerMs);
    return new Promise((resolve, reject) => {
      let proof = '';
      ws.on('error', (cause) => reject(refusedError(cause)));
      ws.on('upgrade', (response) => {
        proof = String(response.headers[proofHeader] ?? '');
      });
      ws.on('open', () => {
        if (ticket.proves(proof)) return resolve(new WsLinkSocket(ws, socket));
        ws.terminate();
        reject(strangerError());
      });
    });
  }

  #native(
    addon: NativeAddon,
    socket: Socket,
    entry: ServerEntry,
    path: string,
    ticket: IssuedTicket,
  ): Promise<LinkSocket> {
    const key = randomBytes(16).toString('base64');
    const request = httpRequest({
      createConnection: () => socket,
      host: new URL(entry.linkUrl).host,
      path,
      headers: {
        host: new URL(entry.linkUrl).host,
        connection: 'Upgrade',
        upgrade: 'websocket',
        'sec-websocket-key': key,
        'sec-websocket-version': '13',
      },
    });
    return new Promise((resolve, reject) => {
      const late = () => fail(peerError('timeout', `a server did not answer within ${this.#answerMs} ms`));
      const timer = setTimeout(late, this.#answerMs);
      const fail = (error: Error) => {
        clearTimeout(timer);
        request.destroy();
        socket.destroy();
        reject(error);
      };
      request.on('error', (cause) => fail(refusedError(cause)));
      request.on('response', ({ statusCode }) => fail(refusedError(undefined, statusCode)));
      request.on('upgrade', (response, _socket, head) => {
        const accept = createHash('sha1').update(`${key}${acceptSalt}`).digest('base64');
        if (response.headers['sec-websocket-accept'] !== accept) return fail(refusedError());
        if (!ticket.proves(String(response.headers[proofHeader] ?? ''))) return fail(strangerError());
        // In this very call: nothing may be read on the way from Node.js's hands to the addon's.
        const nativeId = addon.adoptLink!(descriptorOf(socket), head);
        if (nativeId === 0) return fail(peerError('error', 'the addon could not take over the link'));
        clearTimeout(timer);
        socket.destroy();
        resolve(new NativeLinkSocket(addon, nativeId));
      });
      request.end();
    });
  }
}

// Never with the cause's own text: it may name the URL, and the ticket in it.
function refusedError(cause?: unknown, status?: number): Error {
  const answer = status === undefined ? '' : `: HTTP ${status}`;
  return peerError('unreachable', `a server did not take the link${answer}`, cause);
}

function strangerError(): Error {
  return peerError('unreachable', 'who answered the link did not prove to be that server');
}
