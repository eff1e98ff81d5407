import { z } from 'zod';
import { loginCookie } from '../auth/login-cookie.ts';
import { apiPrefix } from './request.ts';
import type { Route } from './route.ts';
import { scopeWords } from './scopes.ts';

type Json = Record<string, unknown>;

/** Refusals that any route may answer with, beside its own. */
const refusals: Readonly<Record<string, string>> = {
  400: 'A value is missing or not allowed.',
  401: 'No credential, or one that does not hold.',
  403: 'The caller may not do this, or the Origin is wrong.',
  404: 'Not there, or not for the caller to see.',
  409: 'Not in this state: taken, in use, offline.',
  429: 'Too many attempts; `Retry-After` says when to come back.',
  503: 'The server cannot do this now.',
};

const errorSchema = {
  type: 'object',
  required: ['error'],
  properties: {
    error: {
      type: 'object',
      required: ['code', 'message'],
      properties: {
        code: { type: 'string', description: 'Stable, `CPL_…`.' },
        message: { type: 'string', description: 'One line.' },
        reason: { type: 'string', description: 'The right, scope or rule that refused.' },
      },
    },
  },
};

const errorContent = { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } };

const domainParameter = {
  name: 'domain',
  in: 'query',
  required: false,
  description: 'Another domain, for default-domain users with all site rights; `~` is the default domain.',
  schema: { type: 'string' },
};

/**
 * The OpenAPI 3.1 document of these routes. `docs/reference/openapi.json` is this, made by
 * `node --import tsx src/api/document.ts`; a test holds the two equal.
 */
export function openApiDocument(routes: readonly Route[]): Json {
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    paths[route.path] ??= {};
    paths[route.path]![route.method.toLowerCase()] = operation(route);
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Couplet',
      version: '1',
      description:
        'Directory, tunnels, shares, sessions, recordings and events of a Couplet server. Ids hold slashes: in a path they stand percent-encoded in one segment (`/users/user%2F%2Falice`); names may be given for ids. Rights are numbers or names.',
    },
    servers: [{ url: apiPrefix }],
    paths,
    components: {
      schemas: { Error: errorSchema },
      responses: Object.fromEntries(
        Object.entries(refusals).map(([status, description]) => [status, { description, content: errorContent }]),
      ),
      securitySchemes: {
        bearer: {
          type: 'http',
          scheme: 'bearer',
          description: `A login's token, or an API token (\`cplt_…\`), which is good for its scopes: ${scopeWords.join(', ')}. \`X:write\` covers \`X:read\`.`,
        },
        cookie: {
          type: 'apiKey',
          in: 'cookie',
          name: loginCookie,
          description: 'All but reading needs an `Origin` of the server or of `server.allowedOrigins` besides.',
        },
      },
    },
  };
}

function operation(route: Route): Json {
  const { summary, scope, params, query, body, caller } = route;
  const inPath = params === undefined ? [] : parameters('path', params);
  const inQuery = query === undefined ? [] : parameters('query', query);
  const all = [...inPath, ...inQuery, ...(route.inDomain === true ? [domainParameter] : [])];
  return {
    summary,
    ...(all.length > 0 && { parameters: all }),
    ...(body !== undefined && {
      requestBody: { required: true, content: { 'application/json': { schema: schemaOf(body, 'input') } } },
    }),
    responses: { ...success(route), ...failures(route) },
    security: caller === 'public' ? [] : [{ bearer: [scope] }, { cookie: [] }],
  };
}

function success({ answer, status, contentType }: Route): Json {
  const code = String(status ?? (answer === undefined ? 204 : 200));
  if (answer === undefined) return { [code]: { description: 'Done.' } };
  if (answer === 'events') {
    return { [code]: { description: 'Server-sent events.', content: { 'text/event-stream': {} } } };
  }
  if (answer === 'stream') {
    const content = { [contentType ?? 'application/octet-stream']: {} };
    return { 200: { description: 'All bytes.', content }, 206: { description: 'The bytes of `Range`.', content } };
  }
  return { [code]: { description: 'Done.', content: { 'application/json': { schema: schemaOf(answer, 'output') } } } };
}

function failures({ caller }: Route): Json {
  const told = Object.entries(refusals).filter(([status]) => caller === 'user' || status !== '403');
  return Object.fromEntries(told.map(([status]) => [status, { $ref: `#/components/responses/${status}` }]));
}

function parameters(place: 'path' | 'query', schema: z.ZodType): Json[] {
  const { properties = {}, required = [] } = schemaOf(schema, 'input') as {
    properties?: Record<string, Json>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, { description, ...one }]) => ({
    name,
    in: place,
    required: required.includes(name),
    ...(description !== undefined && { description }),
    schema: one,
  }));
}

function schemaOf(schema: z.ZodType, io: 'input' | 'output'): Json {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as Json;
  return rest;
}
