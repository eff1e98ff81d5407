import type { TestContext } from 'node:test';
import { Agent, type AgentOptions } from '../../src/clients/agent/agent.ts';
import { AgentState } from '../../src/clients/agent/state.ts';
import { systemClock } from '../../src/core/clock.ts';
import type { CoupletError } from '../../src/core/errors.ts';
import { adminRights } from '../../src/core/rights.ts';
import type { Device, DeviceGroup, Directory, User } from '../../src/directory/directory.ts';
import { keepable } from './control-server.ts';
import { startRelay, type TestRelay, type TestRelayOptions, temporaryFolder, until } from './relay.ts';

/** A relay with a directory: alice, who may do everything with the devices of one group. */
export interface Site {
  readonly relay: TestRelay;
  readonly directory: Directory;
  readonly alice: User;
  readonly group: DeviceGroup;
  readonly url: string;
  /** Where devices go. */
  readonly deviceUrl: string;
}

export async function startSite(t: TestContext, options: TestRelayOptions = {}): Promise<Site> {
  const relay = await startRelay(t, options);
  const { directory } = relay.server;
  const alice = await directory.users.create({ name: 'alice', realname: 'Alice A.', password: 'correct horse' });
  const group = await directory.deviceGroups.create({ name: 'lab' });
  await directory.links.grant(alice.id, group.id, adminRights);
  const [url, deviceUrl] = (['user', 'device'] as const).map(
    (side) => `${relay.tls ? 'wss' : 'ws'}://127.0.0.1:${relay.portOf(side)}`,
  );
  return { relay, directory, alice, group, url: url!, deviceUrl: deviceUrl! };
}

/** A device of a site, and its agent. */
export interface SiteAgent {
  readonly device: Device;
  readonly nodeid: string;
  readonly state: AgentState;
  /** How often it was accepted. */
  online(): number;
  /** How its sessions ended; `undefined`: well. */
  readonly errors: (CoupletError | undefined)[];
  readonly offline: CoupletError[];
  /** Tunnels that run. */
  tunnels(): number;
  readonly ended: Promise<unknown>;
  stop(): Promise<void>;
}

/** Makes a device, enrols an agent for it and waits until it is online. */
export async function addAgent(
  t: TestContext,
  site: Site,
  options: Partial<AgentOptions> & { name?: string } = {},
): Promise<SiteAgent> {
  const { name = 'box', ...agentOptions } = options;
  const { device, join } = await site.directory.devices.create({ deviceGroupId: site.group.id, name });
  const state = agentOptions.state ?? AgentState.open(temporaryFolder(t));
  const agent = await runAgent(t, site, { join: join.code, ...agentOptions, state });
  return { ...agent, device, nodeid: device.id, state };
}

/** Runs an agent that has enrolled before, or has a join code, and waits until it is online. */
export async function runAgent(
  t: TestContext,
  site: { readonly url: string; readonly deviceUrl?: string },
  options: Partial<AgentOptions> & Pick<AgentOptions, 'state'>,
): Promise<Omit<SiteAgent, 'device' | 'nodeid' | 'state'>> {
  const errors: SiteAgent['errors'] = [];
  const offline: CoupletError[] = [];
  let accepted = 0;
  const stop = new AbortController();
  const agent = new Agent({
    url: site.deviceUrl ?? site.url,
    clock: systemClock,
    backoff: { minMs: 5, maxMs: 20 },
    ...options,
    events: {
      online: () => accepted++,
      offline: (error) => offline.push(error),
      tunnelClosed: (_plan, error) => errors.push(keepable(error)),
    },
  });
  const ended = agent.run(stop.signal).then(
    () => undefined,
    (error: unknown) => error,
  );
  const end = async () => {
    stop.abort();
    await ended;
  };
  t.after(end);
  await until(() => accepted > 0, 'the agent is online');
  return { online: () => accepted, errors, offline, tunnels: () => agent.tunnels, ended, stop: end };
}

/** Query of a user half that is to be routed; `auth` is alice's cookie unless told. */
export function routedUrl(site: Site, query: Readonly<Record<string, string | number>>, auth?: string): string {
  const cookie = auth ?? site.relay.sealer.seal({ userid: site.alice.id, domainid: '' });
  const pairs = Object.entries({ ...query, auth: cookie });
  const text = pairs.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
  return `${site.url}/meshrelay.ashx?${text}`;
}
