import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, linkSync, mkdirSync, readFileSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { CoupletError } from './errors.ts';

/**
 * Makes a folder of the server's where it is not there, readable by its owner alone.
 * @param setting the one that names the folder, for the error
 * @throws CoupletError `CPL_DATA_DIR`
 */
export function ensureFolder(folder: string, setting = 'server.dataDir'): void {
  try {
    if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true) return;
    makeParents(resolve(folder));
    mkdirSync(folder, { mode: 0o700 });
    chmodSync(folder, 0o700);
  } catch (error) {
    throw unusable(folder, setting, error);
  }
}

// Not mkdir's own `recursive`: where a file system answers ENOENT to it (/proc), Node.js 20 tries again forever.
function makeParents(folder: string): void {
  const parent = dirname(folder);
  if (existsSync(parent)) return;
  makeParents(parent);
  mkdirSync(parent);
}

function unusable(folder: string, setting: string, cause: unknown): CoupletError {
  const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
  const text = `${setting} ${JSON.stringify(folder)} cannot be used (${code}); it must be a folder to write to`;
  return new CoupletError('CPL_DATA_DIR', text, { level: 'error', cause });
}

/**
 * Reads a secret's file, or makes one of mode 0600 with `generate()`. Two processes that start at once agree: the
 * file appears whole or not at all, and the second one reads the first one's.
 * @throws CoupletError `CPL_DATA_DIR`
 */
export function ensureSecretFile(folder: string, name: string, generate: () => string): string {
  const path = join(folder, name);
  try {
    if (!existsSync(path)) createOnce(folder, name, generate);
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw unusable(folder, 'server.dataDir', error);
  }
}

function createOnce(folder: string, name: string, generate: () => string): void {
  const temporary = join(folder, `.${name}.${randomBytes(6).toString('hex')}`);
  writeFileSync(temporary, generate(), { mode: 0o600, flag: 'wx', flush: true });
  try {
    linkSync(temporary, join(folder, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    unlinkSync(temporary);
  }
}
