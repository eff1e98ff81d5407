import {
  adminRights,
  adminSiteRights,
  effectiveRights,
  hasRights,
  hasSiteRights,
  type RightName,
  rightBits,
} from '../core/rights.ts';
import type { Access, Device, DeviceGroup, Directory, Link, User } from '../directory/directory.ts';
import { forbidden, notFound } from './errors.ts';
import type { Caller } from './request.ts';

type SiteRight = 'manage-users' | 'recordings';

/** Bits that take away. */
const restrictions =
  rightBits['view-only'] |
  rightBits['no-terminal'] |
  rightBits['no-files'] |
  rightBits['no-amt'] |
  rightBits['no-desktop'] |
  rightBits['limited-input'] |
  rightBits['limit-events'];

/**
 * Who may do what through the API. Everything happens within one domain: the caller's own, or the one of `?domain=`,
 * which is for default-domain users with all site rights alone; such a user, and root, holds all site rights there.
 *
 * | what | who |
 * |---|---|
 * | domains | all site rights of the default domain |
 * | users, user groups and members; device groups: make, remove | site right manage-users |
 * | a user's site rights, lock, password, login sessions, removal | manage-users, and every site right that the user holds |
 * | site rights to give | those that the caller holds |
 * | own realname, own password (by the old one), own logins and tokens | everybody |
 * | device group: name, description, consent | edit-group on it |
 * | devices: add, rename, move (both groups; own rights do not grow), join code, revoke, remove | manage-devices on the group, or the device |
 * | own links: see | everybody |
 * | links on a group or device: see, make, withdraw | manage-users on it; see {@link Permissions.requireGrant} |
 * | device: see | any right that reaches it |
 * | device group: see | any right over it |
 * | share: make | remote-control and guest-sharing on the device, and what it opens |
 * | share: see, revoke, remove | who made it; manage-users on the device |
 * | tunnel | what the rights over the device allow [T5] |
 * | session: see | its user; manage-users or manage-devices on the device |
 * | session: end | its user; manage-devices on the device |
 * | recordings | site right recordings [R38] |
 * | event: see | its user; who reaches the device, save by limit-events; site right manage-users all of the domain |
 *
 * Site right manage-users stands for every right over groups and devices here, save for tunnels and shares, which need
 * a link. What the caller may not see is answered like what is not there.
 */
export class Permissions {
  readonly #directory: Directory;
  readonly #caller: Caller;
  readonly #domain: string;
  #subjects: Promise<readonly string[]> | undefined;

  constructor(directory: Directory, caller: Caller, domain: string) {
    this.#directory = directory;
    this.#caller = caller;
    this.#domain = domain;
  }

