import { z } from 'zod';
import { loginCookie } from '../../auth/login-cookie.ts';
import { CoupletError } from '../../core/errors.ts';
import type { LoginResult } from '../../directory/directory.ts';
import { requireOrigin } from '../callers.ts';
import { conflict } from '../errors.ts';
import { found } from '../permissions.ts';
import { type Call, type Route, route } from '../route.ts';
import { showUser, userOut } from './users.ts';

const lifetimeMs = 86_400_000;

const loginBody = z.strictObject({
  user: z.string().max(256),
  password: z.string().max(4_096),
  domain: z.string().max(64).optional(),
  cookie: z.boolean().optional().describe('The token goes into an HttpOnly cookie and not into the answer.'),
});

/**
 * Checks a password and tells of it. One answer for all reasons but too many attempts.
 * @throws CoupletError `CPL_API_LOGIN` (`refusedStatus`), `CPL_API_LOCKED_OUT` (429, with `Retry-After`)
 */
export async function checkPassword(
  { parts, request, headers }: Pick<Call, 'parts' | 'request' | 'headers'>,
  domain: string,
  name: string,
  password: string,
  refusedStatus: 401 | 403 = 401,
): Promise<Extract<LoginResult, { ok: true }>> {
  const { address } = request;
  const result = await parts.directory.login({ domain, name, password, address });
  if (result.ok) return result;
  parts.events.loginFailed({ name, domain, address, reason: result.refusal });
  if (result.refusal !== 'locked-out') {
    throw new CoupletError('CPL_API_LOGIN', 'user or password is wrong', { httpStatus: refusedStatus });
  }
  const seconds = Math.max(1, Math.ceil(result.retryAfterMs / 1000));
  headers['retry-after'] = String(seconds);
  const text = `too many attempts: try again in ${seconds} s`;
  throw new CoupletError('CPL_API_LOCKED_OUT', text, { httpStatus: 429 });
}

/** No script reads the cookie, no other site's page sends it. */
function setCookie(call: Pick<Call, 'request' | 'headers'>, value: string, maxAgeSeconds: number): void {
  const secure = call.request.scheme === 'https' ? '; Secure' : '';
  const attributes = `; HttpOnly; SameSite=Strict; Path=/; Max-Age=${maxAgeSeconds}${secure}`;
  call.headers['set-cookie'] = `${loginCookie}=${value}${attributes}`;
}

const login = route({
  method: 'POST',
  path: '/login',
  summary: 'Log in with a password',
  scope: 'all',
  caller: 'public',
  body: loginBody,
  answer: z.object({
    token: z.string().optional().describe('For "Authorization: Bearer"; absent where it went into the cookie.'),
    user: userOut,
  }),
  async handler(call) {
    const { parts, request, body } = call;
    // A page of another site must not log its visitor in as somebody else.
    if (body.cookie === true && request.headers.origin !== '') requireOrigin(parts, request);
    const { user } = await checkPassword(call, body.domain ?? '', body.user, body.password);
    const { address } = request;
    const { token, session } = await parts.directory.loginSessions.create(user.id, { address, lifetimeMs });
    parts.events.loggedIn({ userid: user.id, domain: user.domain, address, loginId: session.id });
    if (body.cookie !== true) return { token, user: showUser(user) };
    setCookie(call, token, lifetimeMs / 1000);
    return { user: showUser(user) };
  },
});

const logout = route({
  method: 'POST',
  path: '/logout',
  summary: 'End the login session that this request is made with',
  scope: 'account:write',
  caller: 'user',
  async handler(call) {
    const { parts, caller, request } = call;
    if (caller.kind !== 'session' && caller.kind !== 'cookie') {
      throw conflict('there is no login session to end: an API token is revoked instead');
    }
    // One that ended meanwhile is ended.
    await found(parts.directory.loginSessions.end(caller.credentialId));
    if (caller.kind === 'cookie') setCookie(call, '', 0);
    const { user, credentialId: loginId } = caller;
    parts.events.loggedOut({ userid: user.id, domain: user.domain, address: request.address, loginId });
  },
});

export const loginRoutes: readonly Route[] = [login, logout];
