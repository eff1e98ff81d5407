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

const columns: Columns = [
  ['USER GROUP', valueAt('name')],
  ['ID', valueAt('usergroupid')],
  ['DESCRIPTION', valueAt('description')],
];

function named({ userGroupId, ...rest }: Thing): Thing {
  return { usergroupid: userGroupId, ...rest };
}

/** Adds `couplet usergroup`: user groups and who is in them. */
export function registerUserGroup(program: Command, deps: DirectoryDeps): void {
  const group = program.command('usergroup').description('user groups of the directory, and their members');

  addDirectoryOptions(
    group
      .command('add')
      .description('add a user group')
      .argument('<NAME>', 'its name')
      .option('--description <TEXT>', 'who is in it'),
  ).action((name: string, flags: AddFlags) =>
    withDirectory(
      flags,
      deps,
      async (api) => {
        const { description } = flags;
        const made = named(
          await api.call('POST', '/user-groups', { name, ...(description !== undefined && { description }) }),
        );
        await printThing(deps, api, made, `added: ${made.usergroupid}`);
      },
      true,
    ),
  );

  addDirectoryOptions(group.command('list').description('list the user groups')).action((flags: DirectoryFlags) =>
    withDirectory(flags, deps, (api) => {
      const groups = async function* () {
        for await (const thing of api.list('/user-groups', 'userGroups', 'userGroupId')) yield named(thing);
      };
      return printList(deps, api, groups(), columns);
    }),
  );

  const onGroup = (word: string, description: string) =>
    addDirectoryOptions(group.command(word).description(description).argument('<GROUP>', 'name or id'));

  onGroup('remove', 'remove a user group, with its links').action((name: string, flags: DirectoryFlags) =>
    withDirectory(flags, deps, async (api) => {
      await api.call('DELETE', `/user-groups/${segment(name)}`);
      await printThing(deps, api, { usergroup: name, done: 'remove' }, `removed: ${name}`);
    }),
  );

  onGroup('members', 'list the users in a user group').action((name: string, flags: DirectoryFlags) =>
    withDirectory(flags, deps, (api) => {
      const members = async function* () {
        const path = `/user-groups/${segment(name)}/members`;
        for await (const userid of api.list(path, 'members')) yield { userid };
      };
      return printList(deps, api, members(), [['USER', valueAt('userid')]]);
    }),
  );

  const membership = (word: string, method: string, description: string) =>
    onGroup(word, description)
      .argument('<USER>', 'name or userid')
      .action((name: string, user: string, flags: DirectoryFlags) =>
        withDirectory(flags, deps, async (api) => {
          await api.call(method, `/user-groups/${segment(name)}/members/${segment(user)}`);
          await printThing(deps, api, { usergroup: name, user, done: word }, `${word}: ${user}, ${name}`);
        }),
      );
  membership('add-member', 'PUT', 'put a user into a user group');
  membership('remove-member', 'DELETE', 'take a user out of a user group');
}
