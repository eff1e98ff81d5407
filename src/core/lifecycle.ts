import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, linkSync, mkdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Makes the data folder where it is not there, readable by its owner alone. */
export function ensureFolder(folder: string): void {
  if (existsSync(folder)) return;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  chmodSync(folder, 0o700);
}

/**
 * Reads a secret's file, or makes one of mode 0600 with `generate()`. Two processes that start at once agree: the
 * file appears whole or not at all, and the second one reads the first one's.
 */
export function ensureSecretFile(folder: string, name: string, generate: () => string): string {
  const path = join(folder, name);
  if (!existsSync(path)) {
    const temporary = join(folder, `.${name}.${randomBytes(6).toString('hex')}`);
    writeFileSync(temporary, generate(), { mode: 0o600, flag: 'wx', flush: true });
    try {
      linkSync(temporary, path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    } finally {
      unlinkSync(temporary);
    }
  }
  return readFileSync(path, 'utf8').trim();
}
