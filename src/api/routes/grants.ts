import { z } from 'zod';
import { hasRights } from '../../core/rights.ts';
import type { Device, DeviceGroup, Link, User, UserGroup } from '../../directory/directory.ts';
import { notFound } from '../errors.ts';
import { found } from '../permissions.ts';
import { type Call, type Route, route } from '../route.ts';
import { changed, epochMs, idOrName, rightsIn, rightsOut, showRights } from '../shapes.ts';

const grantOut = z.object({
  subjectId: z.string().describe('A user or user group.'),
  targetId: z.string().describe('A device group or device.'),
  ...rightsOut,
  createdMs: epochMs,
});

function show({ rights, ...rest }: Link): z.input<typeof grantOut> {
  return { ...rest, ...showRights(rights) };
}

type Target = { readonly id: string; readonly rights: number };

/** A device group or device, with the caller's rights over it. @throws CoupletError 404 where the caller has none */
async function seeTarget({ parts, may, domain }: Call, idOrName: string): Promise<Target> {
  const target: DeviceGroup | Device | undefined = await found(parts.directory.links.findTarget(domain, idOrName));
  if (target === undefined) throw notFound('device group or device', idOrName);
  const rights = 'deviceGroupId' in target ? await may.deviceRights(target) : await may.groupRights(target.id);
  if (rights === 0 && !may.holdsSite('manage-users')) throw notFound('device group or device', idOrName);
  return { id: target.id, rights };
}

async function findSubject({ parts, domain }: Call, idOrName: string): Promise<User | UserGroup> {
  const subject = await found(parts.directory.links.findSubject(domain, idOrName));
  if (subject === undefined) throw notFound('user or user group', idOrName);
  return subject;
}

/** Both ends of a link, and what rights it gives now. @throws CoupletError 403, 404 */
async function endsOf(call: Call, { subject, target }: { subject: string; target: string }) {
  const to = await seeTarget(call, target);
  // Before the subject is looked for: who may not grant is not told who is there.
  call.may.requireRight(to.rights, 'manage-users');
  const { id: subjectId } = await findSubject(call, subject);
  const [link] = await call.parts.directory.links.list({ subjectId, targetId: to.id });
  return { subjectId, targetId: to.id, rights: to.rights, before: link?.rights ?? 0 };
}

/** The caller's own links, and those on what the caller manages the users of. */
async function allSeen({ parts, may, domain }: Call): Promise<Link[]> {
  const { links } = parts.directory;
  if (may.holdsSite('manage-users')) return await links.list({ domain });
  const own = (await Promise.all((await may.subjects()).map((subjectId) => links.list({ subjectId })))).flat();
  const byEnds = new Map<string, Link>();
  const add = (more: readonly Link[]) => {
    for (const link of more) byEnds.set(`${link.subjectId}\0${link.targetId}`, link);
  };
  add(own);
  // Rights are a union: who manages a device, or its group, holds a link that says so.
  const managed = new Set(
    own.filter(({ rights }) => hasRights(rights, 'manage-users')).map(({ targetId }) => targetId),
  );
  for (const targetId of managed) {
    add(await links.list({ targetId }));
    add(await links.list({ onDeviceOf: targetId }));
  }
  return [...byEnds.values()];
}

const shared = { caller: 'user', inDomain: true } as const;

const list = route({
  ...shared,
  method: 'GET',
  path: '/grants',
  summary: 'List the links on a target, or of a subject; all that the caller may see where neither is given',
  scope: 'grants:read',
  query: z.strictObject({ subject: idOrName.optional(), target: idOrName.optional() }),
  answer: z.object({ grants: z.array(grantOut) }),
  async handler(call) {
    const { parts, may, query, caller } = call;
    const { links } = parts.directory;
    if (query.target !== undefined) {
      const { id: targetId, rights } = await seeTarget(call, query.target);
      may.requireRight(rights, 'manage-users');
      const subject = query.subject === undefined ? undefined : await findSubject(call, query.subject);
      const found = await links.list({ targetId, ...(subject !== undefined && { subjectId: subject.id }) });
      return { grants: found.map(show) };
    }
    if (query.subject !== undefined) {
      const own = 'user' in caller && [caller.user.id, caller.user.name].includes(query.subject.toLowerCase());
      if (!own) may.requireSite('manage-users');
      return { grants: (await links.list({ subjectId: (await findSubject(call, query.subject)).id })).map(show) };
    }
    return { grants: (await allSeen(call)).map(show) };
  },
});

const put = route({
  ...shared,
  method: 'PUT',
  path: '/grants',
  summary: 'Link a user or user group to a device group or device, or give the link other rights',
  scope: 'grants:write',
  body: z.strictObject({ subject: idOrName, target: idOrName, rights: rightsIn }),
  answer: grantOut,
  async handler(call) {
    const { parts, may, body } = call;
    const { subjectId, targetId, rights, before } = await endsOf(call, body);
    await may.requireGrant(rights, subjectId, before, body.rights);
    const link = await parts.directory.links.grant(subjectId, targetId, body.rights);
    changed(call, 'grant-made', targetId, `${showRights(link.rights).rights} for ${subjectId}`);
    return show(link);
  },
});

const remove = route({
  ...shared,
  method: 'DELETE',
  path: '/grants',
  summary: 'Withdraw a link',
  scope: 'grants:write',
  query: z.strictObject({ subject: idOrName, target: idOrName }),
  async handler(call) {
    const { parts, may, query } = call;
    const { subjectId, targetId, rights, before } = await endsOf(call, query);
    if (before === 0) throw notFound(`link of ${query.subject} to`, query.target);
    await may.requireGrant(rights, subjectId, before, 0);
    await parts.directory.links.revoke(subjectId, targetId);
    changed(call, 'grant-withdrawn', targetId, `${showRights(before).rights} of ${subjectId}`);
  },
});

export const grantRoutes: readonly Route[] = [list, put, remove];
