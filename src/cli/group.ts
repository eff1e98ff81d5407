import type { Command } from 'commander';
import {
  addDirectoryOptions,
  type DirectoryDeps,
  type DirectoryFlags,
  segment,
  type Thing,
  withDirectory,
} from './directory-options.ts';
import { type Columns, printList, printThing, valueAt } from './print-things.ts';

interface AddFlags extends DirectoryFlags {
  readonly description?: string;
}

interface RemoveFlags extends DirectoryFlags {
  readonly withDevices?: boolean;
}

const columns: Columns = [
  ['GROUP', valueAt('name')],
  ['ID', valueAt('groupid')],
  ['DESCRIPTION', valueAt('description')],
];

/** The API names its ids at length; the commands' contract says `groupid`. */
function named({ deviceGroupId, ...rest }: Thing): Thing {
  return { groupid: deviceGroupId, ...rest };
}

/** Adds `couplet group`: device groups. */
export function registerGroup(program: Command, deps: DirectoryDeps): void {
  const group = program.command('group').description('device groups of the directory');

  addDirectoryOptions(
    group
      .command('add')
      .description('add a device group')
      .argument('<NAME>', 'its name')
      .option('--description <TEXT>', 'what it is for'),
  ).action((name: string, flags: AddFlags) =>
    withDirectory(
      flags,
      deps,
      async (api) => {
        const { description } = flags;
        const made = named(
          await api.call('POST', '/device-groups', { name, ...(description !== undefined && { description }) }),
        );
        await printThing(deps, api, made, `added: ${made.groupid}`);
      },
      true,
    ),
  );

  addDirectoryOptions(group.command('list').description('list the device groups')).action((flags: DirectoryFlags) =>
    withDirectory(flags, deps, (api) => {
      const groups = async function* () {
        for await (const thing of api.list('/device-groups', 'deviceGroups', 'deviceGroupId')) yield named(thing);
      };
      return printList(deps, api, groups(), columns);
    }),
  );

  addDirectoryOptions(
    group
      .command('remove')
      .description('remove a device group')
      .argument('<GROUP>', 'name or id')
      .option('--with-devices', 'also where it has devices, which go with it'),
  ).action((name: string, flags: RemoveFlags) =>
    withDirectory(flags, deps, async (api) => {
      const query = flags.withDevices === true ? '?withDevices=true' : '';
      await api.call('DELETE', `/device-groups/${segment(name)}${query}`);
      await printThing(deps, api, { group: name, done: 'remove' }, `removed: ${name}`);
    }),
  );
}
