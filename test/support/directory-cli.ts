import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { TestContext } from 'node:test';
import { Command } from 'commander';
import { registerDirectory } from '../../src/cli/directory-commands.ts';
import { DataFolder } from '../../src/compose/admin.ts';
import { type ServeChild, startServe } from './serve.ts';

/** Runs a command of the directory in this process; its lines. Errors are thrown as the program would get them. */
export async function runDirectory(args: readonly string[], stdin = ''): Promise<string[]> {
  const lines: string[] = [];
  const quiet = { writeErr: () => undefined, writeOut: () => undefined, outputError: () => undefined };
  const program = new Command().exitOverride().enablePositionalOptions().configureOutput(quiet);
  registerDirectory(program, {
    print: async (line) => {
      lines.push(line);
    },
    stdin: () => Readable.from([Buffer.from(stdin)]),
    openDataFolder: (loaded, mayMake) => DataFolder.open(loaded, { mayMake }),
  });
  await program.parseAsync(args, { from: 'user' });
  return lines;
}

/** One of the two places that the commands work on. */
export interface Place {
  /** The flags that name it. */
  readonly flags: readonly string[];
  /** Where a command needs somebody's name over a data folder alone. */
  as(user: string): readonly string[];
  /** The commands' prints with `--json`, each line parsed. */
  json(...args: string[]): Promise<Record<string, unknown>[]>;
  text(...args: string[]): Promise<string[]>;
  readonly serve: ServeChild | undefined;
  readonly dataDir: string;
}

function place(flags: readonly string[], dataDir: string, serve?: ServeChild): Place {
  return {
    flags,
    dataDir,
    serve,
    as: (user) => (serve === undefined ? ['--user', user] : []),
    json: async (...args) =>
      (await runDirectory([...args, ...flags, '--json'])).map((line) => JSON.parse(line) as Record<string, unknown>),
    text: (...args) => runDirectory([...args, ...flags]),
  };
}

/** A data folder with a user `root` of all site rights. */
export async function folderPlace(t: TestContext): Promise<Place> {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-cli-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const dataDir = join(folder, 'data');
  await runDirectory(['user', 'add', 'root', '--admin', '--data', dataDir]);
  return place(['--data', dataDir], dataDir);
}

/** A running server, called by its user `root` of all site rights, whom the data folder's commands have made. */
export async function serverPlace(t: TestContext): Promise<Place> {
  const serve = await startServe(t, { settings: { relay: { upgradesPerAddressPerSecond: 0 } } });
  const config = ['--config', serve.configFile];
  await runDirectory(['user', 'add', 'root', '--admin', ...config]);
  const [secret] = await runDirectory(['api-token', 'create', 'test', '--user', 'root', ...config]);
  const file = join(serve.folder, 'token');
  writeFileSync(file, `${secret}\n`, { mode: 0o600 });
  return place(['--url', `http://${serve.address}`, '--token-file', file], serve.dataDir, serve);
}

export const places = [
  ['a data folder', folderPlace],
  ['a server', serverPlace],
] as const;
