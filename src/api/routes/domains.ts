import { z } from 'zod';
import type { Domain } from '../../directory/directory.ts';
import { notFound } from '../errors.ts';
import { type Route, route } from '../route.ts';
import { changed, epochMs, given, text } from '../shapes.ts';

const ids = z.array(z.string().max(256)).max(1_000);
const recording = z
  .strictObject({ users: ids.optional(), userGroups: ids.optional(), deviceGroups: ids.optional() })
  .describe('Whose sessions are recorded, by ids; `{}`: everybody. A list that is absent selects nobody.');
const consent = z.number().int().describe('Consent flags of tunnel commands, 0 to 65535.');

const domainOut = z.object({
  id: z.string().describe('Empty for the default domain.'),
  title: z.string(),
  consent,
  privacyBarText: z.string(),
  recording: z.object({
    users: ids.optional(),
    userGroups: ids.optional(),
    deviceGroups: ids.optional(),
  }),
  createdMs: epochMs,
});

function show({ recording: selection, ...rest }: Domain): z.input<typeof domainOut> {
  const lists = Object.entries(selection).map(([name, list]) => [name, [...(list as readonly string[])]]);
  return { ...rest, recording: Object.fromEntries(lists) };
}

const domainPath = z.strictObject({
  domainId: z
    .string()
    .max(64)
    .transform((id) => (id === '~' ? '' : id))
    .describe('`~` is the default domain.'),
});

const list = route({
  method: 'GET',
  path: '/domains',
  summary: 'List the domains',
  scope: 'domains:read',
  caller: 'user',
  answer: z.object({ domains: z.array(domainOut) }),
  async handler({ parts, may }) {
    may.requireSuper();
    return { domains: (await parts.directory.domains.list()).map(show) };
  },
});

const get = route({
  method: 'GET',
  path: '/domains/{domainId}',
  summary: 'Show a domain',
  scope: 'domains:read',
  caller: 'user',
  params: domainPath,
  answer: domainOut,
  async handler({ parts, may, params }) {
    may.requireSuper();
    const domain = await parts.directory.domains.get(params.domainId);
    if (domain === undefined) throw notFound('domain', params.domainId);
    return show(domain);
  },
});

const put = route({
  method: 'PUT',
  path: '/domains/{domainId}',
  summary: 'Add a domain, or change what is given of one',
  scope: 'domains:write',
  caller: 'user',
  params: domainPath,
  body: z.strictObject({
    title: text.optional(),
    consent: consent.optional(),
    privacyBarText: text.optional(),
    recording: recording.optional(),
  }),
  answer: domainOut,
  async handler(call) {
    const { parts, may, params, body } = call;
    may.requireSuper();
    const domain = await parts.directory.domains.put(params.domainId, given(body));
    changed({ ...call, domain: domain.id }, 'domain-changed', domain.id, Object.keys(body).join(', '));
    return show(domain);
  },
});

const remove = route({
  method: 'DELETE',
  path: '/domains/{domainId}',
  summary: 'Remove a domain that is empty; the default one stays',
  scope: 'domains:write',
  caller: 'user',
  params: domainPath,
  async handler(call) {
    const { parts, may, params } = call;
    may.requireSuper();
    await parts.directory.domains.remove(params.domainId);
    changed({ ...call, domain: params.domainId }, 'domain-removed', params.domainId);
  },
});

export const domainRoutes: readonly Route[] = [list, get, put, remove];
