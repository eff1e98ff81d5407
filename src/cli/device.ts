import type { Command } from 'commander';
import { toSafeJson } from '../audit/safe-text.ts';
import {
  addDirectoryOptions,
  type DirectoryDeps,
  type DirectoryFlags,
  segment,
  type Thing,
  withDirectory,
} from './directory-options.ts';
import { parseDurationMs } from './durations.ts';
import { type Columns, printList, printThing, timeAt, valueAt } from './print-things.ts';

interface DeviceFlags extends DirectoryFlags {
  readonly group?: string;
  readonly expires?: string;
}

const columns: Columns = [
  ['DEVICE', valueAt('name')],
  ['NODEID', valueAt('nodeid')],
  ['GROUP', valueAt('groupid')],
  ['STATE', stateOf],
  ['LAST SEEN', timeAt('lastSeenMs')],
];

function stateOf({ revokedMs, enrolled, online }: Thing): string {
  if (revokedMs !== null) return 'revoked';
  if (enrolled === false) return 'not enrolled';
  if (online === undefined) return 'enrolled';
  // The server asked does not know of the other servers' agents for now.
  if (online === null) return 'unknown';
  return online === true ? 'online' : 'offline';
}

/** Adds `couplet device`. */
export function registerDevice(program: Command, deps: DirectoryDeps): void {
  const device = program.command('device').description('devices of the directory');

  addDirectoryOptions(
    device
      .command('add')
      .description('add a device; prints its nodeid and a join code for its agent as JSON')
      .argument('<NAME>', 'its name')
      .requiredOption('--group <GROUP>', 'its device group, by name or id')
      .option('--expires <TIME>', 'how long the join code is good: 30m, 24h, 7d (default: 24h)'),
  ).action((name: string, flags: DeviceFlags) => {
    const { group = '' } = flags;
    return printJoin(flags, deps, '/devices', { name, deviceGroup: group, ...joinFor(flags) });
  });

  addDirectoryOptions(
    device.command('list').description('list the devices').option('--group <GROUP>', 'those of this device group'),
  ).action((flags: DeviceFlags) =>
    withDirectory(flags, deps, (api) => {
      const query = flags.group === undefined ? '' : `?group=${segment(flags.group)}`;
      const devices = async function* () {
        for await (const { deviceGroupId: groupid, online, agent, ...rest } of api.list(
          `/devices${query}`,
          'devices',
          'nodeid',
        )) {
          // Who is connected, only a running server knows.
          yield { ...rest, groupid, ...(api.isServer && { online, agent }) };
        }
      };
      return printList(deps, api, devices(), columns);
    }),
  );

  const onDevice = (word: string, description: string) =>
    addDirectoryOptions(device.command(word).description(description).argument('<DEVICE>', 'name or nodeid'));
  const change = (word: string, description: string, method: string, below: string) =>
    onDevice(word, description).action((name: string, flags: DirectoryFlags) =>
      withDirectory(flags, deps, async (api) => {
        await api.call(method, `/devices/${segment(name)}${below}`);
        await printThing(deps, api, { device: name, done: word }, `${word}: ${name}`);
      }),
    );
  change('remove', 'remove a device, with its links and shares', 'DELETE', '');
  change('revoke', "take a device's key and join code away; its sessions end", 'POST', '/revoke');

  onDevice('join-code', 'make a new join code, printed as JSON; the old key is good until it is used')
    .option('--expires <TIME>', 'how long it is good: 30m, 24h, 7d (default: 24h)')
    .action((name: string, flags: DeviceFlags) =>
      printJoin(flags, deps, `/devices/${segment(name)}/join-code`, joinFor(flags)),
    );
}

function joinFor({ expires }: DeviceFlags): { joinForMs?: number } {
  return expires === undefined ? {} : { joinForMs: parseDurationMs(expires, '--expires') };
}

/** Always JSON: what is printed here is never shown again, so scripts must get it whole. */
async function printJoin(flags: DeviceFlags, deps: DirectoryDeps, path: string, body: object): Promise<void> {
  await withDirectory(flags, deps, async (api) => {
    const { nodeid, join, joinExpiresMs } = await api.call('POST', path, body);
    await deps.print(toSafeJson({ nodeid, join, joinExpiresMs }));
  });
}
