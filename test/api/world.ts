import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LiveSession } from '../../src/api/parts.ts';
import { adminRights, adminSiteRights, rightBits, siteRightBits } from '../../src/core/rights.ts';
import type { Device, Directory } from '../../src/directory/directory.ts';
import { recording } from '../recording/support.ts';
import type { TestApi } from './support.ts';

/** Who calls, by what they may do. */
export const people = ['other', 'stranger', 'user', 'groupAdmin', 'manager', 'admin'] as const;
export type Person = (typeof people)[number];

const userRights = rightBits['remote-control'] | rightBits['guest-sharing'];

/** Two domains with people who may do different things, and a device group; what a test acts on it makes afresh. */
export class World {
  readonly api: TestApi;
  readonly directory: Directory;
  readonly ids: Readonly<Record<Person | 'locked', string>>;
  readonly groupId: string;
  #count = 0;

  private constructor(api: TestApi, ids: World['ids'], groupId: string) {
    this.api = api;
    this.directory = api.directory;
    this.ids = ids;
    this.groupId = groupId;
  }

  static async make(api: TestApi): Promise<World> {
    const { users, domains, deviceGroups, links } = api.directory;
    await domains.put('other');
    const add = async (name: string, siteRights = 0, domain = '') =>
      (await users.create({ name, domain, siteRights })).id;
    const ids = {
      other: await add('otheradmin', adminSiteRights, 'other'),
      stranger: await add('stranger'),
      user: await add('user'),
      groupAdmin: await add('groupadmin'),
      manager: await add('manager', siteRightBits['manage-users']),
      admin: await add('admin', adminSiteRights),
      locked: await add('locked', adminSiteRights),
    };
    const group = await deviceGroups.create({ name: 'group' });
    await links.grant(ids.groupAdmin, group.id, adminRights);
    return new World(api, ids, group.id);
  }

  name(prefix = 'x'): string {
    this.#count++;
    return `${prefix}${this.#count}`;
  }

  /** A device of the group, online, over which `user` has rights of his own. */
  async device(rights = userRights): Promise<Device> {
    const { device } = await this.directory.devices.create({ deviceGroupId: this.groupId, name: this.name('device') });
    await this.directory.links.grant(this.ids.user, device.id, rights);
    this.bringOnline(device.id);
    return device;
  }

  bringOnline(nodeid: string): void {
    this.api.agents.set(nodeid, {
      address: '127.0.0.1',
      sinceMs: 1,
      hostname: 'host',
      platform: 'linux',
      version: '1',
      capabilities: [],
    });
  }

  /** A session that runs, as the relay tells of it. */
  runSession(facts: Partial<LiveSession> = {}): LiveSession {
    const session: LiveSession = {
      domain: '',
      id: this.name('session'),
      protocol: 1,
      userid: this.ids.user,
      username: 'user',
      guestname: undefined,
      nodeid: '',
      userAddress: '192.0.2.1',
      deviceAddress: '192.0.2.2',
      startedMs: 1_000,
      durationMs: 61_999,
      bytesUserToDevice: 1,
      bytesDeviceToUser: 2,
      messagesUserToDevice: 3,
      messagesDeviceToUser: 4,
      throttledUserToDeviceMs: 5.4,
      throttledDeviceToUserMs: 6,
      recording: undefined,
      ...facts,
    };
    this.api.sessions.set(`${session.domain}\0${session.id}`, session);
    return session;
  }

  /** A recording in the folder; its name. */
  record(userid: string = this.ids.user, blocks: Parameters<typeof recording>[0] = []): string {
    mkdirSync(this.api.recordings, { recursive: true });
    const file = `relaysession-2026-11-22-09-08-07-${this.name('r')}.mcrec`;
    const header = { userid, username: 'user', sessionid: 'abc', nodeid: 'node//pc' };
    writeFileSync(join(this.api.recordings, file), recording(blocks, header, 61_900));
    return file;
  }

  async newUser(options: { siteRights?: number; domain?: string; password?: string } = {}): Promise<string> {
    return (await this.directory.users.create({ name: this.name('user'), ...options })).id;
  }

  token(who: Person): Promise<string> {
    return this.api.token(this.ids[who]);
  }
}
