import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { HeadsWitness } from '../audit/heads-witness.ts';
import type { KnownHeads } from '../audit/verify.ts';
import type { Config } from '../config/schema.ts';
import { type Clock, systemClock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import type { Directory } from '../directory/directory.ts';
import type { DirectoryEventSink } from '../directory/event-sink.ts';
import { openDirectory } from '../directory/open.ts';
import { requireOwner } from './owner.ts';

const name = 'the directory';

/** [R31] The directory as a second place for the heads of the event log; its failures count as those of `sink`. */
export function directoryWitness(directory: Directory, sink: DirectoryEventSink): HeadsWitness {
  return {
    name,
    note: (log, heads) => directory.auditHeads.note(log, heads),
    list: (log) => directory.auditHeads.list(log),
    failed: (error) => sink.failed(error),
  };
}

/**
 * What the configured directory knows of event logs, for `couplet audit verify`; `undefined` where there is none (`none`).
 * A directory that is not there is not made.
 * @throws CoupletError `CPL_DATA_DIR`, `CPL_DIRECTORY_…`
 */
export async function openKnownHeads(
  { directory: kind, server }: Pick<Config, 'directory' | 'server'>,
  clock: Clock = systemClock,
): Promise<(KnownHeads & { close(): Promise<void> }) | undefined> {
  if (kind === 'none') return undefined;
  const file = join(server.dataDir, 'directory.sqlite');
  if (kind === 'sqlite') {
    if (!existsSync(file)) {
      throw new CoupletError('CPL_DIRECTORY_FILE', `there is no directory file ${JSON.stringify(file)}`, {
        level: 'error',
      });
    }
    requireOwner(server.dataDir);
  }
  // Only what runs in the background: what is asked gets its error itself.
  const directory = await openDirectory({ directory: kind, file, clock, onError: () => {} });
  return { name, list: (log) => directory.auditHeads.list(log), close: () => directory.close() };
}
