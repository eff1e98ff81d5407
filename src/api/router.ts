import { CoupletError } from '../core/errors.ts';
import { quote } from '../directory/errors.ts';
import { identify } from './callers.ts';
import { badRequest, errorAnswer, forbidden, invalid, unauthorized } from './errors.ts';
import type { ApiParts } from './parts.ts';
import { Permissions } from './permissions.ts';
import { type ApiAnswer, type ApiRequest, apiPrefix, type Caller, type JsonAnswer } from './request.ts';
import { type Call, matchTemplate, nothing, type Route, type Template, templateOf } from './route.ts';
import { covers } from './scopes.ts';

/** What routes of these scopes do may end sessions, wherever they run. */
const directoryScopes = /^(account|users|user-groups|domains|device-groups|devices|grants|shares):write$/;

interface Entry {
  readonly route: Route;
  readonly template: Template;
}

/** Finds a request's route, checks who calls and what is given, and turns what comes of it into an answer. */
export class Router {
  readonly #parts: ApiParts;
  readonly #entries: readonly Entry[];

  constructor(parts: ApiParts, routes: readonly Route[]) {
    this.#parts = parts;
    this.#entries = routes.map((route) => ({ route, template: templateOf(route.path) }));
  }

  /** Answers a request; never rejects. In-process callers give `request.caller`. */
  readonly dispatch = async (request: ApiRequest): Promise<ApiAnswer> => {
    const headers: Record<string, string> = {};
    try {
      return await this.#dispatch(request, headers);
    } catch (error) {
      const { status, ...told } = errorAnswer(error);
      if (status >= 500) this.#parts.failed(error);
      if (status === 401) headers['www-authenticate'] = 'Bearer';
      return json(status, headers, { error: told });
    }
  };

  async #dispatch(request: ApiRequest, headers: Record<string, string>): Promise<ApiAnswer> {
    const { route, params } = this.#find(request, headers) ?? {};
    if (route === undefined) return json(204, headers, undefined);
    const caller = await this.#callerOf(route, request);
    const query = readQuery(request.query);
    const domain = domainFor(route, caller, query);
    const call: Call = {
      parts: this.#parts,
      request,
      caller,
      domain,
      may: new Permissions(this.#parts.directory, caller, domain),
      params: check('path', route.params ?? nothing, params),
      query: check('query', route.query ?? nothing, query),
      body: readBody(route, request),
      headers,
    };
    if (route.inDomain === true) await call.may.requireDomain();
    const result = await route.handler(call);
    if (directoryScopes.test(route.scope)) await this.#parts.spreadChanges();
    if (route.answer === 'stream' || route.answer === 'events') {
      const answer = result as ApiAnswer;
      return { ...answer, headers: { ...headers, ...answer.headers } };
    }
    if (route.answer === undefined) return json(route.status ?? 204, headers, undefined);
    // Only what the document says leaves the house; a mismatch is a bug of ours (500), not the caller's.
    const checked = route.answer.safeParse(result);
    if (!checked.success) {
      throw new Error(`${route.method} ${route.path} answers against its schema`, { cause: checked.error });
    }
    return json(route.status ?? 200, headers, checked.data);
  }

  /** `undefined` for OPTIONS, which is answered by `Allow`. @throws CoupletError 404, 405 */
  #find({ method, path }: ApiRequest, headers: Record<string, string>) {
    const segments = segmentsOf(path);
    const matches = this.#entries.flatMap(({ route, template }) => {
      const params = segments === undefined ? undefined : matchTemplate(template, segments);
      return params === undefined ? [] : [{ route, params }];
    });
    if (matches.length === 0) {
      const text = `there is no ${quote(path)} in this API: ${apiPrefix}/openapi.json lists what there is`;
      throw new CoupletError('CPL_API_PATH', text, { httpStatus: 404 });
    }
    const found = matches.find(({ route }) => route.method === (method === 'HEAD' ? 'GET' : method));
    if (found !== undefined) return found;
    const known = matches.map(({ route }) => route.method);
    const allowed = [...known, ...(known.includes('GET') ? ['HEAD'] : []), 'OPTIONS'].join(', ');
    headers.allow = allowed;
    if (method === 'OPTIONS') return undefined;
    const text = `method ${quote(method)} is none of ${quote(path)}: allowed are ${allowed}`;
    throw new CoupletError('CPL_API_METHOD', text, { httpStatus: 405 });
  }

  async #callerOf(route: Route, request: ApiRequest): Promise<Caller> {
    if (route.caller === 'public') return request.caller ?? { kind: 'nobody', address: request.address };
    const caller = await identify(this.#parts, request);
    if (caller.kind === 'nobody') throw unauthorized();
    if (caller.kind === 'root' || covers(caller.scopes, route.scope)) return caller;
    throw forbidden(`this API token is not good for ${route.scope}`, 'scope');
  }
}

function json(status: number, headers: Record<string, string>, body: unknown): JsonAnswer {
  return { kind: 'json', status, headers, body };
}

/** Decoded segments below the prefix; `undefined` where one is empty or its escapes are broken. */
function segmentsOf(path: string): string[] | undefined {
  if (!path.startsWith(`${apiPrefix}/`)) return undefined;
  const segments = path.slice(apiPrefix.length + 1).split('/');
  try {
    const decoded = segments.map(decodeURIComponent);
    return decoded.includes('') ? undefined : decoded;
  } catch {
    return undefined; // a broken escape: the path of nothing
  }
}

/** Each parameter once: of two, which is meant? */
function readQuery(raw: string): Record<string, string> {
  const values = new Map<string, string>();
  for (const [name, value] of new URLSearchParams(raw)) {
    if (values.has(name)) throw badRequest(`query.${quote(name).slice(1, -1)}: allowed is once`);
    values.set(name, value);
  }
  return Object.fromEntries(values);
}

/** Takes `domain` out of the query; without one it is the caller's own. */
function domainFor(route: Route, caller: Caller, query: Record<string, string>): string {
  const own = 'user' in caller ? caller.user.domain : '';
  if (route.inDomain !== true || !Object.hasOwn(query, 'domain')) return own;
  const { domain } = query;
  delete query.domain;
  return domain === '~' ? '' : domain!;
}

function check(place: string, schema: NonNullable<Route['query']>, value: unknown): unknown {
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  throw invalid(place, value, checked.error);
}

/** A body of another type could come from a form on any site; browsers ask before they send this one. */
const jsonType = /^application\/json *(?:; *charset=utf-8 *)?$/i;

function readBody(route: Route, { body, headers }: ApiRequest): unknown {
  if (route.body === undefined) {
    if (body.trim() === '') return {};
    throw badRequest('body: this takes none');
  }
  if (body === '') return check('body', route.body, {});
  if (!jsonType.test(headers.contentType)) {
    const text = `content-type ${quote(headers.contentType)}: allowed is application/json`;
    throw new CoupletError('CPL_API_CONTENT_TYPE', text, { httpStatus: 415 });
  }
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw badRequest('body: allowed is JSON');
  }
  return check('body', route.body, value);
}
