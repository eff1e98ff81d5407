import { createClient } from '@redis/client';
import { nodeText, type RedisNode, type RedisTarget } from '../config/redis-url.ts';
import { within } from './deadline.ts';

/** What a connection needs besides the server's address. */
export interface ConnectionOptions {
  readonly target: Pick<RedisTarget, 'tls' | 'username' | 'password' | 'database'>;
  /** Most that connecting may take, login included. */
  readonly withinMs: number;
  /** Called once where the connection breaks by itself; not after `close`. */
  readonly onLost: (error: Error) => void;
}

type Client = ReturnType<typeof makeClient>;

/**
 * One connection to one Redis server. It lives once: after a break a new one is opened by whoever needs it, so that
 * nobody writes to a server that has become another without knowing. Commands are pipelined in the order of `send`.
 */
export class RedisConnection {
  readonly node: RedisNode;
  readonly #client: Client;
  #closed = false;

  private constructor(node: RedisNode, client: Client) {
    this.node = node;
    this.#client = client;
  }

  /** Rejects with what the system or Redis says, or with a DeadlineError. */
  static async open(node: RedisNode, options: ConnectionOptions): Promise<RedisConnection> {
    const client = makeClient(node, options);
    const connection = new RedisConnection(node, client);
    let isOpen = false;
    // Before it is open the same error rejects `connect`.
    client.on('error', (error: Error) => {
      if (isOpen && !connection.#closed) {
        connection.close();
        options.onLost(withoutSecrets(error, options.target));
      }
    });
    const connecting = client.connect();
    try {
      await within(connecting, options.withinMs, `connecting to Redis ${nodeText(node)}`);
    } catch (error) {
      connection.close();
      // The library opens a socket that was still connecting when it was destroyed.
      connecting.then(
        () => client.destroy(),
        () => undefined,
      );
      throw withoutSecrets(error as Error, options.target);
    }
    isOpen = true;
    return connection;
  }

  /** The plain RESP2 reply; rejects with the reply's error or that of the connection. There is no deadline here. */
  send(args: readonly string[]): Promise<unknown> {
    return this.#client.sendCommand(args as string[]);
  }

  /** Ends it at once; commands under way are rejected. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#client.destroy();
  }
}

/** Redis repeats the arguments of a command that it does not know, AUTH's too: such an error without them. */
function withoutSecrets(error: Error, { password }: ConnectionOptions['target']): Error {
  const head = error.message.replace(/,? with args beginning with:.*/s, '');
  const text = password === undefined || password === '' ? head : head.replaceAll(password, '…');
  return text === error.message ? error : new Error(text);
}

function makeClient(node: RedisNode, { target, withinMs }: ConnectionOptions) {
  const common = { host: node.host, port: node.port, connectTimeout: withinMs, reconnectStrategy: false as const };
  return createClient({
    // Replies in the older form need no HELLO, which an ACL user may not have.
    RESP: 2,
    socket: target.tls ? { ...common, tls: true as const } : common,
    ...(target.username === undefined ? {} : { username: target.username }),
    ...(target.password === undefined ? {} : { password: target.password }),
    database: target.database,
    disableOfflineQueue: true,
    disableClientInfo: true,
    maintNotifications: 'disabled',
    // Its own deadline counts only what is not written yet; ours counts everything.
    commandOptions: { timeout: 0 },
  });
}
