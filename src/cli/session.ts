import type { Command } from 'commander';
import { CoupletError } from '../core/errors.ts';
import {
  addDirectoryOptions,
  type DirectoryDeps,
  type DirectoryFlags,
  segment,
  type Thing,
  withDirectory,
} from './directory-options.ts';
import { type Columns, printList, printThing, timeAt, valueAt } from './print-things.ts';
import { optionsError } from './server-options.ts';

const columns: Columns = [
  ['SESSION', valueAt('id')],
  ['PROTOCOL', valueAt('protocol')],
  ['USER', ({ userid, guestname }) => (guestname ? `${userid} (guest ${guestname})` : userid)],
  ['DEVICE', valueAt('nodeid')],
  ['SINCE', timeAt('startedMs')],
  ['TO DEVICE', bytesOf('userToDevice')],
  ['TO USER', bytesOf('deviceToUser')],
];

function bytesOf(direction: string): Columns[number][1] {
  return (session) => (session[direction] as { bytes: number }).bytes;
}

/** Adds `couplet session`: the running sessions of a server. */
export function registerSession(program: Command, deps: DirectoryDeps): void {
  const session = program.command('session').description('running sessions of a server');

  addDirectoryOptions(session.command('list').description('list the running sessions')).action(
    (flags: DirectoryFlags) => {
      requireServer(flags);
      return withDirectory(flags, deps, async (api) => {
        let missing = 0;
        const count = ({ missingServers }: Thing) => {
          missing = Math.max(missing, Number(missingServers ?? 0));
        };
        await printList(deps, api, api.list('/sessions', 'sessions', 'id', count), columns);
        if (missing === 0) return;
        const text = `${missing} of the cluster's servers did not answer: their sessions are not in this list; try again`;
        throw new CoupletError('CPL_CLIENT_SERVERS', text, { level: 'error' });
      });
    },
  );

  for (const word of ['kill', 'remove']) {
    addDirectoryOptions(
      session
        .command(word, { hidden: word !== 'kill' })
        .description('end a running session')
        .argument('<SESSION>', 'its id'),
    ).action((id: string, flags: DirectoryFlags) => {
      requireServer(flags);
      return withDirectory(flags, deps, async (api) => {
        await api.call('DELETE', `/sessions/${segment(id)}`);
        await printThing(deps, api, { id, done: 'kill' }, `killed: ${id}`);
      });
    });
  }
}

function requireServer({ url }: DirectoryFlags): void {
  if (url === undefined)
    throw optionsError("sessions are a running server's, not in a data folder: give --url and a token");
}
