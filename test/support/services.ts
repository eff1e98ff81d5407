import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { TestContext } from 'node:test';

const systemFolders = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** The path of a program, looked for in PATH and in the folders of system programs; `undefined` where it is not. */
export function findProgram(name: string): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...systemFolders];
  return folders.map((folder) => join(folder, name)).find(isProgram);
}

function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

/**
 * The path of a program that a test needs. Where it is missing the test is skipped and `undefined` returned (the test
 * must end then); under COUPLET_TEST_REQUIRE_SERVICES=1 it fails instead.
 */
export function requireProgram(t: TestContext, name: string): string | undefined {
  const file = findProgram(name);
  if (file !== undefined) return file;
  missing(t, `the program ${name} is not installed; scripts/test-services says how`);
  return undefined;
}

/** For a service that is more than a program: skips or fails as {@link requireProgram} does. */
export function missing(t: TestContext, what: string): void {
  if (process.env.COUPLET_TEST_REQUIRE_SERVICES === '1') throw new Error(what);
  t.skip(what);
}
