import { toSafeJson } from '../audit/safe-text.ts';
import type { User } from '../directory/directory.ts';

/** The path that every request of the API begins with. */
export const apiPrefix = '/api/v1';

/** Header values that the API looks at; empty where there was none. Hold secrets: never to be logged. */
export interface ApiHeaders {
  readonly authorization: string;
  readonly cookie: string;
  readonly origin: string;
  readonly contentType: string;
  readonly range: string;
  readonly ifRange: string;
  readonly lastEventId: string;
}

/** One request, free of any transport. */
export interface ApiRequest {
  /** Upper-case. */
  readonly method: string;
  /** As it came, percent-encoded, from {@link apiPrefix} on. */
  readonly path: string;
  /** Raw, without `?`. */
  readonly query: string;
  readonly headers: ApiHeaders;
  readonly body: string;
  /** Of the peer, by R12. */
  readonly address: string;
  readonly scheme: 'http' | 'https';
  /** The `Host` header. */
  readonly host: string;
  /** Who calls, where the program around the API vouches for it; credentials are then not looked at. Never from the network. */
  readonly caller?: Caller;
}

type Headers = Readonly<Record<string, string>>;

export interface JsonAnswer {
  readonly kind: 'json';
  readonly status: number;
  readonly headers: Headers;
  /** Written as JSON; `undefined`: no body. */
  readonly body: unknown;
}

/** Bytes of a length that is known. */
export interface StreamAnswer {
  readonly kind: 'stream';
  readonly status: 200 | 206;
  readonly headers: Headers;
  readonly contentType: string;
  /** How many bytes the chunks are together. */
  readonly bytes: number;
  /** Left with `return()` where the peer goes. */
  readonly chunks: AsyncIterable<Uint8Array>;
}

/** Server-sent events. */
export interface EventsAnswer {
  readonly kind: 'events';
  readonly status: 200;
  readonly headers: Headers;
  /** Texts are written as they are: each is made by {@link serverSentEvent}. The signal tells that the peer is gone. */
  readonly open: (signal: AbortSignal) => AsyncIterable<string>;
}

export type ApiAnswer = JsonAnswer | StreamAnswer | EventsAnswer;

/** One server-sent event; whatever the data holds, it stays one. */
export function serverSentEvent(event: { data: unknown; id?: string; event?: string }): string {
  const line = (name: string, value: string | undefined) =>
    value === undefined ? '' : `${name}: ${value.replaceAll(/[\0\r\n]/g, '')}\n`;
  return `${line('id', event.id)}${line('event', event.event)}data: ${toSafeJson(event.data)}\n\n`;
}

/** A user who proved to be one. */
export interface UserCaller {
  /** `session`: a login session's token as Bearer; `cookie`: the same as login cookie; `token`: an API token. */
  readonly kind: 'session' | 'cookie' | 'token';
  readonly user: User;
  /** See scopes.ts; login sessions have all. */
  readonly scopes: readonly string[];
  /** Id of the login session or API token. */
  readonly credentialId: string;
  readonly address: string;
}

export type Caller =
  | UserCaller
  /** Who owns the data folder; in-process alone. */
  | { readonly kind: 'root'; readonly address: string }
  | { readonly kind: 'nobody'; readonly address: string };

const noHeaders: ApiHeaders = {
  authorization: '',
  cookie: '',
  origin: '',
  contentType: '',
  range: '',
  ifRange: '',
  lastEventId: '',
};

/**
 * A request as `root`, for callers in the same process.
 * @param target path below the prefix, with query: `/users?limit=10`
 */
export function rootRequest(method: string, target: string, body?: unknown): ApiRequest {
  const question = target.indexOf('?');
  return {
    method,
    path: apiPrefix + (question < 0 ? target : target.slice(0, question)),
    query: question < 0 ? '' : target.slice(question + 1),
    headers: { ...noHeaders, ...(body !== undefined && { contentType: 'application/json' }) },
    body: body === undefined ? '' : JSON.stringify(body),
    address: '',
    scheme: 'http',
    host: '',
    caller: { kind: 'root', address: '' },
  };
}
