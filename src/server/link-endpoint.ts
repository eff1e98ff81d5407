import type { HttpRequest, HttpResponse, TemplatedApp, us_socket_context_t, WebSocket } from 'uWebSockets.js';
import type { ChannelWire } from '../cluster/channel.ts';
import type { IncomingChannel } from '../cluster/incoming-channel.ts';
import type { LinkTickets } from '../cluster/link-tickets.ts';
import type { PeerChannels } from '../cluster/peers.ts';
import type { NativeAddon } from '../native/binding.ts';
import { channelPath, envelopeBytes, linkPath, maxAskBytes, proofHeader } from '../protocol/link-messages.ts';
import { Half } from '../relay/session.ts';
import { type HalfData, type HalfSocketParts, UwsHalfSocket } from './half-socket.ts';
import { respond } from './http.ts';
import { openSockets } from './open-sockets.ts';

/** Where a half comes from that is linked to here. */
export interface LinkOrigin {
  readonly boot: string;
  /** Fencing number of the claim by which it was presented. */
  readonly fence: number;
  /** How long it had waited there. */
  readonly waitedMs: number;
}

export interface LinkEndpointParts {
  readonly tickets: LinkTickets;
  readonly peers: Pick<PeerChannels, 'incoming'>;
  readonly addon: NativeAddon | undefined;
  /** `relay.highWaterBytes`: what may be kept for a waiting half that cannot be paused. */
  maxEarlyBytes(): number;
  /** False while the server takes no new halves (R39); channels are taken all the same. */
  accepting(): boolean;
  /** A link is open and held: not read, nothing sent. */
  presented(half: Half, origin: LinkOrigin): void;
  /** A link's socket is closed, whoever closed it. */
  closed(half: Half): void;
  /** A link that nobody could pause has sent more than `maxEarlyBytes` before its mate came. */
  flooded(half: Half): void;
  /** A link or a channel was not let in; why is for the metric alone. */
  refused(reason: string): void;
}

interface ChannelData {
  accept(wire: ChannelWire): IncomingChannel;
  incoming?: IncomingChannel;
  isGone?: boolean;
}

/** uWebSockets.js's own limit per message; the forwarder checks the configured one. */
const uwsMaxPayloadBytes = 0x7fffffff;
/** What may wait for a peer that does not read, bytes; the channel cuts it off before. */
const maxChannelBackpressureBytes = 128 * 1024 * 1024;
/** For the answer to a close frame. */
const closeMs = 1000;

/** [K3] What other servers dial: `/link` and `/channel`. All refusals are answered alike. */
export class LinkEndpoint {
  readonly #parts: LinkEndpointParts;
  readonly #plainSockets: HalfSocketParts;
  readonly #tlsSockets: HalfSocketParts;
  #open = 0;
  #onEmpty: (() => void)[] = [];

  constructor(parts: LinkEndpointParts) {
    this.#parts = parts;
    const { addon } = parts;
    const closed = (half: Half) => this.#closed(half);
    const flooded = (half: Half) => parts.flooded(half);
    this.#plainSockets = { addon, ssl: false, isLink: true, closed, flooded };
    this.#tlsSockets = { addon, ssl: true, isLink: true, closed, flooded };
  }

