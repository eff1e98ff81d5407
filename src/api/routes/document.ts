import { z } from 'zod';
import { openApiDocument } from '../openapi.ts';
import { type Route, route } from '../route.ts';

/** @param all asked when the document is; it holds this route too */
export function documentRoute(all: () => readonly Route[]): Route {
  let document: Record<string, unknown> | undefined;
  return route({
    method: 'GET',
    path: '/openapi.json',
    summary: 'This document',
    scope: 'all',
    caller: 'public',
    answer: z.record(z.string(), z.unknown()),
    async handler() {
      document ??= openApiDocument(all());
      return document;
    },
  });
}
