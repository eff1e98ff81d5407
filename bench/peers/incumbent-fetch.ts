import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from '../build.ts';

/** The version all figures are of. Its own dependencies are exact versions too. */
export const incumbentVersion = '1.1.55';

/** What it would install by itself at its first start where it does not find it. */
const modules = ['image-size@2.0.2'];

const npmLimitMs = 10 * 60_000;

/** What is needed to fetch it; a test gives its own. */
export interface FetchOptions {
  /** Where it is kept from then on. */
  readonly folder?: string;
  /** The command that installs, `npm`. */
  readonly npm?: string;
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

/** Where its program is within the folder it was fetched to: what its guide has one give to `node`. */
export function incumbentProgram(folder = join(cacheFolder, 'incumbent')): string {
  return join(folder, 'node_modules', 'meshcentral');
}

function fetched(folder: string): boolean {
  try {
    const { version } = JSON.parse(readFileSync(join(incumbentProgram(folder), 'package.json'), 'utf8'));
    return version === incumbentVersion;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

/** Whether it can be started without fetching anything. */
export function incumbentFetched(): boolean {
  return fetched(join(cacheFolder, 'incumbent'));
}

/** Its reason where it failed, once asked: a second question is not worth another half a minute of npm. */
const answers = new Map<string, string | undefined>();

/**
 * Fetches MeshCentral from the npm registry into `bench/.cache/incumbent`, unless it is there: some 450 MB, and no
 * script of any package runs. Returns why that cannot be, in words for the report; `undefined` where it is there.
 * COUPLET_BENCH_OFFLINE=1 forbids it.
 */
export function fetchIncumbent(options: FetchOptions = {}): string | undefined {
  const { folder = join(cacheFolder, 'incumbent'), npm = 'npm', environment = process.env } = options;
  if (fetched(folder)) return undefined;
  if (environment.COUPLET_BENCH_OFFLINE === '1') {
    return `meshcentral ${incumbentVersion} has not been fetched, and COUPLET_BENCH_OFFLINE=1 forbids that`;
  }
  if (!answers.has(folder)) answers.set(folder, install(folder, npm, environment));
  return answers.get(folder);
}

function install(
  folder: string,
  npm: string,
  environment: Readonly<Record<string, string | undefined>>,
): string | undefined {
  process.stderr.write(`bench: fetching meshcentral ${incumbentVersion} (about 450 MB) to ${folder} …\n`);
  mkdirSync(join(folder, '..'), { recursive: true });
  // Fetched beside its place and moved as a whole: what is in its place is complete.
  const fresh = mkdtempSync(`${folder}.`);
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--no-update-notifier', '--loglevel=error'];
  const packages = ['--save-exact', ...modules, `meshcentral@${incumbentVersion}`];
  const run = spawnSync(npm, ['install', '--prefix', fresh, ...quiet, ...packages], {
    encoding: 'utf8',
    env: environment,
    timeout: npmLimitMs,
  });
  if (run.error === undefined && run.status === 0 && fetched(fresh)) {
    rmSync(folder, { recursive: true, force: true });
    renameSync(fresh, folder);
    return undefined;
  }
  rmSync(fresh, { recursive: true, force: true });
  const words = run.error?.message ?? run.stderr.trim().split('\n').slice(0, 3).join(' ');
  return `meshcentral ${incumbentVersion} could not be fetched with npm: ${words || `it ended with ${run.status}`}`;
}
