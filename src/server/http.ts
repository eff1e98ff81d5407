import type { HttpRequest, HttpResponse, TemplatedApp } from 'uWebSockets.js';
import type { AddressClaims } from './address.ts';

const reasons: Readonly<Record<number, string>> = {
  200: 'OK',
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  426: 'Upgrade Required',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
};

/** Answers a request and ends its connection. The body never tells more than the status (R8). */
export function respond(res: HttpResponse, status: number, body: string, contentType = 'text/plain'): void {
  const reason = reasons[status] ?? 'Error';
  res.cork(() => {
    res.writeStatus(`${status} ${reason}`).writeHeader('content-type', contentType);
    if (status === 426) res.writeHeader('upgrade', 'websocket');
    res.end(body === '' ? `${reason}\n` : `${body}\n`, true);
  });
}

/**
 * What a request says of where it comes from (R12); whom to believe is the proxies' list. To be read in the request's
 * callback. Each claim is made when it is asked for: without trusted proxies only `tcp` is, and the others cost a
 * buffer and a call for each header.
 */
export function addressClaims(res: HttpResponse, req: HttpRequest): AddressClaims {
  return {
    get tcp() {
      return text(res.getRemoteAddressAsText());
    },
    get proxied() {
      return text(res.getProxiedRemoteAddressAsText());
    },
    get forwardedFor() {
      return headerValues(req, 'x-forwarded-for');
    },
  };
}

function text(buffer: ArrayBuffer): string {
  return Buffer.from(buffer).toString('latin1');
}

/** All values of a header, joined by commas: uWebSockets.js's getHeader gives the first alone. */
function headerValues(req: HttpRequest, name: string): string {
  const values: string[] = [];
  req.forEach((key, value) => {
    if (key === name) values.push(value);
  });
  return values.join(',');
}

export interface HttpParts {
  /** Why the server is not ready, in a few words; empty where it is. */
  notReady(): string;
  /** Text of the metrics, where `server.publicMetrics` is on. */
  readonly scrape: (() => Promise<{ readonly body: string; readonly contentType: string }>) | undefined;
  failed(error: unknown): void;
}

/** `/healthz`, `/readyz`, and 404 or 426 for everything that is no upgrade. */
export function registerHttp(app: TemplatedApp, parts: HttpParts): void {
  app.get('/healthz', (res) => respond(res, 200, 'ok'));
  app.get('/readyz', (res) => {
    const why = parts.notReady();
    respond(res, why === '' ? 200 : 503, why === '' ? 'ready' : why);
  });
  const { scrape } = parts;
  if (scrape !== undefined) {
    app.get('/metrics', (res) => {
      let aborted = false;
      res.onAborted(() => {
        aborted = true;
      });
      scrape().then(
        ({ body, contentType }) => {
          if (!aborted) respond(res, 200, body, contentType);
        },
        (error: unknown) => {
          parts.failed(error);
          if (!aborted) respond(res, 500, '');
        },
      );
    });
  }
  app.any('/*', (res, req) => {
    const relay = /(?:^|\/)(?:meshrelay\.ashx|relay)$/.test(req.getUrl());
    respond(res, relay ? 426 : 404, relay ? 'this path is for WebSocket upgrades' : '');
  });
}
