import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { CoupletError } from '../core/errors.ts';
import { tryLockFile } from '../native/file-lock.ts';

export interface FolderLock {
  readonly fd: number | undefined;
  letGo(): void;
}

/**
 * Keeps a data folder for one server: the memory of single-use cookies is a process's own, and two of them would each
 * take a cookie once [R7]. The lock goes with the process.
 * @param unlockable told where files cannot be locked here: then the folder is used all the same
 * @returns gives the folder back; `fd` (absent where it could not be locked) holds the lock also in a process that
 *   inherits it, until the last one has closed it
 * @throws CoupletError `CPL_DATA_DIR` where another server has it
 */
export function lockFolder(folder: string, unlockable: (error: unknown) => void): FolderLock {
  const fd = openSync(join(folder, 'server.lock'), 'a', 0o600);
  try {
    if (tryLockFile(fd, 'exclusive')) return { fd, letGo: () => closeSync(fd) };
  } catch (error) {
    closeSync(fd);
    unlockable(error);
    return { fd: undefined, letGo: () => {} };
  }
  closeSync(fd);
  const text = `server.dataDir ${JSON.stringify(folder)} is another server's; each needs a data folder of its own`;
  throw new CoupletError('CPL_DATA_DIR', text, { level: 'error' });
}
