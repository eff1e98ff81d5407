import type { ShareProtocols } from '../core/share-protocols.ts';

/*
 * What the directory holds [T1][T15]. Times are epoch milliseconds; `undefined` is never and none. Ids name their
 * domain (R4); the default domain is the empty string.
 */

/** What a domain has of its own. */
export interface Domain {
  readonly id: string;
  readonly title: string;
  /** Consent flags of tunnel commands [T6]; 0 to 65535. */
  readonly consent: number;
  readonly privacyBarText: string;
  /** Whose sessions are recorded [R33]; a list that is absent selects nobody, none at all everybody. */
  readonly recording: RecordingSelection;
  readonly createdMs: number;
}

export interface RecordingSelection {
  readonly users?: readonly string[] | undefined;
  readonly userGroups?: readonly string[] | undefined;
  readonly deviceGroups?: readonly string[] | undefined;
}

export interface User {
  /** `user/DOMAIN/NAME`. */
  readonly id: string;
  readonly domain: string;
  /** Lower-case; what the user logs in with. */
  readonly name: string;
  readonly realname: string;
  /** Without the bit `locked`, which is `locked` here. */
  readonly siteRights: number;
  readonly locked: boolean;
  readonly hasPassword: boolean;
  /** What was issued to this id before then was issued to another user of that name. */
  readonly createdMs: number;
  readonly lastLoginMs: number | undefined;
}

export interface UserGroup {
  /** `ugrp/DOMAIN/ID`. */
  readonly id: string;
  readonly domain: string;
  readonly name: string;
  readonly description: string;
  readonly createdMs: number;
}

export interface DeviceGroup extends Omit<UserGroup, 'id'> {
  /** `mesh/DOMAIN/ID`. */
  readonly id: string;
  /** Consent flags of tunnel commands [T6], counted together with the domain's; 0 to 65535. */
  readonly consent: number;
}

export interface Device {
  /** `node/DOMAIN/ID`. */
  readonly id: string;
  readonly domain: string;
  readonly name: string;
  readonly deviceGroupId: string;
  /** The agent's Ed25519 key, 32 bytes in base64url [T9]; `undefined`: not enrolled. */
  readonly publicKey: string | undefined;
  /** When an unused join code ends; `undefined`: there is none. */
  readonly joinExpiresMs: number | undefined;
  readonly revokedMs: number | undefined;
  readonly createdMs: number;
  readonly lastSeenMs: number | undefined;
}

/** A link [T1]: from a user or user group to a device group or device. */
export interface Link {
  /** `user/…` or `ugrp/…`. */
  readonly subjectId: string;
  /** `mesh/…` or `node/…`. */
  readonly targetId: string;
  readonly rights: number;
  readonly createdMs: number;
}

/** A guest link [T15]. */
export interface Share extends ShareProtocols {
  /** Public: stands in the share cookie as `pid`. */
  readonly id: string;
  readonly deviceId: string;
  /** The user on whose behalf the guest comes. */
  readonly createdBy: string;
  readonly guestName: string;
  readonly viewOnly: boolean;
  readonly createdMs: number;
  readonly expiresMs: number;
  readonly revokedMs: number | undefined;
  readonly uses: number;
}

/** A browser's login. Its token is known to the browser alone; here is a hash of it. */
export interface LoginSession {
  readonly id: string;
  readonly userId: string;
  readonly address: string;
  readonly createdMs: number;
  readonly expiresMs: number;
  readonly lastUseMs: number;
}

export interface ApiToken {
  readonly id: string;
  readonly userId: string;
  readonly name: string;
  readonly scopes: readonly string[];
  readonly createdMs: number;
  /** `undefined`: until it is revoked. */
  readonly expiresMs: number | undefined;
  readonly lastUseMs: number | undefined;
}

/** Why a user gets no rights over a device, whatever links there are. */
export type NoAccess =
  | 'user-unknown'
  | 'user-locked'
  | 'device-unknown'
  | 'device-revoked'
  | 'other-domain'
  | 'no-link';

/** What there is to say of a user id whose holder a relay half claims to be [T4]. */
export interface Standing {
  /** False: not in the directory. Then whoever holds the login key vouches for the user alone. */
  readonly known: boolean;
  readonly locked: boolean;
  /**
   * What was issued to this id in an earlier second (epoch milliseconds) was issued to another user of that name, or to
   * one who has been removed since.
   */
  readonly sinceMs: number;
}

/** All that a session needs to know of a user and a device [T5][T6][R33]; from one query, cached. */
export interface Access {
  readonly userId: string;
  readonly deviceId: string;
  /** Effective rights; 0 where there is a `refusal`. */
  readonly rights: number;
  readonly refusal: NoAccess | undefined;
  readonly username: string;
  readonly realname: string;
  readonly userGroupIds: readonly string[];
  readonly deviceName: string;
  readonly deviceGroupId: string;
  /** The device group's flags OR the domain's. */
  readonly consent: number;
  readonly privacyBarText: string;
}

/** One who reaches a device, or a device that a user reaches. */
export interface Reach<Id extends 'userId' | 'deviceId'> {
  readonly id: Id extends 'userId' ? User['id'] : Device['id'];
  readonly name: string;
  readonly rights: number;
}

/** A page of a list in the order of ids. */
export interface Page {
  /** The last id of the page before. */
  readonly after?: string | undefined;
  /** 1 to 1000; 100 unless told. */
  readonly limit?: number | undefined;
}
