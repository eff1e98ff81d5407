import { argv, stdout } from 'node:process';
import { pathToFileURL } from 'node:url';
import { openApiDocument } from './openapi.ts';
import { allRoutes } from './routes/index.ts';

/** docs/reference/openapi.json as it must be. */
export function openApiReference(): string {
  return `${JSON.stringify(openApiDocument(allRoutes), undefined, 2)}\n`;
}

if (argv[1] !== undefined && import.meta.url === pathToFileURL(argv[1]).href) stdout.write(openApiReference());
