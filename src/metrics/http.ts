import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { CoupletError } from '../core/errors.ts';

export interface MetricsServerOptions {
  /** Host and port to listen on; port 0 takes a free one. */
  readonly host: string;
  readonly port: number;
  /** Gives the text of a scrape. */
  readonly scrape: () => Promise<{ readonly body: string; readonly contentType: string }>;
  /** Told of a scrape that failed; its request is answered with 500. */
  readonly onError: (error: unknown) => void;
}

export interface MetricsServer {
  readonly host: string;
  readonly port: number;
  /** Stops listening and ends the connections that are left. */
  close(): Promise<void>;
}

/**
 * Serves `/metrics` on an address of its own, apart from the relay's public one.
 * @throws CoupletError `CPL_METRICS_LISTEN` where the address cannot be listened on
 */
export async function serveMetrics(options: MetricsServerOptions): Promise<MetricsServer> {
  const { host, port } = options;
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000 }, (request, response) => {
    answer(request, response, options);
  });
  server.maxConnections = 64;
  server.listen({ host, port, exclusive: true });
  try {
    await once(server, 'listening');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new CoupletError(
      'CPL_METRICS_LISTEN',
      `server.metricsListen ${host}:${port} cannot be listened on (${code}); it must be a free address of this machine`,
      { level: 'error', cause },
    );
  }
  // An accept that fails later (no file descriptors) costs a scrape, not the relay.
  server.on('error', options.onError);
  const bound = server.address() as AddressInfo;
  return {
    host: bound.address,
    port: bound.port,
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

function answer(request: IncomingMessage, response: ServerResponse, options: MetricsServerOptions): void {
  const { method, url = '' } = request;
  if (url !== '/metrics' && !url.startsWith('/metrics?')) {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('not found: the metrics are at /metrics\n');
    return;
  }
  if (method !== 'GET' && method !== 'HEAD') {
    response.writeHead(405, { 'content-type': 'text/plain', allow: 'GET, HEAD' }).end('only GET and HEAD\n');
    return;
  }
  options.scrape().then(
    ({ body, contentType }) => response.writeHead(200, { 'content-type': contentType }).end(body),
    (error: unknown) => {
      options.onError(error);
      response.writeHead(500, { 'content-type': 'text/plain' }).end('the metrics cannot be read; see the log\n');
    },
  );
}
