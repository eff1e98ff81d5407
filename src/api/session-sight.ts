import { hasRights, type RightName } from '../core/rights.ts';
import type { Directory } from '../directory/directory.ts';
import type { LiveSession, SessionViewer } from './parts.ts';

/** What of a session decides who sees it. */
export type SightedSession = Pick<LiveSession, 'userid' | 'nodeid'>;

/** What a viewer may see and do of sessions; the rights over a device are asked for once. */
export class SessionSight {
  readonly #directory: Pick<Directory, 'access'>;
  readonly #viewer: SessionViewer;
  readonly #byDevice = new Map<string, Promise<number>>();

  constructor(directory: Pick<Directory, 'access'>, viewer: SessionViewer) {
    this.#directory = directory;
    this.#viewer = viewer;
  }

  /** Whether it is the viewer's own, or one of the domain of which the viewer sees all. */
  isOver({ userid }: SightedSession): boolean {
    return this.#viewer.userid === undefined || this.#viewer.userid === userid;
  }

  /** Whether the viewer holds one of these rights over the session's device. */
  async holds({ nodeid }: SightedSession, ...anyOf: RightName[]): Promise<boolean> {
    const { userid } = this.#viewer;
    if (nodeid === '' || userid === undefined) return false;
    let rights = this.#byDevice.get(nodeid);
    if (rights === undefined) {
      rights = this.#directory.access(userid, nodeid).then((access) => access.rights);
      this.#byDevice.set(nodeid, rights);
    }
    const held = await rights;
    return anyOf.some((right) => hasRights(held, right));
  }

  async sees(session: SightedSession): Promise<boolean> {
    return this.isOver(session) || (await this.holds(session, 'manage-users', 'manage-devices'));
  }
}
