import type { HttpRequest, HttpResponse, TemplatedApp } from 'uWebSockets.js';
import { toSafeJson } from '../audit/safe-text.ts';
import type { AddressClaims } from './address.ts';
import { Answering } from './api-answer.ts';

/** A request of the API, as its dispatcher takes it. */
export interface HttpApiRequest {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly headers: {
    readonly authorization: string;
    readonly cookie: string;
    readonly origin: string;
    readonly contentType: string;
    readonly range: string;
    readonly ifRange: string;
    readonly lastEventId: string;
  };
  readonly body: string;
  readonly address: string;
  readonly scheme: 'http' | 'https';
  readonly host: string;
}

type Headers = Readonly<Record<string, string>>;

/** What the dispatcher answers with. */
export type HttpApiAnswer =
  | { readonly kind: 'json'; readonly status: number; readonly headers: Headers; readonly body: unknown }
  | {
      readonly kind: 'stream';
      readonly status: 200 | 206;
      readonly headers: Headers;
      readonly contentType: string;
      readonly bytes: number;
      readonly chunks: AsyncIterable<Uint8Array>;
    }
  | {
      readonly kind: 'events';
      readonly status: 200;
      readonly headers: Headers;
      readonly open: (signal: AbortSignal) => AsyncIterable<string>;
    };

export interface ApiEndpointParts {
  /** Answers; is not to reject. */
  dispatch(request: HttpApiRequest): Promise<HttpApiAnswer>;
  clientAddress(claims: AddressClaims): string;
  /** False turns the request away with 429: too many from this address. */
  admit(address: string): boolean;
  /** False turns all requests away with 503. */
  accepting(): boolean;
  /** A bug, or a stream that broke. */
  failed(error: unknown): void;
  readonly limits?: Partial<ApiEndpointLimits>;
}

export interface ApiEndpointLimits {
  readonly maxBodyBytes: number;
  /** From the request's head to the end of its body. */
  readonly bodyMs: number;
  /** Requests at once whose answer is not sent. */
  readonly maxPending: number;
  /** Streams and event streams at once. */
  readonly maxStreams: number;
}

const defaultLimits: ApiEndpointLimits = {
  maxBodyBytes: 1_048_576,
  bodyMs: 30_000,
  maxPending: 1_000,
  maxStreams: 500,
};

const errors: Readonly<Record<number, readonly [code: string, message: string]>> = {
  400: ['CPL_API_VALUE', 'body: allowed is UTF-8'],
  408: ['CPL_API_BODY_TIME', 'the body did not come in time'],
  413: ['CPL_API_BODY_SIZE', 'the body is too large'],
  429: ['CPL_API_BUSY', 'too many requests from this address'],
  500: ['CPL_API_FAILED', 'the server failed at this request'],
  503: ['CPL_API_BUSY', 'the server is busy or going away: try again later'],
};

const methodsWithBody = new Set(['POST', 'PUT', 'PATCH', 'DELETE']);

/** The API over HTTP: reads requests and writes answers, each bounded in size, time and number. */
export class ApiEndpoint {
  /** Requests under way, and streams. */
  pending = 0;
  streams = 0;
  readonly #parts: ApiEndpointParts;
  readonly #limits: ApiEndpointLimits;
  readonly #open = new Set<Answering>();

  constructor(parts: ApiEndpointParts) {
    this.#parts = parts;
    this.#limits = { ...defaultLimits, ...parts.limits };
  }

  /** Puts the endpoint on an app, before what takes every path. */
  register(app: TemplatedApp, ssl: boolean): void {
    app.any('/api/v1/*', (res, req) => {
      try {
        this.#take(res, req, ssl);
      } catch (error) {
        // Before anything asynchronous was begun: the response is still ours.
        this.#parts.failed(error);
        res.close();
      }
    });
  }

