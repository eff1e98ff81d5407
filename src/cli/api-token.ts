import type { Command } from 'commander';
import { systemClock } from '../core/clock.ts';
import {
  addDirectoryOptions,
  type DirectoryDeps,
  type DirectoryFlags,
  segment,
  withDirectory,
} from './directory-options.ts';
import { parseDurationMs } from './durations.ts';
import { type Columns, printList, printThing, timeAt, valueAt } from './print-things.ts';

interface TokenFlags extends DirectoryFlags {
  readonly user?: string;
}

interface CreateFlags extends TokenFlags {
  readonly scopes: string;
  readonly expires?: string;
}

const columns: Columns = [
  ['TOKEN', valueAt('id')],
  ['NAME', valueAt('name')],
  ['SCOPES', ({ scopes }) => (scopes as string[]).join(',')],
  ['ENDS', timeAt('expiresMs')],
  ['LAST USE', timeAt('lastUseMs')],
];

/** Adds `couplet api-token`: tokens of a user for the API. (`couplet token` seals cookies.) */
export function registerApiToken(program: Command, deps: DirectoryDeps): void {
  const token = program.command('api-token').description('tokens of a user, for the API and the commands that use it');
  const add = (command: Command) =>
    addDirectoryOptions(command.option('--user <NAME>', 'over a data folder: whose tokens'));

  add(
    token
      .command('create')
      .description('make a token; prints it once, and never again')
      .argument('<NAME>', 'what it is for')
      .option('--scopes <LIST>', 'what it is good for: all, devices:read,tunnels:write, …', 'all')
      .option('--expires <TIME>', 'when it ends: 30m, 2h, 90d (default: never)'),
  ).action((name: string, flags: CreateFlags) =>
    withDirectory(flags, deps, async (api) => {
      const { scopes, expires } = flags;
      const made = await api.callAs(flags.user, 'POST', '/tokens', {
        name,
        scopes: scopes.split(',').map((scope) => scope.trim()),
        ...(expires !== undefined && { expiresMs: systemClock.nowMs() + parseDurationMs(expires, '--expires') }),
      });
      await printThing(deps, api, made, String(made.secret));
    }),
  );

  add(token.command('list').description('list the tokens')).action((flags: TokenFlags) =>
    withDirectory(flags, deps, async (api) => {
      const { tokens } = await api.callAs(flags.user, 'GET', '/tokens');
      await printList(deps, api, tokens as [], columns);
    }),
  );

  for (const word of ['revoke', 'remove']) {
    add(
      token
        .command(word, { hidden: word !== 'revoke' })
        .description('revoke a token')
        .argument('<TOKEN>', 'its id'),
    ).action((id: string, flags: TokenFlags) =>
      withDirectory(flags, deps, async (api) => {
        await api.callAs(flags.user, 'DELETE', `/tokens/${segment(id)}`);
        await printThing(deps, api, { id, done: 'revoke' }, `revoked: ${id}`);
      }),
    );
  }
}
