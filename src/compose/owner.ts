import { statSync } from 'node:fs';
import { CoupletError } from '../core/errors.ts';

/**
 * Files that another user makes in a data folder (by `sudo`, say) the server could not open.
 * @throws CoupletError `CPL_DATA_DIR`
 */
export function requireOwner(folder: string): void {
  const { uid } = statSync(folder);
  const own = process.geteuid?.();
  if (own === undefined || uid === own) return;
  const text = `server.dataDir ${JSON.stringify(folder)} belongs to the user with id ${uid}; run this as that user (sudo -u '#${uid}' …), not as ${own}`;
  throw new CoupletError('CPL_DATA_DIR', text, { level: 'error' });
}
