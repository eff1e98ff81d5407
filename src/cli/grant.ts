import type { Command } from 'commander';
import { rightBits } from '../core/rights.ts';
import {
  addDirectoryOptions,
  type DirectoryDeps,
  type DirectoryFlags,
  segment,
  withDirectory,
} from './directory-options.ts';
import { type Columns, printList, printThing, valueAt } from './print-things.ts';

interface ListFlags extends DirectoryFlags {
  readonly user?: string;
  readonly on?: string;
}

const columns: Columns = [
  ['USER OR USER GROUP', valueAt('subjectId')],
  ['GROUP OR DEVICE', valueAt('targetId')],
  ['RIGHTS', valueAt('rights')],
];

const subject = ['<USER>', 'user or user group, by name or id'] as const;
const target = ['<GROUP-OR-DEVICE>', 'device group or device, by name or id'] as const;

/** Adds `couplet grant` and `couplet revoke`: links that give rights [T1][T2]. */
export function registerGrant(program: Command, deps: DirectoryDeps): void {
  const grant = addDirectoryOptions(
    program
      .command('grant')
      // `couplet grant list --json`: the flag is the list's, not the grant's.
      .enablePositionalOptions()
      .usage('[options] <USER> <GROUP-OR-DEVICE> <RIGHTS>\n       couplet grant list|remove [options]')
      .description('give a user or user group rights over a device group or device, in the place of earlier ones')
      .argument(...subject)
      .argument(...target)
      .argument('<RIGHTS>', `number, "admin" for all, or names: ${Object.keys(rightBits).join(',')}`),
  ).action((subject: string, target: string, rights: string, flags: DirectoryFlags) =>
    withDirectory(flags, deps, async (api) => {
      const made = await api.call('PUT', '/grants', { subject, target, rights });
      await printThing(deps, api, made, `granted: ${made.subjectId}, ${made.targetId}, ${made.rights}`);
    }),
  );

  addDirectoryOptions(
    grant
      .command('list')
      .description('list links; without --user and --on all that you may see')
      .option('--user <USER>', 'of this user or user group')
      .option('--on <GROUP-OR-DEVICE>', 'on this device group or device'),
  ).action((flags: ListFlags) => {
    const { user, on } = flags;
    return withDirectory(flags, deps, async (api) => {
      const query = [user !== undefined && `subject=${segment(user)}`, on !== undefined && `target=${segment(on)}`];
      const given = query.filter(Boolean).join('&');
      const { grants } = await api.call('GET', `/grants${given && `?${given}`}`);
      await printList(deps, api, grants as [], columns);
    });
  });

  const withdraw = async (subject: string, target: string, flags: DirectoryFlags) =>
    withDirectory(flags, deps, async (api) => {
      await api.call('DELETE', `/grants?subject=${segment(subject)}&target=${segment(target)}`);
      await printThing(deps, api, { subject, target, done: 'revoke' }, `revoked: ${subject}, ${target}`);
    });
  const about = 'withdraw a link with all its rights; sessions that need it end';
  for (const command of [grant.command('remove'), program.command('revoke')]) {
    addDirectoryOptions(
      command
        .description(about)
        .argument(...subject)
        .argument(...target),
    ).action(withdraw);
  }
}
