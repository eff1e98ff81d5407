import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once, setMaxListeners } from 'node:events';
import { isIPv6 } from 'node:net';
import { CoupletError } from '../core/errors.ts';
import { isGreeting, parseControlText } from '../protocol/control-messages.ts';
import { closeError, isCleanClose, printableLine } from './client-errors.ts';
import type { ClientHalf } from './connect.ts';
import { type ForwardConnection, type ForwardOptions, type Listener, listenError, targetName } from './forward.ts';
import { openHalf } from './open-tunnel.ts';
import { deferred, within } from './waiting.ts';

/** Datagrams that a peer may send before its session stands, and bytes that may wait for the network after. */
const maxQueuedDatagrams = 64;
const maxBufferedBytes = 1024 * 1024;
const closeWaitMs = 2000;

export interface UdpForwardOptions extends ForwardOptions {
  /** A peer that is silent, and hears nothing, for so long is forgotten. Default 60,000. */
  readonly idleMs?: number;
}

/** [T12] Listens on a local UDP port; every peer (address and port) has a session of its own. */
export async function forwardUdp(
  local: { readonly bindAddress: string; readonly localPort: number },
  target: { readonly host: string; readonly port: number },
  options: UdpForwardOptions,
): Promise<Listener> {
  const socket = createSocket(isIPv6(local.bindAddress) ? 'udp6' : 'udp4');
  try {
    socket.bind(local.localPort, local.bindAddress);
    await once(socket, 'listening');
  } catch (cause) {
    throw listenError(local.bindAddress, local.localPort, cause);
  }
  const name = targetName(target.host, target.port);
  const peers = new Map<string, UdpPeer>();
  const stop = new AbortController();
  setMaxListeners(0, stop.signal); // one for each peer
  // A datagram to a local peer that is gone (ICMP) concerns that peer alone; it expires.
  socket.on('error', () => undefined);
  socket.on('message', (data, from) => {
    const key = `${from.address} ${from.port}`;
    let peer = peers.get(key);
    if (peer === undefined) {
      if (stop.signal.aborted) return;
      if (peers.size >= (options.maxConnections ?? 1000)) return; // dropped, as datagrams may be
      peer = new UdpPeer(socket, from, target, name, options, stop.signal);
      peers.set(key, peer);
      void peer.ended.finally(() => peers.delete(key));
    }
    peer.send(data);
  });
  const { address, port } = socket.address();
  return {
    address: targetName(address, port),
    port,
    target: `${name}/udp`,
    close: async () => {
      stop.abort(new CoupletError('CPL_CLIENT_STOPPED', 'the forward was ended'));
      await Promise.all([...peers.values()].map((peer) => peer.ended));
      const closed = once(socket, 'close');
      socket.close();
      await closed;
    },
  };
}

class UdpPeer implements ForwardConnection {
  /** Settles when nothing of it is left. */
  readonly ended: Promise<void>;
  readonly target: string;
  bytesUp = 0;
  bytesDown = 0;
  readonly #socket: Socket;
  readonly #peer: RemoteInfo;
  readonly #over = deferred<CoupletError | undefined>();
  readonly #idle: NodeJS.Timeout;
  #queue: Buffer[] = [];
  #half: ClientHalf | undefined;
  #isGreeted = false;

  constructor(
    socket: Socket,
    peer: RemoteInfo,
    target: { readonly host: string; readonly port: number },
    name: string,
    options: UdpForwardOptions,
    signal: AbortSignal,
  ) {
    this.target = name;
    this.#socket = socket;
    this.#peer = peer;
    this.#idle = setTimeout(() => this.#over.resolve(undefined), options.idleMs ?? 60_000);
    this.ended = this.#run(target, options, signal);
  }

  send(data: Buffer): void {
    this.#idle.refresh();
    this.bytesUp += data.length;
    if (this.#half === undefined || !this.#isGreeted) {
      if (this.#queue.length < maxQueuedDatagrams) this.#queue.push(data);
    } else if (this.#half.bufferedBytes <= maxBufferedBytes) {
      // What becomes of it shows in the half's close.
      void this.#half.sendBinary(data);
    }
  }

  async #run(
    { host, port }: { readonly host: string; readonly port: number },
    { device, open, security, events }: UdpForwardOptions,
    signal: AbortSignal,
  ): Promise<void> {
    const onAbort = () => this.#over.resolve(undefined);
    signal.addEventListener('abort', onAbort, { once: true });
    events.opened(this);
    let failure: CoupletError | undefined;
    try {
      const half = await openHalf(open, { device, transport: 'udp', host, port }, security, signal);
      this.#start(half);
      failure = await this.#over.promise;
      half.close();
      await within(half.closed, closeWaitMs);
      half.terminate();
    } catch (error) {
      if (!(error instanceof CoupletError)) throw error;
      failure = error;
    } finally {
      clearTimeout(this.#idle);
      signal.removeEventListener('abort', onAbort);
    }
    events.closed(this, failure);
  }

  #start(half: ClientHalf): void {
    this.#half = half;
    void half.closed.then((close) => this.#over.resolve(isCleanClose(close.code) ? undefined : closeError(close)));
    half.start({
      onText: (text) => this.#onText(text, half),
      onBinary: (data) => {
        this.#idle.refresh();
        this.bytesDown += data.length;
        // Larger than a datagram may be, or the peer is gone: lost, as datagrams may be.
        this.#socket.send(data, this.#peer.port, this.#peer.address, () => undefined);
      },
    });
  }

  #onText(text: string, half: ClientHalf): void {
    if (isGreeting(text) && !this.#isGreeted) {
      this.#isGreeted = true;
      for (const data of this.#queue) void half.sendBinary(data);
      this.#queue = [];
    } else if (text.startsWith('error:')) {
      this.#over.resolve(new CoupletError('CPL_CLIENT_MATE_ERROR', `the mate reports ${printableLine(text)}`));
    } else if (parseControlText(text) === undefined) {
      this.#over.resolve(new CoupletError('CPL_CLIENT_PROTOCOL', `the mate sent a text: ${printableLine(text)}`));
    }
  }
}