  /** Puts the endpoint on the app of the link listener; its links' messages are uWebSockets.js's only on the portable path. */
  register(app: TemplatedApp, ssl: boolean, maxMessageBytes: number): void {
    app.ws<HalfData>(linkPath, {
      compression: 0,
      maxPayloadLength: Math.min(maxMessageBytes === 0 ? uwsMaxPayloadBytes : maxMessageBytes, uwsMaxPayloadBytes),
      maxBackpressure: 0,
      closeOnBackpressureLimit: false,
      idleTimeout: 0,
      maxLifetime: 0,
      sendPingsAutomatically: false,
      upgrade: (res, req, context) => this.#upgradeLink(res, req, context, ssl),
      open: (ws: WebSocket<HalfData>) => {
        openSockets.add(ws);
        ws.getUserData().couplet.opened(ws);
      },
      message: (ws, data, isBinary) => ws.getUserData().couplet.message(data, isBinary),
      drain: (ws) => ws.getUserData().couplet.drained(),
      ping: (ws) => ws.getUserData().couplet.pinged(),
      pong: (ws) => ws.getUserData().couplet.pong(),
      close: (ws, code, reason) => {
        openSockets.delete(ws);
        ws.getUserData().couplet.socketClosed(code, reason);
      },
    });
    app.ws<ChannelData>(channelPath, {
      compression: 0,
      maxPayloadLength: maxAskBytes + envelopeBytes,
      maxBackpressure: maxChannelBackpressureBytes,
      closeOnBackpressureLimit: true,
      // Silence is the channel's affair: it counts beats.
      idleTimeout: 0,
      maxLifetime: 0,
      sendPingsAutomatically: false,
      upgrade: (res, req, context) => this.#upgradeChannel(res, req, context),
      open: (ws) => {
        openSockets.add(ws);
        const data = ws.getUserData();
        data.incoming = data.accept(new UwsChannelWire(ws));
      },
      message: (ws, message, isBinary) => {
        if (isBinary) ws.close();
        else ws.getUserData().incoming?.heard(Buffer.from(message).toString());
      },
      close: (ws, code) => {
        openSockets.delete(ws);
        const data = ws.getUserData();
        data.isGone = true;
        data.incoming?.closed(code);
      },
    });
    app.any('/*', (res) => respond(res, 404, ''));
  }

  /** Resolves when every link's socket is closed, so that no close frame is cut off; after `withinMs` at the latest. */
  allClosed(withinMs: number): Promise<void> {
    if (this.#open === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, withinMs);
      this.#onEmpty.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #upgradeLink(res: HttpResponse, req: HttpRequest, context: us_socket_context_t, ssl: boolean): void {
    if (!this.#parts.accepting()) return this.#refuse(res, 'going-away');
    const link = this.#parts.tickets.accept(parameter(req, 'ticket'));
    if (typeof link === 'string') return this.#refuse(res, link);
    const socket = new UwsHalfSocket(ssl ? this.#tlsSockets : this.#plainSockets, this.#parts.maxEarlyBytes());
    const half = new Half(link.admission, socket);
    socket.half = half;
    this.#open++;
    upgrade<HalfData>(res, req, context, link.proof, { couplet: socket });
    const { boot, fence, waitedMs } = link;
    this.#parts.presented(half, { boot, fence, waitedMs });
  }

  #upgradeChannel(res: HttpResponse, req: HttpRequest, context: us_socket_context_t): void {
    const channel = this.#parts.peers.incoming(parameter(req, 'hello'));
    if (channel === undefined) return this.#refuse(res, 'channel');
    upgrade<ChannelData>(res, req, context, channel.proof, { accept: channel.accept });
  }

  #refuse(res: HttpResponse, reason: string): void {
    this.#parts.refused(reason);
    respond(res, 401, '');
  }

  #closed(half: Half): void {
    this.#open--;
    this.#parts.closed(half);
    if (this.#open === 0) for (const resolve of this.#onEmpty.splice(0)) resolve();
  }
}

/** In the request's own callback, where everything is corked already. */
function upgrade<T>(res: HttpResponse, req: HttpRequest, context: us_socket_context_t, proof: string, data: T): void {
  const key = req.getHeader('sec-websocket-key');
  // A header is written behind a status line: without this one it would be that of a 200.
  res.writeStatus('101 Switching Protocols').writeHeader(proofHeader, proof);
  res.upgrade<T>(data, key, '', '', context);
}

/** Of values that are base64url, and so never escaped; empty where there is none. */
function parameter(req: HttpRequest, name: string): string {
  return (req.getQuery(name) as string | undefined) ?? '';
}

class UwsChannelWire implements ChannelWire {
  readonly #ws: WebSocket<ChannelData>;
  readonly #data: ChannelData;

  constructor(ws: WebSocket<ChannelData>) {
    this.#ws = ws;
    this.#data = ws.getUserData();
  }

  send(text: string): void {
    if (this.#data.isGone !== true) this.#ws.send(text, false);
  }

  bufferedBytes(): number {
    return this.#data.isGone === true ? 0 : this.#ws.getBufferedAmount();
  }

  close(code: number, reason: string): void {
    if (this.#data.isGone === true) return;
    this.#ws.end(code, reason);
    setTimeout(() => this.terminate(), closeMs).unref();
  }

  terminate(): void {
    if (this.#data.isGone !== true) this.#ws.close();
  }

  bytesHeard(): undefined {
    return undefined;
  }
}
