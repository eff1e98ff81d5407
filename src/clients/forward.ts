import { once, setMaxListeners } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { CoupletError } from '../core/errors.ts';
import { abandonSocket } from './abandon-socket.ts';
import { runByteSession } from './byte-session.ts';
import { type OpenTunnel, openHalf, type TransportSecurity } from './open-tunnel.ts';

/** One connection, or UDP peer, of a forward. Bytes as the local side sees them: up to the target, down from it. */
export interface ForwardConnection {
  readonly target: string;
  readonly bytesUp: number;
  readonly bytesDown: number;
}

/** What a forward tells whoever shows it. The connection's counts go on until it is closed. */
export interface ForwardEvents {
  opened(connection: ForwardConnection): void;
  /** `error`: why it did not end well. */
  closed(connection: ForwardConnection, error: CoupletError | undefined): void;
}

export interface ForwardOptions {
  readonly device: string;
  readonly open: OpenTunnel;
  readonly security: TransportSecurity;
  readonly events: ForwardEvents;
  /** Connections (or UDP peers) at once, per listener. Default 1000. */
  readonly maxConnections?: number;
}

/** A local listener. */
export interface Listener {
  /** `ADDRESS:PORT` */
  readonly address: string;
  readonly port: number;
  /** What it leads to, for people. */
  readonly target: string;
  /** Ends it and all its connections; settles when nothing is left. */
  close(): Promise<void>;
}

/** Where one local connection is to go, once it is known; ends the connection itself where it cannot be served. */
export interface Destination {
  readonly host: string;
  readonly port: number;
  /** The target stands, or has sent something. */
  onConnected?(): void;
  /** The session failed; `false`: nothing was said to the local side yet, so it can be told in its own protocol. */
  onFailure?(error: CoupletError, connected: boolean): boolean;
}

/** Finds out where a local connection goes; `undefined`: it was turned away. */
export type FindDestination = (socket: Socket) => Promise<Destination | undefined>;

/** [T12] Listens on a local TCP port and leads every connection through a session of its own. */
export function forwardTcp(
  local: { readonly bindAddress: string; readonly localPort: number },
  target: { readonly host: string; readonly port: number },
  options: ForwardOptions,
): Promise<Listener> {
  const name = targetName(target.host, target.port);
  return listenTcp(local, name, options, async () => target);
}

/** As {@link forwardTcp}, each connection where `find` says. */
export async function listenTcp(
  local: { readonly bindAddress: string; readonly localPort: number },
  name: string,
  options: ForwardOptions,
  find: FindDestination,
): Promise<Listener> {
  const stop = new AbortController();
  setMaxListeners(0, stop.signal); // one for each connection
  const running = new Set<Promise<void>>();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    const run = serveConnection(socket, find, options, stop.signal).finally(() => running.delete(run));
    running.add(run);
  });
  server.maxConnections = options.maxConnections ?? 1000;
  await listening(server, local);
  // A listener that breaks later is closed by the system: `close` then has nothing left to do.
  server.on('error', () => undefined);
  const { address, port } = server.address() as AddressInfo;
  return {
    address: targetName(address, port),
    port,
    target: name,
    close: async () => {
      const closed = server.listening ? once(server, 'close') : undefined;
      server.close();
      stop.abort(new CoupletError('CPL_CLIENT_STOPPED', 'the forward was ended'));
      await Promise.all(running);
      await closed;
    },
  };
}

async function listening(server: Server, local: { bindAddress: string; localPort: number }): Promise<void> {
  try {
    server.listen(local.localPort, local.bindAddress);
    await once(server, 'listening');
  } catch (cause) {
    throw listenError(local.bindAddress, local.localPort, cause);
  }
}

export function listenError(address: string, port: number, cause: unknown): CoupletError {
  const why = (cause as NodeJS.ErrnoException).code;
  const text = `cannot listen on ${targetName(address, port)}: ${why}`;
  return new CoupletError('CPL_CLIENT_LISTEN', text, { level: 'error', cause });
}

async function serveConnection(
  socket: Socket,
  find: FindDestination,
  options: ForwardOptions,
  signal: AbortSignal,
): Promise<void> {
  const { device, open, security, events } = options;
  // For good: a connection may break at any time, and who waits for it then hears it from the stream.
  socket.on('error', () => undefined);
  const onAbort = () => socket.resetAndDestroy();
  signal.addEventListener('abort', onAbort, { once: true });
  const destination = await find(socket);
  signal.removeEventListener('abort', onAbort);
  if (destination === undefined || signal.aborted) return;
  const { host, port } = destination;
  const target = targetName(host, port);
  let connected = false;
  const end = (error: unknown, mateIsCouplet: boolean) => {
    const told = error instanceof CoupletError && destination.onFailure?.(error, connected) === true;
    if (!told) abandonSocket(socket, error, mateIsCouplet);
    return undefined;
  };
  const connection: ForwardConnection = {
    target,
    get bytesUp() {
      return socket.bytesRead;
    },
    get bytesDown() {
      return socket.bytesWritten;
    },
  };
  events.opened(connection);
  let failure: CoupletError | undefined;
  let ended = false;
  try {
    const half = await openHalf(open, { device, transport: 'tcp', host, port }, security, signal);
    await runByteSession(half, {
      input: socket,
      output: socket,
      signal,
      onConnected: () => {
        connected = true;
        destination.onConnected?.();
      },
      onFailure: (error, mateIsCouplet) => {
        ended = true;
        return end(error, mateIsCouplet);
      },
    });
  } catch (error) {
    if (!ended) end(error, true);
    if (!(error instanceof CoupletError)) throw error;
    failure = error;
  }
  events.closed(connection, failure);
}

export function targetName(host: string, port: number): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}
