import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';

/** One connection to a target, as the target sees it. */
export interface CountedConnection {
  /** From the client, and to it. */
  readonly up: number;
  readonly down: number;
}

/** Stands before a target and counts what each connection brings it and takes from it. */
export class Counter {
  readonly port: number;
  /** In the order in which they came. */
  readonly connections: CountedConnection[] = [];

  private constructor(server: Server, targetPort: number) {
    this.port = (server.address() as { port: number }).port;
    server.on('connection', (client: Socket) => {
      const target = connect({ port: targetPort, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
      this.connections.push({
        get up() {
          return client.bytesRead;
        },
        get down() {
          return client.bytesWritten;
        },
      });
      for (const [from, to] of [
        [client, target],
        [target, client],
      ] as const) {
        from.pipe(to);
        from.on('error', () => to.resetAndDestroy());
      }
    });
  }

  static async before(t: TestContext, targetPort: number): Promise<Counter> {
    const server = createServer({ allowHalfOpen: true, noDelay: true }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    return new Counter(server, targetPort);
  }
}
