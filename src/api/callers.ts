import { cookieValue, loginCookie } from '../auth/login-cookie.ts';
import { isOriginAllowed } from '../auth/origin.ts';
import { forbidden, unauthorized } from './errors.ts';
import type { ApiParts } from './parts.ts';
import type { ApiRequest, Caller, UserCaller } from './request.ts';

const bearer = /^bearer +([!-~]+)$/i;
const safeMethods = new Set(['GET', 'HEAD', 'OPTIONS']);
const apiTokenPrefix = 'cplt_';

/**
 * Who calls: `Authorization` goes before the login cookie, and a bad one is not made good by a good cookie. A login
 * cookie comes with requests that other sites make a browser send: all but reading needs a proper Origin then [R10].
 * @throws CoupletError `CPL_API_UNAUTHORIZED` for a credential that does not hold, whatever the reason;
 * `CPL_API_FORBIDDEN` for the Origin
 */
export async function identify(parts: ApiParts, request: ApiRequest): Promise<Caller> {
  if (request.caller !== undefined) return request.caller;
  const { authorization, cookie } = request.headers;
  const { address } = request;
  if (authorization !== '') {
    const token = bearer.exec(authorization)?.[1];
    const caller = token === undefined ? undefined : await byToken(parts, token, address);
    if (caller === undefined) throw unauthorized();
    return caller;
  }
  const token = cookieValue(cookie, loginCookie);
  if (token === undefined) return { kind: 'nobody', address };
  const login = await parts.directory.loginSessions.verify(token);
  if (login === undefined) throw unauthorized();
  if (!safeMethods.has(request.method)) requireOrigin(parts, request);
  return { kind: 'cookie', user: login.user, scopes: ['all'], credentialId: login.session.id, address };
}

async function byToken(parts: ApiParts, token: string, address: string): Promise<UserCaller | undefined> {
  if (token.startsWith(apiTokenPrefix)) {
    const found = await parts.directory.apiTokens.verify(token);
    if (found === undefined) return undefined;
    return { kind: 'token', user: found.user, scopes: found.token.scopes, credentialId: found.token.id, address };
  }
  const login = await parts.directory.loginSessions.verify(token);
  if (login === undefined) return undefined;
  return { kind: 'session', user: login.user, scopes: ['all'], credentialId: login.session.id, address };
}

/** [R10] @throws CoupletError `CPL_API_FORBIDDEN` */
export function requireOrigin(parts: ApiParts, request: ApiRequest): void {
  const { headers, scheme, host } = request;
  if (isOriginAllowed(headers.origin, scheme, host, parts.allowedOrigins())) return;
  throw forbidden('a login cookie counts only with an Origin of this server or of server.allowedOrigins', 'origin');
}
