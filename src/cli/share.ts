import type { Command } from 'commander';
import {
  addDirectoryOptions,
  type DirectoryApi,
  type DirectoryDeps,
  type DirectoryFlags,
  segment,
  withDirectory,
} from './directory-options.ts';
import { parseDurationMs } from './durations.ts';
import { type Columns, printList, printThing, timeAt, valueAt } from './print-things.ts';
import { optionsError } from './server-options.ts';

interface CreateFlags extends DirectoryFlags {
  readonly protocols: string;
  readonly expires: string;
  readonly viewOnly?: boolean;
  readonly guest?: string;
  readonly user?: string;
}

interface ListFlags extends DirectoryFlags {
  readonly device?: string;
}

const columns: Columns = [
  ['SHARE', valueAt('id')],
  ['DEVICE', valueAt('nodeid')],
  ['BY', valueAt('createdBy')],
  ['OPENS', ({ protocols, viewOnly }) => `${protocols}${viewOnly ? ' (view only)' : ''}`],
  ['GUEST', valueAt('guestName')],
  ['ENDS', timeAt('expiresMs')],
  ['REVOKED', timeAt('revokedMs')],
  ['USES', valueAt('uses')],
];

/** [T15] Adds `couplet share`. */
export function registerShare(program: Command, deps: DirectoryDeps): void {
  const share = program.command('share').description('guest links: a URL that opens a device to who has it');

  addDirectoryOptions(
    share
      .command('create')
      .description('share a device; prints the URL, which is never shown again')
      .argument('<DEVICE>', 'name or nodeid')
      .requiredOption('--protocols <LIST>', 'one or more of terminal,desktop,files,tcp:PORT')
      .requiredOption('--expires <TIME>', 'when it ends: 30m, 2h, 7d')
      .option('--view-only', 'a desktop is for looking at alone')
      .option('--guest <NAME>', 'who the guest is, for events')
      .option('--user <NAME>', 'over a data folder: in whose name'),
  ).action((device: string, flags: CreateFlags) =>
    withDirectory(flags, deps, (api) => createShare(device, flags, api, deps)),
  );

  addDirectoryOptions(
    share
      .command('list')
      .description('list the shares')
      .option('--device <DEVICE>', 'those of this device, by name or nodeid'),
  ).action((flags: ListFlags) =>
    withDirectory(flags, deps, (api) => {
      const query = flags.device === undefined ? '' : `?device=${segment(flags.device)}`;
      return printList(deps, api, api.list(`/shares${query}`, 'shares', 'id'), columns);
    }),
  );

  const change = (word: string, description: string, method: string, below: string) =>
    addDirectoryOptions(share.command(word).description(description).argument('<SHARE>', 'its id')).action(
      (id: string, flags: DirectoryFlags) =>
        withDirectory(flags, deps, async (api) => {
          await api.call(method, `/shares/${segment(id)}${below}`);
          await printThing(deps, api, { id, done: word }, `${word}: ${id}`);
        }),
    );
  change('revoke', 'end a share and its sessions; it stays in the list', 'POST', '/revoke');
  change('remove', 'remove a share and end its sessions', 'DELETE', '');
}

async function createShare(device: string, flags: CreateFlags, api: DirectoryApi, deps: DirectoryDeps): Promise<void> {
  const { protocols, viewOnly, guest, user } = flags;
  if (api.isServer && user !== undefined)
    throw optionsError('--user is for a data folder: at a server it is the user of the token');
  if (!api.isServer && user === undefined)
    throw optionsError('over a data folder this needs --user NAME: in whose name');
  const { url, ...made } = await api.call('POST', '/shares', {
    device,
    protocols,
    expiresInMs: parseDurationMs(flags.expires, '--expires'),
    ...(viewOnly === true && { viewOnly }),
    ...(guest !== undefined && { guestName: guest }),
    ...(user !== undefined && { user }),
  });
  const whole = api.relayUrl(String(url));
  await printThing(deps, api, { id: made.id, url: whole, ...made }, String(made.id), whole);
}
