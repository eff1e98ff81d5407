import type { Command } from 'commander';
import {
  addDirectoryOptions,
  type DirectoryDeps,
  type DirectoryFlags,
  readPassword,
  segment,
  withDirectory,
} from './directory-options.ts';
import { type Columns, printList, printThing, timeAt, valueAt } from './print-things.ts';
import { optionsError } from './server-options.ts';

interface AddFlags extends DirectoryFlags {
  readonly passwordStdin?: boolean;
  readonly admin?: boolean;
  readonly siteRights?: string;
  readonly realname?: string;
}

const columns: Columns = [
  ['USER', valueAt('userid')],
  ['REAL NAME', valueAt('realname')],
  ['SITE RIGHTS', valueAt('siteRights')],
  ['LOCKED', ({ locked }) => (locked ? 'locked' : '')],
  ['PASSWORD', ({ hasPassword }) => (hasPassword ? 'yes' : 'no')],
  ['LAST LOGIN', timeAt('lastLoginMs')],
];

/** Adds `couplet user`. */
export function registerUser(program: Command, deps: DirectoryDeps): void {
  const user = program.command('user').description('users of the directory');

  addDirectoryOptions(
    user
      .command('add')
      .description('add a user')
      .argument('<NAME>', 'to log in with')
      .option('--password-stdin', 'read the password from the first line of standard input; without one no login')
      .option('--admin', 'with all site rights')
      .option('--site-rights <RIGHTS>', 'number, or names such as manage-users,recordings')
      .option('--realname <TEXT>', 'the real name'),
  ).action((name: string, flags: AddFlags) => addUser(name, flags, deps));

  addDirectoryOptions(user.command('list').description('list the users')).action((flags: DirectoryFlags) =>
    withDirectory(flags, deps, (api) => printList(deps, api, api.list('/users', 'users', 'userid'), columns)),
  );

  const onUser = (word: string, description: string) =>
    addDirectoryOptions(user.command(word).description(description).argument('<USER>', 'name or userid'));
  const change = (word: string, description: string, method: string, body?: object) =>
    onUser(word, description).action((name: string, flags: DirectoryFlags) =>
      withDirectory(flags, deps, async (api) => {
        await api.call(method, `/users/${segment(name)}`, body);
        await printThing(deps, api, { user: name, done: word }, `${word}: ${name}`);
      }),
    );
  change('remove', 'remove a user, with links, shares, logins and tokens', 'DELETE');
  change('lock', 'lock a user out; running sessions end', 'PATCH', { locked: true });
  change('unlock', 'let a locked user in again', 'PATCH', { locked: false });

  onUser('password', "set a user's password; ends the user's logins")
    .option('--password-stdin', 'read it from the first line of standard input')
    .action((name: string, flags: AddFlags) => {
      if (flags.passwordStdin !== true) throw optionsError('give the new password on standard input: --password-stdin');
      return withDirectory(flags, deps, async (api) => {
        const password = await readPassword(deps.stdin());
        await api.call('PUT', `/users/${segment(name)}/password`, { password });
        await printThing(deps, api, { user: name, done: 'password' }, `password: ${name}`);
      });
    });
}

async function addUser(name: string, flags: AddFlags, deps: DirectoryDeps): Promise<void> {
  const { admin, siteRights, realname } = flags;
  if (admin === true && siteRights !== undefined) throw optionsError('give --admin or --site-rights, not both');
  await withDirectory(
    flags,
    deps,
    async (api) => {
      const user = await api.call('POST', '/users', {
        name,
        ...(flags.passwordStdin === true && { password: await readPassword(deps.stdin()) }),
        ...(admin === true && { siteRights: 'admin' }),
        ...(siteRights !== undefined && { siteRights }),
        ...(realname !== undefined && { realname }),
      });
      await printThing(deps, api, user, `added: ${user.userid}`);
    },
    true,
  );
}