  /** Ends streams of events, so that a server that goes away does not wait for them. */
  close(): void {
    for (const answering of this.#open) answering.close();
  }

  #take(res: HttpResponse, req: HttpRequest, ssl: boolean): void {
    const answering = new Answering(res, req.getCaseSensitiveMethod() === 'HEAD', this.#parts.failed);
    this.#open.add(answering);
    answering.onEnd = () => this.#open.delete(answering);
    const address = this.#parts.clientAddress({
      tcp: latin1(res.getRemoteAddressAsText()),
      proxied: latin1(res.getProxiedRemoteAddressAsText()),
      forwardedFor: headerValues(req, 'x-forwarded-for', ','),
    });
    if (!this.#parts.accepting() || this.pending >= this.#limits.maxPending) return refuse(answering, 503);
    if (!this.#parts.admit(address)) return refuse(answering, 429);
    const method = req.getCaseSensitiveMethod();
    const request = {
      method,
      path: req.getUrl(),
      // The typings hide that there is none where the URL has no `?`.
      query: (req.getQuery() as string | undefined) ?? '',
      headers: {
        authorization: req.getHeader('authorization'),
        cookie: headerValues(req, 'cookie', ';'),
        origin: headerValues(req, 'origin', ','),
        contentType: req.getHeader('content-type'),
        range: req.getHeader('range'),
        ifRange: req.getHeader('if-range'),
        lastEventId: req.getHeader('last-event-id'),
      },
      address,
      scheme: ssl ? ('https' as const) : ('http' as const),
      host: req.getHeader('host'),
    };
    const length = Number(req.getHeader('content-length') || 0);
    if (length > this.#limits.maxBodyBytes) return refuse(answering, 413);
    this.pending++;
    let counted = true;
    const over = () => {
      if (counted) this.pending--;
      counted = false;
    };
    answering.onEnd = () => {
      over();
      this.#open.delete(answering);
    };
    const go = (body: string) => void this.#answer({ ...request, body }, answering, over);
    const hasBody = length > 0 || req.getHeader('transfer-encoding') !== '';
    if (methodsWithBody.has(method) && hasBody) this.#readBody(res, answering, go);
    else go('');
  }

  #readBody(res: HttpResponse, answering: Answering, done: (body: string) => void): void {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let over = false;
    const once = (then: () => void) => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      then();
    };
    const timer = setTimeout(() => once(() => refuse(answering, 408)), this.#limits.bodyMs);
    answering.onAborted = () => once(() => {});
    res.onData((chunk, isLast) => {
      if (over) return;
      bytes += chunk.byteLength;
      if (bytes > this.#limits.maxBodyBytes) return once(() => refuse(answering, 413));
      // Copied: uWebSockets.js takes the memory back.
      chunks.push(Buffer.from(new Uint8Array(chunk)));
      if (!isLast) return;
      once(() => {
        const text = utf8(Buffer.concat(chunks, bytes));
        if (text === undefined) refuse(answering, 400);
        else done(text);
      });
    });
  }

  async #answer(request: HttpApiRequest, answering: Answering, over: () => void): Promise<void> {
    try {
      const answer = await this.#parts.dispatch(request);
      if (answer.kind === 'json') {
        return answering.json(
          answer.status,
          answer.headers,
          answer.body === undefined ? undefined : toSafeJson(answer.body),
        );
      }
      if (this.streams >= this.#limits.maxStreams) return refuse(answering, 503);
      over();
      this.streams++;
      try {
        if (answer.kind === 'stream') await answering.stream(answer);
        else await answering.events(answer);
      } finally {
        this.streams--;
      }
    } catch (error) {
      this.#parts.failed(error);
      refuse(answering, 500);
    }
  }
}

function refuse(answering: Answering, status: number): void {
  const [code, message] = errors[status]!;
  const headers: Record<string, string> = status === 503 || status === 429 ? { 'retry-after': '1' } : {};
  // The rest of a body that nobody reads must not be taken for the next request.
  answering.json(status, headers, toSafeJson({ error: { code, message } }), true);
}

function utf8(bytes: Buffer): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return undefined; // no UTF-8
  }
}

function latin1(buffer: ArrayBuffer): string {
  return Buffer.from(buffer).toString('latin1');
}

/** All values of a header: uWebSockets.js's getHeader gives the first alone. */
function headerValues(req: HttpRequest, name: string, separator: string): string {
  const values: string[] = [];
  req.forEach((key, value) => {
    if (key === name) values.push(value);
  });
  return values.join(separator);
}
