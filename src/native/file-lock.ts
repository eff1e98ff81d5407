import { getSystemErrorName } from 'node:util';
import { CoupletError } from '../core/errors.ts';
import { loadRecorder } from './binding.ts';

/**
 * Locks an open file as a whole, without waiting: `exclusive` (for a descriptor open for writing) goes with no other
 * lock, `shared` (open for reading) with other shared ones. A recording is locked exclusively while it is recorded
 * into. The lock belongs to the open file: another descriptor of the same process meets it too, it ends when `fd` is
 * closed, and with the process. On any thread.
 * @returns whether the lock was got; false where another holds one that it does not go with
 * @throws CoupletError `CPL_FILE_LOCK` where the file cannot be locked at all; its `cause` has the errno's name as
 *   `code`, `EINVAL` or `EOPNOTSUPP` where the file system knows no locks
 */
export function tryLockFile(fd: number, mode: 'shared' | 'exclusive'): boolean {
  const loaded = loadRecorder();
  if (loaded.addon === undefined) {
    throw new CoupletError('CPL_FILE_LOCK', `file ${fd} cannot be locked: ${loaded.error}`, { level: 'error' });
  }
  const errno = loaded.addon.lockFile(fd, mode === 'exclusive');
  if (errno === 0) return true;
  const code = getSystemErrorName(-errno);
  if (code === 'EAGAIN' || code === 'EACCES') return false;
  throw new CoupletError('CPL_FILE_LOCK', `file ${fd} cannot be locked (${mode}): ${code}`, {
    level: 'error',
    cause: Object.assign(new Error(code), { code, errno: -errno }),
  });
}
