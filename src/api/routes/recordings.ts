import { z } from 'zod';
import { CoupletError } from '../../core/errors.ts';
import type { CatalogEntry } from '../../recording/catalog.ts';
import { conflict } from '../errors.ts';
import { rangeHolds, readRange } from '../range.ts';
import { type Call, type Route, route } from '../route.ts';
import { actorOf, epochMs, maybeMs, orNull } from '../shapes.ts';
import { watchCaller } from '../watch.ts';

const recordingOut = z.object({
  file: z.string(),
  form: z.enum(['mcrec', 'jsonl']),
  domain: z.string(),
  sessionId: z.string(),
  userid: z.string(),
  username: z.string(),
  nodeid: z.string().nullable(),
  protocol: z.number().int(),
  startedMs: maybeMs,
  seconds: z.number().int(),
  bytes: z.number().int(),
  modifiedMs: epochMs,
  state: z.enum(['running', 'finished', 'unfinished']),
  indexed: z.boolean(),
});

function show(entry: CatalogEntry): z.input<typeof recordingOut> {
  const { folder: _, inode: __, sidecarBytes: ___, domain, nodeid, startedMs, ...rest } = entry;
  return {
    ...rest,
    domain: domain ?? '',
    nodeid: nodeid === '' ? null : nodeid,
    startedMs: startedMs === 0 ? null : startedMs,
  };
}

/** [R38] Listing, viewing, downloading and deleting are for the site right recordings, within the domain. */
const shared = { caller: 'user', inDomain: true } as const;
const filePath = z.strictObject({ file: z.string().max(512) });

const list = route({
  ...shared,
  method: 'GET',
  path: '/recordings',
  summary: 'List the recordings of the domain, by file name',
  scope: 'recordings:read',
  query: z.strictObject({
    after: z.string().max(512).optional().describe('`next` of the page before.'),
    limit: z.coerce.number().int().min(1).max(1_000).optional().describe('1 to 1000; 100 unless told.'),
  }),
  answer: z.object({
    recordings: z.array(recordingOut),
    next: z.string().nullable().describe('For `after`; null on the last page. A page may be empty and not the last.'),
  }),
  async handler({ parts, may, domain, caller, query }) {
    may.requireSite('recordings');
    const { entries, next } = await parts.recordings.list({ domain, ...query });
    parts.events.recordingsListed({ actor: actorOf(caller), domain, count: entries.length });
    return { recordings: entries.map(show), next: orNull(next) };
  },
});

const get = route({
  ...shared,
  method: 'GET',
  path: '/recordings/{file}',
  summary: 'Show what a recording is of',
  scope: 'recordings:read',
  params: filePath,
  answer: recordingOut,
  async handler({ parts, may, domain, caller, params }) {
    may.requireSite('recordings');
    const entry = await parts.recordings.get(params.file, domain);
    parts.events.recordingViewed({ actor: actorOf(caller), domain, file: entry.file });
    return show(entry);
  },
});

/** Strong: another file, and every write, give another one. */
function etagOf({ inode, bytes, modifiedMs }: CatalogEntry): string {
  return `"${inode.toString(36)}-${bytes.toString(36)}-${modifiedMs.toString(36)}"`;
}

const download = route({
  ...shared,
  method: 'GET',
  path: '/recordings/{file}/data',
  summary: 'Download a recording, or with `Range` a part of it',
  scope: 'recordings:read',
  params: filePath,
  answer: 'stream',
  contentType: 'application/octet-stream',
  async handler(call) {
    const { parts, may, domain, caller, params, request } = call;
    may.requireSite('recordings');
    const entry = await parts.recordings.get(params.file, domain);
    if (entry.state === 'running') {
      throw conflict('this recording is in use: it is being recorded or worked on; try again later');
    }
    const { file, bytes: size } = entry;
    const etag = etagOf(entry);
    const lastModified = new Date(entry.modifiedMs).toUTCString();
    const isHeld = rangeHolds(request.headers.ifRange, etag, lastModified);
    const range = isHeld ? readRange(request.headers.range, size) : undefined;
    if (range === 'unsatisfiable') {
      call.headers['content-range'] = `bytes */${size}`;
      throw new CoupletError('CPL_API_RANGE', `Range: the recording has ${size} bytes`, { httpStatus: 416 });
    }
    const { first, last } = range ?? { first: 0, last: size - 1 };
    const bytes = last + 1 - first;
    if (request.method === 'HEAD') parts.events.recordingViewed({ actor: actorOf(caller), domain, file });
    else if (bytes === 0) tellDownload(call, file, undefined, 0, 0);
    return {
      kind: 'stream',
      status: range === undefined ? 200 : 206,
      headers: {
        'accept-ranges': 'bytes',
        etag,
        'last-modified': lastModified,
        // A recording's name holds nothing that would have to be quoted [R34].
        'content-disposition': `attachment; filename="${file}"`,
        ...(range !== undefined && { 'content-range': `bytes ${first}-${last}/${size}` }),
      },
      contentType: file.endsWith('.jsonl') ? 'application/x-ndjson' : 'application/octet-stream',
      bytes,
      chunks: send(call, entry, first, last, range !== undefined),
    };
  },
});

function tellDownload(
  { parts, caller, domain }: Call,
  file: string,
  range: string | undefined,
  bytes: number,
  wanted: number,
): void {
  const complete = bytes === wanted;
  parts.events.recordingDownloaded({ actor: actorOf(caller), domain, file, range, bytes, complete });
}

/** Ends with an error where the caller may not have it any more [T4]. */
async function* send(call: Call, entry: CatalogEntry, first: number, last: number, isPart: boolean) {
  const watch = watchCaller(call, ({ may }) => may.requireSite('recordings'));
  let sent = 0;
  try {
    for await (const chunk of call.parts.recordings.read(entry, first, last)) {
      watch.signal.throwIfAborted();
      sent += chunk.byteLength;
      yield chunk;
    }
  } finally {
    watch.stop();
    tellDownload(call, entry.file, isPart ? `${first}-${last}` : undefined, sent, last + 1 - first);
  }
}

const remove = route({
  ...shared,
  method: 'DELETE',
  path: '/recordings/{file}',
  summary: 'Delete a recording and its sidecar, unless it is in use',
  scope: 'recordings:write',
  params: filePath,
  async handler({ parts, may, domain, caller, params }) {
    may.requireSite('recordings');
    const bytes = await parts.recordings.remove(params.file, domain);
    parts.events.recordingDeleted({ actor: actorOf(caller), domain, file: params.file, bytes });
  },
});

export const recordingRoutes: readonly Route[] = [list, get, download, remove];
