import type { RecordingForm } from './naming.ts';

export type RecordingMode = 'off' | 'best-effort' | 'strict';

/** Whose sessions are recorded; of the lists given one match is enough. No list at all: everybody's. */
export interface RecordingSelection {
  /** User ids. */
  readonly users?: readonly string[];
  readonly userGroups?: readonly string[];
  /** Ids of device groups. */
  readonly deviceGroups?: readonly string[];
}

export interface RecordingSettings {
  readonly mode: RecordingMode;
  readonly folder: string;
  /** Protocol numbers; absent: all. */
  readonly protocols?: readonly number[] | undefined;
  /** Whether a recording gets an index after its end. */
  readonly index: boolean;
  readonly selection?: RecordingSelection | undefined;
}

/** What a domain may have of its own [R33]. */
export type RecordingOverrides = Partial<Pick<RecordingSettings, 'mode' | 'folder' | 'protocols' | 'index'>>;

export interface RecordingOptions extends RecordingSettings {
  readonly domains?: Readonly<Record<string, RecordingOverrides>>;
}

/** What the decision needs of a session. */
export interface SessionToRecord {
  readonly domain: string;
  /** The user's id; `undefined`: no user is known. */
  readonly userId: string | undefined;
  /** What the two halves say [R3]: one that is recorded is enough. */
  readonly protocols: readonly number[];
  /** Recorded as text: its id makes it a messenger session [R13], not what a half says. */
  readonly messenger: boolean;
}

/** What the directory knows of a session's user and device. */
export interface KnownParties {
  readonly userGroupIds: readonly string[];
  /** Empty where the device is not known; so is its name. */
  readonly deviceGroupId: string;
  readonly deviceName: string;
  /** The domain's own selection, in place of the configured one. */
  readonly selection?: RecordingSelection | undefined;
}

/** Where there is no directory nobody is in a group. */
export const unknownParties: KnownParties = { userGroupIds: [], deviceGroupId: '', deviceName: '' };

export type RecordingDecision =
  | {
      readonly record: true;
      readonly mode: Exclude<RecordingMode, 'off'>;
      readonly folder: string;
      readonly index: boolean;
      readonly form: RecordingForm;
    }
  | { readonly record: false; readonly why: 'off' | 'no-user' | 'protocol' | 'not-selected' };

/** The settings of one domain: the global ones with the domain's own over them [R33]. */
export function settingsOf(options: RecordingOptions, domain: string): RecordingSettings {
  const { domains, ...settings } = options;
  // An inherited name such as `constructor` has no settings in it either.
  const own = domains?.[domain];
  const given = Object.entries(own ?? {}).filter(([, value]) => value !== undefined);
  return { ...settings, ...Object.fromEntries(given) };
}

/** Whether a session is recorded, where to and how [R33]. Asked once, when it starts. */
export function decideRecording(
  options: RecordingOptions,
  session: SessionToRecord,
  parties: KnownParties,
): RecordingDecision {
  // No copy of them where the domain has none of its own: this is asked at the start of every session.
  const own = options.domains?.[session.domain];
  const { mode, folder, protocols, index, selection } =
    own === undefined ? options : settingsOf(options, session.domain);
  if (mode === 'off') return { record: false, why: 'off' };
  const { userId } = session;
  if (userId === undefined) return { record: false, why: 'no-user' };
  if (protocols !== undefined && !session.protocols.some((protocol) => protocols.includes(protocol))) {
    return { record: false, why: 'protocol' };
  }
  if (!isSelected(parties.selection ?? selection, userId, parties)) return { record: false, why: 'not-selected' };
  const form = session.messenger ? 'jsonl' : 'mcrec';
  return { record: true, mode, folder, index, form };
}

function isSelected(
  selection: RecordingSelection | undefined,
  userId: string,
  { userGroupIds, deviceGroupId }: KnownParties,
): boolean {
  const { users, userGroups, deviceGroups } = selection ?? {};
  if (users === undefined && userGroups === undefined && deviceGroups === undefined) return true;
  if (users?.includes(userId) || deviceGroups?.includes(deviceGroupId)) return true;
  return userGroups?.some((group) => userGroupIds.includes(group)) === true;
}
