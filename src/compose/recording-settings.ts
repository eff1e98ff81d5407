import { resolve } from 'node:path';
import type { Config } from '../config/schema.ts';
import type { RecordingOptions, RecordingOverrides, RecordingSelection } from '../recording/policy.ts';
import type { RetentionLimits } from '../recording/retention.ts';

type RecordingConfig = Pick<Config, 'recording' | 'domains'>;

const hourMs = 3_600_000;

/**
 * What decides whether, where to and how a session is recorded [R33]. Folders are absolute, from the working directory,
 * so that one written in two ways is one.
 */
export function recordingOptions({ recording, domains }: RecordingConfig): RecordingOptions {
  const { mode, dir, protocols, index, users, userGroups, deviceGroups } = recording;
  const selection: RecordingSelection = given({ users, userGroups, deviceGroups });
  const overrides = Object.entries(domains).flatMap(([domain, { recording: own }]): [string, RecordingOverrides][] => {
    if (own === undefined) return [];
    const folder = own.dir === undefined ? undefined : resolve(own.dir);
    return [[domain, given({ mode: own.mode, folder, protocols: own.protocols, index: own.index })]];
  });
  return {
    mode,
    folder: resolve(dir),
    index,
    domains: Object.fromEntries(overrides),
    ...given({ protocols }),
    ...(Object.keys(selection).length === 0 ? {} : { selection }),
  };
}

/** Every folder that may hold recordings, each once, the global one first; also those of domains whose mode is `off`. */
export function recordingFolders({ folder, domains }: RecordingOptions): string[] {
  const own = Object.values(domains ?? {}).map((domain) => domain.folder ?? folder);
  return [...new Set([folder, ...own])];
}

/** What a folder may hold [R38]: in the configuration 0 is no limit, here absence is. */
export function retentionLimits({ recording }: Pick<Config, 'recording'>): RetentionLimits {
  const { maxAgeHours, maxCount, maxTotalBytes } = recording;
  return given({
    maxAgeMs: maxAgeHours === 0 ? undefined : maxAgeHours * hourMs,
    maxCount: maxCount === 0 ? undefined : maxCount,
    maxBytes: maxTotalBytes === 0 ? undefined : maxTotalBytes,
  });
}

type Given<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

/** Without the properties that are not set. */
function given<T extends object>(properties: T): Given<T> {
  return Object.fromEntries(Object.entries(properties).filter(([, value]) => value !== undefined)) as Given<T>;
}
