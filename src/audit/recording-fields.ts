import { basename } from 'node:path';
import type { EventValue } from './sink.ts';

/** The session that is recorded, or should be. */
export interface RecordedSession {
  readonly domain: string;
  readonly id: string;
  /** Protocol number of R3. */
  readonly protocol: number;
  readonly userid: string;
  readonly username: string;
  readonly nodeid: string;
  readonly mode: 'best-effort' | 'strict';
}

/*
 * `file` is the recording's name or path: events tell the name alone, and reasons that name the path are cut to it.
 */

export interface RecordingStartedFacts extends RecordedSession {
  readonly file: string;
}

/**
 * What a failure means for the session (R35). `unrecorded`: it goes on, and nothing of it is recorded; `ended`: it goes
 * on, and the recording ends here; `session-closed`: it was closed with 4500; `sidecar-lost`: both go on, without the
 * precise times.
 */
export type RecordingFailure = 'unrecorded' | 'ended' | 'session-closed' | 'sidecar-lost';

export interface RecordingFailedFacts extends RecordedSession {
  /** Absent where no file was made. */
  readonly file?: string | undefined;
  /** A word of `couplet_recording_failures_total{reason}`. */
  readonly reason: string;
  readonly consequence: RecordingFailure;
}

export interface RecordingFinishedFacts extends RecordedSession {
  readonly file: string;
  /** Size of the file. */
  readonly bytes: number;
  readonly blocks?: number | undefined;
  /** The file ends as it should, with its end block. */
  readonly complete: boolean;
}

/** What salvage did to a file at the start (R37). */
export type RecordingSalvagedFacts = { readonly file: string; readonly text: string } & (
  | { readonly state: 'repaired'; readonly offset: number; readonly cutBytes: number }
  | { readonly state: 'removed' }
);

export interface RecordingSalvageFailedFacts {
  readonly file: string;
  readonly reason: string;
}

export interface RecordingDeletedFacts {
  readonly file: string;
  readonly bytes: number;
  /** The limit of retention that it was over (R38), or `user`: somebody asked for it. */
  readonly reason: 'age' | 'count' | 'bytes' | 'orphan' | 'user';
  readonly domain?: string | undefined;
  /** Who asked for it, and from where. */
  readonly userid?: string | undefined;
  readonly username?: string | undefined;
  readonly address?: string | undefined;
}

export interface RecordingIndexFailedFacts {
  readonly file: string;
  readonly reason: string;
}

export interface RecordingRetentionFailedFacts {
  /** As it is configured. */
  readonly folder: string;
  readonly reason: string;
  /** Recordings that could not be deleted in this sweep, and one of them; absent where the folder could not be listed. */
  readonly undeleted?: { readonly count: number; readonly file: string } | undefined;
}

type Fields = Record<string, EventValue | undefined>;

function sessionFields({ domain, id, protocol, userid, username, nodeid, mode }: RecordedSession): Fields {
  return { domain, userid, username, id, protocol, nodeid, mode };
}

/** The text without the folder in which the file lies. */
function withoutFolder(text: string, file: string): string {
  return text.replaceAll(file, () => basename(file));
}

export function recordingStartedFields(facts: RecordingStartedFacts): Fields {
  const file = basename(facts.file);
  return {
    etype: 'recording',
    action: 'recordingstarted',
    ...sessionFields(facts),
    file,
    msg: `Session "${facts.id}" is recorded in ${file}`,
  };
}

export function recordingFailedFields(facts: RecordingFailedFacts): Fields {
  const { id, consequence } = facts;
  const file = facts.file === undefined ? undefined : basename(facts.file);
  const reason = facts.file === undefined ? facts.reason : withoutFolder(facts.reason, facts.file);
  const recording = file === undefined ? 'The recording' : `The recording ${file}`;
  const what = {
    unrecorded: `Session "${id}" goes on and is not recorded`,
    ended: `${recording} of session "${id}" ended early, the session goes on`,
    'session-closed': `Session "${id}" was closed because it could not be recorded`,
    'sidecar-lost': `${recording} of session "${id}" goes on without its sidecar`,
  } satisfies Record<RecordingFailure, string>;
  return {
    etype: 'recording',
    action: 'recordingfailed',
    ...sessionFields(facts),
    file,
    reason,
    consequence,
    msg: `${what[consequence]}: ${reason}`,
  };
}

export function recordingFinishedFields(facts: RecordingFinishedFacts): Fields {
  const { id, bytes, blocks, complete } = facts;
  const file = basename(facts.file);
  return {
    etype: 'recording',
    action: 'recordingfinished',
    ...sessionFields(facts),
    file,
    bytes,
    blocks,
    complete,
    msg: `Finished the recording ${file} of session "${id}", ${bytes} byte(s)${complete ? '' : ', incomplete'}`,
  };
}

export function recordingSalvagedFields(facts: RecordingSalvagedFacts): Fields {
  const file = basename(facts.file);
  const text = withoutFolder(facts.text, facts.file);
  const repaired = facts.state === 'repaired';
  return {
    etype: 'recording',
    action: 'recordingsalvaged',
    file,
    state: facts.state,
    offset: repaired ? facts.offset : undefined,
    cutbytes: repaired ? facts.cutBytes : undefined,
    text,
    msg: repaired
      ? `Repaired the recording ${file} at offset ${facts.offset}, ${facts.cutBytes} byte(s) cut off: ${text}`
      : `Removed the recording ${file}: ${text}`,
  };
}

export function recordingSalvageFailedFields(facts: RecordingSalvageFailedFacts): Fields {
  const file = basename(facts.file);
  const reason = withoutFolder(facts.reason, facts.file);
  const msg = `The recording ${file} could not be salvaged: ${reason}`;
  return { etype: 'recording', action: 'recordingsalvagefailed', file, reason, msg };
}

export function recordingDeletedFields(facts: RecordingDeletedFacts): Fields {
  const { bytes, reason, domain, userid, username, address } = facts;
  const file = basename(facts.file);
  const why = reason === 'user' ? `by ${userid ?? 'a user'}` : `by retention: ${reason}`;
  const msg = `The recording ${file}, ${bytes} byte(s), was deleted ${why}`;
  const who = { domain, userid, username, address };
  return { etype: 'recording', action: 'recordingdeleted', ...who, file, bytes, reason, msg };
}

export function recordingIndexFailedFields(facts: RecordingIndexFailedFacts): Fields {
  const file = basename(facts.file);
  const reason = withoutFolder(facts.reason, facts.file);
  const msg = `The recording ${file} got no index: ${reason}`;
  return { etype: 'recording', action: 'recordingindexfailed', file, reason, msg };
}

export function recordingRetentionFailedFields(facts: RecordingRetentionFailedFacts): Fields {
  const { folder, undeleted } = facts;
  const file = undeleted === undefined ? undefined : basename(undeleted.file);
  const reason = undeleted === undefined ? facts.reason : withoutFolder(facts.reason, undeleted.file);
  return {
    etype: 'recording',
    action: 'recordingretentionfailed',
    folder,
    file,
    count: undeleted?.count,
    reason,
    msg:
      undeleted === undefined
        ? `Retention could not look through ${folder}: ${reason}`
        : `Retention could not delete ${undeleted.count} recording(s) in ${folder}, ${file} among them: ${reason}`,
  };
}
