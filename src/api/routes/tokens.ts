import { z } from 'zod';
import type { ApiToken } from '../../directory/directory.ts';
import { forbidden, notFound } from '../errors.ts';
import type { ApiParts } from '../parts.ts';
import type { UserCaller } from '../request.ts';
import { type Route, route } from '../route.ts';
import { covers, scopeWords } from '../scopes.ts';
import { actorOf, epochMs, maybeMs, orNull, text } from '../shapes.ts';
import { userOf } from './account.ts';

const tokenOut = z.object({
  id: z.string(),
  name: z.string(),
  scopes: z.array(z.string()),
  createdMs: epochMs,
  expiresMs: maybeMs,
  lastUseMs: maybeMs,
});

function showToken({ id, name, scopes, createdMs, expiresMs, lastUseMs }: ApiToken): z.input<typeof tokenOut> {
  return { id, name, scopes: [...scopes], createdMs, expiresMs: orNull(expiresMs), lastUseMs: orNull(lastUseMs) };
}

/** An API token makes none that can do more, or lasts longer, than itself. @throws CoupletError 403 */
async function requireNoMore(
  { directory }: ApiParts,
  caller: UserCaller,
  wanted: { scopes: readonly string[]; expiresMs?: number | undefined },
): Promise<void> {
  const beyond = wanted.scopes.find((scope) => !covers(caller.scopes, scope));
  if (beyond !== undefined) throw forbidden(`this API token is not good for ${beyond} itself`, 'scope');
  if (caller.kind !== 'token') return;
  const own = (await directory.apiTokens.list(caller.user.id)).find(({ id }) => id === caller.credentialId);
  if (own?.expiresMs === undefined || (wanted.expiresMs ?? Number.POSITIVE_INFINITY) <= own.expiresMs) return;
  throw forbidden('an API token makes none that lasts longer than itself', 'expiry');
}

const list = route({
  method: 'GET',
  path: '/tokens',
  summary: 'List the own API tokens',
  scope: 'account:read',
  caller: 'user',
  answer: z.object({ tokens: z.array(tokenOut) }),
  async handler({ parts, caller }) {
    return { tokens: (await parts.directory.apiTokens.list(userOf(caller).user.id)).map(showToken) };
  },
});

const create = route({
  method: 'POST',
  path: '/tokens',
  summary: 'Make an API token of the own; its secret is shown here and never again',
  scope: 'account:write',
  caller: 'user',
  body: z.strictObject({
    name: text,
    scopes: z.array(z.enum(scopeWords)).min(1),
    expiresMs: epochMs.optional().describe('Epoch ms; without it the token is good until it is revoked.'),
  }),
  status: 201,
  answer: tokenOut.extend({ secret: z.string().describe('For "Authorization: Bearer".') }),
  async handler(call) {
    const { parts, caller, body } = call;
    const own = userOf(caller);
    await requireNoMore(parts, own, body);
    const { secret, token } = await parts.directory.apiTokens.create(own.user.id, body);
    parts.events.tokenCreated({ actor: actorOf(caller), domain: call.domain, token });
    return { ...showToken(token), secret };
  },
});

const revoke = route({
  method: 'DELETE',
  path: '/tokens/{id}',
  summary: 'Revoke one of the own API tokens',
  scope: 'account:write',
  caller: 'user',
  params: z.strictObject({ id: z.string().max(64) }),
  async handler(call) {
    const { parts, caller, params } = call;
    const own = await parts.directory.apiTokens.list(userOf(caller).user.id);
    const token = own.find(({ id }) => id === params.id);
    if (token === undefined) throw notFound('API token', params.id);
    await parts.directory.apiTokens.revoke(token.id);
    parts.events.tokenRevoked({ actor: actorOf(caller), domain: call.domain, token });
  },
});

export const tokenRoutes: readonly Route[] = [list, create, revoke];
