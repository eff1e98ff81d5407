import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { z } from 'zod';
import { CoupletError } from '../core/errors.ts';
import { connectError, printableLine } from './client-errors.ts';
import type { OpenTunnel, TransportSecurity, TunnelRequest, TunnelTicket } from './open-tunnel.ts';

/*
 * The API as its clients use it, all JSON. Errors are answered with a status of 4xx or 5xx and
 * `{"error":{"code":"CPL_…","message":"one line"}}`.
 *
 * Besides `request`, which is for any route, three calls:
 *
 *   POST /api/v1/login     {"user","password"}              → {"token"}
 *   GET  /api/v1/devices   ?name=NAME (exact), Bearer token → {"devices":[{"nodeid","name","online"}]}
 *   POST /api/v1/tunnels   Bearer token
 *        {"nodeid","transport":"tcp"|"udp","host","port"} or {"nodeid","transport":"none","protocol"}
 *                                                           → {"url","id","cookie"}
 *
 * Of a tunnel: `url` is where the user half connects, an absolute `ws:`/`wss:` URL, or a path on this server
 * (`/meshrelay.ashx?p=1`), which is what a server that does not know its own public name gives. `cookie` is a user cookie
 * with the routing instruction and `id` in it, single use and short-lived (R7): it opens this target and no other. A
 * device that is offline may be answered here (409) or when the half connects (4404).
 */

const loginAnswer = z.object({ token: z.string().min(1) });
const devicesAnswer = z.object({
  devices: z.array(z.object({ nodeid: z.string().min(1), name: z.string(), online: z.boolean().optional() })),
});
const tunnelAnswer = z.object({ url: z.string().min(1), id: z.string().min(1), cookie: z.string().min(1) });
const errorAnswer = z.object({ error: z.object({ message: z.string() }) });

const timeoutMs = 20_000;
const maxAnswerBytes = 4 * 1024 * 1024;

/** A client of one server's API. */
export class ApiClient {
  readonly #base: URL;
  readonly #security: TransportSecurity;
  #token: string;

  /** @param url `http:`, `https:`, `ws:` or `wss:` URL of the server. @throws CoupletError `CPL_CLIENT_URL` */
  constructor(url: string, security: TransportSecurity = {}, token = '') {
    const base = URL.canParse(url) ? new URL(url) : undefined;
    const scheme = /^(?:ws|http)(s?):$/.exec(base?.protocol ?? '');
    if (base === undefined || scheme === null) {
      throw new CoupletError('CPL_CLIENT_URL', 'the server URL must read https://HOST or http://HOST:PORT');
    }
    this.#base = new URL(`http${scheme[1]}://${base.host}${base.pathname.replace(/\/+$/, '')}`);
    this.#security = security;
    this.#token = token;
  }

  /** Logs in; later calls carry the token. */
  async login(user: string, password: string, signal?: AbortSignal): Promise<void> {
    this.#token = (await this.#call(loginAnswer, 'POST', '/login', { user, password }, signal)).token;
  }

  /** The nodeid of a device named by its nodeid or by its name. @throws CoupletError `CPL_CLIENT_DEVICE` */
  async findDevice(device: string, signal?: AbortSignal): Promise<string> {
    if (device.startsWith('node/')) return device;
    const path = `/devices?name=${encodeURIComponent(device)}`;
    const { devices } = await this.#call(devicesAnswer, 'GET', path, undefined, signal);
    const found = devices.filter(({ name }) => name === device);
    const [first] = found;
    if (first !== undefined && found.length === 1) return first.nodeid;
    const what = found.length === 0 ? 'no device that you may see is' : `${found.length} devices are`;
    const hint = found.length === 0 ? '' : `; name one by its nodeid: ${found.map(({ nodeid }) => nodeid).join(', ')}`;
    throw new CoupletError('CPL_CLIENT_DEVICE', `${what} called ${JSON.stringify(device)}${hint}`);
  }

  /** A ticket for one session. */
  readonly openTunnel: OpenTunnel = async (request, signal) => {
    const ticket = await this.#call(tunnelAnswer, 'POST', '/tunnels', tunnelBody(request), signal);
    return { ...ticket, url: this.relayUrl(ticket) };
  };

