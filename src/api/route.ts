import { z } from 'zod';
import type { ApiParts } from './parts.ts';
import type { Permissions } from './permissions.ts';
import type { ApiRequest, Caller, EventsAnswer, StreamAnswer } from './request.ts';
import type { Scope } from './scopes.ts';

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
type Schema = z.ZodType;

export const nothing = z.strictObject({});
type Nothing = typeof nothing;

/** What a handler gets. */
export interface Call<P = unknown, Q = unknown, B = unknown> {
  readonly parts: ApiParts;
  readonly request: ApiRequest;
  readonly caller: Caller;
  /** What the caller may do in {@link domain}. */
  readonly may: Permissions;
  /** The caller's own, or that of `?domain=` where the caller may act there. */
  readonly domain: string;
  readonly params: P;
  readonly query: Q;
  readonly body: B;
  /** Of the answer, also where it becomes an error. */
  readonly headers: Record<string, string>;
}

interface Shared<P extends Schema, Q extends Schema, B extends Schema> {
  readonly method: Method;
  /** Below the prefix: `/users/{userId}`. */
  readonly path: `/${string}`;
  /** One line, for the document. */
  readonly summary: string;
  /** What an API token must be good for. */
  readonly scope: Scope;
  /** `user`: who is not logged in gets 401. */
  readonly caller: 'public' | 'user';
  /** True where `?domain=` may be given. */
  readonly inDomain?: boolean;
  readonly params?: P;
  readonly query?: Q;
  readonly body?: B;
  /** The status of success: 200, or 204 without an answer, unless told. */
  readonly status?: number;
}

/** A route as its file writes it. */
type RouteSpec<P extends Schema, Q extends Schema, B extends Schema, A extends Schema> = Shared<P, Q, B> &
  (
    | {
        readonly answer: A;
        handler(call: Call<z.output<P>, z.output<Q>, z.output<B>>): Promise<z.input<A>>;
      }
    | {
        readonly answer?: undefined;
        handler(call: Call<z.output<P>, z.output<Q>, z.output<B>>): Promise<void>;
      }
    | {
        /** The media type. */
        readonly answer: 'stream';
        readonly contentType: string;
        handler(call: Call<z.output<P>, z.output<Q>, z.output<B>>): Promise<StreamAnswer>;
      }
    | {
        readonly answer: 'events';
        handler(call: Call<z.output<P>, z.output<Q>, z.output<B>>): Promise<EventsAnswer>;
      }
  );

/** A route as the router and the document see it. */
export interface Route extends Shared<Schema, Schema, Schema> {
  readonly answer?: Schema | 'stream' | 'events' | undefined;
  readonly contentType?: string;
  handler(call: Call): Promise<unknown>;
}

/** One route of the API; infers the handler's types from the schemas. */
export function route<
  P extends Schema = Nothing,
  Q extends Schema = Nothing,
  B extends Schema = Nothing,
  A extends Schema = Nothing,
>(spec: RouteSpec<P, Q, B, A>): Route {
  return spec as unknown as Route;
}

/** A path template taken apart: texts, and names in braces. */
export interface Template {
  readonly parts: readonly { readonly text: string; readonly isName: boolean }[];
}

export function templateOf(path: string): Template {
  const parts = path.slice(1).split('/');
  return {
    parts: parts.map((part) =>
      part.startsWith('{') ? { text: part.slice(1, -1), isName: true } : { text: part, isName: false },
    ),
  };
}

/** The named parts of a path's segments, which are decoded already; `undefined` where it is no such path. */
export function matchTemplate({ parts }: Template, segments: readonly string[]): Record<string, string> | undefined {
  if (parts.length !== segments.length) return undefined;
  const params: Record<string, string> = {};
  for (const [index, { text, isName }] of parts.entries()) {
    const segment = segments[index]!;
    if (!isName && segment !== text) return undefined;
    if (isName) params[text] = segment;
  }
  return params;
}