  /** All site rights of the default domain. */
  get isSuper(): boolean {
    if (this.#caller.kind === 'root') return true;
    if (this.#caller.kind === 'nobody' || this.#caller.user.domain !== '') return false;
    return isFullAdmin(this.#caller.user);
  }

  /** Site rights that the caller holds in this domain. */
  get siteRights(): number {
    if (this.isSuper) return adminSiteRights;
    return this.#caller.kind !== 'root' && this.#caller.kind !== 'nobody' ? this.#caller.user.siteRights : 0;
  }

  holdsSite(right: SiteRight): boolean {
    return hasSiteRights(this.siteRights, right);
  }

  /** @throws CoupletError `CPL_API_FORBIDDEN` */
  requireSite(right: SiteRight): void {
    if (!this.holdsSite(right)) throw forbidden(`this needs the site right ${right}`, right);
  }

  /** @throws CoupletError `CPL_API_FORBIDDEN` */
  requireSuper(): void {
    if (!this.isSuper) throw forbidden('this is for users of the default domain with all site rights', 'site-rights');
  }

  /** A domain that is not there and one that the caller may not act in are alike. @throws CoupletError 404 */
  async requireDomain(): Promise<void> {
    if (this.#caller.kind !== 'root' && this.#caller.kind !== 'nobody') {
      if (this.#caller.user.domain === this.#domain) return;
      if (!this.isSuper) throw notFound('domain', this.#domain);
    }
    if (!(await this.#directory.domains.isKnown(this.#domain))) throw notFound('domain', this.#domain);
  }

  /** That the caller may change a user, or act on what is the user's. @throws CoupletError 403 */
  requireOver(user: User): void {
    this.requireSite('manage-users');
    if ((user.siteRights & ~this.siteRights) === 0) return;
    throw forbidden('this user holds site rights that you do not hold', 'site-rights');
  }

  /** [T2] @throws CoupletError 403 where the caller does not hold all of them */
  requireSiteRights(given: number): void {
    if ((given & adminSiteRights & ~this.siteRights) === 0) return;
    throw forbidden('you can give only site rights that you hold yourself', 'site-rights');
  }

  /** Site right manage-users, or the right manage-users over the device. */
  async managesUsersOf(device: Device): Promise<boolean> {
    return this.holdsSite('manage-users') || hasRights(await this.deviceRights(device), 'manage-users');
  }

  /** Rights over a device group by the caller's links; 0 for root. */
  async groupRights(groupId: string): Promise<number> {
    return this.#rightsBy(await this.#directory.links.list({ targetId: groupId }));
  }

  /** Rights over a device by the caller's links, also where the device is revoked. */
  async deviceRights(device: Device): Promise<number> {
    const [onDevice, onGroup] = await Promise.all([
      this.#directory.links.list({ targetId: device.id }),
      this.#directory.links.list({ targetId: device.deviceGroupId }),
    ]);
    return this.#rightsBy([...onDevice, ...onGroup]);
  }

  /** The caller's own id and those of the user groups; no others can be subjects of links that reach the caller. */
  subjects(): Promise<readonly string[]> {
    this.#subjects ??= this.#readSubjects();
    return this.#subjects;
  }

  /** By id or name. @throws CoupletError 404, also where the caller holds nothing over it */
  async seeGroup(idOrName: string): Promise<{ group: DeviceGroup; rights: number }> {
    const group = await found(this.#directory.deviceGroups.find(this.#domain, idOrName));
    if (group === undefined) throw notFound('device group', idOrName);
    const rights = await this.groupRights(group.id);
    if (rights === 0 && !this.holdsSite('manage-users')) throw notFound('device group', idOrName);
    return { group, rights };
  }

  /** By id or name. @throws CoupletError 404, also where the caller does not reach it */
  async seeDevice(idOrName: string): Promise<{ device: Device; rights: number }> {
    const device = await found(this.#directory.devices.find(this.#domain, idOrName));
    if (device === undefined) throw notFound('device', idOrName);
    const rights = await this.deviceRights(device);
    if (rights === 0 && !this.holdsSite('manage-users')) throw notFound('device', idOrName);
    return { device, rights };
  }

  /** @param rights those over the group or device. @throws CoupletError 403 */
  requireRight(rights: number, right: RightName): void {
    if (hasRights(rights, right) || this.holdsSite('manage-users')) return;
    throw forbidden(`this needs the right ${right}, or the site right manage-users`, right);
  }

  /**
   * That the caller may turn a link's rights into others; 0 stands for no link. Without the site right manage-users:
   * rights given must be held; what is taken from the caller must be taken by the link too; a restriction that the
   * caller is under is not lifted from others; all restrictions at once, which a union with other links could turn into
   * all rights, are for those who hold all rights; and nobody touches a link that reaches himself.
   * @param rights the caller's, over the link's target
   * @throws CoupletError 403
   */
  async requireGrant(rights: number, subjectId: string, before: number, after: number): Promise<void> {
    this.requireRight(rights, 'manage-users');
    if (this.holdsSite('manage-users')) return;
    if ((await this.subjects()).includes(subjectId)) {
      throw forbidden('a link that reaches yourself is for the site right manage-users', 'manage-users');
    }
    if ((rights & adminRights) === adminRights) return;
    const own = rights & restrictions;
    const beyond = (before | after) & ~restrictions & ~rights;
    const unrestricted = after !== 0 && (own & ~after) !== 0;
    const lifted = before & own & ~after;
    const all = (after & restrictions) === restrictions;
    if (beyond === 0 && !unrestricted && lifted === 0 && !all) return;
    throw forbidden(
      'you can give and take only rights that you hold yourself, as restricted as you hold them',
      'rights',
    );
  }

  /**
   * That the caller's rights over a device do not grow by moving it. Who holds all rights, or manages users, moves at will.
   * @throws CoupletError 403
   */
  async requireMove(device: Device, toGroupId: string): Promise<void> {
    if (this.holdsSite('manage-users')) return;
    const before = await this.deviceRights(device);
    if ((before & adminRights) === adminRights) return;
    const after = await this.deviceRights({ ...device, deviceGroupId: toGroupId });
    if ((after & ~restrictions & ~before) === 0 && (before & restrictions & ~after) === 0) return;
    throw forbidden('you would have more rights over the device there than here', 'rights');
  }

  async #readSubjects(): Promise<readonly string[]> {
    if (this.#caller.kind === 'root' || this.#caller.kind === 'nobody') return [];
    const { id } = this.#caller.user;
    return [id, ...(await this.#directory.userGroups.groupsOf(id))];
  }

  async #rightsBy(links: readonly Link[]): Promise<number> {
    const subjects = await this.subjects();
    return effectiveRights(links.filter(({ subjectId }) => subjects.includes(subjectId)).map(({ rights }) => rights));
  }
}

/** @throws CoupletError 403 with the word of the refusal */
export function requireAccess({ refusal }: Access): void {
  if (refusal === undefined) return;
  throw forbidden(`you have no access to this device: ${refusal}`, refusal);
}

/** A right that no site right stands for. @throws CoupletError 403 */
export function requireOwnRight(rights: number, right: RightName): void {
  if (!hasRights(rights, right)) throw forbidden(`this needs the right ${right} over the device`, right);
}

export function isFullAdmin(user: User): boolean {
  return !user.locked && (user.siteRights & adminSiteRights) === adminSiteRights;
}

/** What is there; `undefined` for *unknown*, the directory's or the API's. */
export async function found<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'CPL_DIRECTORY_UNKNOWN' || code === 'CPL_API_UNKNOWN') return undefined;
    throw error;
  }
}