  /** The absolute URL of a ticket's, or of a share's, on this server. */
  relayUrl({ url }: Pick<TunnelTicket, 'url'>): string {
    if (!url.startsWith('/')) return url;
    const path = this.#base.pathname.replace(/\/$/, '');
    return `${this.#base.protocol === 'https:' ? 'wss' : 'ws'}://${this.#base.host}${path}${url}`;
  }

  /**
   * Any call of the API.
   * @param path below the prefix, percent-encoded, with query: `/users?limit=10`
   * @returns the answer, not looked at; `undefined` where there is none (204)
   * @throws CoupletError `CPL_CLIENT_API` with the server's words and status, `CPL_CLIENT_CONNECT`
   */
  async request(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<unknown> {
    const url = new URL(this.#base.href);
    const base = url.pathname.replace(/\/$/, '');
    const target = `${base}/api/v1${path}`;
    const where = `${url.protocol}//${url.host}${target.replace(/\?.*$/s, '')}`;
    const { status, text } = await this.#exchange(target, where, method, body, signal);
    if (status === 204) return undefined;
    let answer: unknown;
    try {
      answer = JSON.parse(text);
    } catch {
      answer = undefined; // a page of a proxy's, for example
    }
    if (status >= 200 && status < 300) {
      if (answer !== undefined) return answer;
      throw noApi(where);
    }
    const told = errorAnswer.safeParse(answer);
    const why = told.success ? `: ${printableLine(told.data.error.message)}` : '';
    throw new CoupletError('CPL_CLIENT_API', `${where} answered HTTP ${status}${why}`, { httpStatus: status });
  }

  async #call<T>(
    schema: z.ZodType<T>,
    method: 'GET' | 'POST',
    path: string,
    body: unknown,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const parsed = schema.safeParse(await this.request(method, path, body, signal));
    if (parsed.success) return parsed.data;
    throw noApi(`${this.#base.href.replace(/\/$/, '')}/api/v1${path.replace(/\?.*$/s, '')}`);
  }

  /** @param target as it goes over the wire: a URL object would take a name like `..` for a way up */
  #exchange(
    target: string,
    where: string,
    method: string,
    body: unknown,
    signal: AbortSignal | undefined,
  ): Promise<{ status: number; text: string }> {
    const { ca, insecure } = this.#security;
    const data = body === undefined ? undefined : JSON.stringify(body);
    const make = this.#base.protocol === 'https:' ? httpsRequest : httpRequest;
    return new Promise((resolve, reject) => {
      const fail = (cause: unknown) => reject(signal?.aborted ? signal.reason : connectError(where, cause));
      const request = make(
        this.#base,
        {
          method,
          path: target,
          headers: {
            accept: 'application/json',
            ...(data !== undefined && {
              'content-type': 'application/json',
              'content-length': Buffer.byteLength(data),
            }),
            ...(this.#token !== '' && { authorization: `Bearer ${this.#token}` }),
          },
          timeout: timeoutMs,
          agent: false,
          ...(ca !== undefined && { ca }),
          rejectUnauthorized: insecure !== true,
          ...(signal && { signal }),
        },
        (response) => {
          const chunks: Buffer[] = [];
          let bytes = 0;
          response.on('data', (chunk: Buffer) => {
            bytes += chunk.length;
            if (bytes > maxAnswerBytes) request.destroy(new Error('the answer is too long'));
            else chunks.push(chunk);
          });
          response.on('error', fail);
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }),
          );
        },
      );
      request.on('timeout', () => request.destroy(new Error('no answer in time')));
      request.on('error', fail);
      request.end(data);
    });
  }
}

function noApi(where: string): CoupletError {
  return new CoupletError('CPL_CLIENT_API', `${where} gave an answer that is none of Couplet's API`);
}

function tunnelBody(request: TunnelRequest): Record<string, unknown> {
  const { device, ...rest } = request;
  return { nodeid: device, ...rest };
}
